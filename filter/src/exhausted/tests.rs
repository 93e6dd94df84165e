use super::*;
use purser_protocol::{Api, DeniedBudget, DenyReason, Tier, Window};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const START_MS: u64 = 1_700_000_000_000;

fn caller(org: &str) -> Caller {
    Caller { payer: Payer { org: org.to_owned(), team: None, user: None }, lookup: None }
}

fn call(api: Api, model: &str) -> Call {
    Call { api, provider: "openai".to_owned(), model: model.to_owned(), stream: true }
}

fn refused(org: &str, budget_id: i64) -> Refused {
    let budget = DeniedBudget {
        budget_id,
        tier: Tier::Org,
        window: Window::Day,
        limit_nanousd: 1,
        spent_nanousd: 1,
        held_nanousd: 0,
        needed_nanousd: 1,
        resets_at: None,
    };
    let deny = Deny {
        reason: DenyReason::OverBudget,
        exhausted: true,
        budget: Some(budget),
        message: "no".to_owned(),
        ..Deny::default()
    };
    Refused { deny, hold_id: Uuid::nil(), payer: caller(org).payer }
}

fn reports(exhausted: &Exhausted, now_unix_ms: u64) -> Option<Vec<RepeatedDenials>> {
    let mut next = 0_u16;
    let body = exhausted.take_batch(now_unix_ms, || {
        next += 1;
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&next.to_le_bytes());
        Some(bytes)
    })?;
    let batch: SettlementBatch = serde_json::from_slice(&body).unwrap();
    let report = |item| match item {
        SettlementItem::RepeatedDenials(report) => *report,
        other => panic!("{other:?}"),
    };
    Some(batch.items.into_iter().map(report).collect())
}

fn answer(exhausted: &Exhausted, status: u16, body: &str, now_unix_ms: u64) {
    let answer = CalloutAnswer { status: Some(status), marker: Some(b"1"), body: body.as_bytes() };
    exhausted.answered(Some(answer), now_unix_ms);
}

fn recorded(reports: &[RepeatedDenials]) -> String {
    let item =
        |report: &RepeatedDenials| format!(r#"{{"hold_id":"{}","outcome":"recorded"}}"#, report.hold_id);
    let items: Vec<String> = reports.iter().map(item).collect();
    format!(r#"{{"version":1,"results":[{}]}}"#, items.join(","))
}

#[test]
fn only_the_same_question_is_answered_and_only_for_a_moment() {
    let exhausted = Exhausted::new(1_000);
    let (acme, chat) = (caller("acme"), call(Api::OpenaiChat, "m"));
    assert_eq!(exhausted.repeat(&acme, &chat, START_MS), None);
    exhausted.remember(&acme, &chat, refused("acme", 3), START_MS);
    let again = exhausted.repeat(&acme, &Call { stream: false, ..chat.clone() }, START_MS + 999);
    assert_eq!(again.as_deref(), Some(&refused("acme", 3)));
    for (other, question) in [
        (caller("other"), chat.clone()),
        (acme.clone(), call(Api::OpenaiResponses, "m")),
        (acme.clone(), call(Api::OpenaiChat, "M")),
    ] {
        assert_eq!(exhausted.repeat(&other, &question, START_MS), None, "{other:?} {question:?}");
    }
    assert_eq!(exhausted.repeat(&acme, &chat, START_MS + 1_000), None);
    assert_eq!(exhausted.repeat(&acme, &chat, START_MS), None, "it is forgotten by then");
}

#[test]
fn not_every_denial_is_remembered() {
    let (acme, chat) = (caller("acme"), call(Api::OpenaiChat, "m"));
    type Change = fn(&mut Refused);
    let changes: [Change; 4] = [
        |refused| refused.deny.exhausted = false,
        |refused| refused.deny.budget = None,
        |refused| refused.deny.message = "x".repeat(5_000),
        |refused| refused.payer.org = String::new(),
    ];
    for change in changes {
        let exhausted = Exhausted::new(1_000);
        let mut unfit = refused("acme", 3);
        change(&mut unfit);
        exhausted.remember(&acme, &chat, unfit.clone(), START_MS);
        assert_eq!(exhausted.repeat(&acme, &chat, START_MS), None, "{unfit:?}");
    }
    let off = Exhausted::new(0);
    off.remember(&acme, &chat, refused("acme", 3), START_MS);
    assert_eq!(off.repeat(&acme, &chat, START_MS), None);
}

#[test]
fn repeats_are_reported_together_until_they_are_answered() {
    let exhausted = Exhausted::new(1_000);
    let (acme, chat) = (caller("acme"), call(Api::OpenaiChat, "m"));
    exhausted.remember(&acme, &chat, refused("acme", 3), START_MS);
    assert_eq!((exhausted.wait_ms(START_MS), reports(&exhausted, START_MS + 5_000)), (None, None));
    for _ in 0..3 {
        exhausted.repeat(&acme, &chat, START_MS + 10).unwrap();
    }
    assert_eq!(exhausted.wait_ms(START_MS + 10), Some(1_000));
    assert_eq!(reports(&exhausted, START_MS + 1_009), None);
    let first = reports(&exhausted, START_MS + 1_010).unwrap();
    assert_eq!(first.len(), 1);
    let report = &first[0];
    assert_eq!((report.count, report.budget_id, report.payer.org.as_str()), (3, 3, "acme"));
    assert_eq!(report.call, Call { stream: false, ..chat.clone() });
    assert_eq!((exhausted.wait_ms(START_MS + 1_010), reports(&exhausted, START_MS + 9_000)), (None, None));

    // What nobody answered goes out again as it was, and what came meanwhile beside it.
    exhausted.repeat(&acme, &chat, START_MS + 900).unwrap();
    exhausted.answered(None, START_MS + 2_000);
    assert_eq!(exhausted.wait_ms(START_MS + 2_000), Some(1_000));
    let second = reports(&exhausted, START_MS + 3_000).unwrap();
    assert_eq!(second[0], *report);
    assert_eq!((second.len(), second[1].count), (2, 1));
    answer(&exhausted, 200, &recorded(&second[..1]), START_MS + 3_010);
    let third = reports(&exhausted, START_MS + 5_000).unwrap();
    assert_eq!(third, second[1..]);
    answer(&exhausted, 503, "", START_MS + 5_010);
    assert_eq!(reports(&exhausted, START_MS + 7_000).unwrap(), third);
    answer(&exhausted, 200, &recorded(&third), START_MS + 7_010);
    assert_eq!((exhausted.wait_ms(START_MS + 9_000), reports(&exhausted, START_MS + 9_000)), (None, None));
    assert_eq!(exhausted.take_lost(), 0);
}

#[test]
fn a_backend_that_cannot_read_reports_gets_no_more_of_them() {
    let exhausted = Exhausted::new(1_000);
    let (acme, chat) = (caller("acme"), call(Api::OpenaiChat, "m"));
    exhausted.remember(&acme, &chat, refused("acme", 3), START_MS);
    exhausted.repeat(&acme, &chat, START_MS).unwrap();
    exhausted.repeat(&acme, &chat, START_MS).unwrap();
    reports(&exhausted, START_MS + 1_000).unwrap();
    answer(&exhausted, 422, "{}", START_MS + 1_010);
    assert_eq!((exhausted.take_lost(), exhausted.take_lost()), (2, 0));
    assert_eq!(reports(&exhausted, START_MS + 9_000), None);
}

#[test]
fn everything_is_bounded() {
    let exhausted = Exhausted::new(1_000);
    let chat = call(Api::OpenaiChat, "m");
    for number in 0..=MAX_KNOWN {
        let org = number.to_string();
        exhausted.remember(&caller(&org), &chat, refused(&org, 1), START_MS);
        exhausted.repeat(&caller(&org), &chat, START_MS).unwrap();
    }
    assert_eq!(exhausted.repeat(&caller("0"), &chat, START_MS), None, "the oldest is forgotten");
    assert_eq!(exhausted.take_lost(), 1, "one more than there may be");
    let mut told = 0;
    for round in 1..=5 {
        let now = START_MS + round * 2_000;
        if let Some(batch) = reports(&exhausted, now) {
            assert!(batch.len() <= MAX_BATCH_ITEMS);
            told += batch.len();
            answer(&exhausted, 200, &recorded(&batch), now);
        }
    }
    assert_eq!(told, MAX_SUBJECTS);
}

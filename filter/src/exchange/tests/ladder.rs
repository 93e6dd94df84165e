//! What a verdict's payer, warnings, cheaper model and lower cap do, and denials that are repeated.

use std::collections::BTreeMap;

use super::*;
use crate::identity::Proxy;
use purser_protocol::{Claim, ClaimKind, Lookup, Payer, Tier, Window};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Nobody names the org here: the backend knows it by the API key.
const BY_KEY: &str = r#","identity":{"org":{"api_key":true},"team":{"header":"x-budget-team"}}"#;
const KEY: (&str, &str) = ("authorization", "Bearer abc");
const FINGERPRINT: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn payer(org: &str) -> Payer {
    Payer { org: org.to_owned(), team: None, user: None }
}

fn ask_with(exchange: &mut Exchange, path: &str, more: &[(&str, &str)], body: &str) -> Step {
    let mut pairs = vec![(":method", "POST"), (":path", path)];
    pairs.extend(more);
    assert_eq!(exchange.request_headers(&headers(&pairs), false, arrival()), Step::Pause, "{path}");
    exchange.request_body(body.len(), true);
    exchange.request_complete(body.as_bytes())
}

fn hold_of(step: &Step) -> HoldRequest {
    match step {
        Step::Ask(asked) => serde_json::from_slice(asked).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn by_key(worker: &Rc<Worker>) -> (Exchange, HoldRequest) {
    let mut exchange = Exchange::new(Rc::clone(worker));
    let step = ask_with(&mut exchange, "/v1/chat/completions", &[KEY], PLAIN);
    let hold = hold_of(&step);
    (exchange, hold)
}

#[test]
fn who_was_looked_up_is_who_pays() {
    let worker = worker(BY_KEY);
    let (mut exchange, hold) = by_key(&worker);
    let claims = vec![Claim { kind: ClaimKind::ApiKeySha256, value: FINGERPRINT.to_owned() }];
    let lookup = Some(Lookup { claims, fallback: None });
    assert_eq!((&hold.payer, &hold.lookup), (&payer(""), &lookup));
    assert_eq!(exchange.take_notes(), [Note::WithoutOrg(crate::identity::WithoutOrg::LookedUp)]);
    let verdict = format!(r#"{ALLOW},"strict":true,"payer":{{"org":"acme"}}"#);
    assert!(matches!(answer(&mut exchange, 200, &verdict), Step::Forward(_)));
    let batch = worker.live.take_batch(START_MS + 240_000).unwrap();
    worker.live.answered(None);
    assert!(String::from_utf8(batch).unwrap().contains(r#""payer":{"org":"acme"}"#));
    assert_eq!(exchange.line().payer, Some(payer("acme")));
    let settlement = settled(exchange.finish(end(0)));
    assert_eq!((settlement.payer, settlement.lookup), (payer("acme"), None));

    // Without a verdict only the claims are known; a strict budget of theirs is remembered all the same.
    let (mut exchange, _) = by_key(&worker);
    assert_eq!(status(&exchange.hold_not_sent(START_MS)), 503);
    let mut named = Exchange::new(Rc::clone(&worker));
    let step = ask_with(&mut named, "/v1/chat/completions", &[KEY, ("x-budget-team", "t")], PLAIN);
    assert_eq!(hold_of(&step).payer.team.as_deref(), Some("t"));
    assert!(matches!(named.hold_not_sent(START_MS), Step::Forward(_)), "somebody else");
    let settlement = settled(named.finish(end(0)));
    assert_eq!((settlement.payer.org.as_str(), settlement.lookup), ("", lookup.clone()));

    // What may be held is given back in the same words.
    let (mut exchange, _) = by_key(&worker);
    match exchange.finish(end(flags::CLIENT_GONE)) {
        Some(SettlementItem::Void(void)) => assert_eq!((void.payer, void.lookup), (payer(""), lookup)),
        other => panic!("{other:?}"),
    }
    // A payer that nobody asked for changes nothing.
    let mut direct = self::exchange("");
    ask(&mut direct, PLAIN);
    answer(&mut direct, 200, &verdict);
    let forged = format!(r#"{ALLOW},"payer":{{"org":"other"}}"#);
    let mut asked = self::exchange("");
    ask(&mut asked, PLAIN);
    answer(&mut asked, 200, &forged);
    assert_eq!(settled(asked.finish(end(0))).payer.org, "acme");
}

fn edits(exchange: &mut Exchange) -> Vec<HeaderEdit> {
    exchange.response_headers(&headers(&[(":status", "200")]), false, true)
}

#[test]
fn a_cheaper_model_and_a_lower_cap_are_told() {
    for (rewrite, clamped, note, word, told) in [
        (r#"{"model":"cheap"}"#, "false", Note::Degraded, verdicts::DEGRADED, (true, false)),
        (r#"{"max_output_tokens":7}"#, "true", Note::Clamped, verdicts::CLAMPED, (false, true)),
        (
            r#"{"model":"cheap","max_output_tokens":7}"#,
            "true",
            Note::Degraded,
            verdicts::DEGRADED_CLAMPED,
            (true, true),
        ),
        // A cap for another reason is none of the ladder's.
        (r#"{"max_output_tokens":7}"#, "false", Note::Allowed, verdicts::ALLOW, (false, false)),
        (r#"{"model":"m"}"#, "false", Note::Allowed, verdicts::ALLOW, (false, false)),
    ] {
        let mut exchange = exchange("");
        ask(&mut exchange, PLAIN);
        let warning = r#""warnings":[{"budget_id":1,"tier":"org","window":"day","used_percent":95}]"#;
        let verdict = format!(r#"{ALLOW},"rewrite":{rewrite},"clamped":{clamped},{warning}"#);
        assert!(matches!(answer(&mut exchange, 200, &verdict), Step::Forward(_)));
        assert_eq!(exchange.take_notes(), [note, Note::Warned(Tier::Org, Window::Day)], "{rewrite}");
        assert_eq!(exchange.line().verdict, Some(word));
        let edits = edits(&mut exchange);
        let (degraded, clamped) = told;
        assert!(edits.contains(&HeaderEdit::set("x-purser-warning", "org;window=day;used=95")));
        assert_eq!(edits.contains(&HeaderEdit::set("x-purser-degraded-from", "m")), degraded, "{edits:?}");
        assert_eq!(edits.contains(&HeaderEdit::set("x-purser-clamped-to", "7")), clamped, "{edits:?}");
        let settlement = settled(exchange.finish(end(0)));
        assert_eq!(settlement.call.model, if degraded { "cheap" } else { "m" });
        assert_eq!(settlement.asked_model.as_deref(), degraded.then_some("m"));
    }
}

const ORG: (&str, &str) = ("x-budget-org", "acme");
const SIGNED: (&str, &str) = (
    "authorization",
    "AWS4-HMAC-SHA256 Credential=k/d/r/bedrock/aws4_request, SignedHeaders=host, Signature=0",
);

#[test]
fn a_model_in_the_path_changes_there_unless_it_is_signed() {
    for (path, body, expected) in [
        (
            "/v1beta/models/big:generateContent?key=k",
            r#"{"contents":[]}"#,
            "/v1beta/models/cheap:generateContent?key=k",
        ),
        (
            "/openai/deployments/big/chat/completions?api-version=2024-10-21",
            r#"{"messages":[]}"#,
            "/openai/deployments/cheap/chat/completions?api-version=2024-10-21",
        ),
        ("/model/big/converse", r#"{"messages":[]}"#, "/model/cheap/converse"),
    ] {
        let degrade = format!(r#"{ALLOW},"rewrite":{{"model":"cheap"}}"#);
        let mut exchange = exchange("");
        hold_of(&ask_with(&mut exchange, path, &[ORG], body));
        let Step::Forward(forward) = answer(&mut exchange, 200, &degrade) else { panic!("{path}") };
        assert!(forward.headers.contains(&HeaderEdit::set(":path", expected)), "{:?}", forward.headers);
        let settlement = settled(exchange.finish(end(0)));
        assert_eq!(
            (settlement.call.model.as_str(), settlement.asked_model.as_deref()),
            ("cheap", Some("big"))
        );

        // The hold is for the cheaper model: the dearer one must not go out on it.
        let mut signed = self::exchange("");
        hold_of(&ask_with(&mut signed, path, &[ORG, SIGNED], body));
        let step = answer(&mut signed, 200, &degrade);
        if !path.starts_with("/model/") {
            // Nobody reads signatures there.
            assert!(matches!(step, Step::Forward(_)), "{path}");
            continue;
        }
        assert!(matches!(status(&step), 429 | 400), "{step:?}");
        assert_eq!(signed.take_notes(), [Note::NotRewritten, Note::Denied]);
        assert_eq!(signed.line().verdict, Some(verdicts::DENIED));
        assert!(is_void(signed.finish(end(0)).as_ref()), "{path}");
    }
}

#[test]
fn a_clamp_that_cannot_be_carried_out_denies_and_another_cap_does_not() {
    for (flag, goes_out) in [(r#","clamped":true"#, false), (r#","strict":true"#, false), ("", true)] {
        let mut exchange = exchange("");
        hold_of(&ask_with(&mut exchange, "/model/big/converse", &[ORG, SIGNED], r#"{"messages":[]}"#));
        let verdict = format!(r#"{ALLOW},"rewrite":{{"max_output_tokens":7}}{flag}"#);
        let step = answer(&mut exchange, 200, &verdict);
        assert_eq!(matches!(step, Step::Forward(_)), goes_out, "{flag}");
        assert_eq!(is_void(exchange.finish(end(0)).as_ref()), !goes_out, "{flag}");
    }
}

const EXHAUSTED: &str = r#""verdict":"deny","reason":"over_budget","message":"no money","exhausted":true,
    "budget":{"budget_id":3,"tier":"org","window":"day","limit_nanousd":1,"spent_nanousd":1,"held_nanousd":0,
    "needed_nanousd":1}"#;

/// A proxy with a clock.
#[derive(Debug)]
struct Clock(Rc<std::cell::Cell<u64>>);

impl Proxy for Clock {
    fn property(&self, _: &str) -> Option<Vec<u8>> {
        None
    }

    fn now_unix_ms(&self) -> Option<u64> {
        Some(self.0.get())
    }
}

#[test]
fn an_exhausted_budget_refuses_again_without_being_asked() {
    let clock = Rc::new(std::cell::Cell::new(START_MS));
    let worker = Rc::into_inner(worker("")).unwrap().in_proxy(Box::new(Clock(Rc::clone(&clock))));
    let worker = Rc::new(worker);
    let mut first = Exchange::new(Rc::clone(&worker));
    let hold = ask(&mut first, PLAIN);
    let Step::Reply(given) = answer(&mut first, 200, EXHAUSTED) else { panic!("not denied") };
    for body in [PLAIN, STREAM] {
        let mut again = Exchange::new(Rc::clone(&worker));
        let step = ask_with(&mut again, "/v1/chat/completions", &[ORG], body);
        let Step::Reply(repeated) = step else { panic!("{step:?}") };
        assert_eq!((repeated.status, &repeated.body), (429, &given.body));
        let marks: Vec<_> = repeated.headers.iter().filter(|pair| !given.headers.contains(pair)).collect();
        assert_eq!(marks, [&("x-purser-denial-cached", "true".to_owned())]);
        assert_eq!(again.take_notes(), [Note::DeniedAgain]);
        assert_eq!(again.line().verdict, Some(verdicts::DENIED_CACHED));
        assert_eq!(again.line().hold_id, Some(hold.hold_id));
        assert_eq!(again.finish(end(0)), None);
    }
    let mut other = Exchange::new(Rc::clone(&worker));
    hold_of(&ask_with(&mut other, "/v1/chat/completions", &[("x-budget-org", "other")], PLAIN));
    // It is the time of the question that counts, not that of the request's arrival.
    clock.set(START_MS + 1_000);
    let mut later = Exchange::new(Rc::clone(&worker));
    hold_of(&ask_with(&mut later, "/v1/chat/completions", &[ORG], PLAIN));
}

#[test]
fn tags_and_the_tier_asked_for_travel_with_the_hold() {
    let more = r#","identity":{"org":{"header":"x-budget-org"}},"tags":{"project":{"header":"x-project"}}"#;
    let mut exchange = exchange(more);
    let body = r#"{"model":"m","service_tier":"flex"}"#;
    let pairs = [ORG, ("x-project", "atlas")];
    let hold = hold_of(&ask_with(&mut exchange, "/v1/chat/completions", &pairs, body));
    let tags = BTreeMap::from([("project".to_owned(), "atlas".to_owned())]);
    assert_eq!((hold.service_tier.as_deref(), &hold.tags), (Some("flex"), &tags));
    let Step::Forward(forward) = answer(&mut exchange, 200, ALLOW) else { panic!("not sent") };
    assert!(forward.headers.contains(&HeaderEdit::Remove("x-project".to_owned())));
    assert_eq!(settled(exchange.finish(end(0))).tags, tags);
    for tier in ["7", "\"\"", r#""a","service_tier":"b""#] {
        let mut odd = self::exchange(more);
        let body = format!(r#"{{"model":"m","service_tier":{tier}}}"#);
        assert_eq!(status(&ask_with(&mut odd, "/v1/chat/completions", &[ORG], &body)), 400, "{tier}");
    }
}

#[test]
fn the_line_of_the_access_log_tells_what_is_known() {
    let shown = |exchange: &Exchange| {
        let fields = exchange.line().fields();
        fields.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };
    let mut exchange = exchange("");
    let hold = ask(&mut exchange, PLAIN);
    let id = hold.hold_id;
    assert_eq!(shown(&exchange), format!("purser.hold_id={id} purser.org=acme purser.model=m"));
    answer(&mut exchange, 200, ALLOW);
    let usage = r#"{"usage":{"prompt_tokens":9,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4},
        "completion_tokens_details":{"reasoning_tokens":2}}}"#;
    respond(&mut exchange, &[("content-type", "application/json")], &[usage], true);
    settled(exchange.finish(end(0)));
    assert_eq!(
        shown(&exchange),
        format!(
            "purser.verdict=allow purser.hold_id={id} purser.org=acme purser.model=m purser.held_nanousd=5 \
             purser.input_tokens=5 purser.cached_input_tokens=4 purser.cache_write_tokens=0 \
             purser.output_tokens=3 purser.reasoning_tokens=2"
        )
    );
    let passed = self::exchange("");
    assert_eq!(shown(&passed), "");
}

use purser_protocol::Usage;
use uuid::Uuid;

use super::*;
use crate::tracker::model::Facts;

/// 2027-01-15T08:00:00Z.
const EIGHT_US: i64 = 1_800_000_000_000_000;

fn entry(entry: i32, cause: &'static str, cost_nanousd: i64, at_unix_us: i64) -> NewEntry {
    let settled = cause == "settled";
    NewEntry {
        key: ("acme".into(), Uuid::from_u128(7)),
        entry,
        cost_nanousd,
        held_nanousd: 100,
        cause,
        occurred_at_unix_us: at_unix_us,
        counters: Vec::new(),
        subject: Subject { team: "search".into(), model: "gpt-4o".into(), ..Subject::default() },
        override_id: None,
        cheaper: crate::tracker::model::Cheaper::default(),
        charge: None,
        facts: Facts {
            usage: Usage { input_tokens: if settled { 10 } else { 0 }, ..Usage::default() },
            duration_ms: (cause != "expired").then_some(5),
            ..Facts::default()
        },
    }
}

#[test]
fn the_entries_of_one_call_count_one_request_and_whether_its_cost_is_known() {
    // (causes in the order of the entries) → (requests, estimated, input tokens, latencies)
    for (causes, expected) in [
        (vec!["settled"], (1, 0, 10, 1)),
        (vec!["estimated"], (1, 1, 0, 1)),
        (vec!["expired"], (1, 1, 0, 0)),
        (vec!["expired", "settled"], (1, 0, 10, 1)),
        (vec!["expired", "estimated"], (1, 1, 0, 1)),
    ] {
        let entries: Vec<NewEntry> =
            (0..).zip(&causes).map(|(number, cause)| entry(number, cause, 1, EIGHT_US)).collect();
        let hours = hours(&entries).unwrap();
        let [HourRecord { measures, .. }] = &hours[..] else { panic!("{causes:?}: {hours:?}") };
        let latencies: i64 = measures.latency_counts.iter().sum();
        let got = (measures.requests, measures.estimated_requests, measures.input_tokens, latencies);
        assert_eq!(got, expected, "{causes:?}");
        assert_eq!(measures.latency_counts.get(4), Some(&latencies), "5 ms lie between 4 and 6");
        // Entry by entry, as the database adds them, it is the same.
        let mut apart = Measures::default();
        entries.iter().for_each(|entry| apart.add(entry));
        assert_eq!(&apart, measures, "{causes:?}");
    }
}

#[test]
fn hours_and_days_are_utc_and_tags_part_hours_only() {
    let mut tagged = entry(0, "settled", 4, EIGHT_US + 1);
    tagged.subject.tags.insert("project".into(), "blue".into());
    let entries = [
        entry(0, "settled", 1, EIGHT_US - 1),
        entry(0, "settled", 2, EIGHT_US),
        tagged,
        entry(0, "settled", 8, EIGHT_US + HOUR_US),
        entry(0, "settled", 16, EIGHT_US + 16 * HOUR_US),
    ];
    let got: Vec<(String, usize, i64)> = hours(&entries)
        .unwrap()
        .into_iter()
        .map(|row| (row.hour, row.tags.len(), row.measures.cost_nanousd))
        .collect();
    let hour = |text: &str| format!("2027-01-{text}:00:00Z");
    assert_eq!(
        got,
        [
            (hour("15T07"), 0, 1),
            (hour("15T08"), 0, 2),
            (hour("15T08"), 1, 4),
            (hour("15T09"), 0, 8),
            (hour("16T00"), 0, 16)
        ]
    );
    let got: Vec<(String, i64)> =
        days(&entries).unwrap().into_iter().map(|row| (row.day, row.measures.cost_nanousd)).collect();
    assert_eq!(got, [("2027-01-15".to_owned(), 15), ("2027-01-16".to_owned(), 16)]);
    assert_eq!(day(EIGHT_US + 16 * HOUR_US) - day(EIGHT_US), 1);
    assert_eq!((day(-1), day(0)), (-1, 0));
}

#[test]
fn only_answers_that_say_what_they_needed_are_learned_from() {
    let needed = |tokens: Option<i64>| {
        let mut entry = entry(0, "settled", 1, EIGHT_US);
        entry.facts.answer_tokens = tokens;
        entry
    };
    let records = lengths(&[needed(Some(5)), needed(None), needed(Some(5)), needed(Some(9))]);
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!((record.seen[5], record.seen[8], record.seen.iter().sum::<i64>()), (2, 1, 3));
    assert_eq!(record.seen.len(), 78);
    assert_eq!(lengths(&[needed(None)]), []);
}

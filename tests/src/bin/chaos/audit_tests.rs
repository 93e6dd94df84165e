//! Each finding is found, and nothing else is.

use std::collections::BTreeMap;

use super::audit::{Call, Entry, Findings, Hold, audit};

fn entry(call: i64, hold_id: &str, number: i32, cost_nanousd: i64, story: (&str, &str)) -> Entry {
    Entry {
        org: "acme".to_owned(),
        hold_id: hold_id.to_owned(),
        entry: number,
        call: Some(call),
        cost_nanousd,
        cause: story.0.to_owned(),
        usage_quality: story.1.to_owned(),
        admission: "held".to_owned(),
    }
}

fn hold(call: i64, state: &str) -> Hold {
    Hold { call: Some(call), hold_id: format!("h{call}"), state: state.to_owned() }
}

const EXACT: (&str, &str) = ("settled", "exact");
const EXPIRED: (&str, &str) = ("expired", "none");

/// Of one call with the number 1.
fn one(call: Call, entries: &[Entry], holds: &[Hold]) -> Findings {
    audit(&BTreeMap::from([(1, call)]), entries, holds)
}

fn billed(nanousd: i64) -> Call {
    Call { billed_nanousd: Some(nanousd), ..Call::default() }
}

/// How many of each kind that must not be there.
fn faults(findings: &Findings) -> [usize; 5] {
    [
        findings.lost.len(),
        findings.duplicated.len(),
        findings.not_exact.len(),
        findings.strict_short.len(),
        findings.odd.len(),
    ]
}

#[test]
fn what_agrees_is_no_finding() {
    let findings = one(billed(5), &[entry(1, "h1", 0, 5, EXACT)], &[hold(1, "settled")]);
    assert_eq!(faults(&findings), [0; 5]);
    assert_eq!((findings.billed_nanousd, findings.ledger_nanousd, findings.under_nanousd()), (5, 5, 0));
    // Charged its hold first, then corrected.
    let corrected = [entry(1, "h1", 0, 9, EXPIRED), entry(1, "h1", 1, -4, EXACT)];
    assert_eq!(faults(&one(billed(5), &corrected, &[])), [0; 5]);
    // Neither billed nor charged.
    assert_eq!(one(Call::default(), &[], &[hold(1, "voided")]), Findings::default());
}

#[test]
fn a_billed_call_without_a_charge_is_lost_unless_it_failed_open_and_died() {
    let died = Call { may_fail_open: true, envoy_was_killed: true, ..billed(5) };
    let findings = one(died, &[], &[]);
    assert_eq!((findings.fail_open_lost.len(), findings.fail_open_lost_nanousd), (1, 5));
    assert_eq!(faults(&findings), [0; 5]);
    for (call, holds) in [
        (billed(5), vec![]),
        (Call { envoy_was_killed: false, ..died }, vec![]),
        (Call { may_fail_open: false, ..died }, vec![]),
        (died, vec![hold(1, "voided")]),
        (died, vec![hold(1, "open")]),
    ] {
        let findings = one(call, &[], &holds);
        assert_eq!(faults(&findings), [1, 0, 0, 0, 0], "{call:?} {holds:?}");
        assert!(findings.fail_open_lost.is_empty());
    }
}

#[test]
fn two_charges_are_one_too_many() {
    let twice = [entry(1, "h1", 0, 5, EXACT), entry(1, "h2", 0, 5, EXACT)];
    assert_eq!(faults(&one(billed(5), &twice, &[]))[1], 1);
    let again = [entry(1, "h1", 0, 5, EXACT), entry(1, "h1", 0, 0, EXACT)];
    assert_eq!(faults(&one(billed(5), &again, &[]))[1], 1);
}

#[test]
fn exact_is_exact() {
    for cost in [4, 6] {
        let findings = one(billed(5), &[entry(1, "h1", 0, cost, EXACT)], &[]);
        assert_eq!(faults(&findings), [0, 0, 1, 0, 0]);
    }
    assert_eq!(faults(&one(Call::default(), &[entry(1, "h1", 0, 1, EXACT)], &[])), [0, 0, 1, 0, 0]);
}

#[test]
fn what_is_not_exact_is_summed_and_strict_expiries_are_never_short() {
    let short = [entry(1, "h1", 0, 3, EXPIRED)];
    let findings = one(billed(5), &short, &[]);
    assert_eq!((faults(&findings), findings.under_nanousd()), ([0; 5], 2));
    let strict = Call { is_strict: true, ..billed(5) };
    assert_eq!(faults(&one(strict, &short, &[])), [0, 0, 0, 1, 0]);
    let over = one(strict, &[entry(1, "h1", 0, 8, EXPIRED)], &[]);
    assert_eq!((faults(&over), over.over_nanousd(), over.under_nanousd()), ([0; 5], 3, 0));
}

#[test]
fn entries_without_a_charge_or_a_call_are_odd() {
    let findings = one(billed(5), &[entry(1, "h1", 1, 5, EXACT)], &[]);
    assert_eq!(faults(&findings)[4], 1);
    let stranger = Entry { call: None, ..entry(1, "h9", 0, 5, EXACT) };
    let findings = one(Call::default(), &[stranger, entry(2, "h2", 0, 1, EXACT)], &[]);
    assert_eq!(faults(&findings), [0, 0, 0, 0, 2]);
}

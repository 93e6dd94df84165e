//! The provider's bill beside the ledger, call by call. Pure: what it is given decides.

use std::collections::BTreeMap;

use sqlx::FromRow;

/// A row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Entry {
    /// Who pays.
    pub org: String,
    /// The hold.
    pub hold_id: String,
    /// Its number: 0 is the charge, the others correct it.
    pub entry: i32,
    /// The call's number, by its tag.
    pub call: Option<i64>,
    /// Nano-USD, signed.
    pub cost_nanousd: i64,
    /// `settled`, `estimated`, `expired`.
    pub cause: String,
    /// `exact`, `at_least`, `none`.
    pub usage_quality: String,
    /// `held` or `fail_open`.
    pub admission: String,
}

/// A hold that was committed.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Hold {
    /// The call's number, by its tag; a void that came first leaves a row without.
    pub call: Option<i64>,
    /// Its id.
    pub hold_id: String,
    /// `open`, `settled`, `voided`, `expired`.
    pub state: String,
}

/// What is known of a call apart from the books.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Call {
    /// Whether a strict budget pays.
    pub is_strict: bool,
    /// Whether its route lets calls out without a verdict.
    pub may_fail_open: bool,
    /// Whether its Envoy was killed before it had delivered all.
    pub envoy_was_killed: bool,
    /// What the provider bills, nano-USD; nothing when it bills nothing.
    pub billed_nanousd: Option<i64>,
}

/// A call whose two amounts differ where they may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The call.
    pub call: i64,
    /// What the ledger goes by: the cause and quality of the last entry.
    pub story: String,
    /// The bill less the ledger, nano-USD.
    pub short_nanousd: i64,
}

/// What the comparison found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Billed, and without a charge though it had a hold or its Envoy lived.
    pub lost: Vec<String>,
    /// Charged more than once.
    pub duplicated: Vec<String>,
    /// Failed open and died with its Envoy.
    pub fail_open_lost: Vec<i64>,
    /// What these were billed, nano-USD.
    pub fail_open_lost_nanousd: i64,
    /// Called exact, and not what was billed.
    pub not_exact: Vec<String>,
    /// Expired in a strict budget at less than the bill.
    pub strict_short: Vec<String>,
    /// Entries that follow no charge, or belong to no call.
    pub odd: Vec<String>,
    /// Where the ledger is below the bill, as it may be.
    pub under: Vec<Difference>,
    /// Where it is above.
    pub over: Vec<Difference>,
    /// Sum of the bill, nano-USD.
    pub billed_nanousd: i64,
    /// Sum of the ledger, nano-USD.
    pub ledger_nanousd: i64,
    /// Charged calls by how they were admitted and what they were charged from.
    pub stories: BTreeMap<String, u64>,
}

impl Findings {
    /// Sum of what the ledger is below the bill by, call by call, nano-USD.
    pub fn under_nanousd(&self) -> i64 {
        self.under.iter().map(|difference| difference.short_nanousd).sum()
    }

    /// Sum of what it is above by.
    pub fn over_nanousd(&self) -> i64 {
        -self.over.iter().map(|difference| difference.short_nanousd).sum::<i64>()
    }
}

/// Compares.
pub fn audit(calls: &BTreeMap<i64, Call>, entries: &[Entry], holds: &[Hold]) -> Findings {
    let mut findings = Findings::default();
    let mut by_call: BTreeMap<i64, BTreeMap<&str, Vec<&Entry>>> = BTreeMap::new();
    for entry in entries {
        findings.ledger_nanousd += entry.cost_nanousd;
        match entry.call.filter(|call| calls.contains_key(call)) {
            Some(call) => by_call.entry(call).or_default().entry(&entry.hold_id).or_default().push(entry),
            None => findings.odd.push(format!("an entry of no call: {entry:?}")),
        }
    }
    let mut held: BTreeMap<i64, &Hold> = BTreeMap::new();
    for hold in holds {
        held.extend(hold.call.map(|call| (call, hold)));
    }
    for (number, call) in calls {
        findings.billed_nanousd += call.billed_nanousd.unwrap_or(0);
        match by_call.remove(number) {
            Some(charges) => findings.charged(*number, call, &charges),
            None => findings.not_charged(*number, call, held.get(number).copied()),
        }
    }
    findings
}

impl Findings {
    fn not_charged(&mut self, number: i64, call: &Call, hold: Option<&Hold>) {
        let Some(billed_nanousd) = call.billed_nanousd else { return };
        // No hold and no way out without one: somebody let it pass.
        if hold.is_none() && call.may_fail_open && call.envoy_was_killed {
            self.fail_open_lost.push(number);
            self.fail_open_lost_nanousd += billed_nanousd;
        } else {
            self.lost.push(format!("call {number}: billed {billed_nanousd} nano-USD, hold {hold:?}"));
        }
    }

    fn charged(&mut self, number: i64, call: &Call, charges: &BTreeMap<&str, Vec<&Entry>>) {
        let all: Vec<&Entry> = charges.values().flatten().copied().collect();
        let first = all.iter().filter(|entry| entry.entry == 0).count();
        if first > 1 {
            self.duplicated.push(format!("call {number}: {all:?}"));
        }
        let in_order = |entries: &Vec<&Entry>| (0..).zip(entries).all(|(at, entry)| entry.entry == at);
        if !charges.values().all(in_order) {
            self.odd.push(format!("call {number}: entries out of order: {all:?}"));
        }
        let Some(last) = all.last() else { return };
        let charged: i64 = all.iter().map(|entry| entry.cost_nanousd).sum();
        let short_nanousd = call.billed_nanousd.unwrap_or(0) - charged;
        let story = format!("{} {} {}", last.admission, last.cause, last.usage_quality);
        *self.stories.entry(story.clone()).or_default() += 1;
        if short_nanousd == 0 {
            return;
        }
        if last.usage_quality == "exact" {
            self.not_exact.push(format!("call {number}: billed {:?}, {all:?}", call.billed_nanousd));
        }
        if call.is_strict && last.cause == "expired" && short_nanousd > 0 {
            self.strict_short.push(format!("call {number}: billed {:?}, {all:?}", call.billed_nanousd));
        }
        let differences = if short_nanousd > 0 { &mut self.under } else { &mut self.over };
        differences.push(Difference { call: number, story, short_nanousd });
    }
}

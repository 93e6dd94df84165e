//! An explanation as operators read it. Pure.

use purser_protocol::{Allow, Deny, HoldRequest, Payer, Tier, Verdict, Window, format_usd};
use serde::Serialize;

use super::place::Place;
use crate::budget::Mode;
use crate::ladder::Ladder;
use crate::ledger::Decision;
use crate::ledger::decide::{Counters, limit, used};
use crate::ledger::steps::{Step, used_percent};
use crate::ledger::terms::{Terms, Touch};
use crate::pricing::PriceMatch;
use crate::quote::{Pricer, Quote, Quoted, Quotes};
use crate::window::rfc3339;

/// What led to a decision.
pub struct Found<'a> {
    /// The request.
    pub request: &'a HoldRequest,
    /// Who pays.
    pub payer: &'a Payer,
    /// What prices it.
    pub pricer: &'a Pricer,
    /// Its price with the model asked for.
    pub quoted: &'a Quoted,
    /// Its terms.
    pub terms: &'a Terms,
    /// What its counters stand at.
    pub counters: &'a Counters,
}

/// See [`super::explain`].
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// Who pays; nobody when nobody is known.
    payer: Option<Payer>,
    /// Whether the payer was looked up.
    looked_up: bool,
    /// The verdict that a hold would get, as `POST /v1/holds` words it.
    #[serde(flatten)]
    verdict: Verdict,
    /// What led to it, a sentence each.
    why: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    price: Option<PriceView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate: Option<EstimateView>,
    /// The budgets that match the model asked for, from org to user.
    budgets: Vec<BudgetView>,
    /// Models that a ladder may have run it instead.
    targets: Vec<TargetView>,
    /// Tiers of the payer without an enforcing budget.
    unbudgeted: Vec<Tier>,
    /// The override in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    override_id: Option<i64>,
}

#[derive(Debug, Serialize)]
struct PriceView {
    provider: String,
    model: String,
    price_id: Option<i64>,
    priced_as: String,
    /// `exact`, `alias`, `undated`, `configured` or `ceiling`.
    rule: &'static str,
    effective_from: Option<String>,
    /// Whether the model has a price of its own.
    known: bool,
    /// What the ledger would say of it: `ceiling`, `partial` or nothing. A call may also meet what has no price
    /// only in its answer.
    flag: &'static str,
    /// Classes, units and conditions of the model that have no known price.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unpriced: Vec<String>,
    /// Every rule tried, in order.
    tried: Vec<TriedView>,
}

#[derive(Debug, Serialize)]
struct TriedView {
    rule: &'static str,
    sought: String,
    price_id: Option<i64>,
}

#[derive(Debug, Serialize)]
struct EstimateView {
    input_tokens: u64,
    output_tokens: u64,
    /// What answers of this model needed lately; absent while too few are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    learned_output_tokens: Option<u64>,
    #[serde(flatten)]
    amounts: AmountsView,
}

/// What a call holds with a model.
#[derive(Debug, Serialize)]
struct AmountsView {
    amount_usd: String,
    /// Where a strict budget is touched.
    #[serde(skip_serializing_if = "Option::is_none")]
    upper_bound_usd: Option<String>,
    /// Why nothing bounds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_boundable: Option<&'static str>,
    /// Whether its output cap can be lowered.
    clampable: bool,
}

#[derive(Debug, Serialize)]
struct BudgetView {
    budget_id: i64,
    tier: Tier,
    #[serde(flatten)]
    place: Place,
    window: Window,
    mode: Mode,
    strict: bool,
    /// Whether an own row stands in for it: it counts and has no say.
    replaced: bool,
    limit_usd: String,
    topped_up_usd: String,
    spent_usd: String,
    held_usd: String,
    remaining_usd: String,
    /// What is spent and held of the limit.
    used_percent: u32,
    /// The same with this call.
    used_percent_with_call: u32,
    /// Whether it has room for the call.
    fits: bool,
    #[serde(skip_serializing_if = "Ladder::is_empty")]
    ladder: Ladder,
    resets_at: Option<String>,
}

#[derive(Debug, Serialize)]
struct TargetView {
    model: String,
    /// Why it can't run, when it can't.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_because: Option<&'static str>,
    #[serde(flatten)]
    amounts: Option<AmountsView>,
    budgets: Vec<BudgetView>,
}

impl Explanation {
    /// Of a caller whom nobody knows.
    pub fn unidentified(verdict: Verdict) -> Self {
        Self {
            payer: None,
            looked_up: true,
            verdict,
            why: vec!["No claim names anybody, and there is no fallback.".to_owned()],
            price: None,
            estimate: None,
            budgets: Vec::new(),
            targets: Vec::new(),
            unbudgeted: Vec::new(),
            override_id: None,
        }
    }

    /// Of a decision.
    pub fn of(found: &Found<'_>, decision: &Decision, verdict: Verdict) -> Self {
        let Found { terms, quoted, counters, .. } = found;
        let amount_nanousd = amount_of(terms, &quoted.quote);
        let budgets = |terms: &Terms, amount| -> Vec<BudgetView> {
            terms.touches.iter().map(|touch| budget(touch, found.payer, counters, amount)).collect()
        };
        let targets = terms.targets.iter().map(|(model, terms)| {
            let quote = found.pricer.quote(model);
            let amount = quote.as_ref().map_or(0, |quote| amount_of(terms, quote));
            TargetView {
                model: model.clone(),
                not_because: not_because(terms, quote.as_ref(), &quoted.quote),
                amounts: quote.as_ref().map(amounts),
                budgets: budgets(terms, amount),
            }
        });
        Self {
            payer: Some(found.payer.clone()),
            looked_up: found.request.payer.org.is_empty(),
            verdict: without_payer(verdict),
            why: why(found, decision),
            price: Some(price(found)),
            estimate: Some(EstimateView {
                input_tokens: quoted.estimate.input_tokens,
                output_tokens: quoted.estimate.output_tokens,
                learned_output_tokens: quoted.learned_output_tokens,
                amounts: amounts(&quoted.quote),
            }),
            budgets: budgets(terms, amount_nanousd),
            targets: targets.collect(),
            unbudgeted: terms.unbudgeted.clone(),
            override_id: terms.override_id,
        }
    }
}

/// What a call holds: the bound where a strict budget is touched.
fn amount_of(terms: &Terms, quote: &Quote) -> i64 {
    let bound = terms.strict_budget().and(quote.bound.as_ref().ok());
    bound.map_or(quote.amount_nanousd, |bound| bound.amount_nanousd)
}

fn amounts(quote: &Quote) -> AmountsView {
    AmountsView {
        amount_usd: format_usd(quote.amount_nanousd),
        upper_bound_usd: quote.bound.as_ref().ok().map(|bound| format_usd(bound.amount_nanousd)),
        not_boundable: quote.bound.as_ref().err().copied(),
        clampable: quote.clampable,
    }
}

/// The payer stands beside the verdict here.
fn without_payer(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Allow(allow) => Verdict::Allow(Allow { payer: None, ..allow }),
        Verdict::Deny(deny) => Verdict::Deny(Deny { payer: None, ..deny }),
    }
}

fn not_because(terms: &Terms, quote: Option<&Quote>, asked: &Quote) -> Option<&'static str> {
    match quote {
        None => Some("the request can't be changed"),
        Some(quote) if quote.unknown_model => Some("it has no price of its own"),
        Some(quote) if !quote.is_cheaper_than(asked) => Some("this call would cost no less by it"),
        Some(_) if terms.barred.is_some() => Some("a rule bars it"),
        Some(Quote { bound: Err(_), .. }) if terms.strict_budget().is_some() => {
            Some("a strict budget is touched and nothing bounds it")
        }
        Some(_) => None,
    }
}

fn price(found: &Found<'_>) -> PriceView {
    let (price, call) = (&found.quoted.price, &found.request.call);
    let (steps, _) = found.pricer.prices.explain(&call.provider, &call.model, found.pricer.at_unix_s);
    let tried = steps.into_iter().map(|step| TriedView {
        rule: step.rule.as_str(),
        sought: step.sought,
        price_id: step.found,
    });
    PriceView {
        provider: call.provider.clone(),
        model: call.model.clone(),
        price_id: price.price_id,
        priced_as: price.priced_as.clone(),
        rule: price.matched.as_str(),
        effective_from: price.effective_from_unix_s.and_then(rfc3339),
        known: price.is_known(),
        flag: flag(found),
        unpriced: price.unpriced.iter().cloned().collect(),
        tried: tried.collect(),
    }
}

/// The flag of the call, as far as its request tells.
fn flag(found: &Found<'_>) -> &'static str {
    match (found.quoted.price.is_known(), found.quoted.quote.unknown_model) {
        (false, _) => "ceiling",
        (true, true) => "partial",
        (true, false) => "",
    }
}

fn budget(touch: &Touch, payer: &Payer, counters: &Counters, amount_nanousd: i64) -> BudgetView {
    let counter = counters.get(&touch.key).copied().unwrap_or_default();
    let with_call = crate::ledger::decide::Counter {
        held_nanousd: counter.held_nanousd.saturating_add(amount_nanousd),
        ..counter
    };
    let left = limit(touch, counter) - used(counter);
    let usd = |amount: i128| {
        format_usd(i64::try_from(amount).unwrap_or(if amount < 0 { i64::MIN } else { i64::MAX }))
    };
    BudgetView {
        budget_id: touch.key.counter.budget_id,
        tier: touch.tier,
        place: Place {
            org: payer.org.clone(),
            team: payer.team.clone().filter(|_| touch.tier != Tier::Org),
            user: payer.user.clone().filter(|_| touch.tier == Tier::User),
        },
        window: touch.window,
        mode: touch.mode,
        strict: touch.strict,
        replaced: touch.replaced,
        limit_usd: format_usd(touch.limit_nanousd),
        topped_up_usd: format_usd(counter.topped_up_nanousd),
        spent_usd: format_usd(counter.spent_nanousd),
        held_usd: format_usd(counter.held_nanousd),
        remaining_usd: usd(left),
        used_percent: used_percent(touch, counter),
        used_percent_with_call: used_percent(touch, with_call),
        fits: left >= i128::from(amount_nanousd),
        ladder: Ladder::clone(&touch.ladder),
        resets_at: touch.period.end_unix_s.and_then(rfc3339),
    }
}

/// What led to the decision, in the order it is taken.
fn why(found: &Found<'_>, decision: &Decision) -> Vec<String> {
    let (terms, quoted, call) = (found.terms, found.quoted, &found.request.call);
    let mut why = Vec::new();
    if found.request.payer.org.is_empty() {
        why.push("The payer was looked up by what the call shows of its caller.".to_owned());
    }
    why.push(match quoted.price.matched {
        PriceMatch::Ceiling => {
            format!("{} has no price; the dearest known rates of {} count.", call.model, call.provider)
        }
        PriceMatch::Configured => {
            format!("{} has no price; the rate configured for unknown models counts.", call.model)
        }
        matched => format!("{} is priced as {} ({}).", call.model, quoted.price.priced_as, matched.as_str()),
    });
    if flag(found) == "partial" {
        let unpriced: Vec<&str> = quoted.price.unpriced.iter().map(String::as_str).collect();
        why.push(format!("It may cost by what has no known price and is flagged: {}.", unpriced.join(", ")));
    }
    let held = format_usd(amount_of(terms, &quoted.quote));
    why.push(match terms.strict_budget() {
        Some(budget_id) => {
            format!("Budget {budget_id} is strict: the most the call can cost is held, {held} USD.")
        }
        None => format!("It would hold {held} USD."),
    });
    if let Some(override_id) = terms.override_id {
        why.push(format!("Override {override_id} is in force: no budget refuses or steps in."));
    }
    match decision {
        Decision::Granted(grant) => {
            why.extend(grant.warnings.iter().map(|warning| {
                let used = warning.used_percent;
                format!("Budget {} warns: {used} % are used with this call.", warning.budget_id)
            }));
            why.extend(grant.steps.iter().map(|step| {
                let rewrite = &grant.rewrite;
                let cap = rewrite.output_cap_tokens.unwrap_or_default();
                match (step.mode, step.step) {
                    (Mode::Enforce, Step::Warn) => format!("Budget {} warns.", step.budget_id),
                    (Mode::Enforce, Step::Degrade) => {
                        let target = rewrite.model.as_deref().unwrap_or_default();
                        format!("Budget {} has {target} run it.", step.budget_id)
                    }
                    (Mode::Enforce, Step::Clamp) => {
                        format!("Budget {} lowers its output cap to {cap} tokens.", step.budget_id)
                    }
                    (Mode::Shadow, step_of) => {
                        let would = match step_of {
                            Step::Warn => "warn",
                            Step::Degrade => "have a cheaper model run it",
                            Step::Clamp => "lower its output cap",
                        };
                        format!("Budget {} would {would}, were it no shadow.", step.budget_id)
                    }
                }
            }));
            why.extend(
                grant.passed_over.iter().map(|over| {
                    format!("Budget {} has too little left and does not refuse.", over.budget_id)
                }),
            );
            why.push(format!("Every budget has room: {} USD would be held.", format_usd(grant.held_nanousd)));
        }
        Decision::Refused(refusal) => why.push(format!(
            "Budget {} has too little left for {} USD, and no step of a ladder makes it fit.",
            refusal.touch.key.counter.budget_id,
            format_usd(refusal.needed_nanousd)
        )),
        Decision::Barred(_) => why.push("A rule bars the call, whatever is left.".to_owned()),
        Decision::Repeated(_) | Decision::Closed => {}
    }
    why
}

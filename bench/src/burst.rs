//! `make bench-burst`: the load that once found the regression.

use serde_json::{Value, json};

use crate::case::Case;
use crate::database::Server;
use crate::model;
use crate::openloop::{self, Timing};
use crate::process::write_text;
use crate::report::{print_environment, target};
use crate::settings::{self, Paths};
use crate::stack::Stack;
use crate::stats::{Quantiles, decimal, difference, ms, ratio_percent, signed_ms};
use crate::{call, machine, wire};

/// Calls before the measurement, at 100 a second.
const WARM_UP_S: u64 = 2;

/// What the whole call must stay under, and what the check must, nanoseconds.
const P95_NS: u64 = 340_000_000;
const P99_NS: u64 = 680_000_000;
const CHECK_P95_NS: u64 = 10_000_000;

/// `BOUNDS=1`: how many times Envoy alone's p95 and p99 a case's may be, in hundredths. Envoy alone has
/// the model's own 250 and 365 ms, so a check may take some 250 ms at p95, as it can on a machine that
/// is busy with other things; checks that queue up take seconds.
const MOST_P95_PERCENT: u64 = 200;
const MOST_P99_PERCENT: u64 = 300;
/// And how many calls in a hundred may go out without a verdict. The filter waits 250 ms for one, so
/// beyond that a queue shows here and no longer in the latency.
const MOST_UNCHECKED_PERCENT: u64 = 20;
/// So often a run that breaks the bounds is made again: a neighbour's burst passes, a cliff stays.
const ATTEMPTS: u32 = 3;

/// What came of a case.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    case: Case,
    calls: u64,
    latency: Quantiles,
    to_provider: Quantiles,
    unchecked: u64,
}

/// How a run is set up.
#[derive(Debug, Clone)]
struct Settings {
    duration_s: u64,
    seed: u64,
    cases: Vec<Case>,
}

/// Measures the cases one after the other, with the very same calls.
///
/// # Errors
/// When a part of it fails, a call is not answered, the books don't balance, or bounds that were asked
/// for are broken in every attempt.
pub async fn run(paths: &Paths) -> Result<(), String> {
    let settings = Settings {
        duration_s: settings::number("DURATION", 300, 6)?,
        seed: settings::number("SEED", 1, 0)?,
        cases: settings::cases("ade", &[Case::Alone, Case::Purser])?,
    };
    let must_hold = settings::number("BOUNDS", 0, 0)? > 0;
    let server = Server::look(&paths.database_url).await?;
    print_environment(&server, &format!("DURATION={} SEED={}", settings.duration_s, settings.seed));
    println!(
        "100 calls/s, 1,000/s for 5 s of each minute; the model answers after 100 ms (median), 250 ms (p95)"
    );
    if !must_hold {
        return attempt(&settings, paths, &server).await.map(|_| ());
    }
    let mut told = String::new();
    for number in 1..=ATTEMPTS {
        println!("attempt {number} of at most {ATTEMPTS} (load average {})", machine::load_average());
        match attempt(&settings, paths, &server).await? {
            (true, _) => return Ok(()),
            (false, broken) => told = broken,
        }
    }
    Err(format!("a cliff under the burst, {ATTEMPTS} times: {told}"))
}

/// Measures, prints, and gives whether (d) kept the bounds, and how.
async fn attempt(settings: &Settings, paths: &Paths, server: &Server) -> Result<(bool, String), String> {
    let mut outcomes = Vec::new();
    for case in &settings.cases {
        let outcome = measure(*case, settings, paths, server).await?;
        println!(
            "  ({}) {} calls: p50 {} ms, p95 {} ms, p99 {} ms",
            case.letter(),
            outcome.calls,
            ms(outcome.latency.p50_ns),
            ms(outcome.latency.p95_ns),
            ms(outcome.latency.p99_ns)
        );
        outcomes.push(outcome);
    }
    let of = |case| outcomes.iter().find(|outcome| outcome.case == case).copied().ok_or("a case is missing");
    let (alone, purser) = (of(Case::Alone)?, of(Case::Purser)?);
    print_table(&outcomes, &alone);
    let path = paths.output.join("burst.json");
    let rows: Vec<Value> = outcomes.iter().map(|outcome| outcome_json(outcome, &alone)).collect();
    let json = json!({"duration_s": settings.duration_s, "seed": settings.seed, "cases": rows});
    write_text(&path, &format!("{json:#}\n"))?;
    println!("the same as JSON: {}", path.display());
    for outcome in outcomes.iter().filter(|outcome| outcome.case.settles()) {
        let (kept, told) = bounds(outcome, &alone);
        println!("bounds {}: {told}", if kept { "kept" } else { "broken" });
    }
    print_targets(&alone, &purser);
    Ok(bounds(&purser, &alone))
}

async fn measure(case: Case, settings: &Settings, paths: &Paths, server: &Server) -> Result<Outcome, String> {
    let stack = Stack::start(case, paths, server).await?;
    // Of an earlier attempt.
    let before = if case == Case::Purser { server.books().await?.settled } else { 0 };
    let client = openloop::client()?;
    let call = |number: u64| {
        let thinks_us = u64::try_from(model::thinks(settings.seed, number).as_micros()).unwrap_or(u64::MAX);
        openloop::request(&client, stack.egress, call::BODY.to_owned()).header(wire::DELAY_HEADER, thinks_us)
    };
    let calls =
        |seconds: u64| model::due(seconds).into_iter().zip(0..).map(|(due, number)| (due, call(number)));
    // As long as no burst begins.
    let warm_up = calls(30).take_while(|(due, _)| due.as_secs() < WARM_UP_S).collect();
    let warmed_up = openloop::run(warm_up).await?.len();
    let timings = openloop::run(calls(settings.duration_s).collect()).await?;
    stack.drained().await?;
    if case == Case::Purser {
        let made = u64::try_from(warmed_up.saturating_add(timings.len())).unwrap_or_default();
        let expected = before.saturating_add(made);
        let books = server.books().await?;
        if books.settled != expected || books.open_holds > 0 || books.wrong_budgets > 0 {
            return Err(format!("the books are wrong, {expected} calls are expected: {books:?}"));
        }
    }
    Ok(outcome(case, &timings))
}

fn outcome(case: Case, timings: &[Timing]) -> Outcome {
    let count = |timings: usize| u64::try_from(timings).unwrap_or_default();
    Outcome {
        case,
        calls: count(timings.len()),
        latency: Quantiles::of(timings.iter().map(|timing| timing.latency_ns).collect()),
        to_provider: Quantiles::of(timings.iter().map(|timing| timing.to_provider_ns).collect()),
        unchecked: count(timings.iter().filter(|timing| timing.unchecked).count()),
    }
}

/// The check's own p95, not less than it is: the time from when a call was due until the provider had
/// it, without what that takes Envoy alone at the median.
fn check_p95_ns(outcome: &Outcome, alone: &Outcome) -> u64 {
    outcome.to_provider.p95_ns.saturating_sub(alone.to_provider.p50_ns)
}

fn print_table(outcomes: &[Outcome], alone: &Outcome) {
    println!(
        "\n| case | calls | p50 ms | p95 ms | p99 ms | p95 over (a) | p99 over (a) | the check's own p95 | without a verdict |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|");
    for outcome in outcomes {
        let Outcome { case, calls, latency, unchecked, .. } = outcome;
        let compared = match case {
            Case::Alone => ["", "", ""].map(str::to_owned),
            _ => [
                signed_ms(difference(latency.p95_ns, alone.latency.p95_ns)),
                signed_ms(difference(latency.p99_ns, alone.latency.p99_ns)),
                ms(check_p95_ns(outcome, alone)),
            ],
        };
        println!(
            "| {} | {calls} | {} | {} | {} | {} | {unchecked} |",
            case.title(),
            ms(latency.p50_ns),
            ms(latency.p95_ns),
            ms(latency.p99_ns),
            compared.join(" | ")
        );
    }
    println!();
}

fn print_targets(alone: &Outcome, purser: &Outcome) {
    let (latency, check_ns) = (purser.latency, check_p95_ns(purser, alone));
    println!("{}", target(latency.p95_ns < P95_NS, &format!("p95 under 340 ms: {} ms", ms(latency.p95_ns))));
    println!("{}", target(latency.p99_ns < P99_NS, &format!("p99 under 680 ms: {} ms", ms(latency.p99_ns))));
    println!(
        "{}",
        target(check_ns < CHECK_P95_NS, &format!("the check's p95 under 10 ms: {} ms", ms(check_ns)))
    );
    println!(
        "RESULT p95_ms={} p99_ms={} alone_p95_ms={} alone_p99_ms={} check_p95_ms={}",
        ms(latency.p95_ns),
        ms(latency.p99_ns),
        ms(alone.latency.p95_ns),
        ms(alone.latency.p99_ns),
        ms(check_ns)
    );
}

/// Whether a case shows no cliff, and what it shows, in words.
fn bounds(outcome: &Outcome, alone: &Outcome) -> (bool, String) {
    let ratio = |of: fn(&Quantiles) -> u64| ratio_percent(of(&outcome.latency), of(&alone.latency));
    let (p95, p99) = (ratio(|latency| latency.p95_ns), ratio(|latency| latency.p99_ns));
    let unchecked = ratio_percent(outcome.unchecked, outcome.calls);
    let kept = p95 <= MOST_P95_PERCENT && p99 <= MOST_P99_PERCENT && unchecked <= MOST_UNCHECKED_PERCENT;
    let told = format!(
        "({}) p95 {} times Envoy alone's (at most {}), p99 {} times (at most {}), {unchecked} % without a \
         verdict (at most {MOST_UNCHECKED_PERCENT} %)",
        outcome.case.letter(),
        decimal(p95),
        decimal(MOST_P95_PERCENT),
        decimal(p99),
        decimal(MOST_P99_PERCENT)
    );
    (kept, told)
}

fn outcome_json(outcome: &Outcome, alone: &Outcome) -> Value {
    let quantiles = |of: &Quantiles| json!({"p50_ns": of.p50_ns, "p95_ns": of.p95_ns, "p99_ns": of.p99_ns});
    json!({
        "case": outcome.case.letter().to_string(),
        "calls": outcome.calls,
        "latency": quantiles(&outcome.latency),
        "to_provider": quantiles(&outcome.to_provider),
        "check_p95_ns": check_p95_ns(outcome, alone),
        "without_verdict": outcome.unchecked,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(p95_ms: u64, p99_ms: u64, unchecked: u64) -> Outcome {
        let latency = Quantiles { p50_ns: 0, p95_ns: p95_ms * 1_000_000, p99_ns: p99_ms * 1_000_000 };
        let to_provider = Quantiles::default();
        Outcome { case: Case::Purser, calls: 1_000, latency, to_provider, unchecked }
    }

    #[test]
    fn a_cliff_breaks_the_bounds() {
        let alone = outcome(250, 365, 0);
        // What the history measured after the mend, and before it.
        assert!(bounds(&outcome(340, 680, 0), &alone).0);
        assert!(!bounds(&outcome(890, 2_400, 0), &alone).0);
        // Checks that are given up on after 250 ms: the latency alone would hide it.
        assert!(!bounds(&outcome(495, 615, 600), &alone).0);
    }
}

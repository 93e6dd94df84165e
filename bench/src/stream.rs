//! `make bench-stream`: many streams at a time, with Purser and through Envoy alone. The provider
//! writes the time into each event, and every process here has the same clock.

use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::case::Case;
use crate::clock::now_ns;
use crate::database::Server;
use crate::openloop::{self, arrived_ns, each_when_due};
use crate::process::write_text;
use crate::report::{print_environment, target};
use crate::settings::{self, Paths};
use crate::stack::{CpuNs, Stack};
use crate::stats::{Quantiles, difference, median, ms, signed_ms};
use crate::{call, wire};

/// The time between two events of a stream.
const GAP: Duration = Duration::from_millis(50);
/// The time in which all streams of a run begin, evenly: apps don't start them all at once.
const BEGIN_WITHIN: Duration = Duration::from_secs(2);
/// Streams before the measurement, and their events.
const WARM_UP: (u64, u64) = (100, 20);

/// What may be added to the first event on its way back, and what CPU an event may take more.
const FIRST_EVENT_NS: i64 = 1_000_000;
const CPU_NS: i64 = 20_000;

/// What one stream saw, nanoseconds.
#[derive(Debug, Default)]
struct Seen {
    /// From when it was due until the provider had it.
    to_provider_ns: u64,
    /// From when it was due to its first event.
    first_token_ns: u64,
    /// From when the provider sent an event until it was here, in order.
    events_ns: Vec<u64>,
}

/// What a round of a case came to.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    case: Case,
    to_provider: Quantiles,
    first_token: Quantiles,
    first_event: Quantiles,
    event: Quantiles,
    /// For each event.
    cpu: CpuNs,
}

/// A figure of a round.
type Figure = fn(&Outcome) -> u64;

/// Lines of the table, all but the last three in milliseconds.
const FIGURES: [(&str, Figure); 11] = [
    ("to the provider, p50 ms", |seen| seen.to_provider.p50_ns),
    ("to the provider, p99 ms", |seen| seen.to_provider.p99_ns),
    ("to the first token, p50 ms", |seen| seen.first_token.p50_ns),
    ("to the first token, p99 ms", |seen| seen.first_token.p99_ns),
    ("first event from the provider, p50 ms", |seen| seen.first_event.p50_ns),
    ("first event from the provider, p99 ms", |seen| seen.first_event.p99_ns),
    ("each event from the provider, p50 ms", |seen| seen.event.p50_ns),
    ("each event from the provider, p99 ms", |seen| seen.event.p99_ns),
    ("CPU of Envoy per event, ms", |seen| seen.cpu.envoy),
    ("CPU of the backend per event, ms", |seen| seen.cpu.backend),
    ("CPU of PostgreSQL per event, ms", |seen| seen.cpu.postgres),
];
const FIRST_EVENT: usize = 4;
const EVENT: usize = 6;
const CPU: usize = 8;

/// Measures both cases in rounds with fresh processes and alternating order.
///
/// # Errors
/// When a part of it fails, a stream is cut or lacks an event, or the books don't balance.
pub async fn run(paths: &Paths) -> Result<(), String> {
    let rounds = settings::number("ROUNDS", 3, 1)?;
    let streams = settings::number("STREAMS", 500, 1)?;
    let events = settings::number("EVENTS", 200, 2)?;
    let server = Server::look(&paths.database_url).await?;
    print_environment(&server, &format!("ROUNDS={rounds} STREAMS={streams} EVENTS={events}"));
    println!(
        "an event every {} ms in each stream; the streams begin within {} s",
        GAP.as_millis(),
        BEGIN_WITHIN.as_secs()
    );
    let mut outcomes = Vec::new();
    let mut expected = 0_u64;
    for round in 0..rounds {
        let order = if round % 2 == 0 { [Case::Alone, Case::Purser] } else { [Case::Purser, Case::Alone] };
        for case in order {
            let outcome = measure(case, streams, events, paths, &server).await?;
            println!(
                "  round {} ({}): first token p50 {} ms, each event p50 {} ms, CPU of Envoy per event {} ms",
                round.saturating_add(1),
                case.letter(),
                ms(outcome.first_token.p50_ns),
                ms(outcome.event.p50_ns),
                ms(outcome.cpu.envoy)
            );
            outcomes.push(outcome);
        }
        expected = expected.saturating_add(streams).saturating_add(WARM_UP.0);
        check_books(&server, expected).await?;
    }
    report(&outcomes, paths, &json!({"rounds": rounds, "streams": streams, "events": events}))
}

async fn check_books(server: &Server, expected: u64) -> Result<(), String> {
    let books = server.books().await?;
    let right = books.settled == expected && books.inexact == 0 && books.open_holds == 0;
    if right && books.wrong_budgets == 0 {
        return Ok(());
    }
    Err(format!("the books are wrong after {expected} streams: {books:?}"))
}

async fn measure(
    case: Case,
    streams: u64,
    events: u64,
    paths: &Paths,
    server: &Server,
) -> Result<Outcome, String> {
    let stack = Stack::start(case, paths, server).await?;
    let client = openloop::client()?;
    let request = |events: u64| {
        let request = openloop::request(&client, stack.egress, call::stream_body());
        let gap_us = u64::try_from(GAP.as_micros()).unwrap_or_default();
        request.header(wire::EVENTS_HEADER, events).header(wire::GAP_HEADER, gap_us)
    };
    let (warm_up, warm_up_events) = WARM_UP;
    stream_all((0..warm_up).map(|_| request(warm_up_events)).collect(), warm_up_events).await?;
    stack.drained().await?;
    let cpu = stack.cpu();
    let seen = stream_all((0..streams).map(|_| request(events)).collect(), events).await?;
    stack.drained().await?;
    let used = stack.cpu().since(cpu);
    let per_event = |ns: u64| ns.checked_div(streams.saturating_mul(events)).unwrap_or_default();
    let quantiles = |of: fn(&Seen) -> u64| Quantiles::of(seen.iter().map(of).collect());
    Ok(Outcome {
        case,
        to_provider: quantiles(|seen| seen.to_provider_ns),
        first_token: quantiles(|seen| seen.first_token_ns),
        first_event: quantiles(|seen| seen.events_ns.first().copied().unwrap_or_default()),
        event: Quantiles::of(seen.iter().flat_map(|seen| seen.events_ns.iter().copied()).collect()),
        cpu: CpuNs {
            envoy: per_event(used.envoy),
            backend: per_event(used.backend),
            postgres: per_event(used.postgres),
        },
    })
}

/// Begins the streams evenly, and reads them all to their ends.
async fn stream_all(requests: Vec<RequestBuilder>, events: u64) -> Result<Vec<Seen>, String> {
    let step_ns = u64::try_from(BEGIN_WITHIN.as_nanos()).unwrap_or_default();
    let step_ns = step_ns.checked_div(u64::try_from(requests.len()).unwrap_or(u64::MAX)).unwrap_or_default();
    let started_ns = now_ns();
    let due = |number: u64| started_ns.saturating_add(step_ns.saturating_mul(number));
    let requests = (0..).zip(requests).map(|(number, request)| (due(number), request)).collect();
    let mut streams = each_when_due(requests, read);
    let mut seen = Vec::new();
    while let Some(stream) = streams.recv().await {
        let one: Seen = stream.await.map_err(|error| format!("a stream: {error}"))??;
        if u64::try_from(one.events_ns.len()).ok() != Some(events) {
            return Err(format!("a stream had {} events instead of {events}", one.events_ns.len()));
        }
        seen.push(one);
    }
    Ok(seen)
}

async fn read(due_ns: u64, request: RequestBuilder) -> Result<Seen, String> {
    let response = request.send().await.map_err(|error| format!("a stream: {error}"))?;
    let mut seen = Seen { to_provider_ns: arrived_ns(&response)?.saturating_sub(due_ns), ..Seen::default() };
    let mut chunks = response.bytes_stream();
    let mut rest = Vec::new();
    let mut ended = false;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| format!("a stream was cut: {error}"))?;
        let now = now_ns();
        rest.extend_from_slice(&chunk);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            ended |= line.starts_with(b"data: [DONE]");
            if let Some(sent_ns) = sent_ns(&line) {
                if seen.events_ns.is_empty() {
                    seen.first_token_ns = now.saturating_sub(due_ns);
                }
                seen.events_ns.push(now.saturating_sub(sent_ns));
            }
        }
    }
    if ended { Ok(seen) } else { Err("a stream ended without saying so".to_owned()) }
}

/// The time that the provider wrote into an event as its word.
fn sent_ns(line: &[u8]) -> Option<u64> {
    let (_, word) = std::str::from_utf8(line).ok()?.split_once("\"content\":\"")?;
    word.split('"').next()?.parse().ok()
}

fn report(outcomes: &[Outcome], paths: &Paths, settings: &Value) -> Result<(), String> {
    let of = |case: Case, figure: Figure| {
        median(outcomes.iter().filter(|outcome| outcome.case == case).map(figure))
    };
    // By pairs of one round, which follow each other.
    let added = |figure: Figure| {
        let pairs = outcomes.chunks_exact(2).filter_map(|pair| {
            let in_pair = |case| pair.iter().find(|outcome| outcome.case == case).map(figure);
            Some(difference(in_pair(Case::Purser)?, in_pair(Case::Alone)?))
        });
        median(pairs)
    };
    println!("\n| | {} | {} | added |\n|---|--:|--:|--:|", Case::Alone.title(), Case::Purser.title());
    let mut rows = Vec::new();
    for (what, figure) in FIGURES {
        let (alone, purser) = (of(Case::Alone, figure), of(Case::Purser, figure));
        println!("| {what} | {} | {} | {} |", ms(alone), ms(purser), signed_ms(added(figure)));
        rows.push(json!({"what": what, "alone_ns": alone, "purser_ns": purser, "added_ns": added(figure)}));
    }
    let path = paths.output.join("stream.json");
    write_text(&path, &format!("{:#}\n", json!({"settings": settings, "rows": rows})))?;
    println!("\nthe same as JSON: {}", path.display());
    let added_at = |at: usize| FIGURES.get(at).map_or(0, |(_, figure)| added(*figure));
    let (first, event, cpu) = (added_at(FIRST_EVENT), added_at(EVENT), added_at(CPU));
    let told = format!("under 1 ms added to the first token beyond the check: {} ms", signed_ms(first));
    println!("{}", target(first < FIRST_EVENT_NS, &told));
    let told = format!("under 0.020 ms of Envoy's CPU added to an event: {} ms", signed_ms(cpu));
    println!("{}", target(cpu < CPU_NS, &told));
    println!(
        "RESULT first_token_added_ms={} event_added_ms={} event_cpu_added_ms={}",
        signed_ms(first),
        signed_ms(event),
        signed_ms(cpu)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::sent_ns;

    #[test]
    fn an_event_tells_when_it_was_sent() {
        assert_eq!(sent_ns(br#"data: {"choices":[{"delta":{"content":"123"}}]}"#), Some(123));
        assert_eq!(sent_ns(br#"data: {"choices":[],"usage":{}}"#), None);
        assert_eq!(sent_ns(b"data: [DONE]"), None);
    }
}

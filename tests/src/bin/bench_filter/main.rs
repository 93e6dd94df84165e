//! What the filter costs the proxy: CPU for requests of several sizes and for each chunk of a stream, the
//! module's size, and memory for each VM, in the real Envoy and beyond what a filter costs that only
//! buffers and asks. `make bench-filter` runs it.
//!
//! Everything is measured; nothing here decides whether a machine is fast enough. A target that is missed
//! is printed as missed, and the exit code is 0 unless something failed to run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed run is meant to stop, with a message"
)]

mod load;
mod machine;
mod report;
mod servers;
mod subjects;

use std::path::Path;

use load::{Kind, Subject};
use report::{Row, Turn};
use servers::Servers;
use subjects::Filter;

/// Events of a stream before its last.
const EVENTS: usize = 500;
/// Workers of the proxies whose memory is compared, few and many.
const WORKERS: (u8, u8) = (1, 9);

/// Each target is missed at this and above.
const MAX_1K_NS: i64 = 20_000;
const MAX_1M_NS: i64 = 1_000_000;
const MAX_CHUNK_NS: i64 = 10_000;
const MAX_WASM_BYTES: u64 = 600_000;
const MAX_VM_KIB: i64 = 3_000_000 / 1_024;

struct Settings {
    rounds: usize,
    /// Requests of 1 KB in a round; fewer of what is larger.
    requests: usize,
    /// Whether another build of the filter takes its turns, too.
    has_other: bool,
    /// Whether memory and all loads but the first are left out.
    only_small: bool,
}

impl Settings {
    fn of_environment() -> Self {
        let is_set = |variable: &str| std::env::var(variable).is_ok_and(|text| !text.is_empty());
        Self {
            rounds: number("ROUNDS", 7),
            requests: number("REQUESTS", 3_000),
            has_other: is_set("OTHER_WASM"),
            only_small: is_set("ONLY_SMALL"),
        }
    }

    /// How often a load is asked for in a round.
    fn count(&self, kind: Kind) -> usize {
        let share = match kind {
            Kind::Plain(0..10_000) => 1,
            Kind::Plain(0..500_000) => 5,
            Kind::Plain(0..2_000_000) => 25,
            Kind::Plain(_) => 100,
            Kind::EditedStream(_) | Kind::ReadStream(_) => 300,
        };
        (self.requests / share).max(3)
    }
}

/// A number of a variable, above zero.
fn number(variable: &str, default: usize) -> usize {
    match std::env::var(variable) {
        Ok(text) if !text.is_empty() => match text.parse() {
            Ok(number @ 1..) => number,
            _ => panic!("{variable}: expected a whole number above 0, got {text:?}"),
        },
        _ => default,
    }
}

fn main() {
    let settings = Settings::of_environment();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(run(&settings));
}

async fn run(settings: &Settings) {
    let folder = tempfile::tempdir().expect("a folder for logs");
    let servers = Servers::start(EVENTS).await;
    println!("{}; {} rounds", machine::describe(), settings.rounds);
    let vm_kib =
        if settings.only_small { None } else { Some(memory(settings, &servers, folder.path()).await) };
    let mut subjects = Vec::new();
    let other = settings.has_other.then_some(Filter::Other);
    for filter in [Filter::Buffer, Filter::Purser].into_iter().chain(other) {
        let envoy = subjects::start(filter, &servers, 1, &folder.path().join(filter.name())).await;
        subjects.push(Subject { envoy, settles: filter.settles() });
    }
    let rows = cpu(settings, &servers, &subjects).await;
    // A filter that trapped, or lost a settlement, costs nothing worth knowing.
    for subject in subjects.iter_mut().filter(|subject| subject.settles) {
        subject.envoy.assert_sound().await;
    }
    summary(&rows, vm_kib);
}

/// All filters in turn, the first one changing, so that none has the quieter machine.
async fn cpu(settings: &Settings, servers: &Servers, subjects: &[Subject]) -> Vec<Row> {
    let kinds = [
        Kind::Plain(1_000),
        Kind::Plain(100_000),
        Kind::Plain(1_000_000),
        Kind::Plain(4_000_000),
        Kind::EditedStream(EVENTS),
        Kind::ReadStream(EVENTS),
    ];
    let row = |kind: Kind| Row { kind, parts: settings.count(kind) * kind.parts(), rounds: Vec::new() };
    let count = if settings.only_small { 1 } else { kinds.len() };
    let mut rows: Vec<Row> = kinds.into_iter().take(count).map(row).collect();
    for round in 0..settings.rounds {
        for row in &mut rows {
            let count = settings.count(row.kind);
            let mut order: Vec<usize> = (0..subjects.len()).collect();
            order.rotate_left(round % subjects.len());
            let mut spent_ns = vec![0; subjects.len()];
            for at in order {
                let all_ns = subjects[at].measure(servers, row.kind, count).await;
                spent_ns[at] = all_ns / u64::try_from(row.parts).expect("a count");
            }
            let other_ns = spent_ns.get(2).copied();
            row.rounds.push(Turn { buffer_ns: spent_ns[0], purser_ns: spent_ns[1], other_ns });
        }
        println!("  round {}: {}", round + 1, machine::describe());
    }
    rows
}

/// What one more idle VM takes, KiB: what a worker takes more than without a filter.
async fn memory(settings: &Settings, servers: &Servers, folder: &Path) -> i64 {
    let (few, many) = WORKERS;
    println!("idle, MB resident{:>14}{:>12}{:>12}", "1 worker", format!("{many} workers"), "a worker");
    let mut each_worker_kib = Vec::new();
    for filter in [Filter::None, Filter::Buffer, Filter::Purser] {
        let mut sizes = Vec::new();
        for workers in [few, many] {
            let mut rounds = Vec::new();
            for round in 0..settings.rounds.min(3) {
                let folder = folder.join(format!("{}-{workers}-{round}", filter.name()));
                rounds.push(subjects::idle_kib(filter, servers, workers, &folder).await);
            }
            sizes.push(i64::try_from(report::median(rounds.into_iter())).expect("KiB"));
        }
        let each_kib = (sizes[1] - sizes[0]) / i64::from(many - few);
        println!(
            "{:<17}{:>14}{:>12}{:>12}",
            filter.name(),
            report::mb(sizes[0]),
            report::mb(sizes[1]),
            report::mb(each_kib)
        );
        each_worker_kib.push(each_kib);
    }
    each_worker_kib[2] - each_worker_kib[0]
}

fn summary(rows: &[Row], vm_kib: Option<i64>) {
    println!("\n{}", report::head().trim_end());
    for row in rows {
        println!("{}", row.line());
    }
    let size = |filter: Filter| {
        let path = filter.wasm().expect("a module");
        std::fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).len()
    };
    let wasm_bytes = size(Filter::Purser);
    println!("wasm: {wasm_bytes} bytes ({}: {})", Filter::Buffer.name(), size(Filter::Buffer));
    let Some(vm_kib) = vm_kib else { return };
    let more = |kind: Kind| rows.iter().find(|row| row.kind == kind).expect("measured").more_ns();
    let (small, large) = (more(Kind::Plain(1_000)), more(Kind::Plain(1_000_000)));
    let chunk = more(Kind::EditedStream(EVENTS)).max(more(Kind::ReadStream(EVENTS)));
    println!();
    report::target(&format!("under 20 µs for a request of 1 KB: {}", report::us(small)), small < MAX_1K_NS);
    report::target(&format!("under 1,000 µs for 1 MB: {}", report::us(large)), large < MAX_1M_NS);
    report::target(&format!("under 10 µs for a streamed chunk: {}", report::us(chunk)), chunk < MAX_CHUNK_NS);
    let wasm_kb = wasm_bytes.div_ceil(1_000);
    report::target(&format!("under 600 KB of wasm: {wasm_kb}"), wasm_bytes < MAX_WASM_BYTES);
    report::target(&format!("under 3 MB for an idle VM: {}", report::mb(vm_kib)), vm_kib < MAX_VM_KIB);
    println!(
        "RESULT request_1k_us={} request_1m_us={} chunk_us={} wasm_kb={wasm_kb} idle_vm_mb={}",
        report::us(small),
        report::us(large),
        report::us(chunk),
        report::mb(vm_kib)
    );
}

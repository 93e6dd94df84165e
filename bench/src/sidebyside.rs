//! `make bench`: every case at every load, in rounds with fresh processes and alternating order.

use crate::case::Case;
use crate::database::{Books, Server};
use crate::oha::{Load, Measured, Oha};
use crate::report::Report;
use crate::settings::{self, Paths};
use crate::stack::{CpuNs, MemoryKib, Stack};
use crate::{machine, report};

/// Loads, the lightest first.
pub const LOADS: [Load; 4] =
    [Load::PerSecond(100), Load::PerSecond(500), Load::PerSecond(1_000), Load::Saturation];

/// Calls before the first measurement: connections are then open, and the filter's code is compiled.
const WARM_UP_CALLS: u64 = 3_000;

/// One measurement of one case.
#[derive(Debug, Clone)]
pub struct Cell {
    /// From 0.
    pub round: u64,
    /// What was measured.
    pub case: Case,
    /// Under which load.
    pub load: Load,
    /// What came of it.
    pub measured: Measured,
    /// CPU time it took, until the last settlement was in.
    pub cpu: CpuNs,
    /// Memory at its end.
    pub memory: MemoryKib,
    /// Calls that went out without a verdict.
    pub unchecked: u64,
}

/// Measures, and prints as it goes; then the tables and the result.
///
/// # Errors
/// When a part of it fails, or the books don't balance.
pub async fn run(paths: &Paths) -> Result<(), String> {
    let rounds = settings::number("ROUNDS", 6, 1)?;
    let span_s = settings::number("CELL_S", 8, 1)?;
    let cases = settings::cases("abcde", &[Case::Alone, Case::Floor, Case::Purser])?;
    let oha = Oha::new(settings::text("OHA")?.into(), paths)?;
    let server = Server::look(&paths.database_url).await?;
    report::print_environment(&server, &format!("ROUNDS={rounds} CELL_S={span_s}"));
    provider_alone(paths, &server, &oha).await?;
    let mut report = Report::new(rounds, span_s, &server);
    let mut expected = Expected::default();
    for round in 0..rounds {
        println!("round {} of {rounds} (load average {})", round.saturating_add(1), machine::load_average());
        let mut order = cases.clone();
        if round % 2 == 1 {
            order.reverse();
        }
        for case in order {
            let cells = measure(case, round, span_s, paths, &server, &oha, &mut expected).await?;
            report.cells.extend(cells);
        }
    }
    report.books = Some(expected.check(&server).await?);
    report.finish(&paths.output)
}

/// How fast the provider is by itself: it must not be what is measured.
async fn provider_alone(paths: &Paths, server: &Server, oha: &Oha) -> Result<(), String> {
    let stack = Stack::start(Case::Alone, paths, server).await?;
    oha.warm_up(stack.provider, WARM_UP_CALLS).await?;
    let measured = oha.run(stack.provider, Load::Saturation, 2).await?;
    println!("the provider alone, without Envoy: {} calls/s", measured.per_s);
    Ok(())
}

/// A round of one case.
async fn measure(
    case: Case,
    round: u64,
    span_s: u64,
    paths: &Paths,
    server: &Server,
    oha: &Oha,
    expected: &mut Expected,
) -> Result<Vec<Cell>, String> {
    let stack = Stack::start(case, paths, server).await?;
    if round == 0 {
        for budget in stack.budgets().await? {
            println!("  budget in play: {budget}");
        }
    }
    let warm_up = oha.warm_up(stack.egress, WARM_UP_CALLS).await?;
    expected.add(case, &warm_up);
    stack.drained().await?;
    let mut cells = Vec::new();
    for load in LOADS {
        let (cpu, unchecked) = (stack.cpu(), unchecked(case, &stack).await?);
        let measured = oha.run(stack.egress, load, span_s).await?;
        stack.drained().await?;
        expected.add(case, &measured);
        let cell = Cell {
            round,
            case,
            load,
            measured,
            cpu: stack.cpu().since(cpu),
            memory: stack.memory(),
            unchecked: self::unchecked(case, &stack).await?.saturating_sub(unchecked),
        };
        report::print_cell(&cell);
        cells.push(cell);
    }
    if case == Case::Purser {
        expected.check(server).await?;
    }
    Ok(cells)
}

async fn unchecked(case: Case, stack: &Stack) -> Result<u64, String> {
    if case.settles() { stack.stat("purser_failed_open").await } else { Ok(0) }
}

/// The calls that Purser's ledger must have.
#[derive(Debug, Default)]
struct Expected {
    served: u64,
    failed: u64,
}

impl Expected {
    fn add(&mut self, case: Case, measured: &Measured) {
        if case == Case::Purser {
            self.served = self.served.saturating_add(measured.served());
            self.failed = self.failed.saturating_add(measured.failed());
        }
    }

    /// Fails unless every call is in the ledger once, at the provider's own usage, and nothing is held.
    async fn check(&self, server: &Server) -> Result<Books, String> {
        let books = server.books().await?;
        let served = self.served;
        if self.failed > 0 {
            return Err(format!("{} calls through Purser were not answered with 200", self.failed));
        }
        let right = Books { settled: served, unchecked: books.unchecked, ..Books::default() };
        if books == right {
            return Ok(books);
        }
        Err(format!("the books are wrong after {served} calls: {books:?}"))
    }
}

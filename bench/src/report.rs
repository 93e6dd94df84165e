//! What `make bench` prints: the machine, each measurement as it comes, tables in Markdown, the
//! targets, and one line for machines. The same goes into a JSON file, with every measurement.

use std::path::Path;

use serde_json::{Value, json};

use crate::case::Case;
use crate::database::{Books, Server};
use crate::machine;
use crate::oha::Load;
use crate::process::write_text;
use crate::sidebyside::{Cell, LOADS};
use crate::stats::{decimal, difference, median, ms, ratio_percent, signed_ms, spread};

/// The rate that the targets are for.
const TARGET_LOAD: Load = Load::PerSecond(1_000);

/// What is measured, where.
pub fn print_environment(server: &Server, settings: &str) {
    println!("{}", machine::describe());
    println!("load average before the run: {}", machine::load_average());
    let list: Vec<String> = server.settings.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    println!("PostgreSQL {}: {}", server.version, list.join(", "));
    if server.postmaster.is_none() {
        println!("PostgreSQL runs elsewhere: its CPU and memory are not counted");
    }
    println!("{settings}; provider, load and all else on this machine");
}

/// A measurement, as it comes.
pub fn print_cell(cell: &Cell) {
    let latency = cell.measured.latency;
    let mut notes = String::new();
    if cell.unchecked > 0 {
        notes = format!(", {} without a verdict", cell.unchecked);
    }
    if cell.measured.failed() > 0 {
        notes.push_str(&format!(", failed: {:?} {:?}", cell.measured.answers, cell.measured.errors));
    }
    println!(
        "  ({}) {}: {} calls/s, p50 {} ms, p95 {} ms, p99 {} ms{notes}",
        cell.case.letter(),
        cell.load.title(),
        cell.measured.per_s,
        ms(latency.p50_ns),
        ms(latency.p95_ns),
        ms(latency.p99_ns)
    );
}

/// Everything measured.
#[derive(Debug)]
pub struct Report {
    rounds: u64,
    span_s: u64,
    server: Server,
    /// Every measurement.
    pub cells: Vec<Cell>,
    /// What the ledger said at the end.
    pub books: Option<Books>,
}

/// A figure of one measurement.
type Figure = fn(&Cell) -> u64;

const P50: Figure = |cell| cell.measured.latency.p50_ns;
const P95: Figure = |cell| cell.measured.latency.p95_ns;
const P99: Figure = |cell| cell.measured.latency.p99_ns;
const PER_S: Figure = |cell| cell.measured.per_s;

impl Report {
    /// An empty one.
    #[must_use]
    pub fn new(rounds: u64, span_s: u64, server: &Server) -> Self {
        Self { rounds, span_s, server: server.clone(), cells: Vec::new(), books: None }
    }

    /// Prints it and writes the JSON file.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn finish(&self, output: &Path) -> Result<(), String> {
        for line in self.latency_table().into_iter().chain(self.cost_table()) {
            println!("{line}");
        }
        if let Some(books) = self.books {
            println!(
                "\nbooks: {} calls through (d), all in the ledger once and at the provider's usage, {} of them \
                 without a verdict; nothing held, every budget equals its ledger",
                books.settled, books.unchecked
            );
        }
        let path = output.join("bench.json");
        write_text(&path, &format!("{:#}\n", self.json()))?;
        println!("every measurement: {}", path.display());
        for line in self.targets() {
            println!("{line}");
        }
        println!("{}", self.result());
        Ok(())
    }

    fn cells_of(&self, case: Case, load: Load) -> impl Iterator<Item = &Cell> + Clone {
        self.cells.iter().filter(move |cell| cell.case == case && cell.load == load)
    }

    fn median_of(&self, case: Case, load: Load, figure: Figure) -> u64 {
        median(self.cells_of(case, load).map(figure))
    }

    /// What a case adds to Envoy alone: the median of the rounds' differences.
    fn added(&self, case: Case, load: Load, figure: Figure) -> i64 {
        median(
            self.pairs(case, Case::Alone, load).map(|(cell, alone)| difference(figure(cell), figure(alone))),
        )
    }

    /// The measurements of two cases in the same round.
    fn pairs(&self, case: Case, other: Case, load: Load) -> impl Iterator<Item = (&Cell, &Cell)> {
        self.cells_of(case, load).filter_map(move |cell| {
            let mut others = self.cells_of(other, load);
            others.find(|other| other.round == cell.round).map(|other| (cell, other))
        })
    }

    /// `case / other` round by round, then the median, in hundredths.
    fn ratio(&self, figure: Figure) -> u64 {
        let pairs = self.pairs(Case::Purser, Case::Floor, TARGET_LOAD);
        median(pairs.map(|(cell, other)| ratio_percent(figure(cell), figure(other))))
    }

    fn rows(&self) -> impl Iterator<Item = (Load, Case)> {
        let rows = LOADS.into_iter().flat_map(|load| Case::ALL.map(|case| (load, case)));
        rows.filter(|(load, case)| self.cells_of(*case, *load).next().is_some())
    }

    fn latency_table(&self) -> Vec<String> {
        let mut lines = vec![
            String::new(),
            format!(
                "Latency in milliseconds, medians of {} rounds of {} s; in parentheses the least and the most.",
                self.rounds, self.span_s
            ),
            String::new(),
            "| load | case | calls/s | p50 | p95 | p99 | p50 over (a) | p95 over (a) | p99 over (a) |"
                .to_owned(),
            "|---|---|--:|--:|--:|--:|--:|--:|--:|".to_owned(),
        ];
        for (load, case) in self.rows() {
            let with_spread = |figure: Figure| {
                let (least, most) = spread(self.cells_of(case, load).map(figure));
                format!("{} ({} to {})", ms(self.median_of(case, load, figure)), ms(least), ms(most))
            };
            let over = |figure: Figure| match case {
                Case::Alone => String::new(),
                _ => signed_ms(self.added(case, load, figure)),
            };
            let (least, most) = spread(self.cells_of(case, load).map(PER_S));
            lines.push(format!(
                "| {} | {} | {} ({least} to {most}) | {} | {} | {} | {} | {} | {} |",
                load.title(),
                case.title(),
                self.median_of(case, load, PER_S),
                with_spread(P50),
                with_spread(P95),
                with_spread(P99),
                over(P50),
                over(P95),
                over(P99)
            ));
        }
        lines
    }

    fn cost_table(&self) -> Vec<String> {
        let mut lines = vec![
            String::new(),
            "CPU in milliseconds per 1,000 calls, memory in MiB (Envoy and backend at their peak), medians."
                .to_owned(),
            String::new(),
            "| load | case | CPU Envoy | CPU backend | CPU PostgreSQL | memory Envoy | memory backend | memory PostgreSQL | without a verdict |".to_owned(),
            "|---|---|--:|--:|--:|--:|--:|--:|--:|".to_owned(),
        ];
        for (load, case) in self.rows() {
            let at = |figure: Figure| self.median_of(case, load, figure);
            lines.push(format!(
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                load.title(),
                case.title(),
                decimal(at(|cell| per_1000(cell.cpu.envoy, cell))),
                decimal(at(|cell| per_1000(cell.cpu.backend, cell))),
                decimal(at(|cell| per_1000(cell.cpu.postgres, cell))),
                at(|cell| cell.memory.envoy / 1_024),
                at(|cell| cell.memory.backend / 1_024),
                at(|cell| cell.memory.postgres / 1_024),
                self.cells_of(case, load).map(|cell| cell.unchecked).fold(0, u64::saturating_add),
            ));
        }
        lines
    }

    fn targets(&self) -> Vec<String> {
        let (p50, p99) = (self.ratio(P50), self.ratio(P99));
        let peak = self.median_of(Case::Purser, Load::Saturation, PER_S);
        let floor_peak = self.median_of(Case::Floor, Load::Saturation, PER_S);
        let share = ratio_percent(peak, floor_peak);
        let cells = self.cells.iter().filter(|cell| cell.case == Case::Purser);
        let memory_mib = cells.map(|cell| cell.memory.backend).max().unwrap_or_default() / 1_024;
        vec![
            target(p50 <= 150, &format!("p50 at 1,000/s at most 1.5 times the floor's: {}", decimal(p50))),
            target(p99 <= 200, &format!("p99 at 1,000/s at most 2 times the floor's: {}", decimal(p99))),
            target(share >= 40, &format!("peak at least 40 % of the floor's: {share} %")),
            target(memory_mib < 100, &format!("backend under 100 MiB at its peak: {memory_mib} MiB")),
        ]
    }

    /// The line for machines.
    fn result(&self) -> String {
        let at = |case, figure| ms(self.median_of(case, TARGET_LOAD, figure));
        format!(
            "RESULT p50_ms={} floor_p50_ms={} ratio_p50={} p99_ms={} floor_p99_ms={} ratio_p99={} peak_rps={} floor_peak_rps={}",
            at(Case::Purser, P50),
            at(Case::Floor, P50),
            decimal(self.ratio(P50)),
            at(Case::Purser, P99),
            at(Case::Floor, P99),
            decimal(self.ratio(P99)),
            self.median_of(Case::Purser, Load::Saturation, PER_S),
            self.median_of(Case::Floor, Load::Saturation, PER_S)
        )
    }

    fn json(&self) -> Value {
        let settings: Value = self.server.settings.iter().cloned().collect();
        json!({
            "machine": machine::describe(),
            "postgresql": {"version": self.server.version, "settings": settings},
            "rounds": self.rounds,
            "cell_s": self.span_s,
            "result": self.result(),
            "targets": self.targets(),
            "settled": self.books.map(|books| books.settled),
            "cells": self.cells.iter().map(cell_json).collect::<Vec<_>>(),
        })
    }
}

/// CPU time per 1,000 calls, hundredths of a millisecond.
fn per_1000(cpu_ns: u64, cell: &Cell) -> u64 {
    let calls = cell.measured.served();
    (cpu_ns / 10_000).saturating_mul(1_000).checked_div(calls).unwrap_or_default()
}

/// A target, met or missed, in words.
#[must_use]
pub fn target(met: bool, what: &str) -> String {
    format!("target {}: {what}", if met { "met" } else { "MISSED" })
}

fn cell_json(cell: &Cell) -> Value {
    let latency = cell.measured.latency;
    json!({
        "round": cell.round,
        "case": cell.case.letter().to_string(),
        "load": cell.load.title(),
        "calls_per_s": cell.measured.per_s,
        "p50_ns": latency.p50_ns,
        "p95_ns": latency.p95_ns,
        "p99_ns": latency.p99_ns,
        "answers": cell.measured.answers,
        "errors": cell.measured.errors,
        "without_verdict": cell.unchecked,
        "cpu_ns": {"envoy": cell.cpu.envoy, "backend": cell.cpu.backend, "postgres": cell.cpu.postgres},
        "memory_kib":
            {"envoy": cell.memory.envoy, "backend": cell.memory.backend, "postgres": cell.memory.postgres},
    })
}

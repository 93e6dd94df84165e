//! What the kernel tells of a process.

use std::fs::{read_dir, read_to_string};

/// CPU time that the threads of a process have used, nanoseconds.
pub fn cpu_ns(pid: u32) -> u64 {
    let threads = read_dir(format!("/proc/{pid}/task")).expect("a running process").flatten();
    let used = threads.filter_map(|thread| {
        let text = read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    used.sum()
}

/// Memory that a process has resident, KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let status = read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("VmRSS in kB")
}

/// The machine in one line.
pub fn describe() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let info = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let load = read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    format!("{cpus} CPUs ({}), load {load}", model.map_or("unknown", |(_, model)| model.trim()))
}

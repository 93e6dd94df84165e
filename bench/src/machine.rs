//! What the machine tells of its processes, from `/proc`.

use std::fs::read_to_string;

use nix::unistd::{SysconfVar, sysconf};

/// CPU time that a process has used, user and system, nanoseconds; 0 when it is gone.
#[must_use]
pub fn cpu_ns(pid: u32) -> u64 {
    stat(pid).map_or(0, |stat| stat.own_ns)
}

/// CPU time of a process and all its children, those that ended included, nanoseconds.
#[must_use]
pub fn tree_cpu_ns(root: u32) -> u64 {
    let Some(parent) = stat(root) else {
        return 0;
    };
    let children = children_of(root).into_iter().map(cpu_ns);
    children.fold(parent.own_ns.saturating_add(parent.ended_children_ns), u64::saturating_add)
}

/// The most memory that a process ever had resident, KiB.
#[must_use]
pub fn peak_resident_kib(pid: u32) -> u64 {
    field_kib(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// The memory of a process and its children, KiB, what they share counted once; 0 when that may not be
/// read.
#[must_use]
pub fn tree_memory_kib(root: u32) -> u64 {
    let pids = children_of(root).into_iter().chain([root]);
    pids.map(|pid| field_kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:")).fold(0, u64::saturating_add)
}

/// The parent of a process.
#[must_use]
pub fn parent_of(pid: u32) -> Option<u32> {
    stat(pid).map(|stat| stat.parent)
}

/// The machine in one line.
#[must_use]
pub fn describe() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let info = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory_mib = field_kib("/proc/meminfo", "MemTotal:") / 1_024;
    let model = model.map_or("CPU of unknown kind", |(_, model)| model.trim());
    format!("{cpus} CPUs ({model}), {memory_mib} MiB of memory, Linux {}", kernel.trim())
}

/// How many processes wanted to run over the last minute, as the kernel puts it.
#[must_use]
pub fn load_average() -> String {
    let text = read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

struct Stat {
    parent: u32,
    own_ns: u64,
    ended_children_ns: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let per_s = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok())?;
    let tick_ns = 1_000_000_000_u64.checked_div(per_s)?;
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        own_ns: number(11)?.saturating_add(number(12)?).saturating_mul(tick_ns),
        ended_children_ns: number(13)?.saturating_add(number(14)?).saturating_mul(tick_ns),
    })
}

fn children_of(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|child| parent_of(*child) == Some(pid)).collect()
}

fn field_kib(path: &str, name: &str) -> u64 {
    let text = read_to_string(path).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_used_time_and_memory() {
        let pid = std::process::id();
        let before = cpu_ns(pid);
        let mut sum = 0_u64;
        while cpu_ns(pid) == before {
            sum = (0..1_000_000_u64).fold(sum, u64::wrapping_add);
        }
        assert!(tree_cpu_ns(pid) > before, "{sum}");
        assert!(peak_resident_kib(pid) > 100);
        assert!(tree_memory_kib(pid) > 100);
        assert_eq!(parent_of(pid), Some(std::os::unix::process::parent_id()));
        assert_eq!(cpu_ns(u32::MAX), 0);
    }

    #[test]
    fn a_tree_keeps_the_time_of_a_child_that_has_ended() {
        let before = tree_cpu_ns(std::process::id());
        let script = "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done";
        assert!(std::process::Command::new("sh").args(["-c", script]).status().unwrap().success());
        assert!(tree_cpu_ns(std::process::id()) > before);
    }
}

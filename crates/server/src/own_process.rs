//! The process metrics of every Prometheus client, by the same names (Prometheus, "Writing client libraries", "Process
//! metrics"). Read from Linux's `/proc`; elsewhere there are none.
//!
//! There are libraries for it. The one that was tried brings 25 packages for systems that this does not run on.

use std::fs;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

const CPU: &str = "process_cpu_seconds_total";
const RESIDENT: &str = "process_resident_memory_bytes";
const VIRTUAL: &str = "process_virtual_memory_bytes";
const OPEN_FILES: &str = "process_open_fds";
const MAX_FILES: &str = "process_max_fds";
const STARTED: &str = "process_start_time_seconds";
const THREADS: &str = "process_threads";

/// Linux's unit of time for programs, a second: 100 on every architecture (`USER_HZ`; proc(5) calls it `_SC_CLK_TCK`).
const TICKS: u64 = 100;

/// Describes each metric to the recorder.
pub(crate) fn describe() {
    describe_counter!(CPU, Unit::Seconds, "Time of processors that was used, in whole seconds.");
    describe_gauge!(RESIDENT, Unit::Bytes, "Resident memory.");
    describe_gauge!(VIRTUAL, Unit::Bytes, "Virtual memory.");
    describe_gauge!(OPEN_FILES, "Open file descriptors, those of connections among them.");
    describe_gauge!(MAX_FILES, "How many file descriptors may be open.");
    describe_gauge!(STARTED, Unit::Seconds, "When the process began, since 1970.");
    describe_gauge!(THREADS, "Threads.");
}

/// Records the present values. A value that cannot be read stays as it was.
pub(crate) fn tell() {
    // A gauge is a floating-point number: exact up to 2^53.
    let show = |metric: &'static str, value: Option<u64>| {
        if let Some(value) = value {
            gauge!(metric).set(value as f64);
        }
    };
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let status = text("/proc/self/status");
    show(RESIDENT, of_status(&status, "VmRSS:").map(kibibytes));
    show(VIRTUAL, of_status(&status, "VmSize:").map(kibibytes));
    show(THREADS, of_status(&status, "Threads:"));
    show(MAX_FILES, most_files(&text("/proc/self/limits")));
    // This very look has one file open.
    let open = fs::read_dir("/proc/self/fd").map(|files| files.count().saturating_sub(1));
    show(OPEN_FILES, open.ok().and_then(|open| open.try_into().ok()));
    if let Some(times) = Times::read(&text("/proc/self/stat")) {
        counter!(CPU).absolute(times.used / TICKS);
        let since_boot = times.started / TICKS;
        show(STARTED, booted(&text("/proc/stat")).map(|booted| booted.saturating_add(since_boot)));
    }
}

fn kibibytes(amount: u64) -> u64 {
    amount.saturating_mul(1024)
}

/// A number of `/proc/self/status`, by its name.
fn of_status(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The soft limit; `None` if there is none.
fn most_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// When the machine booted, in seconds since 1970.
fn booted(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Times of `/proc/self/stat`, in ticks.
#[derive(Debug, PartialEq, Eq)]
struct Times {
    /// CPU time of the program, and of the kernel for it.
    used: u64,
    /// From the machine's start to the process's.
    started: u64,
}

impl Times {
    fn read(stat: &str) -> Option<Self> {
        // The second field is the program's name in parentheses, with any content; the third is the first after it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self { used: field(14)?.checked_add(field(15)?)?, started: field(22)? })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_is_not_taken_for_fields() {
        let stat = "7 (a b) 1 2) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 5 0 4242 1 1";
        assert_eq!(Times::read(stat), Some(Times { used: 200, started: 4242 }));
        assert_eq!(Times::read(""), None);
        assert_eq!(Times::read("7 (a) S 1"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_told_can_be_true() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, tell);
        let shown = handle.render();
        let value = |name: &str| {
            let line = shown.lines().find(|line| line.starts_with(&format!("{name} ")));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .unwrap_or_else(|| panic!("{shown}"))
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now - 24.0 * 3600.0..=now + 1.0).contains(&value(STARTED)), "{shown}");
        assert!(value(RESIDENT) > 1e6 && value(RESIDENT) < value(VIRTUAL), "{shown}");
        assert!(value(OPEN_FILES) >= 3.0 && value(OPEN_FILES) < value(MAX_FILES), "{shown}");
        assert!(value(THREADS) >= 1.0 && value(CPU) >= 0.0, "{shown}");
    }
}

//! Figures of the operating system about processes and the machine.

use std::{fs, process::Command};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// Linux's unit of processor time for programs, under any clock of its own: a hundredth of a second.
const TICK_SECONDS: f64 = 0.01;

/// The processor time that a process has used, in seconds.
pub(crate) fn cpu_seconds(process: u32) -> anyhow::Result<f64> {
    let stat =
        fs::read_to_string(format!("/proc/{process}/stat")).context("the process cannot be looked at")?;
    // The program's name stands in brackets, and may hold anything.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = after_name.split_whitespace().skip(11);
    let mut ticks = || -> anyhow::Result<f64> { Ok(fields.next().context("a short line")?.parse()?) };
    Ok((ticks()? + ticks()?) * TICK_SECONDS)
}

/// The memory that a process has in use, in MiB.
pub(crate) fn resident_mib(process: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// The machine of the measurements.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    /// How many were waiting for a processor, on average over the minute before it began.
    pub(crate) load_before: String,
    pub(crate) commit: String,
    pub(crate) rustc: String,
}

impl Machine {
    /// This one.
    pub(crate) fn this() -> Self {
        let of = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            value.trim_start_matches([' ', '\t', ':']).trim().to_owned()
        };
        let memory = of("/proc/meminfo", "MemTotal");
        let kib: f64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        Self {
            processor: of("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: (kib / 1024.0 / 1024.0).round(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            load_before: load(),
            commit: said_by("git", &["describe", "--always", "--dirty"]),
            rustc: said_by("rustc", &["--version"]),
        }
    }
}

/// How many wait for a processor, on average over a minute.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn said_by(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}

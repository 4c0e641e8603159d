//! Scans the logs of a local stack, which is no test's own, for personal data and secrets.
//!
//! `scan FOLDER…` reads the deployables' logs in each folder. Exits 1 where it found something, or found no log.

use std::{env, fs, path::Path, process::ExitCode};

use millrace_tests::{process::Deployable, scan::scan};

fn main() -> ExitCode {
    let (mut lines, mut findings) = (0, 0);
    for folder in env::args_os().skip(1) {
        for deployable in Deployable::ALL {
            let log = Path::new(&folder).join(format!("{}.log", deployable.name()));
            // Another run's folder may have none.
            let Ok(text) = fs::read(&log) else { continue };
            let text = String::from_utf8_lossy(&text);
            lines += text.lines().count();
            for finding in scan(&text) {
                println!("{}: {finding}", log.display());
                findings += 1;
            }
        }
    }
    println!("{lines} lines of logs, {findings} findings");
    if lines == 0 || findings > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

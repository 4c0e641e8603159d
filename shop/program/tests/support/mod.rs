//! The program with everything that it starts, watched from outside.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);
/// The beginning of the last line that the program prints once it is up.
const LAST_PRINTED: &str = "To run deployables by hand";
const POLL: Duration = Duration::from_millis(20);

/// A process. The command line distinguishes it from a later process with the same number, and from itself before an
/// `exec`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) command: String,
}

/// The program, running.
pub(crate) struct Program {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    /// The child processes seen so far.
    started: BTreeSet<Process>,
}

/// How it ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Program {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    pub(crate) fn start_with(arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_shop"))
            .args(arguments)
            .env_remove("AWS_ENDPOINT_URL")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Self { child, stdout, stderr, started: BTreeSet::new() }
    }

    /// Waits until it is ready, and returns the output so far.
    pub(crate) fn until_ready(&mut self) -> Vec<String> {
        self.until_said("ready");
        let mut printed = Vec::new();
        loop {
            let line =
                self.stdout.recv_timeout(TIMEOUT).unwrap_or_else(|error| panic!("{error}: {printed:#?}"));
            printed.push(line);
            if printed.last().is_some_and(|line| line.starts_with(LAST_PRINTED)) {
                return printed;
            }
        }
    }

    /// Waits for a line with this beginning on standard error.
    pub(crate) fn until_said(&mut self, beginning: &str) {
        let deadline = Instant::now() + TIMEOUT;
        let mut said = Vec::new();
        loop {
            self.look();
            match self.stderr.recv_timeout(POLL) {
                Ok(line) if line.starts_with(beginning) => return,
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Timeout) => assert!(Instant::now() < deadline, "{said:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("it ended before it said {beginning}: {said:?}")
                }
            }
        }
    }

    pub(crate) fn signal(&self, signal: &str) {
        kill(signal, self.child.id());
    }

    /// The child processes that still run.
    pub(crate) fn running(&mut self) -> Vec<Process> {
        self.look();
        running(&self.started)
    }

    /// Waits for its end, and for that of everything that it started.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ended {
        let deadline = Instant::now() + TIMEOUT;
        let status = loop {
            self.look();
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            thread::sleep(POLL);
        };
        assert!(!self.started.is_empty(), "nothing was seen of what it started");
        while !running(&self.started).is_empty() {
            assert!(Instant::now() < deadline, "it left behind: {:?}", running(&self.started));
            thread::sleep(POLL);
        }
        let text = |lines: &Receiver<String>| lines.iter().map(|line| line + "\n").collect();
        Ended { status, stdout: text(&self.stdout), stderr: text(&self.stderr) }
    }

    /// Notes the child processes.
    fn look(&mut self) {
        let processes = processes();
        let mut families = BTreeSet::from([self.child.id()]);
        // Children are not always listed after their parents.
        loop {
            let known = families.len();
            for (process, parent) in &processes {
                if families.contains(parent) && families.insert(process.pid) {
                    self.started.insert(process.clone());
                }
            }
            if families.len() == known {
                return;
            }
        }
    }
}

/// A test that fails leaves nothing running.
impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a pipe to its end, whether or not a test waits for its lines.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let _ = sender.send(line.unwrap());
        }
    });
    receiver
}

pub(crate) fn kill(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

fn running(processes_seen: &BTreeSet<Process>) -> Vec<Process> {
    let now: BTreeSet<Process> = processes().into_iter().map(|(process, _)| process).collect();
    processes_seen.intersection(&now).cloned().collect()
}

/// Every process that is not dead, with its parent's number.
fn processes() -> Vec<(Process, u32)> {
    let listed = Command::new("ps").args(["-A", "-ww", "-o", "pid=,ppid=,stat=,args="]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let process = |line: &str| {
        let mut words = line.split_whitespace();
        let (pid, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let dead = words.next()?.starts_with('Z');
        let command = words.collect::<Vec<_>>().join(" ");
        (!dead).then_some((Process { pid, command }, parent))
    };
    listed.lines().filter_map(process).collect()
}

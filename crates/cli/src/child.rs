//! A deployable as a child process: started, watched, ended.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use millrace_local::{Logs, say};
use tokio::{
    fs::File,
    io::{AsyncBufReadExt, BufReader},
    process::{self, ChildStdin, Command},
    sync::oneshot,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    deployable::Deployable,
    log_line::{Addresses, LogLine},
};

/// From its start until it reports its addresses.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// A deployable gives its work in flight less than this.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// How often logs and health are polled.
const POLL: Duration = Duration::from_millis(20);
/// How much of a log explains why it ended.
const LAST_LINES: usize = 6;

/// A running deployable.
///
/// Its standard input is a pipe from this process. The end of that input ends it, also when this process is killed, so
/// that nothing is left behind. Its output goes straight to a file, since it must not fail to log once this process is
/// gone; this process follows the file.
pub(crate) struct Child {
    deployable: Deployable,
    process: process::Child,
    stdin: ChildStdin,
    log: PathBuf,
    serving: oneshot::Receiver<Addresses>,
    _follower: AbortOnDropHandle<()>,
}

impl Child {
    /// Starts it on a loopback port, any free one where `port` is 0. `env` takes precedence over inherited variables.
    pub(crate) fn start(
        deployable: Deployable,
        port: u16,
        env: &BTreeMap<String, String>,
        logs: &Logs,
    ) -> anyhow::Result<Self> {
        let name = deployable.name();
        let output = logs.create(name)?;
        let errors = output.try_clone().with_context(|| format!("cannot open the log of the {name}"))?;
        let program = env::current_exe().context("cannot find this program's own file")?;
        let mut process = Command::new(program)
            .args([name, "--exit-with-stdin"])
            .env_clear()
            .envs(env::vars_os().filter(|(name, _)| may_be_inherited(name)))
            .envs(env)
            .env("GRPC_ADDR", format!("127.0.0.1:{port}"))
            .env("METRICS_ADDR", "127.0.0.1:0")
            .env("LOG_FORMAT", "json")
            .env("RUST_LOG", log_filter(env::var("RUST_LOG").ok()))
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            // Ctrl-C in the terminal is for this process, which ends the deployables in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start the {name}"))?;
        let stdin = process.stdin.take().context("a child without a standard input")?;
        let log = logs.path(name);
        let (tell, serving) = oneshot::channel();
        let follower = AbortOnDropHandle::new(tokio::spawn(follow(log.clone(), name, tell)));
        Ok(Self { deployable, process, stdin, log, serving, _follower: follower })
    }

    /// Returns where it answers, once it does and its health is SERVING.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<Addresses> {
        let ready = async {
            let addresses = (&mut self.serving).await.ok()?;
            until_healthy(&addresses.grpc).await;
            Some(addresses)
        };
        let name = self.deployable.name();
        tokio::select! {
            ready = timeout(START_PATIENCE, ready) => match ready {
                Ok(Some(addresses)) => Ok(addresses),
                Ok(None) => Err(anyhow!("the log of the {name}, {}, cannot be read", self.log.display())),
                Err(_) => {
                    Err(anyhow!("the {name} was not SERVING within {START_PATIENCE:?}{}", last_words(&self.log)))
                }
            },
            exited = self.process.wait() => Err(ended_by_itself(self.deployable, exited?, &self.log)),
        }
    }

    /// Returns the reason when it has ended unasked.
    pub(crate) async fn died(&mut self) -> anyhow::Error {
        match self.process.wait().await {
            Ok(status) => ended_by_itself(self.deployable, status, &self.log),
            Err(error) => anyhow!(error).context(format!("cannot watch the {}", self.deployable.name())),
        }
    }

    /// Ends it in order; kills it after a time-out.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let Self { deployable, mut process, stdin, log, serving: _, _follower } = self;
        let name = deployable.name();
        drop(stdin);
        match timeout(STOP_PATIENCE, process.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => bail!("the {name} did not end in order ({status}){}", last_words(&log)),
            Ok(Err(error)) => Err(anyhow!(error).context(format!("cannot watch the {name}"))),
            Err(_) => {
                process.kill().await.with_context(|| format!("cannot kill the {name}"))?;
                bail!("the {name} still ran after {STOP_PATIENCE:?} and was killed{}", last_words(&log))
            }
        }
    }
}

/// Whether the variable of ours may reach the deployables: not, where it could lead their requests elsewhere, or guard
/// their ports against us.
fn may_be_inherited(name: &OsStr) -> bool {
    const OTHERS: [&str; 4] = ["AWS_", "HEALTH_", "JWT_", "TLS_"];
    let name = name.to_string_lossy().to_ascii_uppercase();
    !OTHERS.iter().any(|prefix| name.starts_with(prefix)) && !name.ends_with("_PROXY")
}

/// The user's log filter, plus in any case the line with the addresses.
fn log_filter(wanted: Option<String>) -> OsString {
    let wanted = wanted.filter(|filter| !filter.is_empty()).unwrap_or_else(|| "info".to_owned());
    format!("{wanted},millrace_server::serve=info").into()
}

/// Follows a log: reports the addresses, and from then on shows notable lines. Earlier lines are shown only if the
/// deployable does not come up.
async fn follow(log: PathBuf, name: &'static str, serving: oneshot::Sender<Addresses>) {
    let Ok(file) = File::open(log).await else { return };
    let mut reader = BufReader::new(file);
    let mut serving = Some(serving);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).await.is_ok() {
        if !line.ends_with(b"\n") {
            // The rest is yet to be written.
            sleep(POLL).await;
            continue;
        }
        let read = LogLine::read(String::from_utf8_lossy(&line).trim_end());
        line.clear();
        if let Some(addresses) = read.serving
            && let Some(serving) = serving.take()
        {
            let _ = serving.send(addresses);
        }
        if read.notable && serving.is_none() {
            say(&format!("{name}: {}", read.text));
        }
    }
}

/// Returns when the health service there reports that the process serves.
async fn until_healthy(address: &str) {
    while !matches!(health(address).await, Ok(ServingStatus::Serving)) {
        sleep(POLL).await;
    }
}

async fn health(address: &str) -> anyhow::Result<ServingStatus> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.timeout(Duration::from_secs(5));
    let mut client = HealthClient::new(endpoint.connect().await?);
    Ok(client.check(HealthCheckRequest::default()).await?.into_inner().status())
}

fn ended_by_itself(deployable: Deployable, status: ExitStatus, log: &Path) -> anyhow::Error {
    anyhow!("the {} ended by itself ({status}){}", deployable.name(), last_words(log))
}

/// The end of a log, as the end of a sentence.
fn last_words(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let mut words = format!("; its log, {}, ends with:", log.display());
    for line in lines.iter().skip(lines.len().saturating_sub(LAST_LINES)) {
        words += &format!("\n  {}", LogLine::read(line).text);
    }
    if lines.is_empty() { format!("; its log, {}, is empty", log.display()) } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_lead_requests_elsewhere_is_not_inherited() {
        for name in [
            "AWS_PROFILE",
            "AWS_ENDPOINT_URL_DYNAMODB",
            "AWS_SESSION_TOKEN",
            "HTTPS_PROXY",
            "http_proxy",
            "JWT_ISSUER",
        ] {
            assert!(!may_be_inherited(OsStr::new(name)), "{name}");
        }
        for name in ["PATH", "HOME", "RUST_LOG", "MESSAGES_AT_ONCE"] {
            assert!(may_be_inherited(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn the_addresses_are_logged_whatever_the_user_wants_logged() {
        assert_eq!(log_filter(None), "info,millrace_server::serve=info");
        assert_eq!(log_filter(Some("off".to_owned())), "off,millrace_server::serve=info");
        assert_eq!(log_filter(Some(String::new())), "info,millrace_server::serve=info");
    }

    #[test]
    fn last_words_are_the_last_lines_in_readable_form() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("a.log");
        assert!(last_words(&log).ends_with("a.log, is empty"));
        let lines: Vec<String> =
            (0..10).map(|n| format!("{{\"level\":\"INFO\",\"message\":\"line {n}\"}}")).collect();
        fs::write(&log, lines.join("\n")).unwrap();
        let words = last_words(&log);
        assert!(words.ends_with("ends with:\n  INFO line 4\n  INFO line 5\n  INFO line 6\n  INFO line 7\n  INFO line 8\n  INFO line 9"), "{words}");
    }
}

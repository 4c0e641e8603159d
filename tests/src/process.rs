//! Deployables as processes of their own, built as this test was.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use millrace_local::Logs;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{AwsStack, PATIENCE, metrics::Metrics, scan::assert_clean};

/// The time between two looks at a process.
const POLL: Duration = Duration::from_millis(10);

/// A question about health that is not answered by then is not answered at all.
const HEALTH_PATIENCE: Duration = Duration::from_secs(2);

/// A program of Millrace's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "their names say it")]
pub enum Deployable {
    CommandService,
    Projector,
    QueryService,
}

impl Deployable {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::CommandService, Self::Projector, Self::QueryService];

    /// Its name, which is its program's.
    pub fn name(self) -> &'static str {
        match self {
            Self::CommandService => "command-service",
            Self::Projector => "projector",
            Self::QueryService => "query-service",
        }
    }

    /// A process to be, on free ports and on a stack.
    pub fn command(self, stack: &AwsStack) -> Command {
        self.command_of(programs(), stack)
    }

    /// The same of the programs in a folder.
    pub fn command_of(self, programs: &Path, stack: &AwsStack) -> Command {
        let mut command = Command::new(programs.join(self.name()));
        command
            .env_clear()
            .envs(crate::env(stack))
            .env("GRPC_ADDR", "127.0.0.1:0")
            .env("METRICS_ADDR", "127.0.0.1:0")
            .env("LOG_FORMAT", "json")
            // It logs everything that it can ever log (see `Process::inspect`).
            .env("RUST_LOG", "trace")
            .stdin(Stdio::null());
        command
    }
}

/// Where the programs are, which are built first.
pub(crate) fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // This test is <target>/<profile>/deps/<name>-…
        let test = env::current_exe().expect("a test knows its own program");
        let folder = test.ancestors().nth(2).expect("a test lies where cargo puts it").to_owned();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--locked", "--bins"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        build.args(Deployable::ALL.iter().flat_map(|deployable| ["--package", deployable.name()]));
        // Of the same crates as this test.
        build.args(["--package", "millrace-features"]);
        build.arg("--target-dir").arg(folder.parent().expect("a profile's folder lies in the target's"));
        if folder.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().is_ok_and(|status| status.success()), "the programs are built");
        folder
    })
}

/// An empty folder for the logs of a test. Other runs at the same time have others; a later run makes this one empty.
pub fn log_folder(test: &str) -> anyhow::Result<PathBuf> {
    static LOGS: OnceLock<Logs> = OnceLock::new();
    let folder = LOGS.get_or_init(|| Logs::claim().expect("a folder for logs")).directory().join(test);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A deployable that runs. Killed when this is dropped.
///
/// Every end scans the whole log, and the metrics if they are still served. The test fails where personal data or a
/// secret is there, or where there is no log.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    address: String,
    metrics_address: String,
    channel: Channel,
}

impl Process {
    /// Starts a process that writes its log to a file, and returns when it serves. It need not be ready then.
    pub async fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let output = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let errors = output.try_clone()?;
        let mut child = command.stdout(output).stderr(errors).spawn()?;
        match serving(&mut child, log).await {
            Ok((address, metrics_address)) => {
                let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
                let channel = endpoint.connect_timeout(HEALTH_PATIENCE).connect_lazy();
                Ok(Self { child, log: log.to_owned(), address, metrics_address, channel })
            }
            Err(error) => {
                kill(&mut child);
                Err(error.context(format!("its log is {}", log.display())))
            }
        }
    }

    /// Where it serves gRPC, as host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where it shows its metrics, as host and port.
    pub fn metrics_address(&self) -> &str {
        &self.metrics_address
    }

    /// A connection to it, made on first use.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Its number in the operating system.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its log is.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its metrics.
    pub async fn metrics(&self) -> anyhow::Result<Metrics> {
        Metrics::of(&self.metrics_address).await
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Ends it in the middle of its work (SIGKILL). It is gone when this returns.
    pub fn kill(self) {
        drop(self);
    }

    /// Tells it to end (SIGTERM).
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.inspect_metrics();
        let told = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        ensure!(told.success(), "it cannot be told to end: {told}");
        Ok(())
    }

    /// Waits for its end, and returns its exit code.
    pub async fn end(mut self) -> anyhow::Result<Option<i32>> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status.code());
            }
            ensure!(Instant::now() < end, "it has not ended; its log is {}", self.log.display());
            sleep(POLL).await;
        }
    }
}

impl Process {
    /// Looks at its metrics, if it shows any: in the middle of things it may not.
    fn inspect_metrics(&self) {
        if let Ok(metrics) = Metrics::text_now(&self.metrics_address) {
            assert_clean(&format!("the metrics of what logs to {}", self.log.display()), &metrics);
        }
    }

    /// Looks at its log.
    fn inspect_log(&self) {
        let log = fs::read(&self.log).unwrap_or_default();
        assert_clean(&self.log.display().to_string(), &String::from_utf8_lossy(&log));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A test that has failed already has something else to say.
        if std::thread::panicking() {
            return kill(&mut self.child);
        }
        if matches!(self.ended(), Ok(None)) {
            self.inspect_metrics();
        }
        kill(&mut self.child);
        self.inspect_log();
    }
}

/// One that has ended already is as good.
fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Waits until a process says where it serves: gRPC, and metrics.
async fn serving(child: &mut Child, log: &Path) -> anyhow::Result<(String, String)> {
    let end = Instant::now() + PATIENCE;
    loop {
        let ended = child.try_wait()?;
        if let Some(addresses) = fs::read_to_string(log)?.lines().find_map(addresses) {
            return Ok(addresses);
        }
        if let Some(status) = ended {
            bail!("it ended before it served: {status}");
        }
        ensure!(Instant::now() < end, "it does not serve within {PATIENCE:?}");
        sleep(POLL).await;
    }
}

fn addresses(line: &str) -> Option<(String, String)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let field = |name: &str| line.get(name)?.as_str().map(str::to_owned);
    (field("message")? == "serving").then_some(())?;
    Some((field("grpc_addr")?, field("metrics_addr")?))
}

/// A process's health under a name; none without an answer.
pub async fn health(channel: &Channel, name: &str) -> Option<ServingStatus> {
    let mut client = HealthClient::new(channel.clone());
    let asked = client.check(HealthCheckRequest { service: name.to_owned() });
    let reply = timeout(HEALTH_PATIENCE, asked).await.ok()?.ok()?;
    Some(reply.into_inner().status())
}

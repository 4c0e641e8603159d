//! Millrace over gRPC: a deployable as a process of its own.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures::{FutureExt as _, future::BoxFuture};
use millrace_tests::{
    AwsStack, Replied as _,
    process::{Deployable, Process, health},
};
use shop::contracts::command::user_command_service_client::UserCommandServiceClient;
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{
    contract::{Contender, Outcome},
    millrace,
};
use crate::user::User;

/// The program that is all deployables, once it is [chosen](choose).
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Chooses the program that is all deployables: a given one, or one that is built as this program was.
pub(crate) fn choose(given: Option<&Path>) -> anyhow::Result<()> {
    let program = given.map_or_else(built, |given| Ok(given.to_owned()))?;
    PROGRAM.get_or_init(|| program);
    Ok(())
}

/// The program that was chosen.
pub(crate) fn program() -> anyhow::Result<&'static Path> {
    PROGRAM.get().map(PathBuf::as_path).context("no program was chosen")
}

fn built() -> anyhow::Result<PathBuf> {
    const NAME: &str = "deployed";
    // This program is <target>/<profile>/bench.
    let own = env::current_exe()?;
    let folder = own.parent().context("a program lies in a folder")?;
    let target = folder.parent().context("a profile's folder lies in the target's")?;
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--bin", NAME, "--target-dir"]).arg(target);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    // This cargo's variables must not reach the other cargo: build scripts that read them would run again, and most of
    // the dependencies be built again.
    for name in env::vars_os().filter_map(|(name, _)| name.into_string().ok()) {
        if name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_") {
            build.env_remove(name);
        }
    }
    if folder.ends_with("release") {
        build.arg("--release");
    }
    ensure!(build.status()?.success(), "the deployables cannot be built");
    Ok(folder.join(NAME))
}

/// A deployable that runs.
pub(crate) struct Service {
    process: Process,
    /// From its start until it said SERVING.
    pub(crate) started_in: Duration,
}

impl Service {
    /// Starts a deployable on a stack; `changed` are variables in place of the stack's.
    pub(crate) async fn start(
        deployable: Deployable,
        stack: &AwsStack,
        changed: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(program()?);
        command
            .arg(deployable.name())
            .env_clear()
            .envs(millrace_tests::env(stack))
            .envs(changed.iter().copied())
            .env("GRPC_ADDR", "127.0.0.1:0")
            .env("METRICS_ADDR", "127.0.0.1:0")
            .env("LOG_FORMAT", "json")
            .stdin(Stdio::null());
        let began = Instant::now();
        let process = Process::start(command, &log(deployable)?).await?;
        while health(process.channel(), "").await != Some(ServingStatus::Serving) {
            ensure!(began.elapsed() < Duration::from_secs(30), "{} does not serve", deployable.name());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(Self { process, started_in: began.elapsed() })
    }

    /// Its number in the operating system.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// A connection to it.
    pub(crate) fn channel(&self) -> Channel {
        self.process.channel().clone()
    }

    /// A contender that calls it.
    pub(crate) fn contender(&self) -> Remote {
        Remote { client: UserCommandServiceClient::new(self.channel()) }
    }
}

/// Where a process writes its log: each has a folder of its own.
fn log(deployable: Deployable) -> anyhow::Result<PathBuf> {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let folder = millrace_tests::process::log_folder(&format!("bench-{number}"))?;
    Ok(folder.join(format!("{}.log", deployable.name())))
}

/// The command service at the other end of a connection.
pub(crate) struct Remote {
    client: UserCommandServiceClient<Channel>,
}

impl Contender for Remote {
    fn create(&self) -> BoxFuture<'_, anyhow::Result<User>> {
        async {
            let reply = self.client.clone().create_user(millrace::creation()).await?.reply();
            Ok(User { id: reply.aggregate_id.parse()?, length: 1 })
        }
        .boxed()
    }

    fn rename<'a>(&'a self, user: &'a User) -> BoxFuture<'a, anyhow::Result<Outcome>> {
        async { millrace::outcome(self.client.clone().update_user_profile(millrace::renaming(user)).await) }
            .boxed()
    }
}

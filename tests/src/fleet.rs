//! Several replicas of each deployable as processes, each behind a wire of its own, which can be killed and started again.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, ensure};
use futures::future::{join_all, try_join_all};
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{
    AwsStack, FaultKind, FaultProxy, eventually,
    metrics::Metrics,
    process::{Deployable, Process, health, log_folder, programs},
};

/// The number of replicas of each deployable, and their environment.
#[derive(Debug, Clone, Default)]
pub struct Crew {
    /// Replicas of the command service.
    pub command_services: usize,
    /// Replicas of the projector.
    pub projectors: usize,
    /// Replicas of the query service.
    pub query_services: usize,
    /// Variables that all of them get.
    pub env: Vec<(&'static str, &'static str)>,
    /// The folder of their programs, where these are not built as this test was.
    pub programs: Option<PathBuf>,
}

/// The replicas. When it is dropped, all of them are killed.
pub struct Fleet {
    members: Vec<Member>,
    folder: PathBuf,
}

/// The place of a replica: it has one process at a time, or none.
pub struct Member {
    /// Its deployable and number, such as `projector-2`.
    pub name: String,
    /// Its deployable.
    pub deployable: Deployable,
    /// Between it and AWS.
    pub proxy: FaultProxy,
    stack: Arc<AwsStack>,
    folder: PathBuf,
    /// Who has it may end the process and start the next one.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The variables of its next process.
    env: BTreeMap<&'static str, &'static str>,
    /// The folder of its next process's program, where that is not built as this test was.
    programs: Option<PathBuf>,
    process: Option<Process>,
    /// How many processes there were so far.
    starts: usize,
    /// The last known metrics of each process.
    metrics: BTreeMap<usize, Metrics>,
}

impl Fleet {
    /// A fleet on a stack, whose logs are kept under the name of a test. Nothing of it runs yet.
    pub async fn new(test: &str, stack: &Arc<AwsStack>, crew: &Crew) -> anyhow::Result<Self> {
        let folder = log_folder(test)?;
        let kinds = [
            (Deployable::CommandService, crew.command_services),
            (Deployable::Projector, crew.projectors),
            (Deployable::QueryService, crew.query_services),
        ];
        let places = kinds.into_iter().flat_map(|(kind, count)| (0..count).map(move |n| (kind, n)));
        let members = places.map(async |(deployable, n)| {
            anyhow::Ok(Member {
                name: format!("{}-{n}", deployable.name()),
                deployable,
                proxy: FaultProxy::before(stack.endpoint()).await?,
                stack: stack.clone(),
                folder: folder.clone(),
                turn: tokio::sync::Mutex::default(),
                state: Mutex::new(State {
                    env: crew.env.iter().copied().collect(),
                    programs: crew.programs.clone(),
                    ..State::default()
                }),
            })
        });
        Ok(Self { members: try_join_all(members).await?, folder })
    }

    /// Where the logs of all processes are, a file each.
    pub fn logs(&self) -> &Path {
        &self.folder
    }

    /// All places.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The places of a deployable.
    pub fn of(&self, deployable: Deployable) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.deployable == deployable)
    }

    /// Starts a process at every place that has none, and returns when all of the fleet is ready.
    pub async fn raise(&self) -> anyhow::Result<()> {
        let idle = self.members.iter().filter(|member| !member.runs());
        try_join_all(idle.map(Member::start)).await?;
        join_all(self.members.iter().map(Member::until_ready)).await;
        Ok(())
    }

    /// Notes the metrics of all processes, so that they are not lost with them.
    pub async fn note_metrics(&self) {
        join_all(self.members.iter().map(Member::note_metrics)).await;
    }

    /// The sum of a metric over all processes, as last noted.
    pub fn noted(&self, metric: &str) -> f64 {
        self.members.iter().map(|member| member.noted(metric)).sum()
    }

    /// The same of the series with this value of a label.
    pub fn noted_of(&self, metric: &str, label: (&str, &str)) -> f64 {
        let states = self.members.iter().map(Member::state);
        states.map(|state| state.metrics.values().map(|m| m.sum_of(metric, label)).sum::<f64>()).sum()
    }

    /// How many faults of each kind there were on all wires.
    pub fn injected(&self) -> BTreeMap<FaultKind, u64> {
        let mut all = BTreeMap::new();
        for (kind, count) in self.members.iter().flat_map(|member| member.proxy.injected()) {
            *all.entry(kind).or_default() += count;
        }
        all
    }

    /// How many requests went over all wires since they were asked last.
    pub fn take_requests(&self) -> u64 {
        let traffic = self.members.iter().flat_map(|member| member.proxy.take());
        traffic.map(|(_, traffic)| traffic.requests).sum()
    }
}

impl Member {
    /// Starts its process, and returns when that serves.
    pub async fn start(&self) -> anyhow::Result<()> {
        let (command, number) = {
            let mut state = self.state();
            ensure!(state.process.is_none(), "{} runs already", self.name);
            state.starts += 1;
            let folder = state.programs.as_deref().unwrap_or_else(|| programs());
            let mut command = self.deployable.command_of(folder, &self.stack);
            command.envs(&state.env).env("AWS_ENDPOINT_URL", self.proxy.url());
            (command, state.starts)
        };
        let log = self.folder.join(format!("{}.{number}.log", self.name));
        let process = Process::start(command, &log).await.with_context(|| self.name.clone())?;
        self.state().process = Some(process);
        Ok(())
    }

    /// Puts a new process with another setting into its place, as a rollout does, and waits until that is ready.
    pub async fn replace_with(&self, variable: &'static str, value: &'static str) -> anyhow::Result<()> {
        let _turn = self.turn().await;
        self.state().env.insert(variable, value);
        self.replace().await
    }

    /// The same with other programs: those in a folder, or those that are built as this test was.
    pub async fn replace_by(&self, programs: Option<&Path>) -> anyhow::Result<()> {
        let _turn = self.turn().await;
        self.state().programs = programs.map(Path::to_owned);
        self.replace().await
    }

    async fn replace(&self) -> anyhow::Result<()> {
        self.terminate().await?;
        self.start().await?;
        self.until_ready().await;
        Ok(())
    }

    /// Waits for the right to end its process and to start the next one.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Whether it has a process.
    pub fn runs(&self) -> bool {
        self.state().process.is_some()
    }

    /// A connection to its process, if it has one.
    pub fn channel(&self) -> Option<Channel> {
        self.state().process.as_ref().map(|process| process.channel().clone())
    }

    /// The number of its process, if it has one that has not ended by itself.
    pub fn process_id(&self) -> Option<u32> {
        let mut state = self.state();
        let process = state.process.as_mut()?;
        matches!(process.ended(), Ok(None)).then(|| process.id())
    }

    /// Kills its process (SIGKILL), if it has one. It is gone when this returns.
    pub fn kill(&self) {
        let process = self.state().process.take();
        if let Some(process) = process {
            process.kill();
        }
    }

    /// Tells its process to end (SIGTERM), and waits until it has. Fails where that is not in order.
    pub async fn terminate(&self) -> anyhow::Result<()> {
        let process = self.state().process.take();
        let process = process.with_context(|| format!("{} does not run", self.name))?;
        process.terminate()?;
        let log = process.log().display().to_string();
        let code = process.end().await?;
        ensure!(code == Some(0), "{} ended with {code:?}; its log is {log}", self.name);
        Ok(())
    }

    /// Its process's health under a name; none without an answer.
    pub async fn health(&self, name: &str) -> Option<ServingStatus> {
        health(&self.channel()?, name).await
    }

    /// Waits until its process says that it is ready.
    pub async fn until_ready(&self) {
        let ready = async || (self.health("").await? == ServingStatus::Serving).then_some(());
        eventually(&format!("{} is ready", self.name), ready).await;
    }

    /// Notes its process's metrics. They are lost if the process does not answer.
    pub async fn note_metrics(&self) {
        let asked = {
            let state = self.state();
            state.process.as_ref().map(|process| (state.starts, process.metrics_address().to_owned()))
        };
        let Some((number, address)) = asked else { return };
        if let Ok(metrics) = Metrics::of(&address).await {
            self.state().metrics.insert(number, metrics);
        }
    }

    /// The sum of a metric over all processes that it had, as last noted.
    pub fn noted(&self, metric: &str) -> f64 {
        self.state().metrics.values().map(|metrics| metrics.sum(metric)).sum()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

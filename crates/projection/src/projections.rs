//! The projections of a process; each consumes its own queue.

use std::{collections::BTreeMap, time::Duration};

use futures::FutureExt as _;
use millrace_aws::{Aws, AwsError};
use millrace_core::{Application, Backoff, ProjectionName};
use millrace_event_store::ReadEvents;
use millrace_rows::WriteRows;
use millrace_server::{FailureLogThrottle, serve::Probe};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    Condition, Consumer, Projector, Settings, metrics,
    queue::{Queue as _, QueueAddress, SqsQueue, Unusable},
};

/// Between attempts to learn about a queue.
const OPENING: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(10) };

/// With fewer deliveries, messages that wait for a newer release or a throttled row are given up early.
const ENOUGH_RECEIVES: u32 = 1_000;

/// The labels of an application's projections in metrics, logs and traces: the name, or `<name>@<version>` while
/// several versions are registered, since their counts must stay apart.
pub(crate) fn labels(app: &Application) -> BTreeMap<ProjectionName, &'static str> {
    let versions =
        |name: ProjectionName| app.projections().iter().filter(|spec| spec.name.name == name.name).count();
    let label = |name: ProjectionName| match versions(name) {
        1 => name.name,
        // Leaked once for each projection, for the life of the process.
        _ => name.to_string().leak(),
    };
    app.projections().iter().map(|spec| (spec.name, label(spec.name))).collect()
}

/// The projections of a process.
pub(crate) struct Projections {
    aws: Aws,
    wait: Duration,
    settings: Settings,
    stop: CancellationToken,
    conditions: Vec<watch::Receiver<Condition>>,
    running: JoinSet<Result<(), Unusable>>,
}

impl Projections {
    /// No projections yet. Each will wait `wait` for messages, and run until `stop`.
    pub(crate) fn new(aws: &Aws, wait: Duration, settings: Settings, stop: CancellationToken) -> Self {
        Self { aws: aws.clone(), wait, settings, stop, conditions: Vec::new(), running: JoinSet::new() }
    }

    /// Starts a projector on the messages of a queue.
    pub(crate) fn start<W: WriteRows, R: ReadEvents>(
        &mut self,
        queue: QueueAddress,
        label: &'static str,
        projector: Projector<W, R>,
    ) {
        metrics::begin(label);
        let (condition, observer) = watch::channel(Condition::default());
        let projector = projector.labelled(label);
        let (aws, wait, settings, stop) = (self.aws.clone(), self.wait, self.settings, self.stop.clone());
        self.conditions.push(observer);
        self.running.spawn(async move {
            if let Some(queue) = stop.run_until_cancelled(open(&aws, &queue, wait, settings)).await {
                Consumer::new(queue?, projector, settings, condition).run(stop).await;
            }
            Ok(())
        });
    }

    /// A probe that says whether all projections can work.
    pub(crate) fn probe(&self) -> Probe {
        let conditions = self.conditions.clone();
        Box::new(move || {
            let all = conditions.iter().try_for_each(|condition| condition.borrow().check());
            std::future::ready(all.map_err(str::to_owned)).boxed()
        })
    }

    /// Waits until all have ended. If one fails, all are told to stop.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        while let Some(ended) = self.running.join_next().await {
            if let Err(error) = ended.map_err(anyhow::Error::from).and_then(|ended| Ok(ended?)) {
                self.stop.cancel();
                outcome = outcome.and(Err(error));
            }
        }
        outcome
    }
}

/// Opens a queue, as soon as AWS can be reached.
async fn open(
    aws: &Aws,
    address: &QueueAddress,
    wait: Duration,
    settings: Settings,
) -> Result<SqsQueue, Unusable> {
    let mut failures = 0;
    let mut throttle = FailureLogThrottle::default();
    loop {
        match SqsQueue::open(aws, address, wait).await {
            Err(error @ Unusable::Aws(_, AwsError::Throttled(_) | AwsError::Unreachable(_))) => {
                failures += 1;
                tracing::debug!(%error, "the queue cannot be opened yet");
                if let Some(lasted) = throttle.failed() {
                    tracing::warn!(%error, ?lasted, "the queue cannot be opened yet");
                }
                sleep(OPENING.after(failures, (settings.jitter)())).await;
            }
            opened => {
                if let Ok(queue) = &opened
                    && queue.rules().max_receives < ENOUGH_RECEIVES
                {
                    let max_receives = queue.rules().max_receives;
                    tracing::warn!(queue = %address, max_receives, "the queue's maxReceiveCount ends waits early");
                }
                return opened;
            }
        }
    }
}

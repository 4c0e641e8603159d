//! The projections of a process, each a consumer of its own queue.

use std::time::Duration;

use futures::FutureExt as _;
use millrace_aws::{Aws, AwsError};
use millrace_event_store::DynamoReader;
use millrace_read_models::WriteRows;
use millrace_runtime::{Trouble, clock, serve::Probe};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    Condition, Consumer, Projection, Projector, Settings,
    backoff::Backoff,
    metrics,
    queue::{SqsQueue, Unusable},
};

/// Between attempts to learn about a queue.
const OPENING: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(10) };

/// The projections of a process.
pub(crate) struct Projections {
    aws: Aws,
    wait: Duration,
    events: DynamoReader,
    settings: Settings,
    stop: CancellationToken,
    conditions: Vec<watch::Receiver<Condition>>,
    running: JoinSet<Result<(), Unusable>>,
}

impl Projections {
    /// None yet. They will wait `wait` for messages, find history in `events`, and run until `stop`.
    pub(crate) fn new(
        aws: &Aws,
        wait: Duration,
        events: DynamoReader,
        settings: Settings,
        stop: CancellationToken,
    ) -> Self {
        Self {
            aws: aws.clone(),
            wait,
            events,
            settings,
            stop,
            conditions: Vec::new(),
            running: JoinSet::new(),
        }
    }

    /// Starts a projection from a queue into rows.
    pub(crate) fn start<P: Projection, W: WriteRows<P::Change>>(
        mut self,
        queue_url: String,
        rows: W,
    ) -> Self {
        metrics::begin(P::NAME);
        let (condition, observer) = watch::channel(Condition::default());
        let projector = Projector::<P, _, _>::new(rows, self.events.clone(), clock::now);
        let (aws, wait, settings, stop) = (self.aws.clone(), self.wait, self.settings, self.stop.clone());
        self.conditions.push(observer);
        self.running.spawn(async move {
            if let Some(queue) = stop.run_until_cancelled(open(&aws, queue_url, wait, settings)).await {
                Consumer::new(queue?, projector, settings, condition).run(stop).await;
            }
            Ok(())
        });
        self
    }

    /// Tells whether all of them can do their work.
    pub(crate) fn probe(&self) -> Probe {
        let conditions = self.conditions.clone();
        Box::new(move || {
            let all = conditions.iter().try_for_each(|condition| condition.borrow().check());
            std::future::ready(all.map_err(str::to_owned)).boxed()
        })
    }

    /// Waits until all have ended. Where one fails, all are told to stop.
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
async fn open(aws: &Aws, url: String, wait: Duration, settings: Settings) -> Result<SqsQueue, Unusable> {
    let mut failures = 0;
    let mut trouble = Trouble::default();
    loop {
        match SqsQueue::open(aws, url.clone(), wait).await {
            Err(error @ Unusable::Aws(_, AwsError::Throttled(_) | AwsError::Unreachable(_))) => {
                failures += 1;
                tracing::debug!(%error, "the queue cannot be opened yet");
                if let Some(lasted) = trouble.met() {
                    tracing::warn!(%error, ?lasted, "the queue cannot be opened yet");
                }
                sleep(OPENING.after(failures, (settings.chance)())).await;
            }
            opened => return opened,
        }
    }
}

//! Processes that can be started, terminated, killed, and put to sleep.

use std::time::Duration;

use futures::future::join_all;
use millrace_core::Timestamp;
use millrace_projection::{Consumer, Projector, Settings};
use millrace_relay::{Relay, RelayConfig};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    ports::{Ports, QueuePort, RowsPort},
    trouble::{Life, Trouble},
    world::{World, clock},
};

/// How long the simulated relays trust the stream to keep unread records.
pub(crate) const TRUST: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Relay,
    Projector,
}

/// A process that runs, or has died at a call.
pub(crate) struct Process {
    pub(crate) kind: Kind,
    pub(crate) life: Life,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Process {
    pub(crate) fn start(kind: Kind, number: u32, world: &World, trouble: &Trouble) -> Self {
        let name = format!("{kind:?}-{number}").to_lowercase();
        trouble.step(&format!("{name} starts"));
        let life = Life::new(&name, trouble);
        let ports = Ports { life: life.clone(), world: world.clone() };
        let (shutdown, death) = (CancellationToken::new(), life.death.clone());
        let stop = shutdown.clone();
        let task = match kind {
            Kind::Relay => {
                let skew = i64::try_from(trouble.below(3_000_000)).unwrap() - 1_500_000;
                tokio::spawn(async move {
                    death.run_until_cancelled(relay(ports, &name, skew).run(stop)).await;
                })
            }
            Kind::Projector => tokio::spawn(async move {
                death.run_until_cancelled(project(ports, stop)).await;
            }),
        };
        Self { kind, life, shutdown, task }
    }

    /// Whether it has ended, by itself or at a call.
    pub(crate) fn is_dead(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends it at once, at any point.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Ends it as SIGTERM does. Returns how long that took, unless it died otherwise.
    pub(crate) async fn terminate(self) -> Option<Duration> {
        let began = Instant::now();
        self.shutdown.cancel();
        let ended = timeout(Duration::from_secs(600), self.task).await;
        let ended_itself = ended.is_ok_and(|ended| ended.is_ok()) && !self.life.death.is_cancelled();
        ended_itself.then(|| began.elapsed())
    }
}

fn relay(ports: Ports, name: &str, skew: i64) -> Relay<Ports, Ports, Ports, Ports> {
    let config = RelayConfig { trust_horizon: TRUST, ..RelayConfig::new(name, "millrace") };
    let clock = move || Timestamp::from_unix_micros(clock().unix_micros() + skew);
    Relay::new(ports.clone(), ports.clone(), ports.clone(), ports, config, clock)
}

async fn project(ports: Ports, stop: CancellationToken) {
    let settings = Settings {
        messages_at_once: 30,
        max_attempts: 5,
        max_wait: Duration::from_secs(4 * 24 * 60 * 60),
        drain: Duration::from_secs(15),
        jitter: || 0.5,
    };
    let consumers = ports.world.projections().iter().map(|projection| {
        let life = ports.life.clone();
        let rows =
            RowsPort { life: life.clone(), world: ports.world.clone(), projection: projection.clone() };
        let projector = Projector::new(projection.spec.clone(), rows, ports.clone(), clock);
        let queue = QueuePort { life, queue: projection.queue.clone() };
        Consumer::new(queue, projector, settings, watch::Sender::default()).run(stop.clone())
    });
    join_all(consumers).await;
}

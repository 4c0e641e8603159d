//! Keeping one lease: renewals and checkpoints.

use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};
use tracing::debug;

use super::{
    config::RelayConfig,
    leases::{Lease, Leases, Progress},
    meters::{self, Called},
    time::{Clock, after, whole_millis},
};

/// The only writer of a lease while its shard is read.
pub(super) struct Keeper<L> {
    leases: L,
    lease: Lease,
    config: RelayConfig,
    clock: Clock,
    /// When the last successful write began, by this process's monotonic clock. The lease's life counts from then.
    written: Instant,
}

/// Another replica owns the lease, or it could not be renewed in time.
pub(super) struct Lost;

impl<L: Leases> Keeper<L> {
    /// The keeper of a lease taken by a call that began at `taken`.
    pub(super) fn new(leases: L, lease: Lease, config: RelayConfig, clock: Clock, taken: Instant) -> Self {
        Self { leases, lease, config, clock, written: taken }
    }

    /// Renews the lease, and writes progress soon after it is made, until the lease is lost.
    pub(super) async fn keep(&mut self, mut progress: watch::Receiver<Progress>) -> Lost {
        loop {
            let renewal = self.written + self.config.renew_interval;
            let checkpoint = self.written + self.config.checkpoint_interval;
            tokio::select! {
                biased;
                () = sleep_until(renewal) => {}
                () = moved(&mut progress, checkpoint) => {}
            }
            self.lease.progress = progress.borrow_and_update().clone();
            if let Err(lost) = self.write(Write::Keep).await {
                return lost;
            }
        }
    }

    /// Writes the last progress and gives the lease up.
    pub(super) async fn give_up(mut self, progress: Progress) -> Result<(), Lost> {
        self.lease.progress = progress;
        self.write(Write::Release).await
    }

    /// Writes the lease, repeatedly while it lives.
    async fn write(&mut self, write: Write) -> Result<(), Lost> {
        let end_of_life = self.written + self.config.lease_duration;
        let mut wait = self.config.first_backoff;
        loop {
            let begun = Instant::now();
            let now = (self.clock)();
            self.lease.expires_at = whole_millis(match write {
                Write::Keep => after(now, self.config.lease_duration),
                Write::Release => now,
            });
            let call = async {
                match write {
                    Write::Keep => self.leases.keep(&self.lease).await,
                    Write::Release => self.leases.release(&self.lease).await,
                }
            };
            match timeout_at(end_of_life, call).await {
                Ok(Ok(true)) => {
                    self.written = begun;
                    return Ok(());
                }
                Ok(Ok(false)) | Err(_) => return Err(Lost),
                Ok(Err(error)) => {
                    meters::call_failed(Called::Leases);
                    debug!(shard = %self.lease.shard, %error, "the lease could not be written");
                }
            }
            sleep_until(end_of_life.min(Instant::now() + wait)).await;
            if Instant::now() >= end_of_life {
                return Err(Lost);
            }
            wait = (wait * 2).min(self.config.renew_interval / 2);
        }
    }
}

/// How a lease is written.
#[derive(Clone, Copy)]
enum Write {
    Keep,
    Release,
}

/// Waits until there is progress, and then until `earliest`.
async fn moved(progress: &mut watch::Receiver<Progress>, earliest: Instant) {
    if progress.changed().await.is_err() {
        // There is no more progress; renewals go on.
        std::future::pending::<()>().await;
    }
    sleep_until(earliest).await;
}

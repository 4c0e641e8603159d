//! Relaying one shard, under its lease.

use std::time::Duration;

use millrace_aws::AwsError;
use millrace_core::Envelope;
use millrace_core::Timestamp;
use millrace_server::FailureLogThrottle;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{
    Ports,
    bus::EventBus,
    config::RelayConfig,
    keeper::{Keeper, Lost},
    leases::{Checkpoint, Lease, Leases, Progress},
    meters::{self, Called},
    refill::Refill,
    stream::{Content, Position, RETENTION, Record, Records, ShardId, ShardStream, StreamError},
    time::{Pauses, Stopped, before, pause, since, unless_stopped},
};

/// Relays a shard from its lease's checkpoint on until the shard ends, the lease is lost, or `stop` is cancelled. In the
/// end the lease is given up with the last progress, as far as it still can be.
pub(super) async fn relay_shard<S: ShardStream, L: Leases, B: EventBus, R: Refill>(
    ports: Ports<S, L, B, R>,
    lease: Lease,
    taken: Instant,
    reached: watch::Sender<Timestamp>,
    stop: CancellationToken,
) {
    let shard = lease.shard.clone();
    debug!(%shard, fence = lease.fence, checkpoint = lease.progress.checkpoint.to_text(), "the shard is ours");
    let (progress, moved) = watch::channel(lease.progress.clone());
    let mut keeper =
        Keeper::new(ports.leases.clone(), lease, ports.config().clone(), ports.clock.clone(), taken);
    let drained = async {
        stop.cancelled().await;
        sleep(ports.config().drain).await;
    };
    let reader = Reader::new(&ports, &shard, &progress, &reached, &stop);
    let lost = tokio::select! {
        biased;
        lost = keeper.keep(moved) => Some(lost),
        _ = reader.run() => None,
        () = drained => None,
    };
    let end = match lost {
        Some(lost) => Err(lost),
        None => {
            let last = progress.borrow().clone();
            keeper.give_up(last).await
        }
    };
    match end {
        Ok(()) => {
            debug!(%shard, checkpoint = progress.borrow().checkpoint.to_text(), "the shard's lease is given up")
        }
        Err(Lost) => {
            meters::lease_lost();
            debug!(%shard, "the shard's lease is lost");
        }
    }
}

/// Reads one shard and publishes what it reads.
struct Reader<'a, S, L, B, R> {
    ports: &'a Ports<S, L, B, R>,
    shard: &'a ShardId,
    /// What the bus has accepted; the keeper writes it down.
    progress: &'a watch::Sender<Progress>,
    /// How far the shard is relayed, in time.
    reached: &'a watch::Sender<Timestamp>,
    stop: &'a CancellationToken,
    backoff: Pauses,
    /// Of reading the shard, and of reading the table in its place.
    throttle: FailureLogThrottle,
    /// For how long the start of the shard is trusted to be whole: see [`Self::horizon_is_doubtful`].
    trust: Duration,
}

impl<'a, S: ShardStream, L: Leases, B: EventBus, R: Refill> Reader<'a, S, L, B, R> {
    fn new(
        ports: &'a Ports<S, L, B, R>,
        shard: &'a ShardId,
        progress: &'a watch::Sender<Progress>,
        reached: &'a watch::Sender<Timestamp>,
        stop: &'a CancellationToken,
    ) -> Self {
        let config = ports.config();
        let backoff = Pauses::new(config.first_backoff, config.max_backoff, (&config.owner, shard));
        let (throttle, trust) = (FailureLogThrottle::default(), config.trust_horizon);
        Self { ports, shard, progress, reached, stop, backoff, throttle, trust }
    }

    fn config(&self) -> &'a RelayConfig {
        self.ports.config()
    }

    async fn run(mut self) -> Result<(), Stopped> {
        // At the end of the shard the checkpoint has no position any more.
        while let Some(position) = self.position() {
            let error = match self.call(self.ports.stream.open(self.shard, &position)).await? {
                // Asked once the cursor stands, since only from then on does the stream tell what it drops before the
                // cursor comes to it. However long ago the last look was, what follows from this one holds.
                Ok(_) if self.horizon_is_doubtful() => {
                    self.refill().await?;
                    continue;
                }
                Ok(cursor) => match self.follow(cursor).await? {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            // What opened the shard the last time may be another stream by now: an emulator that was away has come back
            // without its records.
            self.trust = self.config().trust_horizon;
            match error {
                // After a long pause, such as the bus's refusals; the position is still good.
                StreamError::Expired => {}
                StreamError::Trimmed => self.heal_trimmed().await?,
                StreamError::Gone => self.heal_gone().await?,
                StreamError::Failed(error) => self.failed(Called::Stream, &error),
            }
            self.backoff.pause(self.stop).await?;
        }
        Ok(())
    }

    /// Reads from a cursor on, until the shard ends, a call fails, or the cursor is too old to be believed.
    async fn follow(&mut self, mut cursor: S::Cursor) -> Result<Result<(), StreamError>, Stopped> {
        let mut interval = self.config().poll_interval;
        let opened = Instant::now();
        loop {
            let (began, looked) = (Instant::now(), (self.ports.clock)());
            let Records { records, next } = match self.call(self.ports.stream.read(&cursor)).await? {
                Ok(read) => read,
                // Whether the shard itself is gone, opening it again will tell.
                Err(StreamError::Gone) => return Ok(Err(StreamError::Expired)),
                Err(error) => return Ok(Err(error)),
            };
            self.succeeded();
            self.reached.send_replace(self.oldest(&records).unwrap_or(looked));
            interval = self.config().next_poll(interval, records.is_empty());
            let nothing_came = records.is_empty();
            self.relay(records).await?;
            match next {
                // A cursor may have outlived what it was opened on without a call that failed: an emulator that was away for
                // a moment goes on with it on a stream that it does not fit. Opening after a record tells.
                Some(_)
                    if nothing_came && opened.elapsed() > self.config().trust_horizon && self.has_read() =>
                {
                    return Ok(Ok(()));
                }
                Some(next) => cursor = next,
                None => {
                    self.advance(Checkpoint::ShardEnd, None);
                    return Ok(Ok(()));
                }
            }
            unless_stopped(sleep_until(began + interval), self.stop).await?;
        }
    }

    /// Publishes records, window by window, and moves the progress past each that the bus has accepted whole.
    async fn relay(&self, records: Vec<Record>) -> Result<(), Stopped> {
        let mut records = records.into_iter().peekable();
        while records.peek().is_some() {
            if self.stop.is_cancelled() {
                return Err(Stopped);
            }
            let mut events = Vec::new();
            let mut last = None;
            for record in records.by_ref().take(self.ports.publisher.window()) {
                events.extend(self.event(record.content, &record.sequence.0));
                last = Some(record.sequence);
            }
            let time = events.last().map(|event| event.timestamp);
            self.ports.publisher.publish(events, self.stop).await?;
            if let Some(sequence) = last {
                self.advance(Checkpoint::At(Position::After(sequence)), time);
            }
        }
        Ok(())
    }

    /// The event in a record or an item, if it holds one.
    ///
    /// One that cannot be read is counted, named in the log and passed over: no later attempt could read it either, and
    /// the events behind it must not wait. It stays in the table.
    fn event(&self, content: Content, place: &str) -> Option<Envelope> {
        match content {
            Content::Event(envelope) => Some(*envelope),
            Content::Skip => {
                meters::skipped();
                None
            }
            Content::Undecodable(reason) => {
                meters::undecodable();
                error!(shard = %self.shard, place, reason, "a record is not an event and is passed over");
                None
            }
        }
    }

    /// Moves the progress. `event` is the time of the last event accepted, where there was one.
    fn advance(&self, checkpoint: Checkpoint, event: Option<Timestamp>) {
        let now = (self.ports.clock)();
        self.progress.send_modify(|progress| {
            progress.time = match event {
                // A writer's clock that runs ahead must not shorten a later refill.
                Some(time) => time.min(now),
                None => self.accepted_before(progress),
            };
            progress.checkpoint = checkpoint;
        });
    }

    /// A time such that all older events of the shard have been accepted, but for differences between clocks.
    fn accepted_before(&self, progress: &Progress) -> Timestamp {
        match progress.checkpoint {
            Checkpoint::At(Position::TrimHorizon) => before(progress.time, RETENTION),
            Checkpoint::At(Position::After(_)) | Checkpoint::ShardEnd => progress.time,
        }
    }

    fn has_read(&self) -> bool {
        matches!(self.position(), Some(Position::After(_)))
    }

    fn position(&self) -> Option<Position> {
        match &self.progress.borrow().checkpoint {
            Checkpoint::At(position) => Some(position.clone()),
            Checkpoint::ShardEnd => None,
        }
    }

    /// Whether records at the start of the shard, where nothing has been read yet, may have been dropped. After a record
    /// the stream itself would say so.
    fn horizon_is_doubtful(&self) -> bool {
        let progress = self.progress.borrow();
        progress.checkpoint == Checkpoint::At(Position::TrimHorizon)
            && since(progress.time, (self.ports.clock)()) > self.trust
    }

    async fn heal_trimmed(&mut self) -> Result<(), Stopped> {
        meters::trimmed();
        error!(shard = %self.shard, "the stream has dropped records that were not relayed");
        // At a horizon that is not in doubt, a record was dropped between opening and reading. It was there before any
        // relay was, or the refill that was just done has published it.
        if self.horizon_is_doubtful() || self.has_read() {
            self.refill().await?;
        }
        Ok(())
    }

    /// Ends a shard that is no longer there, after filling in what it may have held beyond the checkpoint.
    async fn heal_gone(&mut self) -> Result<(), Stopped> {
        // A shard that is still listed is still there: a stream can be slow to know its own shards. Ending it here would
        // lose all that it has yet to bring.
        match self.call(self.ports.stream.shards()).await? {
            Ok(shards) if shards.iter().all(|listed| listed.id != *self.shard) => {}
            Ok(_) => {
                let error = AwsError::InvalidResponse("the shard is listed but cannot be opened".to_owned());
                self.failed(Called::Stream, &error);
                return Ok(());
            }
            Err(error) => {
                self.failed(Called::Stream, &error);
                return Ok(());
            }
        }
        meters::trimmed();
        error!(shard = %self.shard, "a shard has vanished from the stream before all of it was relayed");
        self.refill().await?;
        self.advance(Checkpoint::ShardEnd, None);
        Ok(())
    }

    /// Publishes from the table all that the shard may have held since the checkpoint, and much else with it, and goes
    /// back to the trim horizon.
    async fn refill(&mut self) -> Result<(), Stopped> {
        let ports = self.ports;
        let since = before(self.accepted_before(&self.progress.borrow()), ports.config().refill_margin);
        let (now, stop) = (|| (ports.clock)(), self.stop);
        let done =
            ports.refills.wish(self.shard, since, now, stop, async |since| self.read_table(since).await);
        let time = done.await?.begun;
        self.progress.send_replace(Progress { checkpoint: Checkpoint::At(Position::TrimHorizon), time });
        // With the trust that an emulator gets, a refill of some seconds would call for the next one. What the stream may
        // drop by itself while a refill takes its time is another matter: that takes most of a day.
        self.trust = self.trust.max(RelayConfig::STREAM_TRUST);
        Ok(())
    }

    /// Publishes all events of the table that are of this time or later.
    async fn read_table(&mut self, since: Timestamp) -> Result<(), Stopped> {
        meters::refill();
        self.reached.send_replace(since);
        warn!(shard = %self.shard, %since, "refilling from the table");
        let mut from = None;
        loop {
            match self.call(self.ports.refill.page(since, from.as_ref())).await? {
                Ok(page) => {
                    self.succeeded();
                    self.publish_refill(page.contents).await?;
                    from = page.next;
                    if from.is_none() {
                        return Ok(());
                    }
                }
                Err(error) => {
                    self.failed(Called::Table, &error);
                    self.backoff.pause(self.stop).await?;
                }
            }
            // A table may have a thousand pages without an event that is wanted.
            pause(Duration::ZERO, self.stop).await?;
        }
    }

    async fn publish_refill(&self, contents: Vec<Content>) -> Result<(), Stopped> {
        let mut events = contents.into_iter().filter_map(|content| self.event(content, "table")).peekable();
        while events.peek().is_some() {
            let window: Vec<_> = events.by_ref().take(self.ports.publisher.window()).collect();
            let count = window.len();
            self.ports.publisher.publish(window, self.stop).await?;
            (0..count).for_each(|_| meters::refilled());
        }
        Ok(())
    }

    fn succeeded(&mut self) {
        self.backoff.reset();
        self.throttle.succeeded();
    }

    fn failed(&mut self, called: Called, error: &AwsError) {
        meters::call_failed(called);
        debug!(shard = %self.shard, ?called, %error, "the shard could not be read");
        if let Some(lasted) = self.throttle.failed() {
            warn!(shard = %self.shard, ?called, %error, ?lasted, "the shard cannot be read");
        }
    }

    /// The time of the oldest of these events; a clock that runs ahead makes none of them younger than now.
    fn oldest(&self, records: &[Record]) -> Option<Timestamp> {
        let times = records.iter().filter_map(|record| match &record.content {
            Content::Event(envelope) => Some(envelope.timestamp),
            Content::Skip | Content::Undecodable(_) => None,
        });
        times.min().map(|time| time.min((self.ports.clock)()))
    }

    /// Makes a call that changes nothing, and so may be abandoned at a stop.
    async fn call<T>(&self, call: impl Future<Output = T>) -> Result<T, Stopped> {
        unless_stopped(call, self.stop).await
    }
}

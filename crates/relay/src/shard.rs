//! Relaying one shard, under its lease.

use std::{pin::pin, time::Duration};

use millrace_aws::{AwsError, Segment};
use millrace_core::Timestamp;
use millrace_server::FailureLogThrottle;
use tokio::{
    sync::watch,
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{
    Ports,
    bus::EventBus,
    config::RelayConfig,
    keeper::{Keeper, Lost},
    leases::{Checkpoint, Lease, LeaseTable, Leases, Progress, segment_of},
    meters::{self, Called},
    publisher::{Flight, Passed},
    refill::{Refill, RefillPage},
    refills::Wish,
    stream::{Position, RETENTION, Record, Records, ShardId, ShardStream, StreamError},
    time::{Pauses, Stopped, before, since},
};

/// Relays a shard from its lease's checkpoint on until the shard ends, the lease is lost, or `stop` is cancelled. Then
/// the lease is given up with the last progress, if it still can be.
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
        () = reader.run() => None,
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

/// Reads one shard and publishes its events.
struct Reader<'a, S, L, B, R> {
    ports: &'a Ports<S, L, B, R>,
    shard: &'a ShardId,
    /// The progress that the bus has accepted; the keeper writes it to the lease.
    progress: &'a watch::Sender<Progress>,
    /// The time up to which the shard is relayed.
    reached: &'a watch::Sender<Timestamp>,
    stop: &'a CancellationToken,
    /// What is read, accepted or not.
    read_to: Position,
    /// All of the shard's events that are older than this were read, as far as is known.
    looked: Timestamp,
    backoff: Pauses,
    /// Of reads of the shard, and of the table in its place.
    throttle: FailureLogThrottle,
    /// How long the start of the shard is trusted to be whole: see [`Self::horizon_is_doubtful`].
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
        let read_to = match &progress.borrow().checkpoint {
            Checkpoint::At(position) => position.clone(),
            Checkpoint::ShardEnd => Position::TrimHorizon,
        };
        let looked = (ports.clock)();
        Self { ports, shard, progress, reached, stop, read_to, looked, backoff, throttle, trust }
    }

    fn config(&self) -> &'a RelayConfig {
        self.ports.config()
    }

    async fn run(mut self) {
        let segment = segment_of(self.shard);
        let lanes = if segment.is_some() { self.config().refill_lanes } else { self.config().lanes };
        let mut flight = Flight::new(&self.ports.publisher, self.shard.as_str(), lanes);
        let ended = match segment {
            Some(segment) => self.scan(&mut flight, segment).await,
            None => self.read(&mut flight).await,
        };
        if ended == Err(Stopped) {
            flight.land().await;
            self.note(&mut flight);
        }
    }

    async fn read(&mut self, flight: &mut Flight<'a, B>) -> Result<(), Stopped> {
        // At the end of the shard the checkpoint has no position any more.
        while !self.is_finished() {
            let position = self.read_to.clone();
            let opened = self.meanwhile(flight, self.ports.stream.open(self.shard, &position)).await?;
            let error = match opened {
                // Asked once the cursor stands, since only from then on does the stream tell what it drops before the
                // cursor comes to it. However long ago the last look was, what follows from this one holds.
                Ok(_) if self.horizon_is_doubtful() => {
                    self.refill(flight).await?;
                    continue;
                }
                Ok(cursor) => match self.follow(flight, cursor).await? {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            // The shard may now be of another stream: an emulator may have come back without its records.
            self.trust = self.config().trust_horizon;
            match error {
                // After a long pause, such as refusals by the bus; the position is still good.
                StreamError::Expired => {}
                StreamError::Trimmed => self.heal_trimmed(flight).await?,
                StreamError::Gone => self.heal_gone(flight).await?,
                StreamError::Failed(error) => self.failed(Called::Stream, &error),
            }
            self.pause(flight).await?;
        }
        Ok(())
    }

    /// Reads from a cursor on, until the shard ends, a call fails, or the cursor is too old to be believed.
    async fn follow(
        &mut self,
        flight: &mut Flight<'a, B>,
        mut cursor: S::Cursor,
    ) -> Result<Result<(), StreamError>, Stopped> {
        let mut interval = self.config().poll_interval;
        let opened = Instant::now();
        loop {
            self.until(flight, Flight::has_room).await?;
            let (began, looked) = (Instant::now(), (self.ports.clock)());
            let read = self.meanwhile(flight, self.ports.stream.read(&cursor)).await?;
            let Records { records, next } = match read {
                Ok(read) => read,
                // Opening again will tell whether the shard itself is gone.
                Err(StreamError::Gone) => return Ok(Err(StreamError::Expired)),
                Err(error) => return Ok(Err(error)),
            };
            self.succeeded();
            self.looked = looked;
            let brought = records.len();
            interval = self.config().next_poll(interval, brought);
            for Record { sequence, content } in records {
                self.read_to = Position::After(sequence.clone());
                flight.add(content, Some(sequence));
            }
            self.note(flight);
            match next {
                // A cursor may outlive its stream without a failed call: a restarted emulator accepts it for a stream
                // that it does not fit. Opening after a record tells.
                Some(_)
                    if brought == 0 && opened.elapsed() > self.config().trust_horizon && self.has_read() =>
                {
                    return Ok(Ok(()));
                }
                Some(next) => cursor = next,
                None => {
                    self.until(flight, Flight::is_empty).await?;
                    self.advance(Checkpoint::ShardEnd, None);
                    return Ok(Ok(()));
                }
            }
            self.meanwhile(flight, sleep_until(began + interval)).await?;
        }
    }

    /// Waits for something that may be abandoned at a stop, while what is under way goes on.
    async fn meanwhile<T>(
        &self,
        flight: &mut Flight<'a, B>,
        work: impl Future<Output = T>,
    ) -> Result<T, Stopped> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Stopped),
                () = flight.next(), if !flight.is_empty() => self.note(flight),
                value = &mut work => return Ok(value),
            }
        }
    }

    /// Waits until the flight has come so far.
    async fn until(
        &self,
        flight: &mut Flight<'a, B>,
        holds: fn(&Flight<'a, B>) -> bool,
    ) -> Result<(), Stopped> {
        while !holds(flight) {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Stopped),
                () = flight.next() => self.note(flight),
            }
        }
        Ok(())
    }

    /// Waits after one more failure.
    async fn pause(&mut self, flight: &mut Flight<'a, B>) -> Result<(), Stopped> {
        let pause = self.backoff.next();
        self.meanwhile(flight, sleep(pause)).await
    }

    /// Notes how far the flight has come.
    fn note(&self, flight: &mut Flight<'a, B>) {
        if let Some(Passed { place, time }) = flight.take_passed() {
            self.advance(Checkpoint::At(Position::After(place)), time);
        }
        // A clock that runs ahead makes no event younger than now.
        let oldest = flight.oldest().map(|time| time.min((self.ports.clock)()));
        let of_segment = segment_of(self.shard).map(|_| self.looked);
        self.reached.send_replace(of_segment.or(oldest).unwrap_or(self.looked));
    }

    /// Moves the progress. `event` is the time of the last event accepted, if any.
    fn advance(&self, checkpoint: Checkpoint, event: Option<Timestamp>) {
        let now = (self.ports.clock)();
        let is_segment = segment_of(self.shard).is_some();
        self.progress.send_modify(|progress| {
            progress.time = match event {
                _ if is_segment => progress.time,
                // A writer's clock that runs ahead must not shorten a later refill.
                Some(time) => time.min(now),
                None => accepted_before(progress),
            };
            progress.checkpoint = checkpoint;
        });
    }

    fn has_read(&self) -> bool {
        matches!(self.read_to, Position::After(_))
    }

    fn is_finished(&self) -> bool {
        self.progress.borrow().checkpoint == Checkpoint::ShardEnd
    }

    /// Whether records at the unread start of the shard may have been dropped. After a record the stream itself would
    /// say so.
    fn horizon_is_doubtful(&self) -> bool {
        let progress = self.progress.borrow();
        !self.has_read() && since(progress.time, (self.ports.clock)()) > self.trust
    }

    async fn heal_trimmed(&mut self, flight: &mut Flight<'a, B>) -> Result<(), Stopped> {
        meters::trimmed();
        error!(shard = %self.shard, "the stream has dropped records that were not relayed");
        // At a trusted horizon, a record was dropped between opening and reading. It is older than any relay, or the
        // last refill has published it.
        if self.horizon_is_doubtful() || self.has_read() {
            self.refill(flight).await?;
        }
        Ok(())
    }

    /// Ends a shard that is no longer there, after filling in what it may have held beyond the checkpoint.
    async fn heal_gone(&mut self, flight: &mut Flight<'a, B>) -> Result<(), Stopped> {
        // A shard that is still listed is still there: a stream can be slow to know its own shards. Ending it here would
        // lose all that it has yet to bring.
        match self.meanwhile(flight, self.ports.stream.shards()).await? {
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
        self.refill(flight).await?;
        self.advance(Checkpoint::ShardEnd, None);
        Ok(())
    }

    /// Has all published from the table that the shard may have held since the checkpoint, and much else with it, and goes
    /// back to the trim horizon. The refill itself is work of its own, which this shard does not wait for.
    async fn refill(&mut self, flight: &mut Flight<'a, B>) -> Result<(), Stopped> {
        // What was read and not accepted is read again, or in the table.
        flight.clear();
        let (ports, config) = (self.ports, self.config());
        let reach = |progress: &Progress| before(accepted_before(progress), config.refill_margin);
        let time = loop {
            let now = (ports.clock)();
            let wish = Wish { since: reach(&self.progress.borrow()), now, segments: config.refill_segments };
            // Whoever has not relayed anything for so long will ask as well.
            let late = |lease: &&Lease| {
                !lease.is_finished() && since(lease.progress.time, now) > config.trust_horizon
            };
            let others = |table: &LeaseTable| {
                table.leases.iter().filter(late).map(|lease| reach(&lease.progress)).min()
            };
            match self.meanwhile(flight, ports.refills.wish(&ports.leases, wish, others)).await? {
                Ok(()) => break now,
                Err(error) => {
                    self.failed(Called::Leases, &error);
                    self.pause(flight).await?;
                }
            }
        };
        self.progress.send_replace(Progress { checkpoint: Checkpoint::At(Position::TrimHorizon), time });
        self.read_to = Position::TrimHorizon;
        // With the trust that an emulator gets, a refill of some seconds would call for the next one. What the stream may
        // drop by itself while a refill takes its time is another matter: that takes most of a day.
        self.trust = self.trust.max(RelayConfig::STREAM_TRUST);
        Ok(())
    }

    /// Publishes all events of a segment of the table that are as young as the refill wants them.
    async fn scan(&mut self, flight: &mut Flight<'a, B>, segment: Segment) -> Result<(), Stopped> {
        let since = self.progress.borrow().time;
        // Until it is done, the oldest of these events may be missing.
        self.looked = since;
        while !self.is_finished() {
            self.note(flight);
            let from = match &self.read_to {
                Position::TrimHorizon => None,
                Position::After(place) => Some(place.clone()),
            };
            let page = self.ports.refill.page(since, segment, from.as_ref());
            match self.meanwhile(flight, page).await? {
                Ok(RefillPage { contents, next }) => {
                    self.succeeded();
                    for content in contents {
                        meters::refilled();
                        flight.add(content, None);
                    }
                    match next {
                        Some(place) => {
                            flight.mark(place.clone());
                            self.read_to = Position::After(place);
                            self.until(flight, Flight::has_room).await?;
                        }
                        None => {
                            self.until(flight, Flight::is_empty).await?;
                            self.advance(Checkpoint::ShardEnd, None);
                        }
                    }
                }
                Err(error) => {
                    self.failed(Called::Table, &error);
                    self.pause(flight).await?;
                }
            }
            // A table may have a thousand pages without an event that is wanted.
            yield_now().await;
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
}

/// A time such that all older events of the shard have been accepted, but for differences between clocks.
fn accepted_before(progress: &Progress) -> Timestamp {
    match progress.checkpoint {
        Checkpoint::At(Position::TrimHorizon) => before(progress.time, RETENTION),
        Checkpoint::At(Position::After(_)) | Checkpoint::ShardEnd => progress.time,
    }
}

//! Relaying one shard, under its lease.

use std::{collections::VecDeque, pin::pin, sync::atomic::Ordering, time::Duration};

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
    leases::{Checkpoint, LOOKER, Lease, LeaseTable, Leases, Progress, segment_of},
    look::Looker,
    meters::{self, Called},
    publisher::{Flight, Passed},
    refill::{Refill, RefillPage},
    refills::Wish,
    stream::{Position, RETENTION, Record, Records, ShardId, ShardStream, StreamError},
    time::{Pauses, Stopped, before, since},
};

/// A shard takes five reads a second (an answer in issue 470 of `aws-sdk-java-v2`; the documentation has no number).
const READS: usize = 5;

/// A replica with more shards than this does not read them at once when it has stored an event.
const HINTED: usize = 8;

/// Relays a shard from its lease's checkpoint until the shard ends, the lease is lost, or `stop` is cancelled. Then it
/// gives a lease that is not lost up, with the last progress. Returns whether the shard has been read to its end.
///
/// With the looker's lease it looks at the stream's shards instead.
pub(super) async fn relay_shard<S: ShardStream, L: Leases, B: EventBus, R: Refill>(
    ports: Ports<S, L, B, R>,
    lease: Lease,
    taken: Instant,
    reached: watch::Sender<Timestamp>,
    stop: CancellationToken,
) -> bool {
    let shard = lease.shard.clone();
    debug!(%shard, fence = lease.fence, checkpoint = lease.progress.checkpoint.to_text(), "the shard is ours");
    let (progress, moved) = watch::channel(lease.progress.clone());
    let mut keeper =
        Keeper::new(ports.leases.clone(), lease, ports.config().clone(), ports.clock.clone(), taken);
    let drained = async {
        stop.cancelled().await;
        sleep(ports.config().drain).await;
    };
    let is_looker = shard.as_str() == LOOKER;
    let work = async {
        if is_looker {
            stop.run_until_cancelled(Looker::new(&ports, &reached).run()).await.unwrap_or_default();
        } else {
            Reader::new(&ports, &shard, &progress, &reached, &stop).run().await;
        }
    };
    let lost = tokio::select! {
        biased;
        lost = keeper.keep(moved) => Some(lost),
        () = work => None,
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
    !is_looker && progress.borrow().checkpoint == Checkpoint::ShardEnd
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
    /// The position up to which records were read, accepted or not.
    read_to: Position,
    /// All known events of the shard before this time were read.
    looked: Timestamp,
    backoff: Pauses,
    /// For failures of reads of the shard or the table.
    throttle: FailureLogThrottle,
    /// How long the stream is trusted to keep the shard's start: see [`Self::horizon_is_doubtful`].
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
                // The check comes after opening, because only from then on does the stream report records that it drops
                // before the cursor reaches them. So the check holds even after a long pause.
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
            // The shard may now belong to another stream: an emulator may have restarted without its records.
            self.trust = self.config().trust_horizon;
            match error {
                // A long pause, such as refusals by the bus, expires the cursor; the position is still good.
                StreamError::Expired => {}
                StreamError::Trimmed => self.heal_trimmed(flight).await?,
                StreamError::Gone => self.heal_gone(flight).await?,
                StreamError::Failed(error) => self.failed(Called::Stream, &error),
            }
            self.pause(flight).await?;
        }
        Ok(())
    }

    /// Reads from a cursor until the shard ends, a call fails, or the cursor is too old to be trusted.
    async fn follow(
        &mut self,
        flight: &mut Flight<'a, B>,
        mut cursor: S::Cursor,
    ) -> Result<Result<(), StreamError>, Stopped> {
        let mut interval = self.config().poll_interval;
        let opened = Instant::now();
        let mut stored = self.ports.stored.clone();
        let mut reads = VecDeque::with_capacity(READS);
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
                // A restarted emulator accepts the cursor of an older stream without an error. Opening the shard again,
                // after a record, reveals this.
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
            if reads.len() == READS {
                reads.pop_front();
            }
            reads.push_back(began);
            let full = reads.len() == READS;
            let earliest =
                reads.front().filter(|_| full).map_or(began, |first| *first + self.config().five_reads());
            let is_hinted =
                self.meanwhile(flight, self.next_read(began + interval, earliest, &mut stored)).await?;
            if is_hinted {
                interval = self.config().poll_interval;
            }
        }
    }

    /// Waits until the shard is to be read again: at `due`, or as soon as this process has stored an event, but no
    /// earlier than `earliest`. Returns whether it was for an event.
    async fn next_read(&self, due: Instant, earliest: Instant, stored: &mut watch::Receiver<u64>) -> bool {
        let hint = async {
            // Of many shards most would be read in vain.
            if self.ports.news.reads.load(Ordering::Relaxed) > HINTED || stored.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let is_hinted = tokio::select! {
            biased;
            () = hint => true,
            () = sleep_until(due) => false,
        };
        sleep_until(earliest).await;
        is_hinted
    }

    /// Waits for `work` while the flight goes on; abandons it at a stop.
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

    /// Waits until the flight fulfils a condition.
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

    async fn pause(&mut self, flight: &mut Flight<'a, B>) -> Result<(), Stopped> {
        let pause = self.backoff.next();
        self.meanwhile(flight, sleep(pause)).await
    }

    /// Publishes the flight's progress to the keeper and the metrics.
    fn note(&self, flight: &mut Flight<'a, B>) {
        if let Some(Passed { place, time }) = flight.take_passed() {
            self.advance(Checkpoint::At(Position::After(place)), time);
        }
        // A writer's clock may run ahead; no event is younger than now.
        let oldest = flight.oldest().map(|time| time.min((self.ports.clock)()));
        let of_segment = segment_of(self.shard).map(|_| self.looked);
        self.reached.send_replace(of_segment.or(oldest).unwrap_or(self.looked));
    }

    /// Moves the progress. `event` is the time of the last accepted event, if any.
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

    /// Whether records at the unread start of the shard may have been dropped. After the first read record, the stream
    /// itself reports dropped ones.
    fn horizon_is_doubtful(&self) -> bool {
        let progress = self.progress.borrow();
        !self.has_read() && since(progress.time, (self.ports.clock)()) > self.trust
    }

    async fn heal_trimmed(&mut self, flight: &mut Flight<'a, B>) -> Result<(), Stopped> {
        meters::trimmed();
        error!(shard = %self.shard, "the stream has dropped records that were not relayed");
        // At a trusted horizon, the record was dropped between opening and reading. It is older than the first relay,
        // or the last refill has published it.
        if self.horizon_is_doubtful() || self.has_read() {
            self.refill(flight).await?;
        }
        Ok(())
    }

    /// Ends a vanished shard, after asking for a refill of the events that it may have held beyond the checkpoint.
    async fn heal_gone(&mut self, flight: &mut Flight<'a, B>) -> Result<(), Stopped> {
        // A stream can list a shard before it can open it. Ending a shard that is still listed would lose its records,
        // so the looker decides, who has listed all shards twice.
        if !self.ports.news.is_unlisted(self.shard) {
            self.ports.news.wanted.notify_one();
            let error =
                AwsError::InvalidResponse("a shard that cannot be opened may still be listed".to_owned());
            self.failed(Called::Stream, &error);
            return Ok(());
        }
        meters::trimmed();
        error!(shard = %self.shard, "a shard has vanished from the stream before all of it was relayed");
        self.refill(flight).await?;
        self.advance(Checkpoint::ShardEnd, None);
        Ok(())
    }

    /// Asks for a refill of all events that the shard may have held since the checkpoint, and goes back to the trim
    /// horizon. The shard does not wait for the refill.
    async fn refill(&mut self, flight: &mut Flight<'a, B>) -> Result<(), Stopped> {
        // Records that were read and not accepted are read again, from the stream or the table.
        flight.clear();
        let (ports, config) = (self.ports, self.config());
        let reach = |progress: &Progress| before(accepted_before(progress), config.refill_margin);
        let time = loop {
            let now = (ports.clock)();
            let wish = Wish { since: reach(&self.progress.borrow()), now, segments: config.refill_segments };
            // Other shards that are as late will ask for a refill as well.
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
        // With the short trust of an emulator, the shard would soon ask for the next refill. Records that expire by age
        // are still noticed: that takes most of a day.
        self.trust = self.trust.max(RelayConfig::STREAM_TRUST);
        Ok(())
    }

    /// Publishes all events of a segment of the table since the refill's time.
    async fn scan(&mut self, flight: &mut Flight<'a, B>, segment: Segment) -> Result<(), Stopped> {
        let since = self.progress.borrow().time;
        // Until the scan is done, the oldest of these events may be missing.
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
            // A thousand pages may pass without a wanted event, and so without another pause for other tasks.
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

/// The bus has accepted all of the shard's events before this time, apart from differences between clocks.
fn accepted_before(progress: &Progress) -> Timestamp {
    match progress.checkpoint {
        Checkpoint::At(Position::TrimHorizon) => before(progress.time, RETENTION),
        Checkpoint::At(Position::After(_)) | Checkpoint::ShardEnd => progress.time,
    }
}

//! The stream's shards, for the lease table.
//!
//! DynamoDB allows ten calls of `DescribeStream` a second for all consumers in an account and region, each with up to 100
//! shards, and lists closed shards for a day. So one replica lists the shards: the looker, by a lease of that name. It
//! writes the first leases of new shards, and every replica plans from the lease table alone. The children of a shard
//! that has ended are found at once, by the replica that read its end ([`Children`]).

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use millrace_aws::AwsError;
use millrace_core::Timestamp;
use millrace_server::FailureLogThrottle;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, warn};

use super::{
    Ports,
    bus::EventBus,
    config::RelayConfig,
    leases::{Checkpoint, LOOKER, Lease, LeaseTable, Leases, Parent, Progress, Replica},
    meters::{self, Called},
    plan::is_over,
    refill::Refill,
    stream::{Position, RETENTION, Shard, ShardId, ShardStream, Shards},
    time::{Pauses, after, before, since, whole_millis},
};

/// The shortest interval between the looker's calls: four a second.
const PACE: Duration = Duration::from_millis(250);

/// The replicas take turns in asking for children, each for so long: together three calls a second. They may be six for a
/// moment, while some replicas have noticed that another is gone.
const TURN: Duration = Duration::from_micros(TURN_MICROS.unsigned_abs());

const TURN_MICROS: i64 = 340_000;

/// So few replicas need not wait for their turns: in any second they make five calls at most.
const AT_ONCE: usize = 5;

/// How often a page of shards, or a shard's children, are asked for before the looker begins anew.
const ATTEMPTS: u32 = 5;

/// The shortest interval between the looker's rounds.
const CALM: Duration = Duration::from_secs(1);

/// How many leases the looker writes at a time.
const WRITES: usize = 16;

/// The time of a looker that is not behind.
fn not_behind() -> Timestamp {
    Timestamp::from_unix_micros(i64::MAX)
}

/// News between a replica's tasks.
#[derive(Default)]
pub(super) struct News {
    /// The lease table has changed: a round is due.
    pub(super) changed: Notify,
    /// The looker is to look at once, if it is this replica.
    pub(super) wanted: Notify,
    /// The shards that the stream no longer lists, by the lease table.
    unlisted: Mutex<HashSet<ShardId>>,
    /// How many shards this replica reads.
    pub(super) reads: AtomicUsize,
}

impl News {
    fn unlisted(&self) -> MutexGuard<'_, HashSet<ShardId>> {
        self.unlisted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self, table: &LeaseTable) {
        let unlisted = table.leases.iter().filter(|lease| lease.is_unlisted && !lease.is_finished());
        *self.unlisted() = unlisted.map(|lease| lease.shard.clone()).collect();
    }

    pub(super) fn is_unlisted(&self, shard: &ShardId) -> bool {
        self.unlisted().contains(shard)
    }
}

/// The lease of the looker, for this replica. It has the form of a finished shard's lease, which releases without a
/// looker pass over.
pub(super) fn lease_of_looker(owner: &str, expires_at: Timestamp, now: Timestamp) -> Lease {
    Lease {
        shard: ShardId::from(LOOKER),
        owner: Some(owner.to_owned()),
        fence: 1,
        expires_at,
        progress: Progress { checkpoint: Checkpoint::ShardEnd, time: now },
        parent: Parent::Unknown,
        is_unlisted: false,
    }
}

/// A shard's first lease, without an owner. Whether the shard continues a known one decides its date.
///
/// It is dated back to the time when the leases were last known to be complete: an older shard would have a lease,
/// since every shard gets one when it is first seen, read or not. After an outage longer than the stream's retention
/// this date shows that the shard's start may be missing, even if replicas could not list the shards, or slept and have
/// renewed their leases since. If the shard does not continue a known one, the shards between may be missing too; then
/// it is dated back further.
pub(super) fn first_lease(
    shard: &Shard,
    continues: bool,
    complete_at: Option<Timestamp>,
    now: Timestamp,
) -> Lease {
    // The note is missing only if a person has edited the table: then the shard counts as old.
    let known = complete_at.map_or(before(now, RETENTION), |at| at.min(now));
    let time = if continues { known } else { before(known, RETENTION) };
    Lease {
        shard: shard.id.clone(),
        owner: None,
        fence: 1,
        expires_at: whole_millis(now),
        progress: Progress { checkpoint: Checkpoint::At(Position::TrimHorizon), time },
        parent: Parent::of(shard),
        is_unlisted: false,
    }
}

/// What the looker sees.
pub(super) struct Sight<'a> {
    pub(super) config: &'a RelayConfig,
    pub(super) now: Timestamp,
    /// All shards that the stream lists.
    pub(super) shards: &'a [Shard],
    /// When the listing began.
    pub(super) listed_at: Timestamp,
    /// The table, as it was before the listing. A lease is deleted only after its shard is no longer listed, so a
    /// listed shard without a lease is new.
    pub(super) table: &'a LeaseTable,
    /// Shards that had a lease and were not listed the last time either.
    pub(super) missing: &'a HashSet<ShardId>,
}

/// The looker's writes.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Look {
    /// First leases of new shards.
    pub(super) created: Vec<Lease>,
    /// Leases whose parent an older release has not written, or whose shard is listed no more, or again.
    pub(super) corrected: Vec<Lease>,
    /// Finished leases to delete.
    pub(super) forgotten: Vec<Lease>,
    /// Unfinished shards that are not listed.
    pub(super) missing: HashSet<ShardId>,
}

impl Look {
    pub(super) fn of(sight: &Sight<'_>) -> Self {
        let Sight { config, now, shards, listed_at, table, missing } = sight;
        let listed: HashMap<&ShardId, &Shard> = shards.iter().map(|shard| (&shard.id, shard)).collect();
        let leased: HashSet<&ShardId> = table.leases.iter().map(|lease| &lease.shard).collect();
        // The first relay of all, perhaps this one, has only just listed the shards: otherwise it would have left
        // leases of them.
        let just_now = config.age_of_first() + config.discovery_interval;
        let is_first = || table.complete_at.is_some_and(|at| since(at, *listed_at) <= just_now);
        // A stream whose first shards are all still listed.
        let is_whole = if leased.is_empty() {
            is_first()
        } else {
            leased.iter().all(|shard| listed.contains_key(*shard))
        };
        let parent = |shard: &ShardId| listed.get(shard).and_then(|shard| shard.parent.as_ref());
        // Whether the shard follows one with a lease, directly or over other new shards. No line of descent is longer
        // than the list.
        let continues = |shard: &Shard| {
            is_whole
                || std::iter::successors(parent(&shard.id), |shard| parent(shard))
                    .take(listed.len())
                    .any(|shard| leased.contains(shard))
        };
        let new = shards.iter().filter(|shard| !leased.contains(&shard.id));
        let created =
            new.map(|shard| first_lease(shard, continues(shard), table.complete_at, *now)).collect();
        let mut look = Self { created, ..Self::default() };
        for lease in &table.leases {
            let shard = listed.get(&lease.shard);
            if shard.is_none() && is_over(lease, *now) {
                look.forgotten.push(lease.clone());
            }
            if lease.is_finished() {
                continue;
            }
            if shard.is_none() {
                look.missing.insert(lease.shard.clone());
            }
            let mut correct = lease.clone();
            correct.is_unlisted = shard.is_none() && (lease.is_unlisted || missing.contains(&lease.shard));
            if let (Parent::Unknown, Some(shard)) = (&lease.parent, shard) {
                correct.parent = Parent::of(shard);
            }
            if correct != *lease {
                look.corrected.push(correct);
            }
        }
        // First leases are dated by the existing ones, so nothing is deleted before they are written.
        if !look.created.is_empty() {
            look.forgotten.clear();
        }
        look
    }
}

/// The replica that looks, while it has the lease.
pub(super) struct Looker<'a, S, L, B, R> {
    ports: &'a Ports<S, L, B, R>,
    /// The time since when it cannot see.
    relayed: &'a watch::Sender<Timestamp>,
    missing: HashSet<ShardId>,
    /// The last call.
    called: Option<Instant>,
    backoff: Pauses,
    throttle: FailureLogThrottle,
}

impl<'a, S: ShardStream, L: Leases, B: EventBus, R: Refill> Looker<'a, S, L, B, R> {
    pub(super) fn new(ports: &'a Ports<S, L, B, R>, relayed: &'a watch::Sender<Timestamp>) -> Self {
        relayed.send_replace(not_behind());
        let backoff = Pauses::new(PACE, ports.config().max_backoff, (&ports.config().owner, LOOKER));
        Self {
            ports,
            relayed,
            missing: HashSet::new(),
            called: None,
            backoff,
            throttle: FailureLogThrottle::default(),
        }
    }

    /// Looks again and again, until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let began = Instant::now();
            match self.look().await {
                Ok(()) => {
                    self.backoff.reset();
                    self.throttle.succeeded();
                    self.relayed.send_replace(not_behind());
                    tokio::select! {
                        biased;
                        () = self.ports.news.wanted.notified() => sleep_until(began + CALM).await,
                        () = sleep_until(began + self.ports.config().discovery_interval) => {}
                    }
                }
                Err((called, error)) => self.failed(called, &error).await,
            }
        }
    }

    async fn failed(&mut self, called: Called, error: &AwsError) {
        meters::call_failed(called);
        debug!(%error, ?called, "the stream's shards cannot be looked at");
        let now = (self.ports.clock)();
        self.relayed.send_if_modified(|since| {
            let first = *since == not_behind();
            *since = now.min(*since);
            first
        });
        if let Some(lasted) = self.throttle.failed() {
            warn!(%error, ?called, ?lasted, "the stream's shards cannot be looked at");
        }
        sleep(self.backoff.next()).await;
    }

    /// Lists the shards once, and writes what the table lacks.
    async fn look(&mut self) -> Result<(), (Called, AwsError)> {
        let (ports, config) = (self.ports, self.ports.config());
        let leases = |error| (Called::Leases, error);
        let now = (ports.clock)();
        let mut table = ports.leases.list().await.map_err(leases)?;
        if table.complete_at.is_none() && table.leases.is_empty() {
            // The first relay of all: the shards' records may be a day old already, so they are to be trusted for
            // minutes only, until a relay reads them. `now` is from before the table: this machine may have slept.
            let first = before(now, config.age_of_first());
            ports.leases.note_complete(first).await.map_err(leases)?;
            table.complete_at = Some(first);
        }
        let listed_at = (ports.clock)();
        let shards = self.list().await.map_err(|error| (Called::Stream, error))?;
        let (now, missing) = ((ports.clock)(), &self.missing);
        let look = Look::of(&Sight { config, now, shards: &shards, listed_at, table: &table, missing });
        let Look { created, corrected, forgotten, missing } = look;
        self.missing = missing;
        let is_news = !created.is_empty() || !corrected.is_empty();
        let created = self.create(created).await;
        let corrected = stream::iter(corrected).map(async |lease| ports.leases.correct(&lease).await);
        let corrected: Vec<_> = corrected.buffer_unordered(WRITES).collect().await;
        if is_news {
            ports.news.changed.notify_one();
        }
        corrected.into_iter().chain([created]).collect::<Result<Vec<()>, _>>().map_err(leases)?;
        // Every shard that was listed has its lease: shards without one are younger than the listing.
        ports.leases.note_complete(listed_at).await.map_err(leases)?;
        for lease in forgotten {
            ports.leases.forget(&lease).await.map_err(leases)?;
        }
        Ok(())
    }

    /// Writes new leases, parents before their children: a child without its parent's lease counts as one whose parent
    /// was read long ago. After a failure nothing further is written.
    async fn create(&self, leases: Vec<Lease>) -> Result<(), AwsError> {
        for generation in generations(leases) {
            let created =
                stream::iter(generation).map(async |lease| self.ports.leases.create(&lease).await.map(drop));
            let created: Vec<_> = created.buffer_unordered(WRITES).collect().await;
            created.into_iter().collect::<Result<Vec<()>, _>>()?;
        }
        Ok(())
    }

    /// All shards of the stream, page by page.
    async fn list(&mut self) -> Result<Vec<Shard>, AwsError> {
        let (mut shards, mut seen, mut from, mut failures) = (Vec::new(), HashSet::new(), None, 0);
        loop {
            if let Some(called) = self.called {
                sleep_until(called + PACE).await;
            }
            self.called = Some(Instant::now());
            match self.ports.stream.shards(from.as_ref()).await {
                Ok(Shards { shards: page, next }) => {
                    failures = 0;
                    shards.extend(page);
                    match next {
                        None => return Ok(shards),
                        Some(last) if !seen.insert(last.clone()) => {
                            let circle = "pages of shards that go in a circle";
                            return Err(AwsError::InvalidResponse(circle.to_owned()));
                        }
                        Some(last) => from = Some(last),
                    }
                }
                // The looker begins again from the first page only if this one stays out of reach.
                Err(error) if from.is_some() && failures < ATTEMPTS => {
                    failures += 1;
                    self.failed(Called::Stream, &error).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Leases by generation: those whose parents are not among them, then the children of these, and so on.
fn generations(mut leases: Vec<Lease>) -> Vec<Vec<Lease>> {
    let mut generations = Vec::new();
    while !leases.is_empty() {
        let waiting: HashSet<ShardId> = leases.iter().map(|lease| lease.shard.clone()).collect();
        let is_child =
            |lease: &Lease| matches!(&lease.parent, Parent::Shard(parent) if waiting.contains(parent));
        let (children, mut next): (Vec<_>, Vec<_>) = leases.into_iter().partition(is_child);
        leases = children;
        if next.is_empty() {
            // Parents in a circle, which no stream has.
            next = std::mem::take(&mut leases);
        }
        generations.push(next);
    }
    generations
}

/// Shards that this replica has read to their ends, whose children are not known yet.
pub(super) struct Children {
    ended: VecDeque<(ShardId, u32)>,
    due: Instant,
    /// This replica's place among those present, and their number.
    place: (usize, usize),
    complete_at: Option<Timestamp>,
}

impl Children {
    pub(super) fn new() -> Self {
        Self { ended: VecDeque::new(), due: Instant::now(), place: (0, 1), complete_at: None }
    }

    /// When the next call is due, if any is.
    pub(super) fn due(&self) -> Option<Instant> {
        self.ended.front().map(|_| self.due)
    }

    /// Reads the table of a round: the looker or another replica may have found the children.
    pub(super) fn read(&mut self, config: &RelayConfig, table: &LeaseTable, now: Timestamp) {
        let others = table.replicas.iter().filter(|other| is_other(other, config, now));
        let (before, after): (Vec<_>, Vec<_>) = others.partition(|other| other.owner < config.owner);
        self.place = (before.len(), before.len() + 1 + after.len());
        self.complete_at = table.complete_at;
        if self.ended.is_empty() {
            return;
        }
        let parents: HashSet<&ShardId> =
            table.leases.iter().filter_map(|lease| lease.parent.shard()).collect();
        self.ended.retain(|(shard, _)| !parents.contains(shard));
    }

    /// Adds a shard that has ended.
    pub(super) fn add(&mut self, shard: ShardId, now: Timestamp) {
        if self.ended.is_empty() {
            self.due = self.due.max(Instant::now() + self.turn(now));
        }
        self.ended.push_back((shard, 0));
    }

    /// The time until this replica's turn.
    fn turn(&self, now: Timestamp) -> Duration {
        let (place, replicas) = self.place;
        if replicas <= AT_ONCE {
            return Duration::ZERO;
        }
        let micros = |turns: usize| i64::try_from(turns).unwrap_or(i64::MAX).saturating_mul(TURN_MICROS);
        let wait = micros(place).saturating_sub(now.unix_micros()).rem_euclid(micros(replicas));
        Duration::from_micros(u64::try_from(wait).unwrap_or_default())
    }

    /// Finds the children of one shard, if a call is due. Returns whether it wrote any lease.
    pub(super) async fn find<S: ShardStream, L: Leases, B: EventBus, R: Refill>(
        &mut self,
        ports: &Ports<S, L, B, R>,
    ) -> bool {
        if self.due().is_none_or(|due| due > Instant::now()) {
            return false;
        }
        let Some((shard, failures)) = self.ended.pop_front() else { return false };
        let replicas = u32::try_from(self.place.1).unwrap_or(u32::MAX);
        let turn = self.turn(after((ports.clock)(), TURN));
        // Few replicas need no turns, only the same pauses.
        self.due = Instant::now() + if turn.is_zero() { TURN * replicas } else { TURN + turn };
        let found = match ports.stream.children(&shard).await {
            Ok(children) => children,
            Err(error) => {
                meters::call_failed(Called::Stream);
                debug!(%shard, %error, "the children of a shard cannot be found");
                Vec::new()
            }
        };
        let mut is_news = false;
        for child in &found {
            let lease = first_lease(child, true, self.complete_at, (ports.clock)());
            match ports.leases.create(&lease).await {
                Ok(_) => is_news = true,
                Err(error) => {
                    meters::call_failed(Called::Leases);
                    debug!(shard = %child.id, %error, "a shard could not be noted");
                }
            }
        }
        if !is_news && failures < ATTEMPTS {
            self.ended.push_back((shard, failures + 1));
        } else if !is_news {
            // A stream that was switched off has no further shards. Otherwise the looker finds them.
            ports.news.wanted.notify_one();
        }
        is_news
    }
}

fn is_other(replica: &Replica, config: &RelayConfig, now: Timestamp) -> bool {
    replica.owner != config.owner && replica.expires_at > now
}

#[cfg(test)]
mod tests;

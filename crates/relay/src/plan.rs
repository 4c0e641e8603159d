//! The leases that a replica should take or give up. Pure.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use millrace_core::Timestamp;
use tokio::time::Instant;

use super::{
    config::RelayConfig,
    leases::{Checkpoint, Lease, LeaseTable, Progress, RefillJob, Replica},
    stream::{Position, RETENTION, Shard, ShardId},
    time::{after, before, hash_of, since, whole_millis},
};

/// How long a finished lease is kept once its shard is no longer listed. Longer than the stream's retention, so that a
/// reader with an old list does not take the shard for a new one.
const KEEP_FINISHED: Duration = Duration::from_secs(48 * 60 * 60);

/// How long a vanished replica stays in the table.
const KEEP_VANISHED: Duration = Duration::from_secs(60 * 60);

/// The time, if worth noting, at which every shard then in the stream is known to have its lease: later shards are
/// younger. `table` was read at `read_at` or later, and the shards were listed at `listed_at`.
///
/// For an empty table this time is noted before the first lease is written, and dated back: the shards' records may be
/// a day old already, so they are to be trusted for minutes only, until a relay reads them.
pub(super) fn complete_at(
    shards: &[Shard],
    listed_at: Timestamp,
    table: &LeaseTable,
    read_at: Timestamp,
    config: &RelayConfig,
) -> Option<Timestamp> {
    let leased: HashSet<&ShardId> = table.leases.iter().map(|lease| &lease.shard).collect();
    let Some(noted) = table.complete_at else {
        let first = leased.is_empty().then(|| before(read_at, config.age_of_first()));
        return first.or_else(|| shards.iter().all(|shard| leased.contains(&shard.id)).then_some(listed_at));
    };
    // Not every replica has to write it each time.
    let is_news = since(noted, listed_at) >= config.discovery_interval;
    (is_news && shards.iter().all(|shard| leased.contains(&shard.id))).then_some(listed_at)
}

/// A replica's view of the world.
pub(super) struct View<'a> {
    pub(super) config: &'a RelayConfig,
    pub(super) now: Timestamp,
    pub(super) shards: &'a [Shard],
    /// When `shards` were listed.
    pub(super) listed_at: Timestamp,
    pub(super) table: &'a LeaseTable,
    /// The shards that this replica reads.
    pub(super) held: &'a HashSet<ShardId>,
    pub(super) sightings: &'a Sightings,
}

/// A replica's plan.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Leases to take.
    pub(super) claims: Vec<Claim>,
    /// First leases of shards that this replica does not take, because they wait for their parents or are for other
    /// replicas. They have no owner, but a date: it tells a later reader how old the shard's records may be.
    pub(super) noted: Vec<Lease>,
    /// Shards to leave to other replicas.
    pub(super) surplus: Vec<ShardId>,
    /// Finished leases to delete.
    pub(super) forgotten: Vec<Lease>,
    /// Finished refills to delete.
    pub(super) ended: Vec<RefillJob>,
    /// Vanished replicas to delete.
    pub(super) vanished: Vec<Replica>,
    /// The longest time for which a readable shard has been without an owner.
    pub(super) unread: Duration,
}

/// A lease to take.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Claim {
    /// The first lease of its shard.
    Create(Lease),
    /// A lease without a living owner, as read from the table.
    Take(Lease),
}

impl Claim {
    pub(super) fn lease(&self) -> &Lease {
        match self {
            Self::Create(lease) | Self::Take(lease) => lease,
        }
    }
}

impl Plan {
    /// Shares the readable shards and the open segments of refills out among the present replicas. Each replica plans
    /// alone; if two want the same lease, the table gives it to one of them.
    pub(super) fn of(view: &View<'_>) -> Self {
        let leases: HashMap<&ShardId, &Lease> = by_shard(&view.table.leases);
        let mut plan = Self::default();
        plan.share(view, view.preferred(view.readable(&leases)), &leases, usize::MAX, |shard| {
            view.first_lease(shard)
        });
        // First leases are dated by the existing leases, so nothing is deleted before they are written.
        plan.noted = view.noted(&leases, &plan.claims);
        plan.refill(view);
        if plan.claims.is_empty() && plan.noted.is_empty() {
            (plan.forgotten, plan.ended) = (view.forgotten(), view.ended());
        }
        plan.vanished = view.vanished();
        plan
    }

    /// Takes this replica's share of the `open` leases, in their order, and gives up any beyond it. No replica holds
    /// more than `most` of them, so some may have to wait.
    fn share(
        &mut self,
        view: &View<'_>,
        open: Vec<ShardId>,
        leases: &HashMap<&ShardId, &Lease>,
        most: usize,
        first_lease: impl Fn(&ShardId) -> Lease,
    ) {
        let holdings = view.holdings(leases);
        let share = open.len().div_ceil(holdings.len()).min(most);
        let (held, others): (Vec<_>, Vec<_>) = open.iter().partition(|shard| view.held.contains(shard));

        let before = self.claims.len();
        for shard in &others {
            let overdue = most == usize::MAX && view.sightings.age(shard) >= 2 * view.config.lease_duration;
            let wanted = held.len() + self.claims.len() - before < share || overdue;
            match leases.get(shard) {
                _ if !wanted => {}
                None => self.claims.push(Claim::Create(first_lease(shard))),
                Some(lease) if view.is_free(lease) => self.claims.push(Claim::Take((*lease).clone())),
                Some(_) => {}
            }
        }
        // If all leases are taken and a replica has less than an equal share, rounded down, the others keep only that.
        let least = (open.len() / holdings.len()).min(most);
        let all_taken = open.iter().all(|shard| leases.get(shard).is_some_and(|lease| !view.is_free(lease)));
        let kept = if all_taken && holdings.values().any(|count| *count < least) { least } else { share };
        self.surplus.extend(held.into_iter().skip(kept).cloned());
        let unread =
            others.into_iter().filter(|shard| leases.get(shard).is_none_or(|lease| view.is_free(lease)));
        let unread = unread.map(|shard| view.sightings.age(shard)).max().unwrap_or_default();
        self.unread = self.unread.max(unread);
    }

    /// Shares the segments of refills out as shards are, those of older refills first: a waiting refill also serves the
    /// shards that ask for one meanwhile.
    fn refill(&mut self, view: &View<'_>) {
        let leases = by_shard(&view.table.segments);
        let is_open = |segment: &ShardId| leases.get(segment).is_none_or(|lease| !lease.is_finished());
        let mut refills: Vec<&RefillJob> = view.table.refills.iter().collect();
        refills.sort_unstable_by_key(|refill| refill.number);
        let (mut open, mut since) = (Vec::new(), HashMap::new());
        for refill in refills {
            let segments = view.preferred(refill.segments().filter(is_open).collect());
            since.extend(segments.iter().map(|segment| (segment.clone(), refill.since)));
            open.extend(segments);
        }
        // A segment that waits for its turn does not count as an unread shard.
        let unread = self.unread;
        self.share(view, open, &leases, view.config.refills_at_once, |segment| Lease {
            progress: Progress {
                checkpoint: Checkpoint::At(Position::TrimHorizon),
                time: since.get(segment).copied().unwrap_or(view.now),
            },
            ..view.new_lease(segment)
        });
        self.unread = unread;
    }
}

fn by_shard(leases: &[Lease]) -> HashMap<&ShardId, &Lease> {
    leases.iter().map(|lease| (&lease.shard, lease)).collect()
}

impl View<'_> {
    /// Every replica has its own order of preference, so that few want the same lease at the same time.
    fn preferred(&self, mut shards: Vec<ShardId>) -> Vec<ShardId> {
        shards.sort_by_cached_key(|shard| hash_of((&self.config.owner, shard)));
        shards
    }

    /// Unfinished shards whose parents are finished.
    ///
    /// A shard known only by its lease counts: its end has still to be read or refilled.
    fn readable(&self, leases: &HashMap<&ShardId, &Lease>) -> Vec<ShardId> {
        let listed: HashSet<&ShardId> = self.shards.iter().map(|shard| &shard.id).collect();
        let finished = |shard: &ShardId| leases.get(shard).is_some_and(|lease| lease.is_finished());
        let ready = self.shards.iter().filter(|shard| {
            // A parent that vanished unfinished is refilled from the table. Its children do not wait for that: after a
            // refill there is no order left to keep.
            let parent_done = |parent| finished(parent) || !listed.contains(parent);
            !finished(&shard.id) && shard.parent.as_ref().is_none_or(parent_done)
        });
        let unlisted = self.table.leases.iter().filter(|l| !l.is_finished() && !listed.contains(&l.shard));
        ready.map(|shard| shard.id.clone()).chain(unlisted.map(|lease| lease.shard.clone())).collect()
    }

    /// First leases of the unclaimed shards that have none.
    fn noted(&self, leases: &HashMap<&ShardId, &Lease>, claims: &[Claim]) -> Vec<Lease> {
        let claimed: HashSet<&ShardId> = claims.iter().map(|claim| &claim.lease().shard).collect();
        let listed = self.shards.iter().map(|shard| &shard.id);
        let left = listed.filter(|shard| !leases.contains_key(shard) && !claimed.contains(shard));
        let nobodys =
            |shard| Lease { owner: None, expires_at: whole_millis(self.now), ..self.first_lease(shard) };
        left.map(nobodys).collect()
    }

    /// How many of these leases each present replica holds. Present are this one, the announced ones, and all owners.
    fn holdings<'a>(&'a self, leases: &HashMap<&ShardId, &'a Lease>) -> HashMap<&'a str, usize> {
        let announced =
            self.table.replicas.iter().filter(|r| r.expires_at > self.now).map(|r| r.owner.as_str());
        let this = self.config.owner.as_str();
        let mut holdings: HashMap<&str, usize> = announced.chain([this]).map(|owner| (owner, 0)).collect();
        for lease in leases.values().filter(|lease| !lease.is_finished() && !self.is_free(lease)) {
            if let Some(owner) = &lease.owner {
                *holdings.entry(owner).or_default() += 1;
            }
        }
        holdings
    }

    /// Whether the lease is free: it has expired, or this process has seen no renewal for its whole life, which needs
    /// no agreement between clocks. A lease in our name for a shard that we do not read was taken by a call whose reply
    /// was lost.
    fn is_free(&self, lease: &Lease) -> bool {
        let Some(owner) = &lease.owner else { return true };
        let unrenewed =
            self.sightings.age(&lease.shard) > self.config.lease_duration + self.config.renew_interval;
        let ours_unread = *owner == self.config.owner && !self.held.contains(&lease.shard);
        lease.expires_at <= self.now || unrenewed || ours_unread
    }

    /// A shard's first lease.
    ///
    /// It is dated back to the time when the leases were last known to be complete: an older shard would have a lease,
    /// since every shard gets one when it is first seen, read or not. After an outage longer than the stream's
    /// retention this date shows that the shard's start may be missing, even if replicas could not list the shards, or
    /// slept and have renewed their leases since. If the shard does not continue a known one, the shards between may be
    /// missing too; then it is dated back further.
    fn first_lease(&self, shard: &ShardId) -> Lease {
        // The note is missing only if a person has edited the table: then the shard counts as old.
        let known = self.table.complete_at.map_or(before(self.now, RETENTION), |at| at.min(self.now));
        let time = if self.continues(shard) { known } else { before(known, RETENTION) };
        let progress = Progress { checkpoint: Checkpoint::At(Position::TrimHorizon), time };
        Lease { progress, ..self.new_lease(shard) }
    }

    /// A lease of this replica.
    fn new_lease(&self, shard: &ShardId) -> Lease {
        Lease {
            shard: shard.clone(),
            owner: Some(self.config.owner.clone()),
            fence: 1,
            expires_at: whole_millis(after(self.now, self.config.lease_duration)),
            progress: Progress { checkpoint: Checkpoint::At(Position::TrimHorizon), time: self.now },
        }
    }

    /// Whether the shard follows one with a lease, directly or over other new shards, or belongs to a stream whose
    /// first shards are all still listed.
    fn continues(&self, shard: &ShardId) -> bool {
        let listed: HashMap<&ShardId, &Shard> = self.shards.iter().map(|shard| (&shard.id, shard)).collect();
        let leased: HashSet<&ShardId> = self.table.leases.iter().map(|lease| &lease.shard).collect();
        if leased.is_empty() {
            // The first relay of all, perhaps this one, has only just listed the shards: otherwise it would have left
            // leases of them.
            let just_now = self.config.age_of_first() + self.config.discovery_interval;
            return self.table.complete_at.is_some_and(|at| since(at, self.listed_at) <= just_now);
        }
        let parent = |shard: &ShardId| listed.get(shard).and_then(|shard| shard.parent.as_ref());
        // No line of descent is longer than the list.
        let mut ancestors = std::iter::successors(parent(shard), |shard| parent(shard)).take(listed.len());
        ancestors.any(|shard| leased.contains(shard)) || leased.iter().all(|shard| listed.contains_key(shard))
    }

    fn forgotten(&self) -> Vec<Lease> {
        let listed: HashSet<&ShardId> = self.shards.iter().map(|shard| &shard.id).collect();
        // The refill goes first, or its segments would count as not yet begun.
        let refilled: HashSet<ShardId> = self.table.refills.iter().flat_map(RefillJob::segments).collect();
        let leases = self.table.leases.iter().filter(|lease| !listed.contains(&lease.shard));
        let segments = self.table.segments.iter().filter(|lease| !refilled.contains(&lease.shard));
        leases.chain(segments).filter(|lease| self.is_over(lease)).cloned().collect()
    }

    fn ended(&self) -> Vec<RefillJob> {
        let over = self.table.segments.iter().filter(|lease| self.is_over(lease));
        let over: HashSet<&ShardId> = over.map(|lease| &lease.shard).collect();
        let is_over = |refill: &&RefillJob| refill.segments().all(|segment| over.contains(&segment));
        self.table.refills.iter().filter(is_over).copied().collect()
    }

    fn is_over(&self, lease: &Lease) -> bool {
        lease.is_finished() && since(lease.expires_at, self.now) > KEEP_FINISHED
    }

    fn vanished(&self) -> Vec<Replica> {
        let old = |replica: &&Replica| since(replica.expires_at, self.now) > KEEP_VANISHED;
        self.table.replicas.iter().filter(old).cloned().collect()
    }
}

/// When each lease was last seen to change, by this process's monotonic clock.
#[derive(Debug)]
pub(super) struct Sightings {
    seen: HashMap<ShardId, (Option<(u64, Timestamp)>, Instant)>,
    now: Instant,
}

impl Sightings {
    pub(super) fn new() -> Self {
        Self { seen: HashMap::new(), now: Instant::now() }
    }

    /// Looks at all shards that are listed or leased.
    pub(super) fn look(&mut self, shards: &[Shard], table: &LeaseTable) {
        self.now = Instant::now();
        let listed = shards.iter().map(|shard| (shard.id.clone(), None));
        let leases = table.leases.iter().chain(&table.segments);
        let leased = leases.map(|l| (l.shard.clone(), Some((l.fence, l.expires_at))));
        // A lease overrides the listing of its shard.
        let looks: HashMap<ShardId, Option<(u64, Timestamp)>> = listed.chain(leased).collect();
        let before = std::mem::take(&mut self.seen);
        for (shard, look) in looks {
            let first =
                before.get(&shard).filter(|(then, _)| *then == look).map_or(self.now, |(_, first)| *first);
            self.seen.insert(shard, (look, first));
        }
    }

    /// How long the shard's lease, or its absence, has been unchanged.
    fn age(&self, shard: &ShardId) -> Duration {
        self.seen.get(shard).map_or(Duration::ZERO, |(_, first)| self.now.duration_since(*first))
    }
}

#[cfg(test)]
mod tests;

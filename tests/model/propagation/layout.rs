//! Which events there are, in which shards, of which aggregates.

use std::ops::Range;

/// How many events there are. They are named by numbers, in the order in which they were stored.
pub(crate) const EVENTS: usize = 3;

/// How many shards there are, and at most so many aggregates.
pub(crate) const SHARDS: usize = 2;

/// How the shards lie to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shards {
    /// The first is closed and the second continues it. One aggregate: two of its events in the one, the last in the
    /// other.
    ParentAndChild,
    /// Both are open. An aggregate of two events in the first, one of a single event in the second.
    Unrelated,
}

impl Shards {
    /// The events of a shard, in order.
    pub(crate) fn records(self, shard: usize) -> Range<usize> {
        if shard == 0 { 0..2 } else { 2..EVENTS }
    }

    /// Whether the shard has an end.
    pub(crate) fn is_closed(self, shard: usize) -> bool {
        self == Self::ParentAndChild && shard == 0
    }

    /// The shard that this one continues.
    pub(crate) fn parent(self, shard: usize) -> Option<usize> {
        (self == Self::ParentAndChild && shard == 1).then_some(0)
    }

    /// The checkpoint that says that nothing will ever be left to read: one more than there are records.
    pub(crate) fn end(self, shard: usize) -> usize {
        self.records(shard).len() + 1
    }

    /// The events of an aggregate: version 1, version 2 and so on.
    pub(crate) fn history(self, aggregate: usize) -> Range<usize> {
        match (self, aggregate) {
            (Self::ParentAndChild, 0) => 0..EVENTS,
            (Self::ParentAndChild, _) => EVENTS..EVENTS,
            (Self::Unrelated, _) => self.records(aggregate),
        }
    }

    /// The number of the event's aggregate.
    pub(crate) fn aggregate(self, event: usize) -> usize {
        usize::from(!self.history(0).contains(&event))
    }

    /// The event's version.
    pub(crate) fn version(self, event: usize) -> usize {
        event - self.history(self.aggregate(event)).start + 1
    }

    /// The events of an aggregate after one version and up to another.
    pub(crate) fn between(self, aggregate: usize, after: usize, to: usize) -> Events {
        let first = self.history(aggregate).start;
        (first + after..first + to).collect()
    }
}

/// Some of the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Events(u8);

impl Events {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const ALL: Self = Self((1 << EVENTS) - 1);

    pub(crate) fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    pub(crate) fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    pub(crate) fn are_within(self, others: Self) -> bool {
        self.without(others) == Self::NONE
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..EVENTS).filter(move |event| self.0 & 1 << event != 0)
    }

    /// All choices among them, none and all of them too.
    pub(crate) fn choices(self) -> impl Iterator<Item = Self> {
        (0..=Self::ALL.0).map(Self).filter(move |choice| choice.are_within(self))
    }
}

impl FromIterator<usize> for Events {
    fn from_iter<I: IntoIterator<Item = usize>>(events: I) -> Self {
        Self(events.into_iter().fold(0, |set, event| set | 1 << event))
    }
}

//! The stream and the table, and their changes: `ShardStream`, `Refill`.

use super::{DAY, MAX_EVENTS, MAX_SHARDS, Moves, Retention, Time, steps::Step};

/// How many pages the table has. A new event may come to any of them.
pub(super) const PAGES: u8 = 2;

/// An event, in the stream and in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Record {
    /// When it was stored.
    pub(super) at: Time,
    pub(super) shard: usize,
    /// On which page of the table it is.
    pub(super) page: u8,
}

impl Record {
    /// Whether the stream no longer has it.
    pub(super) fn is_dropped(self, now: Time) -> bool {
        now - self.at >= DAY
    }
}

/// All that was ever stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Stream {
    /// The events, in the order in which they were stored.
    records: [Option<Record>; MAX_EVENTS],
    /// How many shards have been opened.
    opened: usize,
    /// When each was closed.
    closed: [Option<Time>; MAX_SHARDS],
}

impl Stream {
    pub(super) fn new(has_shard: bool) -> Self {
        Self { records: [None; MAX_EVENTS], opened: usize::from(has_shard), closed: [None; MAX_SHARDS] }
    }

    pub(super) fn events(&self) -> impl Iterator<Item = (usize, Record)> {
        self.records.iter().flatten().copied().enumerate()
    }

    pub(super) fn is_closed(&self, shard: usize) -> bool {
        self.closed[shard].is_some()
    }

    /// Whether the stream lists the shard: closed ones, too, until all their records are dropped.
    pub(super) fn is_listed(&self, shard: usize, now: Time) -> bool {
        shard < self.opened && self.closed[shard].is_none_or(|closed| now - closed < DAY)
    }

    /// The next record of a shard, from an event on.
    pub(super) fn next(&self, shard: usize, from: usize) -> Option<(usize, Record)> {
        self.events().skip(from).find(|(_, record)| record.shard == shard)
    }

    /// The first event that is not dropped.
    pub(super) fn trim_horizon(&self, now: Time) -> usize {
        self.events().filter(|(_, record)| record.is_dropped(now)).count()
    }

    /// The shard that takes new records.
    fn open(&self) -> Option<usize> {
        (0..self.opened).find(|shard| !self.is_closed(*shard))
    }

    /// Where in the table an event is, is of no matter any more once the bus has it.
    pub(super) fn forget_places(&mut self, accepted: &[bool; MAX_EVENTS]) {
        for (record, _) in self.records.iter_mut().zip(accepted).filter(|(_, accepted)| **accepted) {
            *record = record.map(|record| Record { page: 0, ..record });
        }
    }
}

pub(super) fn moves(model: &Retention, moves: &mut Moves) {
    let (now, stream) = (moves.from.now, moves.from.stream);
    if now < model.end {
        moves.trouble(Step::TimePasses { to: now + 1 }, |state| state.now += 1);
    }
    let Some(shard) = stream.open() else {
        if stream.opened < model.shards {
            moves.trouble(Step::Opens { shard: stream.opened }, |state| state.stream.opened += 1);
        }
        return;
    };
    let event = stream.events().count();
    if event < model.events {
        for page in 0..PAGES {
            moves.trouble(Step::Store { event, shard, page }, |state| {
                state.stream.records[event] = Some(Record { at: now, shard, page });
            });
        }
    }
    // A stream always has an open shard. The one that continues the last one here is not looked at, so the last one ends only
    // when it is known.
    let is_last = shard + 1 == model.shards;
    if !is_last || moves.from.leases[shard].is_some() {
        moves.trouble(Step::Closes { shard }, |state| {
            state.stream.closed[shard] = Some(now);
            state.stream.opened += usize::from(!is_last);
        });
    }
}

//! The faults that the proxy can inject.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

pub use super::batch::Entries;
use super::batch::is_batch;

/// A fault of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is late. It takes effect even after its client gave up: with a delay longer than the client's
    /// time-out, after its own retry.
    Delay(Duration),
    /// The request takes effect at once, and its reply is late.
    DelayAfter(Duration),
    /// AWS refuses, because calls come too fast. Nothing was done.
    Throttle(Throttling),
    /// AWS is out of order. Nothing was done.
    ServerError,
    /// AWS reports an internal error, and yet the request took effect.
    ServerErrorAfter,
    /// The connection is cut. Nothing was done.
    Reset,
    /// The reply is lost: the request took effect, then the connection is cut.
    ResetAfter,
    /// The request takes effect twice, one after the other.
    Duplicate(Answer),
    /// No reply comes until the client closes the connection. The request took no effect.
    Hang,
    /// The request took effect, and no reply comes until the client closes the connection.
    HangAfter,
    /// The request took effect, and its reply stops in the middle of its body, until the client closes the connection.
    HangWithin,
    /// AWS accepts a batch and refuses these entries, which take no effect.
    RefuseEntries(Entries),
    /// AWS reports these entries of a batch as refused, and yet all of it took effect.
    RefuseEntriesAfter(Entries),
}

/// The error by which AWS throttles, in the terms of DynamoDB. Another service answers with its corresponding error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Throttling {
    /// `ProvisionedThroughputExceededException`: a partition is hot, as is a shard of a stream.
    ProvisionedThroughputExceeded,
    /// `ThrottlingException`: too many calls.
    Throttling,
    /// `RequestLimitExceeded`: the account's quota is spent.
    RequestLimitExceeded,
}

/// Which of two replies the client is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The reply to the first request. Where that is a refusal, there is no copy.
    First,
    /// The reply to its copy.
    Second,
}

/// A [`Fault`] without its particulars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the variants of Fault say it")]
pub enum FaultKind {
    Delay,
    DelayAfter,
    Throttle,
    ServerError,
    ServerErrorAfter,
    Reset,
    ResetAfter,
    Duplicate,
    Hang,
    HangAfter,
    HangWithin,
    RefuseEntries,
    RefuseEntriesAfter,
}

impl Fault {
    /// The kind of this fault.
    pub fn kind(self) -> FaultKind {
        match self {
            Self::Delay(_) => FaultKind::Delay,
            Self::DelayAfter(_) => FaultKind::DelayAfter,
            Self::Throttle(_) => FaultKind::Throttle,
            Self::ServerError => FaultKind::ServerError,
            Self::ServerErrorAfter => FaultKind::ServerErrorAfter,
            Self::Reset => FaultKind::Reset,
            Self::ResetAfter => FaultKind::ResetAfter,
            Self::Duplicate(_) => FaultKind::Duplicate,
            Self::Hang => FaultKind::Hang,
            Self::HangAfter => FaultKind::HangAfter,
            Self::HangWithin => FaultKind::HangWithin,
            Self::RefuseEntries(_) => FaultKind::RefuseEntries,
            Self::RefuseEntriesAfter(_) => FaultKind::RefuseEntriesAfter,
        }
    }
}

impl FaultKind {
    /// The fault that the operation meets in place of this: without entries, the nearest other fault.
    fn befalling(self, operation: &str) -> Self {
        if is_batch(operation) {
            return self;
        }
        let likes =
            [(Self::RefuseEntries, Self::Throttle), (Self::RefuseEntriesAfter, Self::ServerErrorAfter)];
        likes.into_iter().find(|(kind, _)| *kind == self).map_or(self, |(_, like)| like)
    }
}

/// The rates of faults. A request meets one at most, and a retry is a request of its own.
///
/// The seed decides everything: the same seed and rates give the n-th request of an operation the same fault every
/// time, whatever requests of other operations come between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    seed: u64,
    per_mille: BTreeMap<FaultKind, u16>,
    longest_delay: Duration,
    operations: BTreeSet<String>,
}

impl Faults {
    /// No faults, to begin with.
    pub fn none(seed: u64) -> Self {
        let longest_delay = Duration::from_millis(30);
        Self { seed, per_mille: BTreeMap::new(), longest_delay, operations: BTreeSet::new() }
    }

    /// Many faults: a third of the requests meet one, a sixth fail or seem to. Of calls with three attempts about one
    /// in two hundred fails.
    pub fn storm(seed: u64) -> Self {
        [
            (FaultKind::Delay, 60),
            (FaultKind::DelayAfter, 60),
            (FaultKind::Throttle, 50),
            (FaultKind::ServerError, 30),
            (FaultKind::ServerErrorAfter, 20),
            (FaultKind::Reset, 30),
            (FaultKind::ResetAfter, 40),
            (FaultKind::Duplicate, 30),
            // Few: each costs the client the whole time-out of an attempt.
            (FaultKind::Hang, 2),
            (FaultKind::HangAfter, 2),
            (FaultKind::HangWithin, 2),
        ]
        .into_iter()
        .fold(Self::none(seed), |faults, (kind, per_mille)| faults.with(kind, per_mille))
    }

    /// Few faults: five in a hundred requests meet one, of every kind.
    pub fn drizzle(seed: u64) -> Self {
        [
            (FaultKind::Delay, 7),
            (FaultKind::DelayAfter, 7),
            (FaultKind::Throttle, 7),
            (FaultKind::ServerError, 4),
            (FaultKind::ServerErrorAfter, 4),
            (FaultKind::Reset, 4),
            (FaultKind::ResetAfter, 5),
            (FaultKind::Duplicate, 3),
            (FaultKind::Hang, 1),
            (FaultKind::HangAfter, 1),
            (FaultKind::HangWithin, 1),
            (FaultKind::RefuseEntries, 4),
            (FaultKind::RefuseEntriesAfter, 2),
        ]
        .into_iter()
        .fold(Self::none(seed), |faults, (kind, per_mille)| faults.with(kind, per_mille))
    }

    /// Sets the rate of one kind of fault, in requests of a thousand. All rates sum up to a thousand at most.
    #[must_use]
    pub fn with(mut self, kind: FaultKind, per_mille: u16) -> Self {
        self.per_mille.insert(kind, per_mille);
        let sum: u32 = self.per_mille.values().copied().map(u32::from).sum();
        assert!(sum <= 1000, "{sum} of a thousand requests cannot fail");
        self
    }

    /// Sets the longest delay; delays are spread evenly up to it.
    #[must_use]
    pub fn delays_up_to(mut self, longest: Duration) -> Self {
        self.longest_delay = longest;
        self
    }

    /// Only these operations meet faults, such as `PutItem`; without any, all do.
    #[must_use]
    pub fn only<O: Into<String>>(mut self, operations: impl IntoIterator<Item = O>) -> Self {
        self.operations = operations.into_iter().map(Into::into).collect();
        self
    }

    /// The fault of an operation's n-th request since these faults began, counted from 0.
    pub fn befalling(&self, operation: &str, n: u64) -> Option<Fault> {
        if !self.operations.is_empty() && !self.operations.contains(operation) {
            return None;
        }
        let mut rng = StdRng::seed_from_u64(self.seed_of(operation, n));
        let mut roll = rng.random_range(0..1000);
        let kind = self.per_mille.iter().find_map(|(kind, per_mille)| {
            let met = roll < *per_mille;
            roll = roll.saturating_sub(*per_mille);
            met.then_some(*kind)
        })?;
        Some(self.fault(kind.befalling(operation), &mut rng))
    }

    fn fault(&self, kind: FaultKind, rng: &mut StdRng) -> Fault {
        match kind {
            FaultKind::Delay => Fault::Delay(self.delay(rng)),
            FaultKind::DelayAfter => Fault::DelayAfter(self.delay(rng)),
            FaultKind::Throttle => Fault::Throttle(match rng.random_range(0..3) {
                0 => Throttling::ProvisionedThroughputExceeded,
                1 => Throttling::Throttling,
                _ => Throttling::RequestLimitExceeded,
            }),
            FaultKind::ServerError => Fault::ServerError,
            FaultKind::ServerErrorAfter => Fault::ServerErrorAfter,
            FaultKind::Reset => Fault::Reset,
            FaultKind::ResetAfter => Fault::ResetAfter,
            FaultKind::Duplicate => {
                Fault::Duplicate(if rng.random() { Answer::First } else { Answer::Second })
            }
            FaultKind::Hang => Fault::Hang,
            FaultKind::HangAfter => Fault::HangAfter,
            FaultKind::HangWithin => Fault::HangWithin,
            FaultKind::RefuseEntries => Fault::RefuseEntries(Entries(rng.random())),
            FaultKind::RefuseEntriesAfter => Fault::RefuseEntriesAfter(Entries(rng.random())),
        }
    }

    fn delay(&self, rng: &mut StdRng) -> Duration {
        rng.random_range(Duration::ZERO..=self.longest_delay)
    }

    /// FNV-1a: unlike the standard library's hash it is the same with every compiler.
    fn seed_of(&self, operation: &str, n: u64) -> u64 {
        let (seed, n) = (self.seed.to_le_bytes(), n.to_le_bytes());
        let bytes = seed.iter().chain(n.iter()).chain(operation.as_bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: u64 = 20_000;

    fn all(faults: &Faults, operation: &str) -> Vec<Option<Fault>> {
        (0..REQUESTS).map(|n| faults.befalling(operation, n)).collect()
    }

    #[test]
    fn a_seed_is_a_sequence_of_faults_for_each_operation() {
        let puts = all(&Faults::storm(7), "PutItem");
        assert_eq!(puts, all(&Faults::storm(7), "PutItem"));
        assert_ne!(puts, all(&Faults::storm(8), "PutItem"));
        assert_ne!(puts, all(&Faults::storm(7), "GetItem"));
    }

    #[test]
    fn faults_come_as_often_as_their_rates_say() {
        let storm = Faults::storm(1);
        let mut counts = BTreeMap::<_, u64>::new();
        for fault in all(&storm, "PutItem").into_iter().flatten() {
            *counts.entry(fault.kind()).or_default() += 1;
            if let Fault::Delay(by) | Fault::DelayAfter(by) = fault {
                assert!(by <= storm.longest_delay, "{by:?}");
            }
        }
        assert_eq!(counts.keys().collect::<Vec<_>>(), storm.per_mille.keys().collect::<Vec<_>>());
        for (kind, count) in counts {
            let expected = u64::from(storm.per_mille[&kind]) * REQUESTS / 1000;
            // Six standard deviations and more.
            assert!(count.abs_diff(expected) <= expected / 10 + 50, "{kind:?}: {count} of {expected}");
        }
    }

    #[test]
    fn particulars_are_drawn_too() {
        let throttles = Faults::none(1).with(FaultKind::Throttle, 1000);
        for code in [
            Throttling::ProvisionedThroughputExceeded,
            Throttling::Throttling,
            Throttling::RequestLimitExceeded,
        ] {
            assert!(all(&throttles, "PutItem").contains(&Some(Fault::Throttle(code))), "{code:?}");
        }
        let duplicates = Faults::none(1).with(FaultKind::Duplicate, 1000);
        for answer in [Answer::First, Answer::Second] {
            assert!(all(&duplicates, "PutItem").contains(&Some(Fault::Duplicate(answer))), "{answer:?}");
        }
    }

    #[test]
    fn five_in_a_hundred_is_what_it_says() {
        let drizzle = Faults::drizzle(1);
        assert_eq!(drizzle.per_mille.values().sum::<u16>(), 50);
        let kinds: BTreeSet<_> =
            all(&drizzle, "PutEvents").into_iter().flatten().map(|fault| fault.kind()).collect();
        assert_eq!(kinds.len(), 13, "every kind there is: {kinds:?}");
    }

    #[test]
    fn entries_are_refused_where_there_are_entries() {
        let kinds = [FaultKind::RefuseEntries, FaultKind::RefuseEntriesAfter];
        let faults = kinds.iter().fold(Faults::none(1), |faults, kind| faults.with(*kind, 500));
        let seen = |operation: &str| -> BTreeSet<_> {
            all(&faults, operation).into_iter().flatten().map(|fault| fault.kind()).collect()
        };
        for operation in ["PutEvents", "DeleteMessageBatch", "SendMessageBatch"] {
            assert_eq!(seen(operation), kinds.into(), "{operation}");
        }
        assert_eq!(seen("PutItem"), [FaultKind::Throttle, FaultKind::ServerErrorAfter].into());
    }

    #[test]
    fn some_entries_are_at_least_one() {
        assert_eq!(Entries(0b101).of(10), [0, 2]);
        assert_eq!(Entries(0b101).of(2), [0]);
        assert_eq!(Entries(0b100).of(2), [0], "none of them is the first");
        assert_eq!(Entries(u16::MAX).of(10).len(), 10);
        assert_eq!(Entries(1).of(0), [0; 0]);
    }

    #[test]
    fn other_operations_are_spared() {
        let faults = Faults::none(1).with(FaultKind::Reset, 1000).only(["PutItem", "Query"]);
        assert_eq!(faults.befalling("Query", 3), Some(Fault::Reset));
        assert_eq!(faults.befalling("GetItem", 3), None);
    }
}

//! What all aggregates share: the trait that one implements, and [`Root`], which folds a stream into its present state
//! and decides what a command adds to it.

mod remembered;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use remembered::Remembered;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{AggregateType, CommandDigest, CommandId, EventId, Timestamp};

/// How many of its latest commands an aggregate remembers. A retry that comes after more than this many other commands
/// on the same aggregate is taken for a new command.
pub const REMEMBERED_COMMANDS: usize = 128;

/// A consistency boundary: commands on one aggregate are decided one after another, each on the state that the one
/// before left behind. Its state can be written and read, for snapshots.
pub trait Aggregate: Clone + Serialize + DeserializeOwned + Send + Sync + Sized + 'static {
    /// The kind, part of every key.
    const TYPE: AggregateType;
    /// The schema of the state in a snapshot. To be raised with every change of the state's fields and of what
    /// [`evolve`](Self::evolve) makes of an event: snapshots of another schema are passed over, and their states
    /// rebuilt from the events.
    const STATE_SCHEMA: u32;

    /// What can be asked of it.
    type Command: Send + Sync;
    /// What can have happened to it.
    type Event: Clone + Send + Sync;
    /// Why a command may be refused.
    type Refusal;

    /// What the command adds, given the state (`None` before the first event) and the time. An accepted command adds
    /// at least one event: the event is what remembers that the command was answered. One that creates the aggregate adds
    /// exactly one, which says for ever how it was answered.
    fn decide(
        state: Option<&Self>,
        command: &Self::Command,
        at: Timestamp,
    ) -> Result<Vec<Self::Event>, Self::Refusal>;

    /// The state after the event. Accepts every event that [`decide`](Self::decide) yields on that state.
    fn evolve(state: Option<Self>, event: &Self::Event) -> Result<Self, Misfit>;

    /// The keys that this aggregate alone may hold within its tenant. What an event adds to and takes from this list
    /// is claimed and released in the commit that stores the event.
    fn unique_keys(&self) -> Vec<UniqueKey> {
        Vec::new()
    }
}

/// A value that at most one aggregate of a tenant holds at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UniqueKey {
    /// What the value is, such as `user.email`.
    pub scope: &'static str,
    /// The value in its normal form. May be personal data: not for logs.
    pub value: String,
}

/// An event that cannot follow the history before it: the stream is damaged, or was written by a newer release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misfit(pub &'static str);

/// An event at its place in a stream, with the command that caused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded<E> {
    /// Its place: 1, 2, 3 …
    pub version: u64,
    /// Its id.
    pub event_id: EventId,
    /// The command that caused it.
    pub command_id: CommandId,
    /// The digest of that command's body.
    pub command_digest: CommandDigest,
    /// What happened.
    pub event: E,
}

/// What an accepted command is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The aggregate's version after the command.
    pub version: u64,
    /// The last event that the command added.
    pub event_id: EventId,
}

/// A command that was answered before, as the state remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Answer", into = "Answer")]
struct Answered {
    command_id: CommandId,
    /// What tells most other ids apart without a look at their text, which stands elsewhere in memory.
    mark: u64,
    digest: CommandDigest,
    receipt: Receipt,
}

impl Answered {
    fn new(command_id: CommandId, digest: CommandDigest, receipt: Receipt) -> Self {
        Self { mark: mark(&command_id), command_id, digest, receipt }
    }
}

/// Equal ids have equal marks. Nothing rests on others having other ones, and none is stored.
fn mark(command_id: &CommandId) -> u64 {
    let mut hasher = DefaultHasher::new();
    command_id.hash(&mut hasher);
    hasher.finish()
}

/// [`Answered`] in a snapshot, of which 128 of these are nearly all: without names, half the size.
type Answer = (CommandId, CommandDigest, u64, EventId);

impl From<Answer> for Answered {
    fn from((command_id, digest, version, event_id): Answer) -> Self {
        Self::new(command_id, digest, Receipt { version, event_id })
    }
}

impl From<Answered> for Answer {
    fn from(Answered { command_id, mark: _, digest, receipt }: Answered) -> Self {
        (command_id, digest, receipt.version, receipt.event_id)
    }
}

/// What a command comes to on an aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision<E> {
    /// It was answered before, with this receipt, and adds nothing.
    Replay(Receipt),
    /// It adds these events.
    Append(Vec<E>),
}

/// Why a command is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused<R> {
    /// Its id was used before, with another body.
    CommandIdReused,
    /// The caller expects another version than the current one.
    VersionConflict {
        /// The current version.
        current: u64,
    },
    /// A rule of the aggregate forbids it.
    Rule(R),
}

/// An aggregate with its place in time: the state, the version, and the commands answered lately.
///
/// A root is the fold of its stream and nothing else, so it can be dropped and rebuilt at any time; kept in a cache or
/// a snapshot it only saves reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root<A> {
    state: Option<A>,
    version: u64,
    answered: Remembered,
}

impl<A> Default for Root<A> {
    /// The root of an empty stream.
    fn default() -> Self {
        Self { state: None, version: 0, answered: Remembered::default() }
    }
}

impl<A: Aggregate> Root<A> {
    /// The state; `None` before the first event.
    pub fn state(&self) -> Option<&A> {
        self.state.as_ref()
    }

    /// The version of the last event; 0 before the first.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The id of the last event; `None` before the first.
    pub fn last_event(&self) -> Option<EventId> {
        self.answered.last().map(|last| last.receipt.event_id)
    }

    /// About how many bytes of memory the commands take that the root remembers, which is what makes one large.
    pub fn remembered_bytes(&self) -> usize {
        // The text of an id stands on the heap, behind two counts.
        let bytes =
            |a: &Answered| size_of::<Answered>() + 2 * size_of::<usize>() + a.command_id.as_str().len();
        self.answered.held().map(bytes).sum()
    }

    /// The root after one more event, which must be the next one.
    pub fn apply(mut self, recorded: &Recorded<A::Event>) -> Result<Self, Misfit> {
        if self.version.checked_add(1) != Some(recorded.version) {
            return Err(Misfit("the event is not the next one of its stream"));
        }
        let state = A::evolve(self.state, &recorded.event)?;
        let receipt = Receipt { version: recorded.version, event_id: recorded.event_id };
        match self.answered.last_mut() {
            // A command's events follow each other; the last one is its result.
            Some(last) if last.command_id == recorded.command_id => last.receipt = receipt,
            _ => self.answered.push(Answered::new(
                recorded.command_id.clone(),
                recorded.command_digest,
                receipt,
            )),
        }
        Ok(Self { state: Some(state), version: recorded.version, answered: self.answered })
    }

    /// What a command comes to: an earlier answer, new events, or a refusal.
    ///
    /// `expected` is the version that the caller has seen, where it named one.
    pub fn decide(
        &self,
        command_id: &CommandId,
        digest: CommandDigest,
        expected: Option<u64>,
        command: &A::Command,
        at: Timestamp,
    ) -> Result<Decision<A::Event>, Refused<A::Refusal>> {
        let mark = mark(command_id);
        let is_it = |earlier: &&Answered| earlier.mark == mark && earlier.command_id == *command_id;
        if let Some(earlier) = self.answered.newest_first().find(is_it) {
            return if earlier.digest == digest {
                Ok(Decision::Replay(earlier.receipt))
            } else {
                Err(Refused::CommandIdReused)
            };
        }
        match expected {
            Some(expected) if self.state.is_some() && expected != self.version => {
                Err(Refused::VersionConflict { current: self.version })
            }
            _ => A::decide(self.state(), command, at).map(Decision::Append).map_err(Refused::Rule),
        }
    }

    /// The keys that the aggregate holds.
    pub fn unique_keys(&self) -> Vec<UniqueKey> {
        self.state.as_ref().map(A::unique_keys).unwrap_or_default()
    }
}

/// Given/when/then for the aggregates' own tests.
#[cfg(test)]
pub(crate) mod testing {
    use std::fmt::Debug;

    use uuid::Uuid;

    use super::*;

    /// The time at which everything in a test happens.
    pub(crate) fn noon() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    /// The state after a history, if there is one.
    #[track_caller]
    pub(crate) fn given<A: Aggregate>(history: &[A::Event]) -> Given<A> {
        let fold = |state, event| A::evolve(state, event).map(Some);
        Given(history.iter().try_fold(None, fold).expect("a history that fits"))
    }

    /// A state to try a command on.
    pub(crate) struct Given<A>(Option<A>);

    impl<A: Aggregate> Given<A>
    where
        A::Event: Debug + PartialEq,
        A::Refusal: Debug + PartialEq,
    {
        #[track_caller]
        pub(crate) fn when(self, command: A::Command) -> Outcome<A> {
            Outcome(A::decide(self.0.as_ref(), &command, noon()))
        }
    }

    /// What a command came to.
    pub(crate) struct Outcome<A: Aggregate>(Result<Vec<A::Event>, A::Refusal>);

    impl<A: Aggregate> Outcome<A>
    where
        A::Event: Debug + PartialEq,
        A::Refusal: Debug + PartialEq,
    {
        #[track_caller]
        pub(crate) fn then(self, events: &[A::Event]) {
            assert_eq!(self.0.expect("the command to be accepted"), events);
        }

        #[track_caller]
        pub(crate) fn then_refused(self, refusal: A::Refusal) {
            assert_eq!(self.0.expect_err("the command to be refused"), refusal);
        }
    }

    /// What a command came to on a root.
    pub(crate) type Decided<A> =
        Result<Decision<<A as Aggregate>::Event>, Refused<<A as Aggregate>::Refusal>>;

    /// Sends a command to a root as a service would, and applies what comes of it.
    pub(crate) fn send<A: Aggregate>(
        root: Root<A>,
        id: &str,
        body: u128,
        command: &A::Command,
    ) -> (Root<A>, Decided<A>) {
        let command_id: CommandId = id.parse().unwrap();
        let decision = root.decide(&command_id, CommandDigest(body), None, command, noon());
        let Ok(Decision::Append(events)) = &decision else { return (root, decision) };
        assert!(!events.is_empty(), "an accepted command leaves an event behind");
        let mut root = root;
        for event in events {
            let recorded = Recorded {
                version: root.version() + 1,
                event_id: EventId(Uuid::from_u128(u128::from(root.version()) + 1)),
                command_id: command_id.clone(),
                command_digest: CommandDigest(body),
                event: event.clone(),
            };
            root = root.apply(&recorded).expect("evolve accepts what decide yields");
        }
        (root, decision)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::{testing::noon, *};

    /// The smallest aggregate: it counts.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    struct Counter(u64);

    impl Aggregate for Counter {
        const TYPE: AggregateType = AggregateType::of("counter");
        const STATE_SCHEMA: u32 = 1;
        type Command = u64;
        type Event = u64;
        type Refusal = ();

        fn decide(_: Option<&Self>, amount: &u64, _: Timestamp) -> Result<Vec<u64>, ()> {
            if *amount == 0 { Err(()) } else { Ok((1..=*amount).collect()) }
        }

        fn evolve(state: Option<Self>, amount: &u64) -> Result<Self, Misfit> {
            Ok(Self(state.map_or(0, |s| s.0) + amount))
        }
    }

    #[test]
    fn a_repeated_command_gets_its_first_receipt_and_adds_nothing() {
        let (root, _) = testing::send(Root::<Counter>::default(), "a", 1, &3);
        let (root, _) = testing::send(root, "b", 1, &1);
        let before = root.clone();
        let (after, decision) = testing::send(root, "a", 1, &3);
        let receipt = Receipt { version: 3, event_id: EventId(Uuid::from_u128(3)) };
        assert_eq!(decision, Ok(Decision::Replay(receipt)));
        assert_eq!(after, before);
    }

    #[test]
    fn a_command_id_with_another_body_is_refused() {
        let (root, _) = testing::send(Root::<Counter>::default(), "a", 1, &1);
        assert_eq!(testing::send(root, "a", 2, &1).1, Err(Refused::CommandIdReused));
    }

    #[test]
    fn the_last_128_commands_are_remembered_and_no_more() {
        let mut root = Root::<Counter>::default();
        for id in 0..=REMEMBERED_COMMANDS {
            root = testing::send(root, &id.to_string(), 1, &1).0;
        }
        assert!(matches!(testing::send(root.clone(), "1", 1, &1).1, Ok(Decision::Replay(_))));
        assert!(matches!(testing::send(root, "0", 1, &1).1, Ok(Decision::Append(_))));
    }

    #[test]
    fn an_id_with_the_mark_of_another_is_another_id() {
        let asked: CommandId = "asked".parse().unwrap();
        let receipt = Receipt { version: 1, event_id: EventId(Uuid::from_u128(1)) };
        let other = Answered::new("other".parse().unwrap(), CommandDigest(1), receipt);
        let collides = Answered { mark: mark(&asked), ..other };
        let decide = |answered: Vec<Answered>| {
            let root = Root { state: Some(Counter(1)), version: 1, answered: answered.into_iter().collect() };
            root.decide(&asked, CommandDigest(1), None, &1, noon())
        };
        assert_eq!(decide(vec![collides.clone()]), Ok(Decision::Append(vec![1])), "it was not seen");
        let seen = Answered::new(asked.clone(), CommandDigest(1), receipt);
        for answered in [vec![collides.clone(), seen.clone()], vec![seen, collides]] {
            assert_eq!(decide(answered), Ok(Decision::Replay(receipt)), "it was seen");
        }
    }

    /// What may befall a root. There are several at a time, numbered, as a cache, snapshots and commands in flight have
    /// them, and copies share what they remember.
    #[derive(Debug, Clone)]
    enum Step {
        /// A command that adds so many events, given to the root.
        Send { root: usize, id: u16, events: u64 },
        /// So many commands with ids of their own, given to the root.
        SendMany { root: usize, count: u16 },
        /// The second takes the place of the first.
        Copy { to: usize, from: usize },
        /// The root is written into a snapshot and read from it.
        Keep { root: usize },
    }

    const ROOTS: usize = 3;

    fn step() -> impl Strategy<Value = Step> {
        let root = || 0..ROOTS;
        prop_oneof![
            4 => (root(), 0..200_u16, 1..4_u64).prop_map(|(root, id, events)| Step::Send { root, id, events }),
            2 => (root(), 1..40_u16).prop_map(|(root, count)| Step::SendMany { root, count }),
            2 => (root(), root()).prop_map(|(to, from)| Step::Copy { to, from }),
            1 => root().prop_map(|root| Step::Keep { root }),
        ]
    }

    /// A root as it might have been written without a thought for speed: every id with its receipt, the oldest first.
    #[derive(Debug, Clone, Default)]
    struct Model {
        version: u64,
        answered: VecDeque<(String, Receipt)>,
    }

    impl Model {
        /// The receipt of a command, and whether it was answered before.
        fn send(&mut self, id: &str, events: u64) -> (Receipt, bool) {
            if let Some((_, earlier)) = self.answered.iter().find(|(seen, _)| seen == id) {
                return (*earlier, true);
            }
            self.version += events;
            let receipt =
                Receipt { version: self.version, event_id: EventId(Uuid::from_u128(self.version.into())) };
            self.answered.push_back((id.to_owned(), receipt));
            if self.answered.len() > REMEMBERED_COMMANDS {
                self.answered.pop_front();
            }
            (receipt, false)
        }
    }

    fn send_both(root: &mut Root<Counter>, model: &mut Model, id: &str, events: u64) {
        let (receipt, is_replay) = model.send(id, events);
        let (after, decision) = testing::send(std::mem::take(root), id, 1, &events);
        if is_replay {
            assert_eq!(decision, Ok(Decision::Replay(receipt)), "{id}");
        } else {
            assert!(matches!(decision, Ok(Decision::Append(_))), "{id}: {decision:?}");
        }
        assert_eq!(after.version(), model.version);
        *root = after;
    }

    proptest! {
        #[test]
        fn roots_that_share_what_they_remember_answer_as_a_plain_list_would(
            steps in prop::collection::vec(step(), 1..60),
        ) {
            let mut roots = vec![(Root::<Counter>::default(), Model::default()); ROOTS];
            let mut told = 1000_u32;
            for step in steps {
                match step {
                    Step::Send { root, id, events } => {
                        let (root, model) = &mut roots[root];
                        send_both(root, model, &id.to_string(), events);
                    }
                    Step::SendMany { root, count } => {
                        let (root, model) = &mut roots[root];
                        for _ in 0..count {
                            told += 1;
                            send_both(root, model, &told.to_string(), 1);
                        }
                    }
                    Step::Copy { to, from } => roots[to] = roots[from].clone(),
                    Step::Keep { root } => {
                        let kept = serde_json::to_value(&roots[root].0).unwrap();
                        prop_assert!(kept["answered"].as_array().unwrap().len() <= REMEMBERED_COMMANDS);
                        let read = serde_json::from_value(kept).unwrap();
                        prop_assert_eq!(&roots[root].0, &read);
                        roots[root].0 = read;
                    }
                }
            }
            // Exactly these, with exactly these receipts, and in this order.
            for (root, model) in &roots {
                let remembered = root.answered.newest_first();
                let remembered: Vec<_> = remembered.map(|a| (a.command_id.to_string(), a.receipt)).collect();
                let expected: Vec<_> = model.answered.iter().rev().cloned().collect();
                prop_assert_eq!(remembered, expected);
                prop_assert_eq!(root.last_event(), model.answered.back().map(|(_, last)| last.event_id));
            }
        }
    }

    #[test]
    fn an_expected_version_must_be_the_current_one_unless_the_command_is_a_retry() {
        let (root, _) = testing::send(Root::<Counter>::default(), "a", 1, &1);
        let decide = |id: &str, expected| {
            root.decide(&id.parse().unwrap(), CommandDigest(1), Some(expected), &1, noon())
        };
        assert_eq!(decide("b", 2), Err(Refused::VersionConflict { current: 1 }));
        assert_eq!(decide("b", 1), Ok(Decision::Append(vec![1])));
        assert!(matches!(decide("a", 9), Ok(Decision::Replay(_))));
    }

    #[test]
    fn a_root_in_a_snapshot_is_its_state_its_version_and_the_commands_it_remembers() {
        let (root, _) = testing::send(Root::<Counter>::default(), "a", 1, &2);
        let kept = serde_json::json!({
            "state": 3,
            "version": 2,
            "answered": [
                ["a", "00000000000000000000000000000001", 2, "00000000-0000-0000-0000-000000000002"],
            ],
        });
        // Another form is another schema of every aggregate's state.
        assert_eq!(serde_json::to_value(&root).unwrap(), kept);
        assert_eq!(root.last_event(), Some(EventId(Uuid::from_u128(2))));
        assert_eq!(serde_json::from_value::<Root<Counter>>(kept).unwrap(), root);
    }

    #[test]
    fn an_event_out_of_order_is_a_misfit() {
        let recorded = Recorded {
            version: 2,
            event_id: EventId(Uuid::nil()),
            command_id: "a".parse().unwrap(),
            command_digest: CommandDigest(1),
            event: 1,
        };
        assert!(Root::<Counter>::default().apply(&recorded).is_err());
    }
}

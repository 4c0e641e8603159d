//! The common parts of all aggregates: the trait that each implements, and [`AggregateState`], which folds a stream
//! into its present state and decides which events a command adds.

mod remembered;

use remembered::Remembered;
pub use remembered::{AnsweredCommand, fingerprint};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{AggregateType, CommandId, EventId, Timestamp};

/// How many of its latest commands a state remembers. Where these came within minutes, the command handler remembers
/// more, in blocks beside the state.
pub const REMEMBERED_COMMANDS: usize = 128;

/// A consistency boundary: commands on one aggregate are decided one after another, each on the state that the one
/// before left behind. Its state can be written and read, for snapshots.
pub trait Aggregate: Clone + Serialize + DeserializeOwned + Send + Sync + Sized + 'static {
    /// The kind, part of every key.
    const TYPE: AggregateType;
    /// The schema of the state in a snapshot. Raise it with every change of the state's fields or of the result of
    /// [`evolve`](Self::evolve): snapshots of another schema are ignored, and their states rebuilt from the events.
    const STATE_SCHEMA: u32;

    /// Its commands.
    type Command: Send + Sync;
    /// Its events.
    type Event: Clone + Send + Sync;
    /// Why a command may be refused.
    type Error: Into<Rejection>;

    /// The events that the command adds, given the state (`None` before the first event) and the time. An accepted command
    /// adds at least one: the event records that the command was answered. A command that creates the aggregate adds
    /// exactly one, which records the answer for ever: a retry finds it as version 1, however long the history is. Any other
    /// number is INTERNAL, and nothing is stored.
    ///
    /// A refusal that depends on the time is not final: an earlier request may still be under way.
    fn decide(
        state: Option<&Self>,
        command: &Self::Command,
        at: Timestamp,
    ) -> Result<Vec<Self::Event>, Self::Error>;

    /// The state after the event. Accepts every event that [`decide`](Self::decide) yields on that state.
    fn evolve(state: Option<Self>, event: &Self::Event) -> Result<Self, EvolveError>;

    /// The keys that this aggregate alone may hold within its tenant. The commit that stores an event claims the keys
    /// that it adds to this list and releases those that it removes.
    fn unique_keys(&self) -> Vec<UniqueKey> {
        Vec::new()
    }
}

/// A refused command, as its caller sees it: the kinds of refusal that all aggregates share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// The aggregate does not exist.
    NotFound,
    /// The aggregate exists already. Its id follows from the id of the command that created it, so the command's id was
    /// used before.
    AlreadyExists,
    /// A rule forbids the command in the present state.
    Rule {
        /// The kind of rule, for programs, such as `ORDER_STATUS`.
        kind: &'static str,
        /// The reason, for people.
        description: String,
    },
}

/// A value that at most one aggregate of a tenant holds at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UniqueKey {
    /// The kind of value, such as `user.email`. Where another aggregate holds the value, the caller gets ALREADY_EXISTS with a
    /// reason of the last part, EMAIL_TAKEN.
    pub scope: &'static str,
    /// The value in its normal form. May be personal data: not for logs.
    pub value: String,
}

/// An event that cannot follow the history before it: the stream is damaged, or was written by a newer release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EvolveError(pub &'static str);

/// An event at its place in a stream, with the command that caused it: the input of a fold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedEvent<E> {
    /// The version: 1, 2, 3 …
    pub version: u64,
    /// Its id.
    pub event_id: EventId,
    /// The command that caused it.
    pub command_id: CommandId,
    /// The time of the event.
    pub at: Timestamp,
    /// The event.
    pub event: E,
}

/// The result of an accepted command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitReceipt {
    /// The aggregate's version after the command.
    pub version: u64,
    /// The last event that the command added.
    pub event_id: EventId,
}

/// Why a command is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecideError<R> {
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
/// It is the fold of its stream and nothing else, so it can be dropped and rebuilt at any time; in a cache or a snapshot it
/// only saves reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AggregateState<A> {
    state: Option<A>,
    version: u64,
    last_event: Option<EventId>,
    /// The command of the last event. Its id and not its fingerprint tells whether the next event belongs to it too.
    last_command: Option<CommandId>,
    answered: Remembered,
}

impl<A> Default for AggregateState<A> {
    /// That of an empty stream.
    fn default() -> Self {
        Self {
            state: None,
            version: 0,
            last_event: None,
            last_command: None,
            answered: Remembered::default(),
        }
    }
}

impl<A: Aggregate> AggregateState<A> {
    /// The state; `None` before the first event.
    pub fn state(&self) -> Option<&A> {
        self.state.as_ref()
    }

    /// The version of the last event; 0 before the first.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The id of the last event; `None` before the first, and for a damaged snapshot that forgot the last command.
    pub fn last_event(&self) -> Option<EventId> {
        let last = self.answered.last().filter(|last| last.version == self.version);
        last.and(self.last_event)
    }

    /// About how many bytes of memory the remembered commands take.
    pub fn remembered_bytes(&self) -> usize {
        let last = self.last_command.as_ref().map_or(0, |id| id.as_str().len());
        self.answered.held().count() * size_of::<AnsweredCommand>() + last
    }

    /// The state after one more event, which must be the stream's next one.
    pub fn apply(mut self, recorded: &CommittedEvent<A::Event>) -> Result<Self, EvolveError> {
        if self.version.checked_add(1) != Some(recorded.version) {
            return Err(EvolveError("the event is not the next one of its stream"));
        }
        let state = A::evolve(self.state, &recorded.event)?;
        let answered = AnsweredCommand::new(&recorded.command_id, recorded.version, recorded.at);
        match self.answered.last_mut() {
            // A command's events follow each other; the last one is its result.
            Some(last) if self.last_command.as_ref() == Some(&recorded.command_id) => *last = answered,
            _ => self.answered.push(answered),
        }
        Ok(Self {
            state: Some(state),
            version: recorded.version,
            last_event: Some(recorded.event_id),
            last_command: Some(recorded.command_id.clone()),
            answered: self.answered,
        })
    }

    /// The versions at which this command's last event may be, the newest first; nearly always one at most. The event
    /// there has the command's id, or belongs to another command with the same fingerprint.
    pub fn seen(&self, command_id: &CommandId) -> impl Iterator<Item = u64> {
        let fingerprint = fingerprint(command_id);
        self.answered.newest_first().filter(move |a| a.fingerprint == fingerprint).map(|a| a.version)
    }

    /// The remembered commands, the oldest first.
    pub fn answered(&self) -> impl Iterator<Item = &AnsweredCommand> {
        self.answered.oldest_first()
    }

    /// The oldest remembered command, if earlier ones may be forgotten.
    pub fn oldest_answered(&self) -> Option<&AnsweredCommand> {
        self.answered.oldest_of_all()
    }

    /// The newest command.
    pub fn newest_answered(&self) -> Option<&AnsweredCommand> {
        self.answered.last()
    }

    /// Decides a command that was not [seen](Self::seen): new events, or a refusal.
    ///
    /// `expected` is the version that the caller has seen, where it named one.
    pub fn decide(
        &self,
        expected: Option<u64>,
        command: &A::Command,
        at: Timestamp,
    ) -> Result<Vec<A::Event>, DecideError<A::Error>> {
        match expected {
            Some(expected) if self.state.is_some() && expected != self.version => {
                Err(DecideError::VersionConflict { current: self.version })
            }
            _ => A::decide(self.state(), command, at).map_err(DecideError::Rule),
        }
    }

    /// The keys that the aggregate holds.
    pub fn unique_keys(&self) -> Vec<UniqueKey> {
        self.state.as_ref().map(A::unique_keys).unwrap_or_default()
    }
}

/// Commands without a service, for tests of the behaviour that all aggregates share.
#[doc(hidden)]
pub mod testing {
    use uuid::Uuid;

    use super::*;

    /// The time at which everything in a test happens.
    pub fn noon() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().expect("a time by RFC 3339")
    }

    /// The result of a command on a state.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Decision<E> {
        /// The command was answered before, by the event of this version; it adds nothing.
        Replay(u64),
        /// The command adds these events.
        Append(Vec<E>),
    }

    /// A command's outcome on a state.
    pub type Decided<A> = Result<Decision<<A as Aggregate>::Event>, DecideError<<A as Aggregate>::Error>>;

    /// Decides a command on a state, as a service would, and applies the events.
    pub fn send<A: Aggregate>(
        state: AggregateState<A>,
        id: &str,
        command: &A::Command,
    ) -> (AggregateState<A>, Decided<A>) {
        let command_id: CommandId = id.parse().expect("a command id");
        let seen = state.seen(&command_id).next();
        if let Some(version) = seen {
            return (state, Ok(Decision::Replay(version)));
        }
        let events = match state.decide(None, command, noon()) {
            Ok(events) => events,
            Err(refused) => return (state, Err(refused)),
        };
        assert!(!events.is_empty(), "an accepted command leaves an event behind");
        let mut state = state;
        for event in &events {
            let recorded = CommittedEvent {
                version: state.version() + 1,
                event_id: EventId(Uuid::from_u128(u128::from(state.version()) + 1)),
                command_id: command_id.clone(),
                at: noon(),
                event: event.clone(),
            };
            state = state.apply(&recorded).expect("evolve accepts what decide yields");
        }
        (state, Ok(Decision::Append(events)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::{
        testing::{Decision, noon},
        *,
    };

    /// The smallest aggregate: it counts.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    struct Counter(u64);

    #[derive(Debug, PartialEq, Eq)]
    struct Zero;

    impl From<Zero> for Rejection {
        fn from(Zero: Zero) -> Self {
            Self::Rule { kind: "NOT_ZERO", description: "nothing is counted".to_owned() }
        }
    }

    impl Aggregate for Counter {
        const TYPE: AggregateType = AggregateType::new("counter");
        const STATE_SCHEMA: u32 = 1;
        type Command = u64;
        type Event = u64;
        type Error = Zero;

        fn decide(_: Option<&Self>, amount: &u64, _: Timestamp) -> Result<Vec<u64>, Zero> {
            if *amount == 0 { Err(Zero) } else { Ok((1..=*amount).collect()) }
        }

        fn evolve(state: Option<Self>, amount: &u64) -> Result<Self, EvolveError> {
            Ok(Self(state.map_or(0, |s| s.0) + amount))
        }
    }

    #[test]
    fn a_repeated_command_gets_its_first_receipt_and_adds_nothing() {
        let (state, _) = testing::send(AggregateState::<Counter>::default(), "a", &3);
        let (state, _) = testing::send(state, "b", &1);
        let before = state.clone();
        let (after, decision) = testing::send(state, "a", &3);
        assert_eq!(decision, Ok(Decision::Replay(3)));
        assert_eq!(after, before);
    }

    #[test]
    fn the_last_128_commands_are_remembered_and_no_more() {
        let mut state = AggregateState::<Counter>::default();
        for id in 0..=REMEMBERED_COMMANDS {
            state = testing::send(state, &id.to_string(), &1).0;
        }
        assert!(matches!(testing::send(state.clone(), "1", &1).1, Ok(Decision::Replay(_))));
        assert!(matches!(testing::send(state, "0", &1).1, Ok(Decision::Append(_))));
    }

    #[test]
    fn commands_with_equal_fingerprints_are_both_remembered() {
        let asked: CommandId = "asked".parse().unwrap();
        // Of another command with the fingerprint of this one.
        let state = AggregateState {
            state: Some(Counter(1)),
            version: 1,
            last_event: Some(EventId(Uuid::from_u128(1))),
            last_command: Some("other".parse().unwrap()),
            answered: [AnsweredCommand::new(&asked, 1, noon())].into_iter().collect(),
        };
        let state = [2_u64, 3].into_iter().fold(state, |state, version| {
            let event_id = EventId(Uuid::from_u128(version.into()));
            let event = CommittedEvent { version, event_id, command_id: asked.clone(), at: noon(), event: 1 };
            state.apply(&event).unwrap()
        });
        assert_eq!(state.seen(&asked).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(state.seen(&"other".parse().unwrap()).next(), None);
    }

    /// An operation on a state. There are several numbered states at a time, as in a cache, snapshots and commands in
    /// flight, and copies share their remembered commands.
    #[derive(Debug, Clone)]
    enum Step {
        /// A command that adds a number of events.
        Send { state: usize, id: u16, events: u64 },
        /// A number of commands with ids of their own.
        SendMany { state: usize, count: u16 },
        /// The second takes the place of the first.
        Copy { to: usize, from: usize },
        /// The state is written into a snapshot and read from it.
        Keep { state: usize },
    }

    const STATES: usize = 3;

    fn step() -> impl Strategy<Value = Step> {
        let state = || 0..STATES;
        prop_oneof![
            4 => (state(), 0..200_u16, 1..4_u64).prop_map(|(state, id, events)| Step::Send { state, id, events }),
            2 => (state(), 1..40_u16).prop_map(|(state, count)| Step::SendMany { state, count }),
            2 => (state(), state()).prop_map(|(to, from)| Step::Copy { to, from }),
            1 => state().prop_map(|state| Step::Keep { state }),
        ]
    }

    /// The same without a thought for speed: every id with its version, the oldest first.
    #[derive(Debug, Clone, Default)]
    struct Model {
        version: u64,
        answered: VecDeque<(String, u64)>,
    }

    impl Model {
        /// The version that answers a command, and whether it was answered before.
        fn send(&mut self, id: &str, events: u64) -> (u64, bool) {
            if let Some((_, earlier)) = self.answered.iter().find(|(seen, _)| seen == id) {
                return (*earlier, true);
            }
            self.version += events;
            self.answered.push_back((id.to_owned(), self.version));
            if self.answered.len() > REMEMBERED_COMMANDS {
                self.answered.pop_front();
            }
            (self.version, false)
        }
    }

    fn send_both(state: &mut AggregateState<Counter>, model: &mut Model, id: &str, events: u64) {
        let (version, is_replay) = model.send(id, events);
        let (after, decision) = testing::send(std::mem::take(state), id, &events);
        if is_replay {
            assert_eq!(decision, Ok(Decision::Replay(version)), "{id}");
        } else {
            assert!(matches!(decision, Ok(Decision::Append(_))), "{id}: {decision:?}");
        }
        assert_eq!(after.version(), model.version);
        *state = after;
    }

    proptest! {
        #[test]
        fn states_that_share_what_they_remember_answer_as_a_plain_list_would(
            steps in prop::collection::vec(step(), 1..60),
        ) {
            let mut states = vec![(AggregateState::<Counter>::default(), Model::default()); STATES];
            let mut told = 1000_u32;
            for step in steps {
                match step {
                    Step::Send { state, id, events } => {
                        let (state, model) = &mut states[state];
                        send_both(state, model, &id.to_string(), events);
                    }
                    Step::SendMany { state, count } => {
                        let (state, model) = &mut states[state];
                        for _ in 0..count {
                            told += 1;
                            send_both(state, model, &told.to_string(), 1);
                        }
                    }
                    Step::Copy { to, from } => states[to] = states[from].clone(),
                    Step::Keep { state } => {
                        let kept = serde_json::to_value(&states[state].0).unwrap();
                        prop_assert!(kept["answered"].as_str().unwrap().len() < REMEMBERED_COMMANDS * 2 * 13);
                        let read = serde_json::from_value(kept).unwrap();
                        prop_assert_eq!(&states[state].0, &read);
                        states[state].0 = read;
                    }
                }
            }
            // Exactly these, and in this order.
            for (state, model) in &states {
                let remembered: Vec<_> =
                    state.answered.newest_first().map(|a| (a.fingerprint, a.version)).collect();
                let expected: Vec<_> = model
                    .answered
                    .iter()
                    .rev()
                    .map(|(id, version)| (fingerprint(&id.parse().unwrap()), *version))
                    .collect();
                prop_assert_eq!(remembered, expected);
                let last = (model.version > 0).then(|| EventId(Uuid::from_u128(model.version.into())));
                prop_assert_eq!(state.last_event(), last);
            }
        }
    }

    #[test]
    fn an_expected_version_must_be_the_current_one() {
        let (state, _) = testing::send(AggregateState::<Counter>::default(), "a", &1);
        let decide = |expected| state.decide(Some(expected), &1, noon());
        for other in [0, 2] {
            assert_eq!(decide(other), Err(DecideError::VersionConflict { current: 1 }));
        }
        assert_eq!(decide(1), Ok(vec![1]));
    }

    #[test]
    fn a_snapshot_holds_the_state_the_version_and_the_remembered_commands() {
        let (state, _) = testing::send(AggregateState::<Counter>::default(), "a", &2);
        let kept = serde_json::json!({
            "state": 3,
            "version": 2,
            "last_event": "00000000-0000-0000-0000-000000000002",
            "last_command": "a",
            "answered": "9a8a780d0530b3920280aba1b00d",
        });
        // Another form is another key of every snapshot: see the event store's.
        assert_eq!(serde_json::to_value(&state).unwrap(), kept);
        assert_eq!(state.last_event(), Some(EventId(Uuid::from_u128(2))));
        assert_eq!(serde_json::from_value::<AggregateState<Counter>>(kept).unwrap(), state);
    }

    #[test]
    fn an_event_out_of_order_is_a_misfit() {
        let recorded = CommittedEvent {
            version: 2,
            event_id: EventId(Uuid::nil()),
            command_id: "a".parse().unwrap(),
            at: noon(),
            event: 1,
        };
        assert!(AggregateState::<Counter>::default().apply(&recorded).is_err());
    }
}

//! Given, when, then: an aggregate's rules, without a store and without a clock.

use std::fmt::Debug;

use millrace_core::{Aggregate, Timestamp};

use crate::noon;

/// An aggregate with this history.
///
/// # Panics
/// Where an event cannot follow those before it.
#[track_caller]
pub fn given<A: Aggregate>(history: &[A::Event]) -> Given<A> {
    let mut state = None;
    for (place, event) in history.iter().enumerate() {
        match A::evolve(state, event) {
            Ok(next) => state = Some(next),
            Err(error) => panic!("event {} of the history does not fit: {error}", place + 1),
        }
    }
    Given(state)
}

/// A state for a command.
#[derive(Debug)]
pub struct Given<A>(Option<A>);

impl<A: Aggregate> Given<A> {
    /// Sends a command at [`noon`].
    pub fn when(self, command: A::Command) -> Outcome<A> {
        self.when_at(noon(), command)
    }

    /// Sends a command at a time.
    pub fn when_at(self, at: Timestamp, command: A::Command) -> Outcome<A> {
        let decided = A::decide(self.0.as_ref(), &command, at);
        Outcome { state: self.0, decided }
    }
}

/// The outcome of a command.
pub struct Outcome<A: Aggregate> {
    state: Option<A>,
    decided: Result<Vec<A::Event>, A::Error>,
}

impl<A: Aggregate<Event: Debug + PartialEq, Error: Debug + PartialEq>> Outcome<A> {
    /// Asserts that the command adds these events, and that they follow the history: `evolve` accepts the events from
    /// `decide`.
    #[track_caller]
    pub fn then(self, events: &[A::Event]) {
        match self.decided {
            Ok(decided) => assert_eq!(decided, events, "the events of the command"),
            Err(error) => panic!("the command was refused: {error:?}"),
        }
        assert!(!events.is_empty(), "an accepted command leaves an event behind");
        assert!(
            self.state.is_some() || events.len() == 1,
            "a command that creates its aggregate adds one event"
        );
        let evolved = events.iter().try_fold(self.state, |state, event| A::evolve(state, event).map(Some));
        if let Err(error) = evolved {
            panic!("`decide` yields what `evolve` refuses: {error}");
        }
    }

    /// Asserts that the command is refused for this reason.
    #[track_caller]
    pub fn then_error(self, error: A::Error) {
        match self.decided {
            Ok(events) => panic!("the command was accepted: {events:?}"),
            Err(refusal) => assert_eq!(refusal, error, "the reason of the refusal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_core::{AggregateType, EvolveError, Rejection};
    use serde::{Deserialize, Serialize};

    use super::*;

    /// A number of events.
    #[derive(Clone, Serialize, Deserialize)]
    struct Counted(usize);

    #[derive(Debug, PartialEq)]
    struct Never;

    impl From<Never> for Rejection {
        fn from(Never: Never) -> Self {
            Self::NotFound
        }
    }

    impl Aggregate for Counted {
        const TYPE: AggregateType = AggregateType::new("counted");
        const STATE_SCHEMA: u32 = 1;
        /// How many events to add.
        type Command = usize;
        type Event = ();
        type Error = Never;

        fn decide(_: Option<&Self>, count: &usize, _: Timestamp) -> Result<Vec<()>, Never> {
            Ok(vec![(); *count])
        }

        fn evolve(state: Option<Self>, (): &()) -> Result<Self, EvolveError> {
            Ok(Self(state.map_or(0, |counted| counted.0) + 1))
        }
    }

    #[test]
    fn a_later_command_may_add_several_events() {
        given::<Counted>(&[()]).when(2).then(&[(), ()]);
    }

    #[test]
    #[should_panic(expected = "a command that creates its aggregate adds one event")]
    fn a_creation_with_several_events_is_found() {
        given::<Counted>(&[]).when(2).then(&[(), ()]);
    }

    #[test]
    #[should_panic(expected = "an accepted command leaves an event behind")]
    fn a_command_without_events_is_found() {
        given::<Counted>(&[()]).when(0).then(&[]);
    }
}

//! States of aggregates in memory: they save reads, and nothing rests on them.

use std::{fmt, mem::size_of, sync::Arc};

use millrace_domain::{Aggregate, Root, StreamId};
use quick_cache::{Weighter, sync::Cache};

use crate::meters;

/// The states of one kind of aggregate that were used lately, bounded by the memory they take.
pub struct States<A> {
    roots: Arc<Cache<StreamId, Arc<Root<A>>, Weight>>,
    known: Arc<Cache<StreamId, ()>>,
}

/// What an entry weighs, in bytes: about what it takes in memory.
#[derive(Clone)]
struct Weight;

/// About what a state with its key and the cache's own entry takes beyond the struct itself: a tenant's, an e-mail's
/// and a name's text.
const OVERHEAD_BYTES: usize = 512;

/// About what an entry of the set of known aggregates takes.
const KNOWN_BYTES: usize = 256;

impl<A: Aggregate> Weighter<StreamId, Arc<Root<A>>> for Weight {
    fn weight(&self, _: &StreamId, root: &Arc<Root<A>>) -> u64 {
        let bytes = size_of::<Root<A>>() + OVERHEAD_BYTES + root.remembered_bytes();
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

impl<A: Aggregate> States<A> {
    /// An empty cache that takes about `bytes` of memory at most; one part in eight of it remembers which aggregates
    /// exist.
    pub fn new(bytes: u64) -> Self {
        let room = |bytes: u64, each: usize| usize::try_from(bytes).unwrap_or(usize::MAX) / each;
        let (known, roots) = (bytes / 8, bytes - bytes / 8);
        Self {
            roots: Arc::new(Cache::with_weighter(room(roots, 2 * OVERHEAD_BYTES).max(1), roots, Weight)),
            known: Arc::new(Cache::new(room(known, KNOWN_BYTES).max(1))),
        }
    }

    /// The state that was kept last, which may be old.
    pub fn get(&self, stream: &StreamId) -> Option<Arc<Root<A>>> {
        let root = self.roots.get(stream);
        meters::state_asked(root.is_some());
        root
    }

    /// Keeps a state, unless a newer one is there.
    pub fn keep(&self, stream: &StreamId, root: Arc<Root<A>>) {
        if self.roots.peek(stream).is_none_or(|kept| kept.version() < root.version()) {
            self.roots.insert(stream.clone(), root);
        }
    }

    /// Whether the aggregate is known to exist.
    pub fn is_known(&self, stream: &StreamId) -> bool {
        self.known.get(stream).is_some() || self.roots.peek(stream).is_some()
    }

    /// Remembers that the aggregate exists.
    pub fn know(&self, stream: &StreamId) {
        self.known.insert(stream.clone(), ());
    }

    /// How much the states weigh, in bytes.
    pub fn weight(&self) -> u64 {
        self.roots.weight()
    }
}

impl<A> Clone for States<A> {
    fn clone(&self) -> Self {
        Self { roots: self.roots.clone(), known: self.known.clone() }
    }
}

impl<A> fmt::Debug for States<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("States")
    }
}

#[cfg(test)]
mod tests {
    use millrace_domain::{
        AggregateType, CommandDigest, CommandId, Email, EventId, Label, Recorded, TenantId, Timestamp,
        UserId,
        user::{User, UserEvent},
    };
    use uuid::Uuid;

    use super::*;

    fn stream() -> StreamId {
        StreamId {
            tenant: TenantId::default(),
            aggregate_type: AggregateType::of("user"),
            id: Uuid::from_u128(1),
        }
    }

    /// A user after so many commands, with ids of so many characters.
    fn root(commands: u64, id_length: usize) -> Arc<Root<User>> {
        let (user_id, at) = (UserId(stream().id), Timestamp::from_unix_micros(0));
        let name = Label::try_from("John".to_owned()).unwrap();
        let email = Email::try_from("john@example.com".to_owned()).unwrap();
        let root = (1..=commands).fold(Root::default(), |root, version| {
            let command_id: CommandId = format!("{version:0id_length$}").parse().unwrap();
            let event = if version == 1 {
                UserEvent::UserCreated { user_id, email: email.clone(), name: name.clone(), created_at: at }
            } else {
                UserEvent::UserProfileUpdated { user_id, email: None, name: None, updated_at: at }
            };
            let event_id = EventId(Uuid::from_u128(version.into()));
            let recorded =
                Recorded { version, event_id, command_id, command_digest: CommandDigest(1), event };
            root.apply(&recorded).unwrap()
        });
        Arc::new(root)
    }

    #[test]
    fn an_older_state_does_not_take_the_place_of_a_newer_one() {
        let states = States::new(1 << 20);
        for (kept, version) in [(2, 2), (1, 2), (3, 3)] {
            states.keep(&stream(), root(kept, 1));
            assert_eq!(states.get(&stream()).unwrap().version(), version, "after {kept}");
        }
    }

    #[test]
    fn a_state_weighs_what_it_remembers() {
        let weight = |commands, id_length| {
            let states = States::new(1 << 20);
            states.keep(&stream(), root(commands, id_length));
            states.weight()
        };
        let (one, many, long) = (weight(1, 10), weight(128, 10), weight(128, 110));
        assert!((500..1_000).contains(&one), "{one}");
        // Two ids, a digest, a version and their places for each command; then a hundred characters more.
        assert!(many > one + 127 * 64, "{one} {many}");
        assert_eq!(long - many, 128 * 100);
    }
}

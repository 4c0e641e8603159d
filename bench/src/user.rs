//! The one domain of all contenders: a user that is given a name, again and again.

use std::{
    fmt,
    sync::atomic::{AtomicU32, Ordering},
};

use millrace_core::{Aggregate as _, StreamId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The name that is given, so that every event is of one size.
pub(crate) const NAME: &str = "John Doe";

/// Another name each time, as long as the usual one. Commands of equal bodies have equal digests, and a snapshot of those
/// would be smaller than any is in use.
pub(crate) fn another_name() -> String {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    format!("John{:04}", GIVEN.fetch_add(1, Ordering::Relaxed) % 10_000)
}

/// A user.
#[derive(Debug, Clone, Copy)]
pub(crate) struct User {
    pub(crate) id: Uuid,
    /// How many events there were when the measuring began.
    pub(crate) length: u64,
}

impl User {
    /// A new user of its own, which has or will have so many events.
    pub(crate) fn new(length: u64) -> Self {
        Self { id: Uuid::new_v4(), length }
    }

    /// Millrace's stream of the user.
    pub(crate) fn stream(&self) -> StreamId {
        StreamId { tenant: TenantId::default(), aggregate_type: shop::user::User::TYPE, id: self.id }
    }

    /// An address that nobody else has.
    pub(crate) fn email(&self) -> String {
        format!("{}@example.com", self.id)
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

/// An event of a user, as the peers store it: the fields of Millrace's own events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Event {
    UserCreated { email: String, name: String },
    UserProfileUpdated { name: String },
}

impl Event {
    /// The event of a version of a user's stream.
    pub(crate) fn of(user: &User, version: u64) -> Self {
        let name = NAME.to_owned();
        match version {
            1 => Self::UserCreated { email: user.email(), name },
            _ => Self::UserProfileUpdated { name },
        }
    }

    /// Its type.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::UserCreated { .. } => "UserCreated",
            Self::UserProfileUpdated { .. } => "UserProfileUpdated",
        }
    }
}

/// A user's state, as the peers fold it and keep it in snapshots.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    email: String,
    name: String,
}

impl State {
    /// The state after an event.
    pub(crate) fn after(self, event: Event) -> Self {
        match event {
            Event::UserCreated { email, name } => Self { email, name },
            Event::UserProfileUpdated { name } => Self { name, ..self },
        }
    }
}

/// The present time.
pub(crate) fn now() -> Timestamp {
    millrace_server::clock::now()
}

/// Today, as `2026-11-25`.
pub(crate) fn today() -> String {
    now().to_string().chars().take(10).collect()
}

//! Names by convention: those of [`millrace_core::names`], which the services use for their defaults, and those that only
//! the templates have.
//!
//! ```
//! use millrace_infra::names;
//!
//! assert_eq!(names::events("shop"), "shop-events");
//! assert_eq!(names::queue("shop", "order-summaries-v1"), "shop-order-summaries-v1");
//! assert_eq!(names::queue_url_output("order-summaries-v1"), "OrderSummariesV1QueueUrl");
//! ```

use std::fmt;

pub use millrace_core::names::{
    bus, dead_letter_queue, events, jobs, queue, relay_leases, snapshots, table, unique_keys,
};

/// The longest prefix that any application may have. Names of projections may leave less.
pub const MAX_PREFIX_LENGTH: usize = 40;

/// The index of the event store by event type and time.
pub const EVENT_TYPE_INDEX: &str = "EventType-Timestamp-index";

/// The attribute that is the key of every read model's table.
pub const ROW_KEY: &str = "Key";

/// The index of parts by the rows that they belong to, where rows sum up parts.
pub const PART_INDEX: &str = "by-target";

/// The attribute that is the hash key of [`PART_INDEX`].
pub const PART_TARGET: &str = "Target";

/// The rule that leads events to a projection's queue.
#[must_use]
pub fn rule(prefix: &str, id: &str) -> String {
    format!("{prefix}-{id}")
}

/// The queue of events that a rule could not deliver.
#[must_use]
pub fn undelivered_queue(prefix: &str) -> String {
    format!("{prefix}-undelivered")
}

/// The rule that leads undecodable items to the undelivered events.
#[must_use]
pub fn undecodable_rule(prefix: &str) -> String {
    format!("{prefix}-undecodable")
}

/// The queue of events that no projection takes, and the rule that leads there.
#[must_use]
pub fn unconsumed(prefix: &str) -> String {
    format!("{prefix}-unconsumed")
}

/// The archive of the event bus.
#[must_use]
pub fn archive(prefix: &str) -> String {
    format!("{prefix}-events")
}

/// The IAM policy and the IAM role of a service or an operator's command, such as `query-service`.
#[must_use]
pub fn access(prefix: &str, program: &str) -> String {
    format!("{prefix}-{program}")
}

/// The output that names a read model's table, such as `OrderSummariesV1Table`.
#[must_use]
pub fn table_output(id: &str) -> String {
    format!("{}Table", pascal_case(id))
}

/// The output with the URL of a projection's queue, such as `OrderSummariesV1QueueUrl`.
#[must_use]
pub fn queue_url_output(id: &str) -> String {
    format!("{}QueueUrl", pascal_case(id))
}

/// The output with the URL of a projection's dead letters, such as `OrderSummariesV1DeadLetterQueueUrl`.
#[must_use]
pub fn dead_letter_queue_url_output(id: &str) -> String {
    format!("{}DeadLetterQueueUrl", pascal_case(id))
}

/// `query-service` becomes `QueryService`.
pub(crate) fn pascal_case(name: &str) -> String {
    let mut pascal = String::new();
    for word in name.split('-') {
        let mut letters = word.chars();
        pascal.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        pascal.extend(letters);
    }
    pascal
}

/// A kind of resource whose names have a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameKind {
    /// A prefix, by default the application's name.
    Prefix,
    /// A projection.
    Projection,
    /// An aggregate type.
    Aggregate,
    /// A table of DynamoDB.
    Table,
    /// An index of DynamoDB.
    Index,
    /// A key attribute of DynamoDB.
    Attribute,
    /// A queue of SQS.
    Queue,
    /// A rule of EventBridge.
    Rule,
    /// A bus of EventBridge.
    Bus,
    /// An archive of EventBridge.
    Archive,
    /// A managed policy of IAM.
    Policy,
    /// A role of IAM.
    Role,
}

impl NameKind {
    /// The number of characters that a name of this kind may have.
    #[must_use]
    pub fn max_length(self) -> usize {
        match self {
            Self::Prefix => MAX_PREFIX_LENGTH,
            Self::Archive => 48,
            Self::Projection | Self::Rule | Self::Role => 64,
            Self::Queue => 80,
            Self::Policy => 128,
            Self::Table | Self::Index | Self::Attribute => 255,
            Self::Bus | Self::Aggregate => 256,
        }
    }

    pub(crate) fn min_length(self) -> usize {
        match self {
            Self::Table | Self::Index => 3,
            Self::Prefix
            | Self::Projection
            | Self::Aggregate
            | Self::Attribute
            | Self::Queue
            | Self::Rule
            | Self::Bus
            | Self::Archive
            | Self::Policy
            | Self::Role => 1,
        }
    }

    /// Whether the characters of a name are accepted, and the words for them.
    pub(crate) fn characters(self, name: &str) -> (bool, &'static str) {
        let all = |others: &[u8]| name.bytes().all(|b| b.is_ascii_alphanumeric() || others.contains(&b));
        match self {
            Self::Prefix => (
                is_lower_case(name) && name.starts_with(|first: char| first.is_ascii_lowercase()),
                "lower-case letters, digits and hyphens, beginning with a letter",
            ),
            // Names of outputs have no hyphens: a word that began with a digit could not be told from the one before.
            Self::Projection => (
                is_lower_case(name)
                    && name.split('-').all(|word| word.starts_with(|first: char| first.is_ascii_lowercase())),
                "words of lower-case letters and digits, each beginning with a letter, with one hyphen between them",
            ),
            // A rule matches on it as it is.
            Self::Aggregate | Self::Attribute => {
                (!name.chars().any(char::is_control), "characters that can be printed")
            }
            Self::Table | Self::Index | Self::Rule | Self::Archive => {
                (all(b"_.-"), "a-z, A-Z, 0-9, '_', '.' and '-'")
            }
            Self::Bus => (all(b"_.-/"), "a-z, A-Z, 0-9, '_', '.', '-' and '/'"),
            Self::Queue => (all(b"_-"), "a-z, A-Z, 0-9, '_' and '-'"),
            Self::Policy | Self::Role => (all(b"+=,.@_-"), "a-z, A-Z, 0-9 and any of +=,.@_-"),
        }
    }
}

impl fmt::Display for NameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prefix => "prefix",
            Self::Projection => "projection",
            Self::Aggregate => "aggregate type",
            Self::Table => "table",
            Self::Index => "index",
            Self::Attribute => "attribute",
            Self::Queue => "queue",
            Self::Rule => "rule",
            Self::Bus => "event bus",
            Self::Archive => "archive",
            Self::Policy => "policy",
            Self::Role => "role",
        })
    }
}

fn is_lower_case(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

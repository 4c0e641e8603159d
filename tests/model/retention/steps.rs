//! The steps of retention, in words.

use std::fmt;

use super::Time;

/// Something that happens. Shards, events, pages and replicas are numbers from 0 on here, and from 1 on in words.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    TimePasses { to: Time },
    Opens { shard: usize },
    Closes { shard: usize },
    Store { event: usize, shard: usize, page: u8 },
    Renew,
    ReadLeases { lister: usize },
    List { lister: usize },
    Create { lister: usize, shard: usize, date: Time },
    UseListing { lister: usize, at: Time },
    Note { lister: usize, time: Time },
    Forget { lister: usize },
    Start { shard: usize },
    Die { shard: usize },
    Doubt { shard: usize },
    Trust { shard: usize },
    Open { shard: usize },
    IsGone { shard: usize },
    IsTrimmed { shard: usize },
    Expire { shard: usize },
    Read { shard: usize, event: usize },
    Publish { shard: usize, event: usize },
    Refill { shard: usize, page: u8 },
    End { shard: usize },
    Keep { shard: usize },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TimePasses { to } => write!(f, "half a day passes; it is time {to}"),
            Self::Opens { shard } => write!(f, "shard {} opens", shard + 1),
            Self::Closes { shard } => write!(f, "shard {} closes, and another continues it", shard + 1),
            Self::Store { event, shard, page } => {
                write!(
                    f,
                    "event {} is stored: in shard {}, and on page {} of the table",
                    event + 1,
                    shard + 1,
                    page + 1
                )
            }
            Self::Renew => f.write_str("some relay renews an older lease"),
            Self::ReadLeases { lister } => write!(f, "replica {} reads the lease table", lister + 1),
            Self::List { lister } => write!(f, "replica {} lists the stream", lister + 1),
            Self::Create { lister, shard, date } => {
                write!(
                    f,
                    "replica {} creates the lease of shard {}, unless there is one, dated {date}",
                    lister + 1,
                    shard + 1
                )
            }
            Self::UseListing { lister, at } => {
                write!(f, "replica {} uses its listing of {at} once more", lister + 1)
            }
            Self::Note { lister, time } => {
                write!(f, "replica {} notes that all shards had leases at {time}", lister + 1)
            }
            Self::Forget { lister } => write!(f, "replica {} dies, or begins again", lister + 1),
            Self::Start { shard } => write!(f, "shard {}: a reader takes its lease", shard + 1),
            Self::Die { shard } => write!(f, "shard {}: its reader dies", shard + 1),
            Self::Doubt { shard } => write!(f, "shard {}: the trim horizon is in doubt", shard + 1),
            Self::Trust { shard } => write!(f, "shard {}: the trim horizon is not in doubt", shard + 1),
            Self::Open { shard } => write!(f, "shard {}: is opened", shard + 1),
            Self::IsGone { shard } => write!(f, "shard {}: is gone", shard + 1),
            Self::IsTrimmed { shard } => {
                write!(f, "shard {}: the stream says that a record is gone", shard + 1)
            }
            Self::Expire { shard } => write!(f, "shard {}: the cursor has expired", shard + 1),
            Self::Read { shard, event } => write!(f, "shard {}: event {} is read", shard + 1, event + 1),
            Self::Publish { shard, event } => {
                write!(f, "shard {}: event {} is published", shard + 1, event + 1)
            }
            Self::Refill { shard, page } => {
                write!(f, "shard {}: what is on page {} of the table is published", shard + 1, page + 1)
            }
            Self::End { shard } => write!(f, "shard {}: its lease says that it is at its end", shard + 1),
            Self::Keep { shard } => write!(f, "shard {}: the progress is written to its lease", shard + 1),
        }
    }
}

//! The steps of propagation, in words.

use std::fmt;

use super::layout::Events;

/// Something that happens. Processes, shards and events are numbers from 0 on here, and from 1 on in words.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Look { relay: usize, shard: usize },
    Take { relay: usize, shard: usize, heard: bool },
    TooLate { relay: usize, shard: usize },
    Crash { relay: usize },
    Expire { shard: usize },
    Delay { relay: usize, shard: usize },
    ComesLate { shard: usize },
    Read { relay: usize, shard: usize, to: usize },
    Put { relay: usize, shard: usize, entries: Events, accepted: Events, heard: bool },
    End { relay: usize, shard: usize, fenced: bool },
    Keep { relay: usize, shard: usize, fenced: bool },
    Release { relay: usize, shard: usize, fenced: bool },
    Leave { relay: usize, shard: usize },
    Duplicate { event: usize },
    Receive { projector: usize, events: Events },
    Write { projector: usize, from: usize, to: usize, healed: bool, heard: bool },
    Learn { projector: usize, version: usize },
    Drop { projector: usize, version: usize },
    GiveUp { projector: usize, events: Events },
    Delete { projector: usize },
    DeleteInPart { projector: usize, left: Events },
    Die { projector: usize },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fenced = |fenced| if fenced { ", and is refused: its fence is old" } else { "" };
        let lost = |heard| if heard { "" } else { "; the reply is lost" };
        match *self {
            Self::Look { relay, shard } => {
                write!(f, "relay {} sees that the lease of shard {} is free", relay + 1, shard + 1)
            }
            Self::Take { relay, shard, heard } => {
                write!(f, "relay {} takes the lease of shard {}{}", relay + 1, shard + 1, lost(heard))
            }
            Self::TooLate { relay, shard } => {
                write!(f, "relay {} wants the lease of shard {}, which has changed", relay + 1, shard + 1)
            }
            Self::Crash { relay } => write!(f, "relay {} dies", relay + 1),
            Self::Expire { shard } => {
                write!(f, "the lease of shard {} expires, while its owner goes on", shard + 1)
            }
            Self::Delay { relay, shard } => {
                write!(
                    f,
                    "relay {} writes the lease of shard {}, and gives the call up",
                    relay + 1,
                    shard + 1
                )
            }
            Self::ComesLate { shard } => {
                write!(f, "the write that was given up comes to the lease of shard {}", shard + 1)
            }
            Self::Read { relay, shard, to } => {
                write!(f, "relay {} reads shard {} up to record {to}", relay + 1, shard + 1)
            }
            Self::Put { relay, shard, entries, accepted, heard } => write!(
                f,
                "relay {} publishes {entries} of shard {}; the bus accepts {accepted}{}",
                relay + 1,
                shard + 1,
                lost(heard)
            ),
            Self::End { relay, shard, fenced: is } => {
                write!(f, "relay {} writes that shard {} is at its end{}", relay + 1, shard + 1, fenced(is))
            }
            Self::Keep { relay, shard, fenced: is } => {
                write!(
                    f,
                    "relay {} writes its progress to the lease of shard {}{}",
                    relay + 1,
                    shard + 1,
                    fenced(is)
                )
            }
            Self::Release { relay, shard, fenced: is } => {
                write!(
                    f,
                    "relay {} gives the lease of shard {} up, with its progress{}",
                    relay + 1,
                    shard + 1,
                    fenced(is)
                )
            }
            Self::Leave { relay, shard } => {
                write!(f, "relay {} could not renew, and leaves shard {}", relay + 1, shard + 1)
            }
            Self::Duplicate { event } => write!(f, "the queue gets event {} once more", event + 1),
            Self::Receive { projector, events } => write!(f, "projector {} receives {events}", projector + 1),
            Self::Write { projector, from, to, healed, heard } => write!(
                f,
                "projector {} brings the row from version {from} to {to}{}{}",
                projector + 1,
                if healed { ", with events from the store" } else { "" },
                lost(heard)
            ),
            Self::Learn { projector, version } => {
                write!(
                    f,
                    "projector {} is refused, and learns that the row is at version {version}",
                    projector + 1
                )
            }
            Self::Drop { projector, version } => {
                write!(
                    f,
                    "projector {} has nothing new for the row, which is at version {version}",
                    projector + 1
                )
            }
            Self::GiveUp { projector, events } => {
                write!(f, "projector {} cannot apply {events}, and gives up", projector + 1)
            }
            Self::Delete { projector } => write!(f, "projector {} deletes what is done", projector + 1),
            Self::DeleteInPart { projector, left } => {
                write!(f, "projector {} deletes what is done, but {left} comes again", projector + 1)
            }
            Self::Die { projector } => {
                write!(f, "projector {} dies, or takes too long: its messages come again", projector + 1)
            }
        }
    }
}

impl fmt::Display for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(|event| (event + 1).to_string()).collect();
        match &names[..] {
            [] => f.write_str("nothing"),
            [one] => write!(f, "event {one}"),
            more => write!(f, "events {}", more.join(" and ")),
        }
    }
}

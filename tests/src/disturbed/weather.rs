//! Faults and their frequency.

/// How a store behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// It is only slow.
    Fair,
    /// A bit of everything goes wrong.
    Storm,
    /// Replies are lost.
    Losses,
    /// Others are under way nearly always.
    Jam,
}

/// A fault of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mishap {
    /// It does not reach the store.
    Unreachable,
    /// It takes effect, and its reply is lost.
    ReplyLost,
    /// It takes effect after its sender has given up.
    Late,
    /// It is throttled.
    Throttled,
    /// Another one is under way.
    Contended,
    /// It is reported as a conflict, and does nothing.
    Mismatch,
    /// It takes effect, and yet is reported as a conflict.
    MismatchAfter,
    /// It takes effect twice, as sent again by an SDK, and the second outcome is the reply.
    Twice,
    /// Its sender waits for seconds, and it does nothing.
    Hangs,
    /// It takes effect, and its sender waits for seconds.
    HangsAfter,
    /// It takes effect in the end, after seconds.
    Slow,
}

impl Weather {
    /// The faults of appends, each with its number of a thousand.
    pub(super) fn of_appends(self) -> &'static [(Mishap, u32)] {
        use Mishap::*;
        match self {
            Self::Fair => &[],
            Self::Storm => &[
                (Unreachable, 25),
                (ReplyLost, 55),
                (Late, 20),
                (Throttled, 25),
                (Contended, 40),
                (Mismatch, 15),
                (MismatchAfter, 25),
                (Twice, 30),
                (Hangs, 10),
                (HangsAfter, 10),
                (Slow, 15),
            ],
            Self::Losses => &[(ReplyLost, 250), (Late, 150), (Twice, 100), (MismatchAfter, 50)],
            Self::Jam => &[(Contended, 700), (ReplyLost, 50), (Mismatch, 50)],
        }
    }

    /// How many of a thousand reads fail in each of three ways: unreachable, throttled, hanging.
    pub(super) fn of_reads(self) -> [u32; 3] {
        match self {
            Self::Fair | Self::Jam => [0; 3],
            Self::Storm => [25, 25, 5],
            Self::Losses => [20, 0, 0],
        }
    }
}

//! The commands that an aggregate remembers.

use std::{collections::VecDeque, fmt::Write as _, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use uuid::Uuid;

use super::REMEMBERED_COMMANDS;
use crate::{CommandId, Timestamp};

/// An answered command: the place of its last event. The event itself has the id, the digest and the receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnsweredCommand {
    /// 64 bits of a hash of the command's id, the same in every release.
    pub fingerprint: u64,
    /// The version of the command's last event.
    pub version: u64,
    /// The time of that event, in seconds since 1970.
    pub second: i64,
}

impl AnsweredCommand {
    /// The command of an event.
    pub fn new(command_id: &CommandId, version: u64, at: Timestamp) -> Self {
        Self { fingerprint: fingerprint(command_id), version, second: at.unix_micros() / 1_000_000 }
    }
}

/// 64 bits of SHA-1 (a UUID of version 5, its halves combined): the same in every release, since snapshots hold it.
///
/// Equal ids have equal fingerprints. A pair of different ids has equal ones with a probability of 2^-64, which costs a
/// read: the answer comes from the event's own command id.
pub fn fingerprint(command_id: &CommandId) -> u64 {
    let (high, low) = Uuid::new_v5(&Uuid::nil(), command_id.as_str().as_bytes()).as_u64_pair();
    high ^ low
}

/// How many commands one piece holds.
const PIECE: usize = 16;

/// The last [`REMEMBERED_COMMANDS`] commands.
///
/// Every command copies its aggregate's root, since the one before stays in the cache until the event is stored. So
/// copies share pieces of commands, and only the newest piece is copied.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    /// Full pieces, the oldest first. Of the oldest some may be forgotten already.
    full: VecDeque<Arc<[AnsweredCommand]>>,
    /// The newest commands: one piece at most, and empty only if all is.
    newest: Vec<AnsweredCommand>,
}

impl Remembered {
    /// Remembers one more, and forgets those beyond the bound.
    pub(super) fn push(&mut self, answered: AnsweredCommand) {
        if self.newest.len() == PIECE {
            self.full.push_back(std::mem::take(&mut self.newest).into());
        }
        self.newest.push(answered);
        if self.len() >= REMEMBERED_COMMANDS + PIECE {
            self.full.pop_front();
        }
    }

    /// The last one.
    pub(super) fn last(&self) -> Option<&AnsweredCommand> {
        self.newest.last()
    }

    /// The last one, to be changed.
    pub(super) fn last_mut(&mut self) -> Option<&mut AnsweredCommand> {
        self.newest.last_mut()
    }

    /// All that are remembered, the newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = &AnsweredCommand> {
        self.held().rev().take(REMEMBERED_COMMANDS)
    }

    /// All that take memory, the oldest first: a few more than are remembered.
    pub(super) fn held(&self) -> impl DoubleEndedIterator<Item = &AnsweredCommand> {
        self.full.iter().flat_map(|piece| piece.iter()).chain(&self.newest)
    }

    /// The oldest one, if as many are remembered as can be: those before it are forgotten.
    pub(super) fn oldest_of_all(&self) -> Option<&AnsweredCommand> {
        let beyond = self.len().checked_sub(REMEMBERED_COMMANDS)?;
        self.full.front()?.get(beyond)
    }

    fn len(&self) -> usize {
        self.full.len() * PIECE + self.newest.len()
    }

    /// All that are remembered, the oldest first.
    pub(super) fn oldest_first(&self) -> impl Iterator<Item = &AnsweredCommand> {
        self.held().skip(self.len().saturating_sub(REMEMBERED_COMMANDS))
    }
}

impl Clone for Remembered {
    fn clone(&self) -> Self {
        // A copy is made to remember one more.
        let mut newest = Vec::with_capacity((self.newest.len() + 1).min(PIECE));
        newest.extend_from_slice(&self.newest);
        Self { full: self.full.clone(), newest }
    }
}

/// The ends of pieces depend on where the remembering began, and do not matter.
impl PartialEq for Remembered {
    fn eq(&self, other: &Self) -> bool {
        self.newest_first().eq(other.newest_first())
    }
}

impl Eq for Remembered {}

impl FromIterator<AnsweredCommand> for Remembered {
    fn from_iter<I: IntoIterator<Item = AnsweredCommand>>(all: I) -> Self {
        let mut remembered = Self::default();
        all.into_iter().for_each(|answered| remembered.push(answered));
        remembered
    }
}

/// In a snapshot it is one text of hexadecimal digits, the oldest first: the fingerprint of each, then the differences of
/// its version and its second from those of the one before, in groups of seven bits. Compression halves the digits.
impl Serialize for Remembered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (mut bytes, mut before) = (Vec::new(), FIRST);
        for answered in self.oldest_first() {
            bytes.extend(answered.fingerprint.to_be_bytes());
            put_number(&mut bytes, answered.version.wrapping_sub(before.version));
            let later = answered.second.wrapping_sub(before.second);
            // The sign is the last bit, so that a small difference is a small number either way: clocks differ.
            put_number(&mut bytes, (later.wrapping_shl(1) ^ (later >> 63)).cast_unsigned());
            before = *answered;
        }
        let mut text = String::with_capacity(2 * bytes.len());
        for byte in bytes {
            write!(text, "{byte:02x}").map_err(serde::ser::Error::custom)?;
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Remembered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        read(&text).ok_or_else(|| D::Error::custom("not a text of remembered commands"))
    }
}

/// The first command is written as a difference from this one.
const FIRST: AnsweredCommand = AnsweredCommand { fingerprint: 0, version: 0, second: 0 };

fn read(text: &str) -> Option<Remembered> {
    let digits = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    let bytes = text.as_bytes().chunks(2).map(digits).collect::<Option<Vec<u8>>>()?;
    let (mut bytes, mut before, mut remembered) = (bytes.as_slice(), FIRST, Remembered::default());
    while let Some((fingerprint, rest)) = bytes.split_first_chunk() {
        bytes = rest;
        let version = before.version.wrapping_add(take_number(&mut bytes)?);
        let later = take_number(&mut bytes)?;
        let later = (later >> 1).cast_signed() ^ (later & 1).cast_signed().wrapping_neg();
        let second = before.second.wrapping_add(later);
        before = AnsweredCommand { fingerprint: u64::from_be_bytes(*fingerprint), version, second };
        remembered.push(before);
    }
    bytes.is_empty().then_some(remembered)
}

/// Seven bits a byte, the lowest first; the eighth bit is set where more follow.
fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while let low @ 0x80.. = number {
        bytes.push(0x80 | u8::try_from(low & 0x7f).unwrap_or_default());
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap_or_default());
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in (0..u64::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << place;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answered(number: usize) -> AnsweredCommand {
        let version = u64::try_from(number).unwrap();
        // Clocks differ: it is not always later.
        let at = Timestamp::from_unix_micros(i64::try_from(number ^ 5).unwrap() * 70_000_000);
        AnsweredCommand::new(&number.to_string().parse().unwrap(), version, at)
    }

    #[test]
    fn a_fingerprint_is_the_same_in_every_release() {
        assert_eq!(fingerprint(&"rename-7".parse().unwrap()), 0xb75b_ff67_7c96_a932);
    }

    #[test]
    fn a_remembered_command_takes_eleven_bytes() {
        let all: Remembered = (10_000..10_200).map(answered).collect();
        let text = serde_json::to_string(&all).unwrap();
        assert!(text.len() / 2 <= REMEMBERED_COMMANDS * 11 + 16, "{}", text.len());
    }

    #[test]
    fn a_damaged_text_of_remembered_commands_is_refused() {
        let all: Remembered = (1..4).map(answered).collect();
        let text = serde_json::to_value(&all).unwrap().as_str().unwrap().to_owned();
        assert_eq!(read(&text), Some(all));
        let broken = [&text[1..], &text[2..], &text[..text.len() - 2], "zz", "ä", "00", &"ff".repeat(30)];
        for broken in broken {
            assert_eq!(read(broken), None, "{broken}");
        }
    }

    proptest! {
        #[test]
        fn what_is_remembered_is_the_end_of_what_was_told(first in 0..300_usize, then in 0..300_usize) {
            let all: Vec<_> = (0..first + then).map(answered).collect();
            let remembered: Remembered = all[..first].iter().copied().collect();
            // A restored snapshot, and a copy that shares pieces, hold the same commands.
            let kept = serde_json::to_value(&remembered).unwrap();
            let mut restored: Remembered = serde_json::from_value(kept).unwrap();
            let mut copy = remembered.clone();
            for answered in &all[first..] {
                copy.push(*answered);
                restored.push(*answered);
            }
            let end = &all[all.len().saturating_sub(REMEMBERED_COMMANDS)..];
            for remembered in [&copy, &restored] {
                prop_assert!(remembered.newest_first().eq(end.iter().rev()));
                prop_assert!(remembered.oldest_first().eq(end));
                prop_assert_eq!(remembered.last(), all.last());
                let oldest = (all.len() >= REMEMBERED_COMMANDS).then(|| &end[0]);
                prop_assert_eq!(remembered.oldest_of_all(), oldest);
                prop_assert!(remembered.held().count() < REMEMBERED_COMMANDS + PIECE);
            }
            prop_assert_eq!(&copy, &restored);
            prop_assert!(remembered.oldest_first().eq(&all[first.saturating_sub(REMEMBERED_COMMANDS)..first]));
        }
    }
}

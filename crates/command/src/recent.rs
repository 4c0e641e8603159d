//! The commands of the last minutes, of aggregates that so many commands meet that their states forget them too early.
//!
//! A state remembers a fixed number of commands. Where these span less than ten minutes, the aggregate is *busy*, and the
//! commands before them are remembered here: in memory, and in blocks in the store, which a replica without them reads.
//! What is remembered here is a place to look at. Too much does no harm, and too little is never taken for all.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millrace_aws::AwsError;
use millrace_core::{
    Aggregate, AggregateState, CommandId, EventCodec, EventId, StreamId, Timestamp,
    aggregate::{AnsweredCommand, REMEMBERED_COMMANDS, fingerprint},
};
use millrace_event_store::{
    BLOCK_VERSIONS, CommandBlock, Entry, LoadEvents, MAX_BLOCKS, Replaces, Snapshots, StoredEvent,
};
use millrace_server::Failure;

use crate::loader::Loader;

/// For how long commands are remembered, in seconds: ten minutes, and one for clocks that differ.
const REMEMBERED_SECONDS: i64 = 660;

/// About the bytes that a block takes in memory: six a command, and its own.
const BLOCK_BYTES: u64 = 6 * BLOCK_VERSIONS + 64;

/// Whether a state may have forgotten commands of the last minutes.
pub(crate) fn forgets_recent<A: Aggregate>(state: &AggregateState<A>, now: Timestamp) -> bool {
    state.oldest_answered().is_some_and(|oldest| oldest.second >= horizon(now))
}

/// The second from which on commands are remembered.
fn horizon(now: Timestamp) -> i64 {
    now.unix_micros() / 1_000_000 - REMEMBERED_SECONDS
}

/// Whether the remembered commands of a state span less than the time for which commands are remembered.
fn is_busy<A: Aggregate>(state: &AggregateState<A>) -> bool {
    let ends = state.oldest_answered().zip(state.newest_answered());
    ends.is_some_and(|(oldest, newest)| newest.second.saturating_sub(oldest.second) <= REMEMBERED_SECONDS)
}

/// An event as far as it is remembered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecentEvent {
    version: u64,
    /// Its id, where it is known.
    id: Option<EventId>,
    fingerprint: u32,
    second: i64,
}

impl RecentEvent {
    fn new(id: Option<EventId>, command: &AnsweredCommand) -> Self {
        let AnsweredCommand { fingerprint, version, second } = *command;
        Self { version, id, fingerprint: upper_half(fingerprint), second }
    }
}

impl From<&Entry> for RecentEvent {
    fn from(entry: &Entry) -> Self {
        Self::new(Some(entry.event_id), &AnsweredCommand::new(&entry.command_id, entry.version, entry.at))
    }
}

impl From<&StoredEvent> for RecentEvent {
    fn from(StoredEvent { envelope, .. }: &StoredEvent) -> Self {
        let command = AnsweredCommand::new(&envelope.command_id, envelope.version, envelope.timestamp);
        Self::new(Some(envelope.event_id), &command)
    }
}

fn upper_half(fingerprint: u64) -> u32 {
    // Of 64 bits the upper 32.
    u32::try_from(fingerprint >> 32).unwrap_or_default()
}

/// The commands of an aggregate in the last minutes, to its version [`through`](Self::through). It is shared by all states
/// of the aggregate, and grows with it.
#[derive(Debug)]
pub(crate) struct RecentCommands(Mutex<Recent>);

#[derive(Debug)]
struct Recent {
    stream: StreamId,
    through: u64,
    /// The id of the event of that version, where it is known.
    last: Option<EventId>,
    /// The oldest first.
    full: VecDeque<FullBlock>,
    open: OpenBlock,
}

/// A block to which nothing is added.
#[derive(Debug)]
struct FullBlock {
    base: u64,
    newest: i64,
    /// In order, so that a look takes nine steps.
    fingerprints: Box<[u32]>,
    /// For each fingerprint, how far behind `base` its version is.
    offsets: Box<[u16]>,
}

/// The block that grows. Only one with all its events, known by their ids, can be stored.
#[derive(Debug)]
struct OpenBlock {
    number: u64,
    before: Option<EventId>,
    newest: i64,
    commands: Vec<(u32, u16)>,
}

impl OpenBlock {
    fn new(number: u64, before: Option<EventId>) -> Self {
        Self { number, before, newest: i64::MIN, commands: Vec::new() }
    }
}

impl FullBlock {
    fn new(base: u64, newest: i64, mut commands: Vec<(u32, u16)>) -> Self {
        commands.sort_unstable();
        let (fingerprints, offsets): (Vec<_>, Vec<_>) = commands.into_iter().unzip();
        Self { base, newest, fingerprints: fingerprints.into(), offsets: offsets.into() }
    }

    /// The versions of a fingerprint, the oldest first.
    fn seen(&self, fingerprint: u32) -> impl DoubleEndedIterator<Item = u64> {
        let first = self.fingerprints.partition_point(|each| *each < fingerprint);
        let rest = self.fingerprints.get(first..).unwrap_or_default();
        let same = rest.iter().take_while(|each| **each == fingerprint).count();
        let offsets = self.offsets.get(first..first + same).unwrap_or_default();
        offsets.iter().map(|offset| self.base + u64::from(*offset))
    }
}

impl From<CommandBlock> for FullBlock {
    fn from(block: CommandBlock) -> Self {
        let commands = block.fingerprints.into_iter().zip(1..).collect();
        Self::new(CommandBlock::base(block.number), block.newest, commands)
    }
}

impl Recent {
    /// Nothing after a version, of which the event has this id.
    fn after(stream: &StreamId, through: u64, last: Option<EventId>) -> Self {
        let open = OpenBlock::new(CommandBlock::of(through.saturating_add(1)), last);
        Self { stream: stream.clone(), through, last, full: VecDeque::new(), open }
    }

    /// Adds the remembered commands of a state that are not in here.
    fn push_remembered<A: Aggregate>(&mut self, state: &AggregateState<A>) {
        for command in state.answered() {
            let id = state.last_event().filter(|_| command.version == state.version());
            if command.version > self.through {
                self.push(RecentEvent::new(id, command));
            }
        }
    }

    /// Adds an event, and returns the block that ends with it, if it is whole.
    fn push(&mut self, event: RecentEvent) -> Option<CommandBlock> {
        let number = CommandBlock::of(event.version);
        if number != self.open.number {
            // Events were left out, since they are not the last ones of their commands.
            self.close(OpenBlock::new(number, None));
        }
        let offset = u16::try_from(event.version - CommandBlock::base(number)).unwrap_or(u16::MAX);
        self.open.commands.push((event.fingerprint, offset));
        self.open.newest = self.open.newest.max(event.second);
        self.through = event.version;
        self.last = event.id;
        let is_last = CommandBlock::of(event.version.saturating_add(1)) != number;
        is_last.then(|| self.close(OpenBlock::new(number + 1, event.id))).flatten()
    }

    /// Begins another block; returns the one before, if it is whole.
    fn close(&mut self, next: OpenBlock) -> Option<CommandBlock> {
        let OpenBlock { number, before, newest, commands } = mem::replace(&mut self.open, next);
        let is_whole = u64::try_from(commands.len()) == Ok(BLOCK_VERSIONS);
        let whole = self.last.filter(|_| is_whole && before.is_some() != (number == 0)).map(|last| {
            let fingerprints = commands.iter().map(|(fingerprint, _)| *fingerprint).collect();
            CommandBlock { stream: self.stream.clone(), number, before, last, newest, fingerprints }
        });
        if !commands.is_empty() {
            self.full.push_back(FullBlock::new(CommandBlock::base(number), newest, commands));
        }
        let is_old = |block: &FullBlock| block.newest < newest.saturating_sub(REMEMBERED_SECONDS);
        while self.full.front().is_some_and(is_old) {
            self.full.pop_front();
        }
        whole
    }
}

impl RecentCommands {
    /// The commands that a state remembers.
    fn of<A: Aggregate>(stream: &StreamId, state: &AggregateState<A>) -> Self {
        let before = state.oldest_answered().map_or(0, |oldest| oldest.version.saturating_sub(1));
        let mut recent = Recent::after(stream, before, None);
        recent.push_remembered(state);
        Self(Mutex::new(recent))
    }

    fn look(&self) -> MutexGuard<'_, Recent> {
        // Nothing in here panics halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To which version commands are in here.
    fn through(&self) -> u64 {
        self.look().through
    }

    /// Adds events that follow each other. Returns the blocks that they complete; `None` where some are missing before them.
    fn extend(&self, events: impl Iterator<Item = RecentEvent>) -> Option<Vec<CommandBlock>> {
        let mut recent = self.look();
        let mut blocks = Vec::new();
        for event in events.skip_while(|event| event.version <= recent.through).collect::<Vec<_>>() {
            if event.version != recent.through.saturating_add(1) {
                return None;
            }
            blocks.extend(recent.push(event));
        }
        Some(blocks)
    }

    /// The versions before `before` at which events of this command may be, the newest first. Nearly always there are none
    /// if there was no such command.
    pub(crate) fn seen(&self, command_id: &CommandId, before: u64) -> Vec<u64> {
        let fingerprint = upper_half(fingerprint(command_id));
        let recent = self.look();
        let base = CommandBlock::base(recent.open.number);
        let open = recent.open.commands.iter().rev().filter(|(each, _)| *each == fingerprint);
        let open = open.map(|(_, offset)| base + u64::from(*offset));
        let full = recent.full.iter().rev().flat_map(|block| block.seen(fingerprint).rev());
        open.chain(full).filter(|version| *version < before).collect()
    }

    /// About the bytes that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        let full = u64::try_from(self.look().full.len()).unwrap_or(u64::MAX);
        full.saturating_add(2).saturating_mul(BLOCK_BYTES)
    }
}

impl<A, S> Loader<A, S>
where
    A: Aggregate<Event: EventCodec>,
    S: LoadEvents + Snapshots,
{
    /// The commands of the last minutes before a state that forgets some of them: from memory, or from the store.
    pub(crate) async fn recent(
        &self,
        stream: &StreamId,
        state: &AggregateState<A>,
        now: Timestamp,
    ) -> Result<Arc<RecentCommands>, Failure> {
        if let Some(kept) = self.cache.recent(stream).filter(|kept| kept.through() >= state.version()) {
            return Ok(kept);
        }
        let recent = self.load_recent(stream, state, horizon(now)).await?;
        let recent = Arc::new(RecentCommands(Mutex::new(recent)));
        self.cache.keep_recent(stream, &recent);
        Ok(recent)
    }

    /// Remembers the events between two states of an aggregate, where it is busy. Returns the blocks that they complete.
    pub(crate) fn remember(
        &self,
        stream: &StreamId,
        before: &AggregateState<A>,
        after: &AggregateState<A>,
        events: impl Iterator<Item = RecentEvent>,
    ) -> Vec<CommandBlock> {
        if !is_busy(after) {
            return Vec::new();
        }
        let recent = match self.cache.recent(stream).filter(|kept| kept.through() >= before.version()) {
            Some(kept) => kept,
            // All that the earlier state has forgotten is old.
            None if !is_busy(before) => Arc::new(RecentCommands::of(stream, before)),
            // The next command loads them.
            None => return Vec::new(),
        };
        let blocks = recent.extend(events);
        if blocks.is_some() {
            self.cache.keep_recent(stream, &recent);
        }
        blocks.unwrap_or_default()
    }

    /// Reads back from a state to commands that are older than `horizon`: the events up to the newest whole block from the
    /// stream, then blocks. The newest block counts if the stream has the event that it ends with, each other one if the
    /// block after it says so: a table that was restored to an earlier time may have another history.
    async fn load_recent(
        &self,
        stream: &StreamId,
        state: &AggregateState<A>,
        horizon: i64,
    ) -> Result<Recent, Failure> {
        let oldest = state.oldest_answered().map_or(0, |oldest| oldest.version);
        let mut number = state.version() / BLOCK_VERSIONS;
        let base = CommandBlock::base(number);
        // With the last event of that block.
        let events = self.all_between(stream, base.saturating_sub(1), oldest.max(base + 1)).await?;
        let (end, events) = split(number, &events);
        let mut recent = Recent::after(stream, base, end.and_then(|end| end.id));
        for event in events {
            recent.push(*event);
        }
        recent.push_remembered(state);
        let Some(end) = end.filter(|end| end.second >= horizon) else { return Ok(recent) };
        let mut last = end.id;
        let at_a_time = blocks_of_the_last_minutes(state);
        while number > 0 {
            let first = number.saturating_sub(at_a_time);
            let mut kept = self.kept_blocks(stream, first, number).await?;
            for number in (first..number).rev() {
                let block = match kept.remove(&number).filter(|kept| Some(kept.last) == last) {
                    Some(block) => block,
                    None => self.read_block(stream, number).await?,
                };
                last = block.before;
                let is_enough = block.newest < horizon;
                recent.full.push_front(block.into());
                if is_enough {
                    return Ok(recent);
                }
            }
            number = first;
        }
        Ok(recent)
    }

    async fn kept_blocks(
        &self,
        stream: &StreamId,
        first: u64,
        end: u64,
    ) -> Result<HashMap<u64, CommandBlock>, Failure> {
        let numbers: Vec<u64> = (first..end).collect();
        let blocks = match self.store.command_blocks(stream, &numbers).await {
            Ok(blocks) => blocks,
            // The permission may be missing. Everything else would be worse for reading the stream as well.
            Err(error @ AwsError::Refused(_)) => {
                tracing::warn!(%stream, %error, "blocks of commands cannot be read; the events are read in their place");
                Vec::new()
            }
            Err(error) => return Err(error.into()),
        };
        Ok(blocks.into_iter().map(|block| (block.number, block)).collect())
    }

    /// A block from the stream, as after a crash before it was kept. It is kept at once: a long load may outlast its
    /// caller's patience.
    async fn read_block(&self, stream: &StreamId, number: u64) -> Result<CommandBlock, Failure> {
        let (base, end) = (CommandBlock::base(number), CommandBlock::base(number + 1));
        let events = self.all_between(stream, base.saturating_sub(1), end + 1).await?;
        let (before, events) = split(number, &events);
        let last = events.last().and_then(|last| last.id);
        let block = CommandBlock {
            stream: stream.clone(),
            number,
            before: before.and_then(|before| before.id),
            last: last.ok_or_else(|| Failure::Internal(format!("block {number} has no events")))?,
            newest: events.iter().map(|event| event.second).max().unwrap_or(i64::MAX),
            fingerprints: events.iter().map(|event| event.fingerprint).collect(),
        };
        if let Err(error) = self.store.put_command_block(&block, Replaces::Any).await {
            tracing::warn!(%stream, %error, "a block of commands cannot be written");
        }
        Ok(block)
    }

    /// All events between two versions.
    async fn all_between(
        &self,
        stream: &StreamId,
        mut after: u64,
        before: u64,
    ) -> Result<Vec<RecentEvent>, Failure> {
        let mut events = Vec::new();
        while after + 1 < before {
            let page = self.store.between(stream, after, before).await?;
            events.extend(page.iter().map(RecentEvent::from));
            let Some(last) = page.last() else {
                return Err(Failure::Internal(format!("nothing is between {after} and {before}")));
            };
            after = last.version;
        }
        Ok(events)
    }
}

/// The last event of the block before this one, and the events after it.
fn split(number: u64, events: &[RecentEvent]) -> (Option<&RecentEvent>, &[RecentEvent]) {
    match events.split_first() {
        Some((before, rest)) if number > 0 => (Some(before), rest),
        Some(_) | None => (None, events),
    }
}

/// About how many blocks the events of the last minutes fill, by the pace of the commands that a state remembers.
fn blocks_of_the_last_minutes<A: Aggregate>(state: &AggregateState<A>) -> u64 {
    let ends = state.oldest_answered().zip(state.newest_answered());
    let seconds = ends.map_or(0, |(oldest, newest)| newest.second.saturating_sub(oldest.second));
    let commands = i64::try_from(REMEMBERED_COMMANDS).unwrap_or(i64::MAX) * REMEMBERED_SECONDS
        / seconds.saturating_add(1).max(1);
    let blocks = u64::try_from(commands).unwrap_or_default() / BLOCK_VERSIONS + 1;
    blocks.min(u64::try_from(MAX_BLOCKS).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;

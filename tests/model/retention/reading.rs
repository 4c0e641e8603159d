//! How a shard is read, and healed where the stream has lost some of it: the relay's `shard.rs`.

use super::{DAY, Doubt, MAX_SHARDS, Moves, Retention, State, Time, steps::Step, stream::PAGES};

/// A shard's progress: its lease's, and that of the lease's reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Progress {
    checkpoint: Checkpoint,
    time: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Checkpoint {
    TrimHorizon,
    /// After this event.
    After(usize),
    ShardEnd,
}

/// The reader of a shard. It begins with the lease's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Reader {
    progress: Progress,
    work: Work,
}

/// A reader's next step. A cursor is the event that it points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Work {
    /// To open the shard, and then to ask whether the trim horizon is in doubt, or not.
    Open {
        asks: bool,
    },
    /// To ask, with a cursor.
    Ask(usize),
    /// To ask before there is a cursor, as only some of [`Doubt`] do.
    AskFirst,
    Read(usize),
    Publish(usize),
    Refill {
        begun: Time,
        page: u8,
        is_gone: bool,
    },
}

impl Progress {
    /// Of a shard that nobody has read. Its records are younger than this time, or were there when a first relay saw it.
    pub(super) fn unread(time: Time) -> Self {
        Self { checkpoint: Checkpoint::TrimHorizon, time }
    }

    /// `Reader::horizon_is_doubtful`.
    fn is_doubtful(self, now: Time) -> bool {
        self.checkpoint == Checkpoint::TrimHorizon && now - self.time >= DAY
    }

    /// `Reader::accepted_before`.
    fn accepted_before(self) -> Time {
        match self.checkpoint {
            Checkpoint::TrimHorizon => self.time - DAY,
            Checkpoint::After(_) | Checkpoint::ShardEnd => self.time,
        }
    }

    fn is_finished(self) -> bool {
        self.checkpoint == Checkpoint::ShardEnd
    }
}

impl Reader {
    /// Whether it refills, and is past this page.
    pub(super) fn has_scanned(&self, scanned: u8) -> bool {
        matches!(self.work, Work::Refill { page, .. } if page > scanned)
    }
}

pub(super) fn moves(model: &Retention, moves: &mut Moves) {
    for shard in 0..MAX_SHARDS {
        match (moves.from.leases[shard], moves.from.readers[shard]) {
            (None, _) => {}
            (Some(lease), None) => start(model, shard, lease, moves),
            (Some(lease), Some(reader)) => {
                let reading = Reading { model, shard, reader, now: moves.from.now };
                reading.go_on(moves);
                if reader.progress != lease {
                    reading.keep(moves);
                }
                moves.trouble(Step::Die { shard }, |state| state.readers[shard] = None);
            }
        }
    }
}

/// A shard that has something left to read is taken, if its parent has not: `View::readable`.
fn start(model: &Retention, shard: usize, lease: Progress, moves: &mut Moves) {
    let state = moves.from;
    let is_listed = |shard| state.stream.is_listed(shard, state.now);
    let is_finished = |shard: usize| state.leases[shard].is_some_and(Progress::is_finished);
    let is_parent_done = shard == 0 || is_finished(shard - 1) || !is_listed(shard - 1);
    if !lease.is_finished() && (is_parent_done || !is_listed(shard)) {
        let work = match model.guards.doubt {
            Doubt::BeforeEachOpening | Doubt::BeforeTheFirstOpening => Work::AskFirst,
            Doubt::AfterEachOpening | Doubt::NotAfterRefill | Doubt::NotAfterFailure => {
                Work::Open { asks: true }
            }
        };
        moves.work(Step::Start { shard }, |state| {
            state.readers[shard] = Some(Reader { progress: lease, work })
        });
    }
}

/// A reader at its work: `Reader::run`.
struct Reading<'a> {
    model: &'a Retention,
    shard: usize,
    reader: Reader,
    now: Time,
}

impl Reading<'_> {
    fn go_on(&self, moves: &mut Moves) {
        match self.reader.work {
            Work::Open { asks } => self.open(asks, moves),
            Work::Ask(cursor) => self.ask(Work::Read(cursor), moves),
            Work::AskFirst => self.ask(Work::Open { asks: false }, moves),
            Work::Read(cursor) => self.read(cursor, moves),
            Work::Publish(event) => self.publish(event, moves),
            Work::Refill { begun, page, is_gone } => self.refill(begun, page, is_gone, moves),
        }
    }

    fn turn(&self, step: Step, work: Work, moves: &mut Moves) {
        moves.work(step, |state| state.readers[self.shard] = Some(Reader { work, ..self.reader }));
    }

    /// How the shard is opened again, for a reason that some ask no question after.
    fn reopening(&self, silent: Doubt) -> Work {
        let doubt = self.model.guards.doubt;
        match doubt {
            Doubt::BeforeEachOpening => Work::AskFirst,
            Doubt::BeforeTheFirstOpening => Work::Open { asks: false },
            Doubt::AfterEachOpening | Doubt::NotAfterRefill | Doubt::NotAfterFailure => {
                Work::Open { asks: doubt != silent }
            }
        }
    }

    fn refilling(&self) -> Work {
        Work::Refill { begun: self.now, page: 0, is_gone: false }
    }

    fn is_listed(&self, state: &State) -> bool {
        state.stream.is_listed(self.shard, self.now)
    }

    fn ask(&self, then: Work, moves: &mut Moves) {
        let shard = self.shard;
        if self.reader.progress.is_doubtful(self.now) {
            self.turn(Step::Doubt { shard }, self.refilling(), moves);
        } else {
            self.turn(Step::Trust { shard }, then, moves);
        }
    }

    /// `ShardStream::open`, at the position of the progress.
    fn open(&self, asks: bool, moves: &mut Moves) {
        let shard = self.shard;
        let horizon = moves.from.stream.trim_horizon(self.now);
        let (step, work) = match self.reader.progress.checkpoint {
            // `Reader::heal_gone`.
            _ if !self.is_listed(&moves.from) => {
                (Step::IsGone { shard }, Work::Refill { begun: self.now, page: 0, is_gone: true })
            }
            Checkpoint::TrimHorizon if asks => (Step::Open { shard }, Work::Ask(horizon)),
            Checkpoint::TrimHorizon => (Step::Open { shard }, Work::Read(horizon)),
            // `Reader::heal_trimmed`.
            Checkpoint::After(event) if event < horizon => (Step::IsTrimmed { shard }, self.refilling()),
            Checkpoint::After(event) => (Step::Open { shard }, Work::Read(event + 1)),
            Checkpoint::ShardEnd => return,
        };
        self.turn(step, work, moves);
    }

    /// `ShardStream::read`.
    fn read(&self, cursor: usize, moves: &mut Moves) {
        let shard = self.shard;
        let Reader { progress, .. } = self.reader;
        match moves.from.stream.next(shard, cursor) {
            // A cursor of a shard that is gone: whether it is, opening it again will tell.
            _ if !self.is_listed(&moves.from) => {
                self.turn(Step::Expire { shard }, self.reopening(Doubt::NotAfterFailure), moves)
            }
            Some((_, record)) if record.is_dropped(self.now) => {
                // `Reader::heal_trimmed`. At a horizon that is not in doubt, the record is none that the lease speaks of.
                let is_missed =
                    progress.checkpoint != Checkpoint::TrimHorizon || progress.is_doubtful(self.now);
                let work = if is_missed { self.refilling() } else { self.reopening(Doubt::NotAfterFailure) };
                self.turn(Step::IsTrimmed { shard }, work, moves);
            }
            Some((event, _)) => self.turn(Step::Read { shard, event }, Work::Publish(event), moves),
            None if moves.from.stream.is_closed(shard) => {
                moves.work(Step::End { shard }, |state| self.end(state))
            }
            None => {}
        }
        // `StreamError::Expired`.
        moves.trouble(Step::Expire { shard }, |state| {
            state.readers[shard] =
                Some(Reader { work: self.reopening(Doubt::NotAfterFailure), ..self.reader });
        });
    }

    /// `Publisher::publish`, then `Reader::advance`.
    fn publish(&self, event: usize, moves: &mut Moves) {
        let shard = self.shard;
        moves.work(Step::Publish { shard, event }, |state| {
            state.accepted[event] = true;
            let time = state.stream.next(shard, event).map_or(self.now, |(_, record)| record.at);
            let progress = Progress { checkpoint: Checkpoint::After(event), time };
            state.readers[shard] = Some(Reader { progress, work: Work::Read(event + 1) });
        });
    }

    /// A page of `Reader::refill`: read, and published, whenever that may be.
    fn refill(&self, begun: Time, page: u8, is_gone: bool, moves: &mut Moves) {
        let &Self { shard, reader, now, .. } = self;
        let since = reader.progress.accepted_before();
        let time = if self.model.guards.dates_refill_by_its_beginning { begun } else { now };
        moves.work(Step::Refill { shard, page }, |state| {
            let found = state.stream.events().filter(|(_, record)| record.page == page && record.at >= since);
            found.for_each(|(event, _)| state.accepted[event] = true);
            let next = match (page + 1 < PAGES, is_gone) {
                (true, _) => Reader { work: Work::Refill { begun, page: page + 1, is_gone }, ..reader },
                (false, true) => return self.end(state),
                (false, false) => {
                    Reader { progress: Progress::unread(time), work: self.reopening(Doubt::NotAfterRefill) }
                }
            };
            state.readers[shard] = Some(next);
        });
    }

    /// Nothing is left to read, which `Keeper::give_up` writes to the lease.
    fn end(&self, state: &mut State) {
        state.leases[self.shard] =
            Some(Progress { checkpoint: Checkpoint::ShardEnd, ..self.reader.progress });
        state.readers[self.shard] = None;
    }

    /// `Keeper::keep`.
    fn keep(&self, moves: &mut Moves) {
        let &Self { shard, reader, .. } = self;
        moves.work(Step::Keep { shard }, |state| state.leases[shard] = Some(reader.progress));
    }
}

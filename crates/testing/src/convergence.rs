//! Rows after any deliveries: lost, repeated, late and out of turn.

use std::ops::Range;

use millrace_core::{Application, CommandDigest, Envelope, ProjectionName, Timestamp};
use millrace_event_store::{AppendEvents as _, Commit, MemoryStore, StoredEvent};
use millrace_projection::{
    Handle as _, Projector,
    queue::{Message, ReceiptHandle},
};
use millrace_rows::{MemoryRows, ReadRows as _};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::json;
use tokio::runtime::Builder;

use crate::{
    noon,
    oracle::{FoundRows, Oracle, RowPlace, Rows, differences},
};

/// The most copies of a message.
const MAX_COPIES: usize = 3;

/// How often messages that fail are delivered again.
const MAX_ROUNDS: usize = 50;

/// Asserts that the rows of every projection are the fold of these events, whatever becomes of their messages: for each
/// seed they are delivered in another order, some of them repeatedly, some without their data, and some not at all if a
/// newer one of the aggregate comes.
///
/// # Panics
/// With the seed and the difference, where a row is wrong.
#[track_caller]
pub fn assert_converges(application: &Application, events: &[Envelope], seeds: Range<u64>) {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
    let oracle = Oracle::new(application, events.iter().cloned());
    let oracle = oracle.unwrap_or_else(|violation| panic!("the history cannot be: {violation}"));
    let rows = oracle.rows().unwrap_or_else(|error| panic!("the events cannot be projected: {error}"));
    for seed in seeds {
        let violations = runtime.block_on(deliver(&oracle, &rows, seed));
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
    }
}

/// The rows that a store in memory has of a projection. Its parts are not among them.
pub fn found_rows(projection: ProjectionName, rows: &MemoryRows) -> FoundRows {
    let place =
        |row: &millrace_core::row::StoredRow| RowPlace { projection, key: row.key.clone(), is_part: false };
    rows.all().into_iter().map(|row| (place(&row), row)).collect()
}

/// Differences once all messages were delivered.
async fn deliver(oracle: &Oracle, expected: &Rows, seed: u64) -> Vec<String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let store = MemoryStore::default();
    for event in oracle.events() {
        let event = StoredEvent { envelope: event.clone(), command_digest: CommandDigest(1) };
        let commit = Commit { events: vec![event], claims: vec![], releases: vec![] };
        if let Err(error) = store.append(&commit).await {
            return vec![format!("the store takes no event: {error:?}")];
        }
    }
    let mut violations = Vec::new();
    let mut found = FoundRows::new();
    for spec in oracle.application().projections() {
        let rows = MemoryRows::new(spec);
        let projector = Projector::new(spec.clone(), rows.clone(), store.clone(), clock);
        let streams = oracle.streams().iter().filter(|(stream, _)| stream.aggregate_type == spec.source);
        let mut messages: Vec<Message> = Vec::new();
        for (_, events) in streams.clone() {
            for (place, event) in events.iter().enumerate() {
                let fewest = usize::from(place + 1 == events.len());
                let copies = rng.random_range(fewest..=MAX_COPIES);
                messages.extend((0..copies).map(|copy| message(event, copy, rng.random_ratio(1, 5))));
            }
        }
        messages.shuffle(&mut rng);
        let mut rounds = 0;
        while !messages.is_empty() && rounds < MAX_ROUNDS {
            let batch: Vec<_> = messages.drain(..rng.random_range(1..=messages.len().min(10))).collect();
            let outcomes = projector.handle(&batch).await;
            let failed = batch.into_iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_err());
            let before = messages.len();
            messages.extend(failed.map(|(message, _)| message));
            rounds += usize::from(messages.len() > before);
        }
        if !messages.is_empty() {
            violations.push(format!("{}: {} messages fail for ever", spec.name, messages.len()));
        }
        for (stream, events) in streams {
            let applied = rows.applied_version(stream).await;
            if !matches!(applied, Ok(version) if version == events.len() as u64) {
                violations.push(format!("{}: {stream} is applied up to {applied:?}", spec.name));
            }
        }
        found.extend(found_rows(spec.name, &rows));
    }
    let rows = expected.iter().filter(|(place, _)| !place.is_part);
    let rows: Rows = rows.map(|(place, row)| (place.clone(), row.clone())).collect();
    violations.extend(differences(&rows, &found));
    violations
}

fn clock() -> Timestamp {
    noon()
}

/// The message that a queue has of an event; the bus leaves out data that is too large.
pub(crate) fn message(event: &Envelope, copy: usize, is_large: bool) -> Message {
    let mut detail = event.clone();
    if is_large {
        detail.event_data = None;
    }
    let id = format!("{}-{copy}", event.event_id);
    let body =
        json!({ "version": "0", "source": "test", "detail-type": detail.event_type, "detail": detail });
    Message {
        receipt: ReceiptHandle(id.as_str().into()),
        id,
        body: body.to_string(),
        attempts: 1,
        waited: std::time::Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use millrace_core::{AggregatingProjection, Application, ProjectionName, Recorded};

    use super::*;
    use crate::{
        history,
        oracle::tests::{Account, AccountEvent, AccountId, Branch, BranchPart, bank, moved, opened},
        stream_of,
    };

    fn histories() -> Vec<Envelope> {
        let moves: Vec<_> = ["BB", "A", "BB", "BB", "CCC"].map(moved).into();
        let of = |number, first, rest: &[AccountEvent]| {
            history(&stream_of::<Account>(number), &[&[first], rest].concat())
        };
        [of(1, opened(7, "A"), &moves), of(2, opened(5, "A"), &[]), of(3, opened(3, "CCC"), &moves[..2])]
            .concat()
    }

    #[test]
    fn rows_of_all_kinds_converge() {
        assert_converges(&bank(), &histories(), 0..100);
    }

    /// A sum that takes back nothing: right in whatever order aggregates come, and wrong where two changes are written as
    /// one.
    struct Careless;

    impl AggregatingProjection for Careless {
        const NAME: ProjectionName = ProjectionName::new("careless", 1);
        type Aggregate = Account;
        type Row = Branch;
        type Part = BranchPart;

        fn part(part: Option<BranchPart>, event: &Recorded<AccountEvent>) -> Option<BranchPart> {
            Branch::part(part, event)
        }

        fn row_of(part: &BranchPart) -> AccountId {
            Branch::row_of(part)
        }

        fn fold(
            row: Option<Branch>,
            id: &AccountId,
            _: Option<&BranchPart>,
            after: Option<&BranchPart>,
        ) -> Branch {
            Branch::fold(row, id, None, after)
        }
    }

    #[test]
    #[should_panic(expected = "seed 0")]
    fn a_sum_that_depends_on_what_is_written_at_once_is_found() {
        let careless =
            Application::new("bank").aggregate::<Account>().aggregating_projection::<Careless>().build();
        assert_converges(&careless.unwrap(), &histories(), 0..1);
    }
}

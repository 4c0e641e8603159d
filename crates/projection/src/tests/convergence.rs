//! After duplicate, late and unordered deliveries every row is the fold of its history.

use futures::future::join_all;
use millrace_core::{StreamId, projection::ProjectionSpec};
use millrace_event_store::{MemoryStore, StoredEvent};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{
    app::{Command, cards, groups, totals},
    world::{Watched, body, counter, counter_of, counter_with, history, message, open},
};
use crate::Handle as _;

/// How the events of all streams are delivered.
#[derive(Debug, Clone)]
struct Delivery {
    /// A number for every copy of every event: the order of delivery.
    keys: Vec<u64>,
    /// How many copies of each event there are: 0 to 10. The newest event of a stream comes at least once.
    copies: Vec<usize>,
    /// Which events come without their data.
    bare: Vec<bool>,
    /// The sizes of the batches.
    sizes: Vec<usize>,
    /// How many batches are worked on at a time.
    at_once: usize,
    /// How often each write gives way to other batches.
    pauses: Vec<u8>,
}

fn any_delivery() -> impl Strategy<Value = Delivery> {
    let copies = prop_oneof![1 => Just(0_usize), 4 => Just(1), 2 => 2..4_usize, 1 => 4..=10_usize];
    (
        vec(any::<u64>(), 64),
        vec(copies, 32),
        vec(prop::bool::weighted(0.1), 32),
        vec(1..=10_usize, 16),
        1..=4_usize,
        vec(0..4_u8, 64),
    )
        .prop_map(|(keys, copies, bare, sizes, at_once, pauses)| Delivery {
            keys,
            copies,
            bare,
            sizes,
            at_once,
            pauses,
        })
}

/// The number for a place, from a cycle of numbers.
fn cycle<T: Copy>(values: &[T], place: usize) -> T {
    values[place % values.len()]
}

impl Delivery {
    /// The bodies of the messages, batch by batch.
    fn batches(&self, histories: &[Vec<StoredEvent>]) -> Vec<Vec<String>> {
        let mut copies = Vec::new();
        let newest = |n: usize, of: &[StoredEvent]| usize::from(n + 1 == of.len());
        let events =
            histories.iter().flat_map(|all| all.iter().enumerate().map(|(n, e)| (e, newest(n, all))));
        for (place, (event, least)) in events.enumerate() {
            let mut envelope = event.envelope.clone();
            if cycle(&self.bare, place) {
                envelope.event_data = None;
            }
            copies.extend(vec![body(&envelope); cycle(&self.copies, place).max(least)]);
        }
        let mut keyed: Vec<_> =
            copies.into_iter().enumerate().map(|(n, body)| (cycle(&self.keys, n), n, body)).collect();
        keyed.sort();
        let mut bodies = keyed.into_iter().map(|(_, _, body)| body);
        let mut batches = Vec::new();
        while bodies.len() > 0 {
            batches.push(bodies.by_ref().take(cycle(&self.sizes, batches.len())).collect());
        }
        batches
    }

    /// Delivers, and checks every write and the rows in the end.
    async fn check(&self, spec: ProjectionSpec, counters: &[(StreamId, Vec<Command>)]) {
        let store = MemoryStore::default();
        let rows = Watched::of(spec);
        rows.pause(self.pauses.clone());
        let mut histories = Vec::new();
        for (stream, commands) in counters {
            let history = history(&store, stream, commands).await;
            rows.expect(&history);
            histories.push(history);
        }
        let projector = rows.projector(&store);
        for together in self.batches(&histories).chunks(self.at_once) {
            let work = together.iter().map(|bodies| {
                let projector = projector.clone();
                let messages: Vec<_> = bodies.iter().cloned().map(message).collect();
                async move { projector.handle(&messages).await }
            });
            let outcomes = join_all(work).await;
            assert!(outcomes.iter().flatten().all(Result::is_ok), "{outcomes:?}");
        }
        rows.assert_converged().await;
    }
}

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work);
}

fn any_command() -> impl Strategy<Value = Command> {
    let group = select(vec!["red", "green", "blue"]);
    prop_oneof![
        3 => (-99..99_i64).prop_filter("not one over which the fold fails", |by| *by != 13).prop_map(Command::Add),
        2 => (option::of("[a-z]{1,9}"), option::of("[a-z]{1,5}@[a-z]{1,5}"))
            .prop_map(|(name, owner)| Command::Rename { name, owner }),
        1 => group.clone().prop_map(|group| Command::Move(group.to_owned())),
        1 => Just(Command::Close),
        1 => group.prop_map(open),
    ]
}

/// Counters of two tenants under the same ids: an id is unique only within a tenant.
fn any_counters() -> impl Strategy<Value = Vec<(StreamId, Vec<Command>)>> {
    let place = |n: usize| counter_of(["acme", "umbrella"][n % 2], 1 + u128::try_from(n / 2).unwrap());
    vec((select(vec!["red", "green"]), vec(any_command(), 0..12)), 1..6).prop_map(move |counters| {
        let with_opening = |(n, (group, commands)): (usize, (&str, Vec<Command>))| {
            (place(n), std::iter::once(open(group)).chain(commands).collect())
        };
        counters.into_iter().enumerate().map(with_opening).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_blind_projection_converges_whatever_the_delivery(counters in any_counters(), delivery in any_delivery()) {
        run(delivery.check(cards(), &counters));
    }

    #[test]
    fn a_fold_converges_whatever_the_delivery(counters in any_counters(), delivery in any_delivery()) {
        run(delivery.check(totals(), &counters));
    }

    #[test]
    fn sums_of_many_aggregates_converge_whatever_the_delivery(
        counters in any_counters(),
        delivery in any_delivery(),
    ) {
        run(delivery.check(groups(), &counters));
    }

    #[test]
    fn the_newest_event_alone_brings_the_whole_row(events in 1..250_usize, bare in any::<bool>()) {
        run(async move {
            for spec in [cards(), totals(), groups()] {
                let store = MemoryStore::default();
                let rows = Watched::of(spec);
                let history = counter_with(&store, 1, events).await;
                rows.expect(&history);
                let mut newest = history.last().unwrap().envelope.clone();
                if bare {
                    newest.event_data = None;
                }
                let outcomes = rows.projector(&store).handle(&[message(body(&newest))]).await;
                assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
                rows.assert_converged().await;
                assert_eq!(rows.applied(), 1, "the gap is closed in one write");
            }
        });
    }
}

#[tokio::test]
async fn a_gap_of_thousands_of_events_is_closed_in_steps() {
    for spec in [cards(), totals(), groups()] {
        let store = MemoryStore::default();
        let rows = Watched::of(spec);
        let history = counter_with(&store, 1, 2_100).await;
        let newest = message(body(&history.last().unwrap().envelope));
        assert!(rows.projector(&store).handle(&[newest]).await[0].is_ok());
        rows.expect(&history);
        rows.assert_converged().await;
        assert_eq!(rows.applied(), 3);
    }
}

#[tokio::test]
async fn a_batch_without_messages_is_nothing_to_do() {
    let store = MemoryStore::default();
    let rows = Watched::default();
    assert!(rows.projector(&store).handle(&[]).await.is_empty());
    assert_eq!(rows.version(&counter(1)), 0);
}

//! Whatever is delivered twice, late or out of turn: the rows end as the folds of their histories.

use futures::future::join_all;
use millrace_domain::{
    StreamId,
    order::{OrderCommand, OrderStatus},
    user::UserCommand,
};
use millrace_event_store::{MemoryStore, StoredEvent};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::world::{
    Known, Watched, body, create_order, create_user, email, history, message, name, stream_for, stream_of,
    user_with,
};
use crate::{Handle as _, Orders, Users};

/// How the events of all streams are delivered.
#[derive(Debug, Clone)]
struct Delivery {
    /// What decides the order: a number for every copy of every event.
    keys: Vec<u64>,
    /// How many copies of each event there are: 1 to 10.
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
    let copies = prop_oneof![4 => Just(1_usize), 2 => 2..4_usize, 1 => 4..=10_usize];
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

/// A number that a cycle of numbers gives to a place.
fn cycle<T: Copy>(values: &[T], place: usize) -> T {
    values[place % values.len()]
}

impl Delivery {
    /// The bodies of the messages, batch by batch.
    fn batches(&self, histories: &[Vec<StoredEvent>]) -> Vec<Vec<String>> {
        let mut copies = Vec::new();
        for (place, event) in histories.iter().flatten().enumerate() {
            let mut envelope = event.envelope.clone();
            if cycle(&self.bare, place) {
                envelope.event_data = None;
            }
            copies.extend(vec![body(&envelope); cycle(&self.copies, place)]);
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

    /// Delivers, and checks every write and what the rows are in the end.
    async fn check<P: Known>(
        &self,
        streams: &[(StreamId, Vec<<P::Of as millrace_domain::Aggregate>::Command>)],
    ) {
        let store = MemoryStore::default();
        let rows = Watched::<P>::default();
        rows.pause(self.pauses.clone());
        let mut histories = Vec::new();
        for (stream, commands) in streams {
            let history = history::<P::Of>(&store, stream, commands).await;
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

/// Streams of two tenants under the same ids, since ids tell nothing apart between tenants.
fn streams<P: Known, C: Clone>(
    commands: Vec<Vec<C>>,
    create: impl Fn(&StreamId) -> C,
) -> Vec<(StreamId, Vec<C>)> {
    let place = |n: usize| stream_for::<P>(["acme", "umbrella"][n % 2], 1 + u128::try_from(n / 2).unwrap());
    let with_creation = |(n, commands): (usize, Vec<C>)| {
        let stream = place(n);
        let creation = create(&stream);
        (stream, std::iter::once(creation).chain(commands).collect())
    };
    commands.into_iter().enumerate().map(with_creation).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn users_converge_whatever_the_delivery(
        commands in vec(vec((option::of("[a-z]{1,5}@[a-z]{1,5}"), option::of("[a-z]{1,9}")), 0..12), 1..6),
        delivery in any_delivery(),
    ) {
        let update = |(address, label): (Option<String>, Option<String>)| UserCommand::UpdateUserProfile {
            email: address.map(|text| email(&text)),
            name: label.map(|text| name(&text)),
        };
        let commands = commands.into_iter().map(|all| all.into_iter().map(update).collect()).collect();
        run(delivery.check::<Users>(&streams::<Users, _>(commands, create_user)));
    }

    #[test]
    fn orders_converge_whatever_the_delivery(
        commands in vec(vec(select(OrderStatus::ALL.to_vec()), 0..12), 1..6),
        pieces in 1..=10_000_i32,
        delivery in any_delivery(),
    ) {
        let update = |status| OrderCommand::UpdateOrderStatus { status };
        let commands = commands.into_iter().map(|all| all.into_iter().map(update).collect()).collect();
        run(delivery.check::<Orders>(&streams::<Orders, _>(commands, |stream| create_order(stream, pieces))));
    }

    #[test]
    fn the_newest_event_alone_brings_the_whole_row(events in 1..250_usize, bare in any::<bool>()) {
        run(async move {
            let store = MemoryStore::default();
            let rows = Watched::<Users>::default();
            let history = user_with(&store, 1, events).await;
            rows.expect(&history);
            let mut newest = history.last().unwrap().envelope.clone();
            if bare {
                newest.event_data = None;
            }
            let outcomes = rows.projector(&store).handle(&[message(body(&newest))]).await;
            assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
            rows.assert_converged().await;
            assert_eq!(rows.applied(), 1, "the gap is closed in one write");
        });
    }
}

#[tokio::test]
async fn a_batch_without_messages_is_nothing_to_do() {
    let store = MemoryStore::default();
    let rows = Watched::<Users>::default();
    assert!(rows.projector(&store).handle(&[]).await.is_empty());
    assert_eq!(rows.version(&stream_of::<Users>(1)), 0);
}

//! The cost of commands on AWS: requests, bytes, units. Run with `--nocapture` to see the tables.

use std::{collections::BTreeMap, fmt::Write as _};

use millrace_command::snapshots::{self, FIRST_PAGE};
use millrace_core::{Aggregate as _, StreamId, Timestamp};
use millrace_event_store::{
    AppendEvents as _, Commit, DynamoStore, ReadEvents as _, Snapshots as _, StoredEvent,
};
use millrace_local::StackOptions;
use millrace_testing::recorded;
use millrace_tests::{FaultProxy, Replied as _, Traffic, aws_stack_with, eventually};
use shop::{
    UserId,
    contracts::{
        command::{
            UpdateOrderStatusRequest, UpdateUserProfileRequest,
            order_command_service_server::OrderCommandService as _,
            user_command_service_server::UserCommandService as _,
        },
        types::OrderStatus,
    },
    user::{User, UserEvent, UserProfileUpdated},
};
use tonic::Request;
use uuid::Uuid;

use crate::{
    calls::{laptop, user},
    past::as_by_the_service,
    replica::{Replica, SHARDS, store},
};

/// The most that a cold load of a long stream may bring over the wire.
const MAX_BYTES: u64 = 16_000;

/// The cost of a piece of work, by operation.
#[derive(Debug, Clone)]
struct Cost(BTreeMap<String, Traffic>);

impl Cost {
    fn of(&self, read: impl Fn(&Traffic) -> f64) -> f64 {
        self.0.values().map(read).sum()
    }

    fn requests(&self) -> BTreeMap<&str, u64> {
        self.0.iter().map(|(operation, traffic)| (operation.as_str(), traffic.requests)).collect()
    }

    /// The bytes that reads brought.
    fn bytes_read(&self) -> u64 {
        ["Query", "GetItem"].iter().filter_map(|read| self.0.get(*read)).map(|read| read.response_bytes).sum()
    }

    fn row(&self, what: &str, read_units: f64) -> String {
        let requests: Vec<_> = self.requests().iter().map(|(name, n)| format!("{n} {name}")).collect();
        let (bytes, written) = (self.bytes_read(), self.write_units());
        format!("{what:<36} {:<34} {bytes:>10} {read_units:>6.1} {written:>6.1}\n", requests.join(", "))
    }

    fn write_units(&self) -> f64 {
        self.of(|traffic| traffic.write_units)
    }
}

fn requests(counts: &[(&'static str, u64)]) -> BTreeMap<&'static str, u64> {
    counts.iter().copied().collect()
}

/// A stack whose requests are metered.
struct Metered {
    proxy: FaultProxy,
    store: DynamoStore,
}

impl Metered {
    async fn new(options: &StackOptions) -> Self {
        let stack = aws_stack_with(options).await.unwrap();
        let proxy = FaultProxy::before(stack.endpoint()).await.unwrap();
        let shards = options.event_type_index.then_some(SHARDS);
        let store = store(&stack, &proxy.aws(&stack.account).await, shards);
        Self { proxy, store }
    }

    fn replica(&self) -> Replica {
        Replica::new(&self.store, snapshots::EVERY)
    }

    /// The read units of a load. DynamoDB charges events whole, though it sends a part of each; the local AWS charges
    /// the parts. So the same events are read whole.
    async fn units_of_load(&self, stream: &StreamId, version: u64, load: &Cost) -> f64 {
        self.cost();
        self.store.page(stream, version.saturating_sub(FIRST_PAGE.into()), FIRST_PAGE).await.unwrap();
        let whole = self.cost();
        whole.of(|traffic| traffic.read_units) + load.0.get("GetItem").map_or(0.0, |get| get.read_units)
    }

    /// The cost of the work since the last call.
    fn cost(&self) -> Cost {
        Cost(self.proxy.take())
    }

    /// A user with so many events, all but the last of them stored past the service.
    async fn long_stream(&self, length: u64) -> (String, StreamId) {
        let email = format!("{}@example.com", Uuid::new_v4());
        let reply = self.replica().users.create_user(Request::new(user(&email))).await.unwrap();
        let id = reply.reply().aggregate_id;
        let user_id: UserId = id.parse().unwrap();
        let stream = StreamId { tenant: Default::default(), aggregate_type: User::TYPE, id: user_id.0 };
        // The events that the service adds itself are enough for a snapshot.
        let by_service = (snapshots::EVERY.get() + 20).min(length - 1);
        let versions: Vec<u64> = (2..=length - by_service).collect();
        for versions in versions.chunks(100) {
            let events = versions.iter().map(|version| renamed(&stream, *version)).collect();
            self.store.append(&Commit { events, claims: vec![], releases: vec![] }).await.unwrap();
        }
        let service = self.replica();
        for version in length - by_service + 1..=length {
            assert_eq!(service.rename(&id, &format!("John {version}")).await, version);
        }
        (id, stream)
    }

    /// Waits until the stream's snapshot is of this version.
    async fn until_kept(&self, stream: &StreamId, version: u64) {
        eventually("a snapshot", async || {
            let kept = self.store.snapshot(stream, User::STATE_SCHEMA).await.unwrap();
            kept.is_some_and(|kept| kept.version == version).then_some(())
        })
        .await;
    }
}

/// An event as the service would have stored it an hour ago: a stream of many events within minutes is loaded with the
/// commands of these minutes.
fn renamed(stream: &StreamId, version: u64) -> StoredEvent {
    let hour_ago = Timestamp::from_unix_micros(millrace_server::clock::now().unix_micros() - 3_600_000_000);
    let name = Some("John Doe".to_owned().try_into().unwrap());
    let event = UserEvent::UserProfileUpdated(UserProfileUpdated { email: None, name });
    as_by_the_service(recorded(stream, version, hour_ago, &event))
}

fn header(title: &str) -> String {
    format!("\n{title:<36} {:<34} {:>10} {:>6} {:>6}\n", "requests", "bytes read", "RU", "WU")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_costs_the_same_however_long_its_stream_is() {
    let metered = Metered::new(&StackOptions::default()).await;
    let mut table = header("UpdateUserProfile on a stream of");
    // The last one is nearly as far from its newest snapshot as a stream can be.
    for length in [1, 24, 100, 1_000, 10_000, 10_013] {
        let (id, stream) = metered.long_stream(length).await;
        if length > u64::from(FIRST_PAGE) {
            metered.until_kept(&stream, length / snapshots::EVERY * snapshots::EVERY.get()).await;
        }
        let service = metered.replica();
        metered.cost();
        service.rename(&id, "Jack Doe").await;
        let cold = metered.cost();
        service.rename(&id, "Jane Doe").await;
        let warm = metered.cost();
        let units = metered.units_of_load(&stream, length, &cold).await;
        write!(table, "{}", cold.row(&format!("{length} events, cold"), units)).unwrap();
        write!(table, "{}", warm.row(&format!("{length} events, warm"), 0.0)).unwrap();

        // The local AWS charges the sent parts. Half as much would be a load that may miss the newest write.
        let sent = (cold.0["Query"].read_units, cold.0.get("GetItem").map(|get| get.read_units));
        match length {
            1 => assert_eq!(sent, (1.0, None), "events are read strongly"),
            24 => assert_eq!(sent, (2.0, None), "events are read strongly"),
            // 4 KB at most, for which half a unit is enough.
            _ => assert_eq!(sent, (2.0, Some(0.5)), "and snapshots are not"),
        }
        assert!(units <= 6.0, "{length}: {units} RU");
        assert_eq!(warm.requests(), requests(&[("PutItem", 1)]), "{length}, warm");
        assert_eq!(warm.of(|traffic| traffic.read_units), 0.0, "{length}, warm");
        assert_eq!((warm.write_units(), cold.write_units()), (2.0, 2.0), "the event, its entry in the index");
        let loads: &[_] =
            if length <= u64::from(FIRST_PAGE) { &[("Query", 1)] } else { &[("Query", 1), ("GetItem", 1)] };
        assert_eq!(cold.requests(), requests(&[loads, &[("PutItem", 1)]].concat()), "{length}, cold");
        assert!(cold.bytes_read() < MAX_BYTES, "{length}: {} bytes", cold.bytes_read());
    }
    println!("{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_index_an_event_is_one_write_unit() {
    let metered = Metered::new(&StackOptions { event_type_index: false, ..StackOptions::default() }).await;
    let (id, _) = metered.long_stream(2).await;
    let service = metered.replica();
    service.rename(&id, "Jack Doe").await;
    metered.cost();
    service.rename(&id, "Jane Doe").await;
    let warm = metered.cost();
    assert_eq!((warm.requests(), warm.write_units()), (requests(&[("PutItem", 1)]), 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_commands_cost_what_the_architecture_says() {
    let metered = Metered::new(&StackOptions::default()).await;
    let mut table = header("");
    let mut show = |what: &str, cost: &Cost, requests: &[(&'static str, u64)], written: f64| {
        write!(table, "{}", cost.row(what, cost.of(|traffic| traffic.read_units))).unwrap();
        assert_eq!(cost.requests(), self::requests(requests), "{what}");
        assert_eq!(cost.write_units(), written, "{what}");
    };
    let service = metered.replica();
    let john = service.users.create_user(Request::new(user("john@example.com"))).await.unwrap().reply();
    show("CreateUser", &metered.cost(), &[("TransactWriteItems", 1)], 5.0);
    let change = UpdateUserProfileRequest {
        user_id: john.aggregate_id.clone(),
        email: Some("jack@example.com".into()),
        ..Default::default()
    };
    service.users.update_user_profile(Request::new(change)).await.unwrap();
    show("UpdateUserProfile, another address", &metered.cost(), &[("TransactWriteItems", 1)], 7.0);
    let order = service.orders.create_order(Request::new(laptop(&john.aggregate_id))).await.unwrap().reply();
    show("CreateOrder, of a known user", &metered.cost(), &[("PutItem", 1)], 2.0);
    let cold = metered.replica();
    cold.orders.create_order(Request::new(laptop(&john.aggregate_id))).await.unwrap();
    show("CreateOrder, of an unknown user", &metered.cost(), &[("Query", 1), ("PutItem", 1)], 2.0);
    let status = |status: OrderStatus| {
        let order_id = order.aggregate_id.clone();
        Request::new(UpdateOrderStatusRequest { order_id, status: status.into(), ..Default::default() })
    };
    service.orders.update_order_status(status(OrderStatus::Processing)).await.unwrap();
    show("UpdateOrderStatus, warm", &metered.cost(), &[("PutItem", 1)], 2.0);
    cold.orders.update_order_status(status(OrderStatus::Shipped)).await.unwrap();
    show("UpdateOrderStatus, cold", &metered.cost(), &[("Query", 1), ("PutItem", 1)], 2.0);
    cold.rename(&john.aggregate_id, "Jack Doe").await;
    metered.cost();
    service.rename(&john.aggregate_id, "Jane Doe").await;
    let raced = metered.cost();
    show("UpdateUserProfile, of an old state", &raced, &[("PutItem", 2)], 2.0);
    assert_eq!(raced.0["PutItem"].failed_conditions, 1, "it is answered with the event that it met");
    println!("{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_as_seldom_as_the_budget_of_a_cold_load_lets_them() {
    let metered = Metered::new(&StackOptions::default()).await;
    let mut table = format!(
        "\n{:>14} {:>12} {:>10} {:>12} {:>6}\n",
        "snapshot every", "WU an event", "requests", "bytes read", "RU"
    );
    for every in [8, 12, 16, 20, 24, 32] {
        // One short of a snapshot.
        let (id, stream) = metered.long_stream(1_000_u64.next_multiple_of(every) - 1).await;
        let service = Replica::new(&metered.store, every.try_into().unwrap());
        service.rename(&id, "John Doe").await;
        let first = 1_000_u64.next_multiple_of(every);
        metered.until_kept(&stream, first).await;
        metered.cost();
        for version in first + 1..=first + every {
            assert_eq!(service.rename(&id, &format!("John {version}")).await, version);
        }
        metered.until_kept(&stream, first + every).await;
        // For each event, the write units besides its own.
        let snapshots_alone = metered.cost().write_units() / f64::from(u32::try_from(every).unwrap()) - 2.0;
        let newest = first + 2 * every - 1;
        for version in first + every + 1..=newest {
            assert_eq!(service.rename(&id, &format!("John {version}")).await, version);
        }
        metered.cost();
        // A command that loads and writes nothing.
        let stale = UpdateUserProfileRequest {
            user_id: id.clone(),
            name: Some("Jane Doe".into()),
            expected_version: Some(1),
            ..Default::default()
        };
        let cold = Replica::new(&metered.store, every.try_into().unwrap());
        cold.users.update_user_profile(Request::new(stale)).await.unwrap_err();
        let load = metered.cost();
        // Not the snapshot that the load may leave behind.
        let requests: u64 =
            ["Query", "GetItem"].iter().filter_map(|read| load.requests().get(read).copied()).sum();
        let units = metered.units_of_load(&stream, newest, &load).await;
        writeln!(
            table,
            "{every:>14} {snapshots_alone:>12.2} {requests:>10} {:>12} {units:>6.1}",
            load.bytes_read()
        )
        .unwrap();
        if every == snapshots::EVERY.get() {
            assert!(
                requests <= 3 && load.bytes_read() < MAX_BYTES,
                "{requests}, {} bytes",
                load.bytes_read()
            );
            assert!(snapshots_alone <= 0.25, "{snapshots_alone} WU an event");
        }
    }
    println!("{table}");
}

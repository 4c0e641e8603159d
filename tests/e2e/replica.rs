//! The services' own code on the local AWS, without a port, a relay, probes or watchers, so that nothing else is counted.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use command_service::{
    handler::{Handler, HandlerConfig},
    orders::Orders,
    states::States,
    users::Users,
};
use millrace_aws::Aws;
use millrace_domain::Timestamp;
use millrace_event_store::{DynamoStore, Tables};
use millrace_proto::command::{
    UpdateUserProfileRequest, user_command_service_server::UserCommandService as _,
};
use millrace_read_models::{DynamoOrders, DynamoUsers};
use millrace_runtime::Places;
use millrace_tests::Ground;
use query_service::{
    models::Models,
    token::PageTokens,
    watch::{Hub, OrderRows, Pace, UserRows},
};
use tokio_util::sync::CancellationToken;
use tonic::Request;

fn now() -> Timestamp {
    millrace_runtime::clock::now()
}

/// How many shards the index by event type has.
pub(crate) const SHARDS: NonZeroU32 = NonZeroU32::new(4).expect("4 is not 0");

/// The event store of a ground, with as many shards of its index as there are.
pub(crate) fn store(ground: &Ground, aws: &Aws, index_shards: Option<NonZeroU32>) -> DynamoStore {
    let tables = Tables {
        events: ground.output("EventStoreTable").into(),
        unique_keys: ground.output("UniqueKeyTable").into(),
        snapshots: ground.output("SnapshotTable").into(),
    };
    DynamoStore::new(aws.dynamodb(), tables, index_shards)
}

/// A replica of the command service with empty caches.
pub(crate) struct Replica {
    pub(crate) users: Users<DynamoStore>,
    pub(crate) orders: Orders<DynamoStore>,
}

impl Replica {
    /// A replica that keeps a snapshot after so many events.
    pub(crate) fn new(store: &DynamoStore, snapshot_every: NonZeroU64) -> Self {
        let told = HandlerConfig { clock: now, chance: rand::random::<f64>, snapshot_every };
        let users = Handler::new(store.clone(), States::new(1 << 20), told);
        let orders = Handler::new(store.clone(), States::new(1 << 20), told);
        Self { users: Users::new(users.clone()), orders: Orders::new(orders, users) }
    }

    /// Gives a user another name; the version that comes of it.
    pub(crate) async fn rename(&self, user_id: &str, name: &str) -> u64 {
        let request = UpdateUserProfileRequest {
            user_id: user_id.into(),
            name: Some(name.into()),
            ..Default::default()
        };
        self.users.update_user_profile(Request::new(request)).await.unwrap().into_inner().version
    }
}

/// A replica of the query service, whose rows nobody can watch.
pub(crate) struct QueryReplica {
    pub(crate) users: query_service::users::Users<DynamoUsers, DynamoOrders>,
    pub(crate) orders: query_service::orders::Orders<DynamoUsers, DynamoOrders>,
}

impl QueryReplica {
    /// A replica over read models, which seals page tokens by the key that tests use.
    pub(crate) fn new(models: &Models<DynamoUsers, DynamoOrders>) -> Self {
        let pace = Pace { fastest: Duration::MAX, slowest: Duration::MAX };
        let (nobody, end) = (Places::new(0, 0), CancellationToken::new());
        let users = Hub::new(UserRows(models.users.clone()), pace, nobody.clone(), end.clone());
        let orders = Hub::new(OrderRows(models.orders.clone()), pace, nobody, end);
        Self {
            users: query_service::users::Users::new(models.clone(), users),
            orders: query_service::orders::Orders::new(models.clone(), tokens(), orders),
        }
    }
}

/// The read models of a ground.
pub(crate) fn models(ground: &Ground, aws: &Aws) -> Models<DynamoUsers, DynamoOrders> {
    let users = DynamoUsers::new(aws.dynamodb(), ground.output("UserReadModelTable"));
    // 4 fits.
    let shards = u16::try_from(SHARDS.get()).unwrap();
    Models::new(users, DynamoOrders::new(aws.dynamodb(), ground.output("OrderReadModelTable"), shards))
}

/// What seals page tokens in tests.
fn tokens() -> PageTokens {
    PageTokens::new(b"a key for this test")
}

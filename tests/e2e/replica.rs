//! The command service's own code on the local AWS, without a port, a relay or probes, so that nothing else is counted.

use std::num::{NonZeroU32, NonZeroU64};

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
use millrace_tests::Ground;
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

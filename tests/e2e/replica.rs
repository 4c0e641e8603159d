//! The services' own code on the local AWS, without a port, a relay, probes or watchers, so that nothing else is counted.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use command_service::{Orders, Users};
use millrace_aws::Aws;
use millrace_command::{CommandHandler, CommandHandlerConfig, StateCache};
use millrace_core::ProjectionName;
use millrace_event_store::{DynamoReader, DynamoStore, Tables};
use millrace_query::{
    QueryService,
    history::History,
    token::PageTokens,
    watch::{Pace, Watching},
};
use millrace_rows::{DynamoRows, IndexShards};
use millrace_server::clock;
use millrace_tests::{AwsStack, Replied as _};
use shop::{
    OrderSummary, UserProfile,
    contracts::command::{UpdateUserProfileRequest, user_command_service_server::UserCommandService as _},
};
use tokio_util::sync::CancellationToken;
use tonic::Request;

/// How many shards the index by event type has.
pub(crate) const SHARDS: NonZeroU32 = NonZeroU32::new(4).expect("4 is not 0");

/// The event store of a stack, with as many shards of its index as there are.
pub(crate) fn store(stack: &AwsStack, aws: &Aws, index_shards: Option<NonZeroU32>) -> DynamoStore {
    let tables =
        Tables { events: stack.events(), unique_keys: stack.unique_keys(), snapshots: stack.snapshots() };
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
        let config = CommandHandlerConfig { clock: clock::now, jitter: rand::random::<f64>, snapshot_every };
        let users = CommandHandler::new(store.clone(), StateCache::new(1 << 20), config);
        let orders = CommandHandler::new(store.clone(), StateCache::new(1 << 20), config);
        Self { users: Users(users.clone()), orders: Orders { orders, users } }
    }

    /// Gives a user another name, and returns the new version.
    pub(crate) async fn rename(&self, user_id: &str, name: &str) -> u64 {
        let request = UpdateUserProfileRequest {
            user_id: user_id.into(),
            name: Some(name.into()),
            ..Default::default()
        };
        self.users.update_user_profile(Request::new(request)).await.unwrap().reply().version
    }
}

/// A replica of the query service, whose rows nobody can watch.
pub(crate) struct QueryReplica {
    pub(crate) users: query_service::Users,
    pub(crate) orders: query_service::Orders,
    pub(crate) history: History,
}

impl QueryReplica {
    /// A replica on a stack, which seals page tokens by the key that tests use.
    pub(crate) fn new(stack: &AwsStack, aws: &Aws) -> Self {
        let pace = Pace { fastest: Duration::MAX, slowest: Duration::MAX };
        let service = QueryService::new(
            &stack.application,
            |spec| dynamo_rows(stack, aws, spec.name),
            DynamoReader::new(aws.dynamodb(), stack.events()).with_index(Some(SHARDS)),
            PageTokens::new(b"a key for this test"),
            Watching { max: 0, max_per_tenant: 0, pace },
            CancellationToken::new(),
        );
        Self {
            users: query_service::Users(service.rows::<UserProfile, _>().unwrap()),
            orders: query_service::Orders(service.rows::<OrderSummary, _>().unwrap()),
            history: service.history(),
        }
    }
}

/// The rows of a projection of a stack.
pub(crate) fn dynamo_rows(stack: &AwsStack, aws: &Aws, projection: ProjectionName) -> DynamoRows {
    let spec = stack.application.projections().iter().find(|spec| spec.name == projection).unwrap();
    let shards = stack.index_shards().try_into().unwrap();
    let shards = IndexShards { read: shards, write: shards };
    DynamoRows::new(aws.dynamodb(), stack.rows(projection), spec, shards)
}

//! A replica of the service, and a store that troubles it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
    time::Duration,
};

use command_service::{Orders, Users};
use millrace_aws::AwsError;
use millrace_command::{CommandHandler, CommandHandlerConfig, StateCache, snapshots};
use millrace_core::{StreamId, Timestamp};
use millrace_event_store::{
    AppendError, AppendEvents, CommandBlock, Commit, Entry, LoadEvents, MemoryStore, Replaces, Snapshot,
    Snapshots,
};
use millrace_proto::command::CommandResult;
use shop::contracts::{
    Money,
    command::{
        CreateOrderRequest, CreateUserRequest, UpdateOrderStatusRequest, UpdateUserProfileRequest,
        order_command_service_server::OrderCommandService as _,
        user_command_service_server::UserCommandService as _,
    },
    types::{OrderItem, OrderStatus},
};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

pub(crate) fn noon() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().expect("a time")
}

/// A replica of the service: caches of its own over a store that it may share.
pub(crate) struct Replica<S> {
    pub(crate) users: Users<S>,
    pub(crate) orders: Orders<S>,
}

pub(crate) const CONFIG: CommandHandlerConfig =
    CommandHandlerConfig { clock: noon, jitter: rand::random::<f64>, snapshot_every: snapshots::EVERY };

/// A clock that is looked at every ten seconds: an aggregate forgets commands only after more than ten minutes.
pub(crate) fn unhurried() -> Timestamp {
    static SECONDS: AtomicI64 = AtomicI64::new(0);
    let micros = SECONDS.fetch_add(10, Ordering::SeqCst) * 1_000_000;
    Timestamp::from_unix_micros(noon().unix_micros() + micros)
}

pub(crate) fn replica<S: AppendEvents + Snapshots>(store: &S) -> Replica<S> {
    replica_with(store, CONFIG)
}

pub(crate) fn replica_with<S: AppendEvents + Snapshots>(
    store: &S,
    config: CommandHandlerConfig,
) -> Replica<S> {
    let users = CommandHandler::new(store.clone(), StateCache::new(1 << 20), config);
    let orders = CommandHandler::new(store.clone(), StateCache::new(1 << 20), config);
    Replica { users: Users(users.clone()), orders: Orders { orders, users } }
}

/// The result of a command that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) aggregate_id: String,
    pub(crate) version: u64,
    pub(crate) event_id: String,
    pub(crate) command_id: String,
    pub(crate) replayed: bool,
}

impl From<Option<CommandResult>> for Accepted {
    fn from(result: Option<CommandResult>) -> Self {
        let CommandResult { read_after, event_id, command_id, replayed } = result.unwrap();
        let read_after = read_after.unwrap();
        let (aggregate_id, version) = (read_after.aggregate_id, read_after.version);
        Self { aggregate_id, version, event_id, command_id, replayed }
    }
}

pub(crate) fn user(email: &str, command_id: &str) -> CreateUserRequest {
    CreateUserRequest {
        email: email.into(),
        name: "John Doe".into(),
        command_id: Some(command_id.into()),
        correlation_id: None,
    }
}

pub(crate) fn item(quantity: i32, units: i64, nanos: i32) -> OrderItem {
    let price = Money { currency_code: "USD".into(), units, nanos };
    OrderItem { product: "laptop".into(), quantity, price: Some(price) }
}

impl<S: AppendEvents + Snapshots> Replica<S> {
    pub(crate) async fn create_user(&self, request: CreateUserRequest) -> Result<Accepted, Status> {
        self.send_user(Request::new(request)).await
    }

    /// The same with metadata.
    pub(crate) async fn send_user(&self, request: Request<CreateUserRequest>) -> Result<Accepted, Status> {
        Ok(self.users.create_user(request).await?.into_inner().result.into())
    }

    pub(crate) async fn rename(
        &self,
        user_id: &str,
        name: &str,
        command_id: &str,
    ) -> Result<(u64, bool), Status> {
        let request = UpdateUserProfileRequest {
            user_id: user_id.into(),
            name: Some(name.into()),
            command_id: Some(command_id.into()),
            ..Default::default()
        };
        let reply = self.users.update_user_profile(Request::new(request)).await?.into_inner();
        let accepted = Accepted::from(reply.result);
        Ok((accepted.version, accepted.replayed))
    }

    pub(crate) async fn move_email(&self, user_id: &str, email: &str) -> Result<u64, Status> {
        let request = UpdateUserProfileRequest {
            user_id: user_id.into(),
            email: Some(email.into()),
            ..Default::default()
        };
        let reply = self.users.update_user_profile(Request::new(request)).await?.into_inner();
        Ok(Accepted::from(reply.result).version)
    }

    pub(crate) async fn create_order(&self, user_id: &str) -> Result<Accepted, Status> {
        let request = CreateOrderRequest {
            user_id: user_id.into(),
            items: vec![item(1, 999, 990_000_000)],
            total_amount: Some(Money { currency_code: "USD".into(), units: 999, nanos: 990_000_000 }),
            ..Default::default()
        };
        Ok(self.orders.create_order(Request::new(request)).await?.into_inner().result.into())
    }

    pub(crate) async fn set_status(&self, order_id: &str, status: OrderStatus) -> Result<u64, Status> {
        self.set_status_at(order_id, status, None).await
    }

    pub(crate) async fn set_status_at(
        &self,
        order_id: &str,
        status: OrderStatus,
        expected: Option<u64>,
    ) -> Result<u64, Status> {
        let request = UpdateOrderStatusRequest {
            order_id: order_id.into(),
            status: status.into(),
            expected_version: expected,
            ..Default::default()
        };
        let reply = self.orders.update_order_status(Request::new(request)).await?.into_inner();
        Ok(Accepted::from(reply.result).version)
    }
}

pub(crate) fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// A store that loses replies: an append takes effect, and its caller learns nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lossy {
    pub(crate) inner: MemoryStore,
    pub(crate) losses: Arc<AtomicU32>,
    /// How long an append takes.
    pub(crate) latency: Duration,
    /// Appends that do not take effect, since another is under way.
    pub(crate) busy: Arc<AtomicU32>,
    /// Appends that take effect, while the reply says that another one is under way.
    pub(crate) unnoticed: Arc<AtomicU32>,
    /// Sends the same commit again, as the SDK does.
    pub(crate) resends: bool,
    /// The reply to the next append, which does not take effect.
    pub(crate) instead: Arc<Mutex<Option<AppendError>>>,
}

fn one_less(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

impl LoadEvents for Lossy {
    async fn newest(&self, stream: &StreamId, after: u64, limit: u16) -> Result<Vec<Entry>, AwsError> {
        self.inner.newest(stream, after, limit).await
    }

    async fn between(&self, stream: &StreamId, after: u64, before: u64) -> Result<Vec<Entry>, AwsError> {
        self.inner.between(stream, after, before).await
    }
}

impl Snapshots for Lossy {
    async fn snapshot(&self, stream: &StreamId, schema: u32) -> Result<Option<Snapshot>, AwsError> {
        self.inner.snapshot(stream, schema).await
    }

    async fn put_snapshot(&self, snapshot: &Snapshot, replaces: Replaces) -> Result<bool, AwsError> {
        self.inner.put_snapshot(snapshot, replaces).await
    }

    async fn command_blocks(
        &self,
        stream: &StreamId,
        numbers: &[u64],
    ) -> Result<Vec<CommandBlock>, AwsError> {
        self.inner.command_blocks(stream, numbers).await
    }

    async fn put_command_block(&self, block: &CommandBlock, replaces: Replaces) -> Result<bool, AwsError> {
        self.inner.put_command_block(block, replaces).await
    }
}

impl AppendEvents for Lossy {
    async fn append(&self, commit: &Commit) -> Result<(), AppendError> {
        tokio::time::sleep(self.latency).await;
        let instead = self.instead.lock().unwrap().take();
        if let Some(answer) = instead {
            return Err(answer);
        }
        if one_less(&self.busy) {
            return Err(AppendError::Contended);
        }
        let result = self.inner.append(commit).await;
        if one_less(&self.unnoticed) {
            return Err(AppendError::Contended);
        }
        let lost = one_less(&self.losses);
        match (lost, self.resends) {
            (false, _) => result,
            (true, true) => self.inner.append(commit).await,
            (true, false) => Err(AwsError::Unreachable("the reply was lost".into()).into()),
        }
    }
}

/// Runs the work left behind the replies to its end, on this one thread.
pub(crate) async fn settled() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

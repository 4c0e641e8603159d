//! A replica of the service, and a store that troubles it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use command_service::{
    handler::{Handler, HandlerConfig},
    orders::Orders,
    snapshots,
    states::States,
    users::Users,
};
use millrace_aws::AwsError;
use millrace_domain::{StreamId, Timestamp, order::Order, user::User};
use millrace_event_store::{
    AppendError, AppendEvents, Commit, Entry, LoadEvents, MemoryStore, Replaces, Snapshot, Snapshots,
};
use millrace_proto::{
    Money,
    command::{
        CreateOrderRequest, CreateOrderResponse, CreateUserRequest, CreateUserResponse,
        UpdateOrderStatusRequest, UpdateUserProfileRequest,
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

pub(crate) const TOLD: HandlerConfig =
    HandlerConfig { clock: noon, chance: rand::random::<f64>, snapshot_every: snapshots::EVERY };

pub(crate) fn replica<S: AppendEvents + Snapshots>(store: &S) -> Replica<S> {
    replica_told(store, TOLD)
}

pub(crate) fn replica_told<S: AppendEvents + Snapshots>(store: &S, told: HandlerConfig) -> Replica<S> {
    let users: Handler<User, S> = Handler::new(store.clone(), States::new(1 << 20), told);
    let orders: Handler<Order, S> = Handler::new(store.clone(), States::new(1 << 20), told);
    Replica { users: Users::new(users.clone()), orders: Orders::new(orders, users) }
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
    pub(crate) async fn create_user(&self, request: CreateUserRequest) -> Result<CreateUserResponse, Status> {
        self.users.create_user(Request::new(request)).await.map(tonic::Response::into_inner)
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
        Ok((reply.version, reply.replayed))
    }

    pub(crate) async fn move_email(&self, user_id: &str, email: &str) -> Result<u64, Status> {
        let request = UpdateUserProfileRequest {
            user_id: user_id.into(),
            email: Some(email.into()),
            ..Default::default()
        };
        Ok(self.users.update_user_profile(Request::new(request)).await?.into_inner().version)
    }

    pub(crate) async fn create_order(&self, user_id: &str) -> Result<CreateOrderResponse, Status> {
        let request = CreateOrderRequest {
            user_id: user_id.into(),
            items: vec![item(1, 999, 990_000_000)],
            total_amount: Some(Money { currency_code: "USD".into(), units: 999, nanos: 990_000_000 }),
            ..Default::default()
        };
        self.orders.create_order(Request::new(request)).await.map(tonic::Response::into_inner)
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
        Ok(self.orders.update_order_status(Request::new(request)).await?.into_inner().version)
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
    /// Appends that take effect, while their caller is told of another one under way.
    pub(crate) unnoticed: Arc<AtomicU32>,
    /// What the SDK does: send the same commit again.
    pub(crate) resends: bool,
    /// What the next append is answered with, without taking effect.
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
    async fn snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, AwsError> {
        self.inner.snapshot(stream).await
    }

    async fn put_snapshot(&self, snapshot: &Snapshot, replaces: Replaces) -> Result<bool, AwsError> {
        self.inner.put_snapshot(snapshot, replaces).await
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

/// What was left to be done behind the replies is done, on this one thread.
pub(crate) async fn settled() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

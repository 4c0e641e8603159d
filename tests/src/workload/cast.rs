//! The cast: two tenants with users and orders, with ids known before they exist.

use millrace_core::{Aggregate as _, AggregateType, StreamId, TenantId};
use millrace_event_store::{MemoryStore, StoredEvent};
use shop::{
    contracts::{
        Money,
        command::{
            CreateOrderRequest, CreateUserRequest, UpdateOrderStatusRequest, UpdateUserProfileRequest,
        },
        types::OrderItem,
    },
    order::Order,
    user::User,
};
use uuid::Uuid;

use super::{Address, Ask, Command, Expected, Id, ORDERS, USERS, fleet::Replica};

const ADDRESSES: [&str; 4] = ["ann@example.com", "bob@example.com", "cid@example.com", "dan@example.com"];
const NAMES: [&str; 3] = ["Ann", "Bob", "Cid"];

/// An aggregate that nobody creates.
const NOBODY: Uuid = Uuid::from_u128(7);

/// A command on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// The aggregate that it is for.
    pub stream: StreamId,
    /// Its id.
    pub command_id: String,
    /// The request without the id.
    pub body: Body,
}

/// A request without its command's id.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the requests say it")]
pub enum Body {
    CreateUser(CreateUserRequest),
    UpdateUser(UpdateUserProfileRequest),
    CreateOrder(CreateOrderRequest),
    SetStatus(UpdateOrderStatusRequest),
}

impl Body {
    /// Whether it creates an aggregate.
    pub fn creates(&self) -> bool {
        match self {
            Self::CreateUser(_) | Self::CreateOrder(_) => true,
            Self::UpdateUser(_) | Self::SetStatus(_) => false,
        }
    }

    /// The version that the client says it has seen.
    pub fn expected(&self) -> Option<u64> {
        match self {
            Self::CreateUser(_) | Self::CreateOrder(_) => None,
            Self::UpdateUser(body) => body.expected_version,
            Self::SetStatus(body) => body.expected_version,
        }
    }

    /// The address that it asks for, in its normal form.
    pub fn email(&self) -> Option<String> {
        let email = match self {
            Self::CreateUser(body) => Some(&body.email),
            Self::UpdateUser(body) => body.email.as_ref(),
            Self::CreateOrder(_) | Self::SetStatus(_) => None,
        };
        email.map(|email| email.to_lowercase())
    }
}

/// Everybody, and the long history that a plan may begin with.
#[derive(Debug)]
pub struct Cast {
    tenants: [TenantId; 2],
    users: [[Uuid; USERS]; 2],
    orders: [[Uuid; ORDERS]; 2],
    user_history: Vec<(Sent, StoredEvent)>,
    order_history: Vec<(Sent, StoredEvent)>,
    /// Commands that reveal each address's holder: to each tenant, a new user with it.
    pub probes: Vec<Sent>,
}

impl Cast {
    /// The most events that a user has before all begins.
    pub const USER_EVENTS: usize = 230;

    /// The most events that an order has before all begins.
    pub const ORDER_EVENTS: usize = 2;

    /// Learns the ids of all that two tenants can create, from a service of their own: an id follows from the tenant
    /// and the command.
    pub async fn of(tenants: [&str; 2]) -> anyhow::Result<Self> {
        let mut cast = Self {
            tenants: [tenants[0].parse()?, tenants[1].parse()?],
            users: [[NOBODY; USERS]; 2],
            orders: [[NOBODY; ORDERS]; 2],
            user_history: Vec::new(),
            order_history: Vec::new(),
            probes: Vec::new(),
        };
        let service = Replica::new(&MemoryStore::default(), true, 80);
        for tenant in 0..2 {
            for user in 0..USERS {
                let create = Ask::CreateUser { user, email: Address { which: user, loud: false }, name: 0 };
                let reply = service.send(&cast.send(tenant, &create), false).await?;
                cast.users[tenant][user] = reply.aggregate_id.parse()?;
            }
            for order in 0..ORDERS {
                let create = Ask::CreateOrder { order, user: 0, pieces: 1 };
                let reply = service.send(&cast.send(tenant, &create), false).await?;
                cast.orders[tenant][order] = reply.aggregate_id.parse()?;
            }
        }
        let mut history = cast.make_history().await?;
        cast.order_history = history.split_off(Self::USER_EVENTS);
        cast.user_history = history;
        cast.probes = cast.make_probes().await?;
        Ok(cast)
    }

    /// The history before the run: so many events of the first tenant's first user and of that user's first order, each
    /// with its command.
    pub fn history(
        &self,
        user_events: usize,
        order_events: usize,
    ) -> impl Iterator<Item = &(Sent, StoredEvent)> {
        self.user_history.iter().take(user_events).chain(self.order_history.iter().take(order_events))
    }

    async fn make_history(&self) -> anyhow::Result<Vec<(Sent, StoredEvent)>> {
        let place = Ask::CreateOrder { order: 0, user: 0, pieces: 1 };
        let process = Ask::SetStatus { order: 0, id: Id::Few(0), status: 2, expected: Expected::Nothing };
        let updates = (1..Self::USER_EVENTS).map(Ask::repeated_seed);
        let asks = std::iter::once(Ask::first_of_all()).chain(updates).chain([place, process]);
        let store = MemoryStore::default();
        let service = Replica::new(&store, true, 80);
        let mut sent = Vec::new();
        for ask in asks {
            let command = self.send(0, &ask);
            service.send(&command, false).await?;
            sent.push(command);
        }
        Ok(sent.into_iter().zip(store.all()).collect())
    }

    async fn make_probes(&self) -> anyhow::Result<Vec<Sent>> {
        let service = Replica::new(&MemoryStore::default(), true, 80);
        let mut probes = Vec::new();
        for (tenant, email) in (0..2).flat_map(|tenant| ADDRESSES.map(|email| (tenant, email))) {
            let body = CreateUserRequest { email: email.into(), name: NAMES[0].into(), ..Default::default() };
            let mut probe = Sent {
                stream: self.stream(tenant, User::TYPE, NOBODY),
                command_id: format!("probe-{email}"),
                body: Body::CreateUser(body),
            };
            probe.stream.id = service.send(&probe, false).await?.aggregate_id.parse()?;
            probes.push(probe);
        }
        Ok(probes)
    }

    /// The command of a plan, where nothing is known of versions.
    fn send(&self, tenant: usize, ask: &Ask) -> Sent {
        self.sent(&Command { tenant, ask: ask.clone() }, |_| None)
    }

    /// The command of a plan as it is sent. `newest` is the newest version of a stream that any client knows of.
    pub fn sent(&self, command: &Command, newest: impl Fn(&StreamId) -> Option<u64>) -> Sent {
        let tenant = command.tenant;
        let version = |expected: Expected, stream: &StreamId| match expected {
            Expected::Nothing => None,
            Expected::Newest => newest(stream),
            Expected::Exactly(version) => Some(version),
        };
        match command.ask.clone() {
            Ask::CreateUser { user, email, name } => {
                let body = CreateUserRequest {
                    email: address(email),
                    name: NAMES[name].into(),
                    ..Default::default()
                };
                let stream = self.stream(tenant, User::TYPE, self.users[tenant][user]);
                Sent { stream, command_id: creation(user), body: Body::CreateUser(body) }
            }
            Ask::UpdateUser { user, id, email, name, expected } => {
                let stream = self.stream(tenant, User::TYPE, self.user(tenant, user));
                let name = name.or(email.is_none().then_some(0)).map(|name| NAMES[name].to_owned());
                let body = UpdateUserProfileRequest {
                    user_id: stream.id.to_string(),
                    email: email.map(address),
                    name,
                    expected_version: version(expected, &stream),
                    ..Default::default()
                };
                Sent { stream, command_id: command_id(id, user), body: Body::UpdateUser(body) }
            }
            Ask::CreateOrder { order, user, pieces } => {
                let price = Money { currency_code: "USD".into(), units: 9, nanos: 990_000_000 };
                let body = CreateOrderRequest {
                    user_id: self.user(tenant, user).to_string(),
                    items: vec![OrderItem { product: "pen".into(), quantity: pieces, price: Some(price) }],
                    ..Default::default()
                };
                let stream = self.stream(tenant, Order::TYPE, self.orders[tenant][order]);
                Sent { stream, command_id: creation(order), body: Body::CreateOrder(body) }
            }
            Ask::SetStatus { order, id, status, expected } => {
                let place = self.orders[tenant].get(order).copied().unwrap_or(NOBODY);
                let stream = self.stream(tenant, Order::TYPE, place);
                let body = UpdateOrderStatusRequest {
                    order_id: stream.id.to_string(),
                    status,
                    expected_version: version(expected, &stream),
                    ..Default::default()
                };
                Sent { stream, command_id: command_id(id, order), body: Body::SetStatus(body) }
            }
        }
    }

    /// Every stream that can get events.
    pub fn streams(&self) -> Vec<StreamId> {
        let of = |tenant: usize| {
            let users = self.users[tenant].iter().map(move |id| self.stream(tenant, User::TYPE, *id));
            let orders = self.orders[tenant].iter().map(move |id| self.stream(tenant, Order::TYPE, *id));
            users.chain(orders)
        };
        (0..2).flat_map(of).chain(self.probes.iter().map(|probe| probe.stream.clone())).collect()
    }

    fn user(&self, tenant: usize, user: usize) -> Uuid {
        match user {
            own if own < USERS => self.users[tenant][own],
            USERS => NOBODY,
            _ => self.users[1 - tenant][0],
        }
    }

    fn stream(&self, tenant: usize, aggregate_type: AggregateType, id: Uuid) -> StreamId {
        StreamId { tenant: self.tenants[tenant].clone(), aggregate_type, id }
    }
}

impl Ask {
    /// The command by which the history before all began.
    pub(super) fn first_of_all() -> Self {
        Self::CreateUser { user: 0, email: Address { which: 0, loud: false }, name: 0 }
    }

    /// The command that is the `n`-th event of the history before all began, n being at least 1.
    pub(super) fn repeated_seed(n: usize) -> Self {
        let (id, name) = (Id::Seeded(n), Some(n % NAMES.len()));
        Self::UpdateUser { user: 0, id, email: None, name, expected: Expected::Nothing }
    }
}

fn address(address: Address) -> String {
    let text = ADDRESSES[address.which];
    if address.loud { text.to_uppercase() } else { text.to_owned() }
}

fn creation(place: usize) -> String {
    format!("create-{place}")
}

fn command_id(id: Id, place: usize) -> String {
    match id {
        Id::Few(n) => format!("few-{n}"),
        Id::Creation => creation(place),
        Id::Seeded(n) => format!("seed-{n}"),
    }
}

//! Commands, over an event store in memory.

use arbitrary::{Result, Unstructured};
use command_service::{Orders, Users};
use millrace_command::{CommandHandler, CommandHandlerConfig, StateCache, snapshots};
use millrace_core::{TenantId, Timestamp};
use millrace_event_store::MemoryStore;
use millrace_proto::{command::CommandResult, query::ReadAfter};
use shop::contracts::{
    Money,
    command::{
        CreateOrderRequest, CreateUserRequest, UpdateOrderStatusRequest, UpdateUserProfileRequest,
        order_command_service_server::OrderCommandService as _,
        user_command_service_server::UserCommandService as _,
    },
    types::OrderItem,
};

use crate::{
    application::SHOP,
    calls::{Caller, answered, message, number, text},
    wire::run,
};

/// The services over a store.
pub(crate) struct Services {
    pub(crate) users: Users<MemoryStore>,
    pub(crate) orders: Orders<MemoryStore>,
}

pub(crate) fn services(store: &MemoryStore) -> Services {
    let config = CommandHandlerConfig {
        clock: || Timestamp::from_unix_micros(1_800_000_000_000_000),
        jitter: || 0.5,
        snapshot_every: snapshots::EVERY,
    };
    let users = CommandHandler::new(store.clone(), StateCache::new(1 << 12), config);
    let orders = CommandHandler::new(store.clone(), StateCache::new(1 << 12), config);
    Services { users: Users(users.clone()), orders: Orders { orders, users } }
}

const EMAILS: [&str; 4] = ["john@example.com", "John@Example.com", "jane@example.com", "nobody"];
const COMMANDS: [&str; 3] = ["1", "2", "3"];

fn id(u: &mut Unstructured<'_>) -> Result<Option<String>> {
    u.ratio(9, 10)?.then(|| text(u, &COMMANDS)).transpose()
}

fn price(u: &mut Unstructured<'_>) -> Result<Option<Money>> {
    let price = |u: &mut Unstructured<'_>| {
        Ok(Money {
            currency_code: text(u, &["USD", "USD", "EUR"])?,
            units: number(u, &[0, 1, 999_999_999])?,
            nanos: number(u, &[0, 500_000_000, 999_999_999])?,
        })
    };
    u.ratio(9, 10)?.then(|| price(u)).transpose()
}

/// A command's reply: a token with its aggregate and its version, its event, whether it is a replay.
type Answer = (ReadAfter, String, bool);

macro_rules! answer {
    ($answer:expr) => {
        answered($answer).map(|reply| answer(reply.result))
    };
}

fn answer(result: Option<CommandResult>) -> Answer {
    let CommandResult { read_after, event_id, replayed, .. } = result.expect("a reply has a result");
    (read_after.expect("a reply has a token"), event_id, replayed)
}

/// A command, as it is sent.
#[derive(Debug, Clone)]
enum Sent {
    CreateUser(CreateUserRequest),
    UpdateUser(UpdateUserProfileRequest),
    CreateOrder(CreateOrderRequest),
    UpdateOrder(UpdateOrderStatusRequest),
}

impl Sent {
    fn any(u: &mut Unstructured<'_>, ids: &[String]) -> Result<Self> {
        let mut known: Vec<&str> = ids.iter().map(String::as_str).collect();
        known.push("00000000-0000-0000-0000-000000000001");
        let raw = u.ratio(1, 4)?;
        Ok(match u.int_in_range(0..=3)? {
            0 if raw => Self::CreateUser(message(u)?),
            1 if raw => Self::UpdateUser(message(u)?),
            2 if raw => Self::CreateOrder(message(u)?),
            3 if raw => Self::UpdateOrder(message(u)?),
            0 => Self::CreateUser(CreateUserRequest {
                email: text(u, &EMAILS)?,
                name: text(u, &["John", "Jane", " "])?,
                command_id: id(u)?,
                correlation_id: id(u)?,
            }),
            1 => Self::UpdateUser(UpdateUserProfileRequest {
                user_id: text(u, &known)?,
                email: u.ratio(1, 2)?.then(|| text(u, &EMAILS)).transpose()?,
                name: u.ratio(1, 2)?.then(|| text(u, &["John", "Jane"])).transpose()?,
                expected_version: u.ratio(1, 2)?.then(|| number(u, &[1, 2, 3])).transpose()?,
                command_id: id(u)?,
                correlation_id: id(u)?,
            }),
            2 => {
                let item = |u: &mut Unstructured<'_>| {
                    Ok(OrderItem {
                        product: text(u, &["laptop", ""])?,
                        quantity: number(u, &[1, 2, 1_000_000])?,
                        price: price(u)?,
                    })
                };
                let items = (0..u.int_in_range(0..=3)?).map(|_| item(u)).collect::<Result<Vec<_>>>()?;
                let times = number(u, &[1_usize, 1, 1, 60])?.min(200);
                Self::CreateOrder(CreateOrderRequest {
                    user_id: text(u, &known)?,
                    items: vec![items; times].concat(),
                    total_amount: if u.ratio(1, 4)? { price(u)? } else { None },
                    command_id: id(u)?,
                    correlation_id: id(u)?,
                })
            }
            _ => Self::UpdateOrder(UpdateOrderStatusRequest {
                order_id: text(u, &known)?,
                status: number(u, &[1, 2, 3, 4, 5, 6])?,
                expected_version: u.ratio(1, 4)?.then(|| number(u, &[1, 2, 3])).transpose()?,
                command_id: id(u)?,
                correlation_id: id(u)?,
            }),
        })
    }

    fn has_id(&self) -> bool {
        match self {
            Self::CreateUser(request) => request.command_id.is_some(),
            Self::UpdateUser(request) => request.command_id.is_some(),
            Self::CreateOrder(request) => request.command_id.is_some(),
            Self::UpdateOrder(request) => request.command_id.is_some(),
        }
    }

    fn send(&self, caller: &Caller, to: &Services) -> Option<Answer> {
        run(async {
            match self.clone() {
                Self::CreateUser(request) => answer!(to.users.create_user(caller.request(request)).await),
                Self::UpdateUser(request) => {
                    answer!(to.users.update_user_profile(caller.request(request)).await)
                }
                Self::CreateOrder(request) => answer!(to.orders.create_order(caller.request(request)).await),
                Self::UpdateOrder(request) => {
                    answer!(to.orders.update_order_status(caller.request(request)).await)
                }
            }
        })
    }
}

/// A few commands of some tenants. Each is answered or refused and never breaks anything. A refused command stores
/// nothing. An answered one stores one readable event of its caller's tenant, and gets the same reply when it is sent
/// again to another replica.
pub(crate) fn commands(data: &[u8]) -> Result<()> {
    let u = &mut Unstructured::new(data);
    let store = MemoryStore::default();
    let (replica, other_replica) = (services(&store), services(&store));
    let mut ids = Vec::new();
    for _ in 0..u.int_in_range(1..=4)? {
        let (caller, sent) = (Caller::any(u)?, Sent::any(u, &ids)?);
        let before = store.all().len();
        let answer = sent.send(&caller, &replica);
        let stored = &store.all()[before..];
        let Some((after, event, replayed)) = answer else {
            assert!(stored.is_empty(), "what is refused stores nothing");
            continue;
        };
        assert_eq!(stored.len(), usize::from(!replayed), "a command is one event, once");
        for stored in stored {
            let envelope = &stored.envelope;
            assert_eq!(envelope.tenant_id, tenant(&caller), "an event of its caller's tenant");
            let token = ReadAfter {
                aggregate_type: envelope.aggregate_type.to_string(),
                aggregate_id: envelope.aggregate_id.to_string(),
                version: envelope.version,
            };
            assert_eq!((token, envelope.event_id.to_string()), (after.clone(), event.clone()));
            let aggregate =
                SHOP.aggregate(&envelope.aggregate_type).expect("an event of a registered aggregate");
            let data = envelope.event_data.as_ref().expect("an event's data");
            let message = (aggregate.message)(&envelope.event_type, envelope.schema_version, data);
            assert!(message.is_ok(), "what is stored can be read: {message:?}");
        }
        if sent.has_id() {
            let again = sent.send(&caller, &other_replica);
            assert_eq!(again, Some((after.clone(), event, true)), "a retry is a replay");
        }
        ids.push(after.aggregate_id);
    }
    Ok(())
}

fn tenant(caller: &Caller) -> TenantId {
    match caller {
        Caller::Nobody => TenantId::default(),
        Caller::Tenant(bytes) => {
            let text = std::str::from_utf8(bytes).ok();
            text.and_then(|text| text.parse().ok()).unwrap_or_default()
        }
        Caller::Twice => panic!("a tenant that is named twice is refused"),
    }
}

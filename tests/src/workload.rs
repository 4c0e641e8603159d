//! A workload as data: commands of several clients to several replicas, drawn by proptest, which shrinks a failing one.

use std::time::Duration;

use proptest::{collection::vec, option, prelude::*, sample::select};

mod cast;
mod fleet;

pub use cast::{Body, Cast, Sent};
pub use fleet::{Call, Fleet, Outcome};

use crate::disturbed::Weather;

/// How many users of each tenant there can be. The place after them is a user that nobody creates, and the one after
/// that a user of the other tenant.
pub const USERS: usize = 4;

/// How many orders of each tenant there can be. The place after them is an order that nobody places.
pub const ORDERS: usize = 3;

/// The plan of one run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed of everything random: the faults and their times.
    pub seed: u64,
    /// How the store behaves.
    pub weather: Weather,
    /// The replicas, by whether they have room to keep states in.
    pub replicas: Vec<bool>,
    /// After how many events of a stream a snapshot is kept.
    pub snapshot_every: u64,
    /// How many events the first tenant's first user has before all begins.
    pub user_events: usize,
    /// How many events that user's first order has before all begins.
    pub order_events: usize,
    /// The commands. Two may be of one id, with the same body or with another.
    pub commands: Vec<Command>,
    /// Each client's steps, in order.
    pub clients: Vec<Vec<Step>>,
}

/// A command, of one of two tenants.
#[derive(Debug, Clone)]
pub struct Command {
    /// Which tenant's.
    pub tenant: usize,
    /// The request.
    pub ask: Ask,
}

/// A request. Numbers are places in small pools, so that commands collide.
#[derive(Debug, Clone)]
pub enum Ask {
    /// The command whose id creates this user.
    CreateUser {
        /// Which one.
        user: usize,
        /// Its address.
        email: Address,
        /// Its name.
        name: usize,
    },
    /// A change of a user's profile. One that names neither address nor name changes the name.
    UpdateUser {
        /// Which one.
        user: usize,
        /// The command's id.
        id: Id,
        /// The new address.
        email: Option<Address>,
        /// The new name.
        name: Option<usize>,
        /// The version that the client has seen.
        expected: Expected,
    },
    /// The command whose id places this order.
    CreateOrder {
        /// Which one.
        order: usize,
        /// Whose it is.
        user: usize,
        /// How many pieces.
        pieces: i32,
    },
    /// A change of an order's status.
    SetStatus {
        /// Which one.
        order: usize,
        /// The command's id.
        id: Id,
        /// The number of the status, 1 to 6.
        status: i32,
        /// The version that the client has seen.
        expected: Expected,
    },
}

/// An e-mail address, in small letters or capitals.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    /// Which one.
    pub which: usize,
    /// Whether it is written in capitals.
    pub loud: bool,
}

/// The id of a command on an aggregate that exists.
#[derive(Debug, Clone, Copy)]
pub enum Id {
    /// One of a few.
    Few(usize),
    /// The one by which the aggregate was created.
    Creation,
    /// The one of this event of the history before all began, counted from 0.
    Seeded(usize),
}

/// Which version a client says that it has seen.
#[derive(Debug, Clone, Copy)]
pub enum Expected {
    /// It says nothing.
    Nothing,
    /// The newest version known to any client when the command was first sent.
    Newest,
    /// This one.
    Exactly(u64),
}

/// One thing that a client does.
#[derive(Debug, Clone)]
pub struct Step {
    /// The place of its command.
    pub command: usize,
    /// The place of the replica that it is sent to.
    pub replica: usize,
    /// How long the client waits before.
    pub pause: Duration,
    /// Whether the aggregate's id is written in capitals.
    pub loud: bool,
    /// How it is sent.
    pub way: Way,
    /// How often it is sent again to the next replica after a failure that may pass.
    pub retries: u8,
}

/// How a command is sent.
#[derive(Debug, Clone)]
pub enum Way {
    /// Once.
    Once,
    /// Twice at once, the second time to the replica this many places further.
    Twice(usize),
    /// Once, by a client that goes away after this long, and comes back.
    Abandoned(Duration),
}

/// How large plans may become.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// The most commands.
    pub commands: usize,
    /// The most steps of a client.
    pub steps: usize,
    /// Of how many plans one begins with a long stream.
    pub one_long_in: u32,
}

/// Any plan of a size.
pub fn any_plan(size: Size) -> impl Strategy<Value = Plan> {
    // A load's first page holds 24 events, and 128 commands are remembered.
    let user_events = prop_oneof![
        size.one_long_in / 4 => Just(0),
        size.one_long_in - size.one_long_in / 4 - 1 => 1..6_usize,
        1 => 20..=Cast::USER_EVENTS,
    ];
    user_events.prop_flat_map(move |user_events| {
        (
            any::<u64>(),
            any_weather(),
            vec(prop::bool::weighted(0.75), 1..=3),
            3..=10_u64,
            if user_events == 0 { 0..=0 } else { 0..=Cast::ORDER_EVENTS },
            vec(any_command(user_events), 2..=size.commands),
            vec(vec(any_step(size.commands), 1..=size.steps), 2..=6),
        )
            .prop_map(
                move |(seed, weather, replicas, snapshot_every, order_events, commands, clients)| Plan {
                    seed,
                    weather,
                    replicas,
                    snapshot_every,
                    user_events,
                    order_events,
                    commands,
                    clients,
                },
            )
    })
}

fn any_weather() -> impl Strategy<Value = Weather> {
    use Weather::{Fair, Jam, Losses, Storm};
    prop_oneof![2 => Just(Fair), 5 => Just(Storm), 2 => Just(Losses), 1 => Just(Jam)]
}

fn any_command(user_events: usize) -> impl Strategy<Value = Command> {
    let user = prop_oneof![8 => Just(0), 3 => Just(1), 1 => 2..USERS + 2].boxed();
    let order = prop_oneof![8 => Just(0), 2 => Just(1), 1 => 2..=ORDERS].boxed();
    let email = (0..4_usize, any::<bool>()).prop_map(|(which, loud)| Address { which, loud });
    let seed = 1..user_events.max(2);
    let id = prop_oneof![
        9 => (0..6_usize).prop_map(Id::Few),
        1 => Just(Id::Creation),
        1 => seed.clone().prop_map(Id::Seeded),
    ];
    let expected = prop_oneof![
        5 => Just(Expected::Nothing),
        2 => Just(Expected::Newest),
        1 => (1..6_u64).prop_map(Expected::Exactly),
    ];
    let ask = prop_oneof![
        3 => (0..USERS, email.clone(), 0..2_usize)
            .prop_map(|(user, email, name)| Ask::CreateUser { user, email, name }),
        6 => (user.clone(), id.clone(), option::weighted(0.4, email), option::of(0..3_usize), expected.clone())
            .prop_map(|(user, id, email, name, expected)| Ask::UpdateUser { user, id, email, name, expected }),
        2 => (0..ORDERS, user, 1..=2)
            .prop_map(|(order, user, pieces)| Ask::CreateOrder { order, user, pieces }),
        4 => (order, id, select(vec![1, 2, 2, 3, 3, 4, 5, 6]), expected)
            .prop_map(|(order, id, status, expected)| Ask::SetStatus { order, id, status, expected }),
        if user_events > 100 { 4 } else { 1 } => seed.prop_map(Ask::repeated_seed),
        if user_events > 100 { 3 } else { 1 } => Just(Ask::first_of_all()),
    ];
    let tenant = prop_oneof![8 => Just(0), 1 => Just(1)];
    (tenant, ask).prop_map(|(tenant, ask)| Command { tenant, ask })
}

fn any_step(commands: usize) -> impl Strategy<Value = Step> {
    let pause = prop_oneof![Just(0), 0..20_u64].prop_map(Duration::from_millis);
    let way = prop_oneof![
        6 => Just(Way::Once),
        2 => (0..3_usize).prop_map(Way::Twice),
        2 => (0..25_u64).prop_map(|ms| Way::Abandoned(Duration::from_millis(ms))),
    ];
    let loud = prop::bool::weighted(0.1);
    (0..commands, 0..3_usize, pause, loud, way, 0..4_u8).prop_map(
        |(command, replica, pause, loud, way, retries)| Step { command, replica, pause, loud, way, retries },
    )
}

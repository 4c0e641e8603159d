//! Clients that survive: a command is sent again, under the same id and to any replica, until it is answered.

use std::{
    collections::BTreeMap,
    error::Error as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{bail, ensure};
use millrace_core::TenantId;
use millrace_proto::query::{AsOf, as_of::Point};
use millrace_server::call::TENANT_KEY;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use shop::contracts::{
    Money,
    command::{
        CreateOrderRequest, CreateUserRequest, UpdateOrderStatusRequest, UpdateUserProfileRequest,
        order_command_service_client::OrderCommandServiceClient,
        user_command_service_client::UserCommandServiceClient,
    },
    query::{
        GetCustomerTotalsRequest, GetOrderRequest, GetUserProfileAsOfRequest, GetUserProfileRequest,
        customer_query_service_client::CustomerQueryServiceClient,
        order_query_service_client::OrderQueryServiceClient,
        user_query_service_client::UserQueryServiceClient,
    },
    types::{OrderItem, OrderStatus},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{Replied as _, Reply, fleet::Fleet, process::Deployable, workload::Body};

const NAMES: [&str; 4] = ["Ann", "Bob", "Žofie", "名前"];

/// The deadline of a client's call.
const DEADLINE: Duration = Duration::from_secs(5);

/// The longest wait of a client for a replica that does not answer even at the deadline.
const PATIENCE_WITH_ONE: Duration = Duration::from_secs(6);

/// How many of its latest commands a client may send once more.
const LATEST: usize = 20;

/// The options of a load.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The seed of everything random.
    pub seed: u64,
    /// The number of clients.
    pub clients: usize,
    /// The clients' tenants.
    pub tenants: Vec<TenantId>,
    /// The longest that a client waits between two commands.
    pub pause: Duration,
    /// How many users, and how many orders, of each tenant clients come back to.
    pub aggregates: usize,
}

/// A client's command, and its fate.
#[derive(Debug, Clone)]
pub struct TrackedCommand {
    /// Whose it is.
    pub tenant: TenantId,
    /// The command's id.
    pub command_id: String,
    /// The request.
    pub body: Body,
    /// Whether its aggregate is never touched again: then no later event repairs a lost one.
    pub passes_by: bool,
    /// How often it was sent.
    pub attempts: u32,
    /// Its fate.
    pub fate: Fate,
}

/// The fate of a command.
#[derive(Debug, Clone)]
pub enum Fate {
    /// It was done.
    Acknowledged(Reply),
    /// It was refused when it was sent last.
    Refused(Code),
    /// Unknown: it may have been done or not.
    Open,
}

/// The clients, and their shared knowledge of the aggregates.
pub struct Load {
    options: LoadOptions,
    known: Mutex<Vec<Known>>,
    tally: Mutex<BTreeMap<String, u64>>,
    /// How many commands there were so far.
    commands: AtomicU64,
}

/// The clients' knowledge of a tenant's aggregates.
#[derive(Debug, Default, Clone)]
struct Known {
    users: Vec<Seen>,
    orders: Vec<Seen>,
}

/// An aggregate as it was seen last.
#[derive(Debug, Clone)]
struct Seen {
    id: String,
    version: u64,
    /// Of an order.
    status: OrderStatus,
}

impl Seen {
    /// Whether it is an order in a final status.
    fn has_ended(&self) -> bool {
        matches!(self.status, OrderStatus::Cancelled | OrderStatus::Returned)
    }
}

/// When a load ends.
#[derive(Debug, Clone, Default)]
pub struct End {
    /// From then on no client begins a new command; begun ones are still seen through.
    pub stop: CancellationToken,
    /// From then on nothing is seen through any more.
    pub give_up: CancellationToken,
}

/// The outcome of an attempt.
enum Attempt {
    Answered(Reply),
    Refused(Code),
    /// The outcome is unknown; the reason, in a word.
    Open(String),
}

impl Load {
    /// A load that has not begun.
    pub fn new(options: LoadOptions) -> Self {
        let known = Mutex::new(vec![Known::default(); options.tenants.len()]);
        Self { options, known, tally: Mutex::default(), commands: AtomicU64::new(0) }
    }

    /// Lets all clients do their commands on a fleet until the end, and returns these. Fails on a reply that must never
    /// come. Run again, it goes on with what there is.
    pub async fn run(self: &Arc<Self>, fleet: &Arc<Fleet>, end: &End) -> anyhow::Result<Vec<TrackedCommand>> {
        let mut clients = JoinSet::new();
        let runs = self.commands.load(Ordering::Relaxed);
        for number in 0..self.options.clients {
            let seed = self.options.seed.wrapping_add(runs << 32).wrapping_add(number as u64);
            let client = Client {
                load: self.clone(),
                fleet: fleet.clone(),
                end: end.clone(),
                rng: StdRng::seed_from_u64(seed),
                commands: Vec::new(),
            };
            clients.spawn(client.run());
        }
        let mut commands = Vec::new();
        while let Some(ended) = clients.join_next().await {
            commands.extend(ended??);
        }
        Ok(commands)
    }

    /// The numbers of replies and failures by kind.
    pub fn tally(&self) -> BTreeMap<String, u64> {
        look(&self.tally).clone()
    }

    fn count(&self, what: impl Into<String>) {
        *look(&self.tally).entry(what.into()).or_default() += 1;
    }

    /// Notes an aggregate's state from a reply, so that all clients know of it.
    fn learn(&self, tracked: &TrackedCommand, reply: &Reply) {
        let Some(tenant) = self.options.tenants.iter().position(|tenant| *tenant == tracked.tenant) else {
            return;
        };
        let mut known = look(&self.known);
        let known = &mut known[tenant];
        let (aggregates, status) = match &tracked.body {
            Body::CreateUser(_) | Body::UpdateUser(_) => (&mut known.users, OrderStatus::Unspecified),
            Body::CreateOrder(_) => (&mut known.orders, OrderStatus::Created),
            Body::SetStatus(body) => (&mut known.orders, body.status()),
        };
        let seen = Seen { id: reply.aggregate_id.clone(), version: reply.version, status };
        match aggregates.iter_mut().find(|known| known.id == seen.id) {
            Some(known) if known.version < seen.version => *known = seen,
            Some(_) => {}
            None => aggregates.push(seen),
        }
    }
}

/// One client.
struct Client {
    load: Arc<Load>,
    fleet: Arc<Fleet>,
    end: End,
    rng: StdRng,
    commands: Vec<TrackedCommand>,
}

impl Client {
    async fn run(mut self) -> anyhow::Result<Vec<TrackedCommand>> {
        while !self.end.stop.is_cancelled() {
            if self.rng.random_ratio(1, 20) {
                self.repeat().await?;
            } else {
                let tracked = self.next();
                let tracked = self.pursue(tracked).await?;
                if let Fate::Acknowledged(reply) = &tracked.fate {
                    let reply = reply.clone();
                    if !tracked.passes_by {
                        self.load.learn(&tracked, &reply);
                    }
                    if self.rng.random_ratio(1, 10) {
                        self.query(&tracked, &reply).await?;
                    }
                }
                self.commands.push(tracked);
            }
            let pause = self.rng.random_range(Duration::ZERO..=self.load.options.pause);
            self.end.stop.run_until_cancelled(sleep(pause)).await;
        }
        Ok(self.commands)
    }

    /// Its next command.
    fn next(&mut self) -> TrackedCommand {
        let place = self.rng.random_range(0..self.load.options.tenants.len());
        let known = look(&self.load.known)[place].clone();
        let what = self.rng.random_range(0..100);
        let user = known.users.choose(&mut self.rng);
        // As a rule one without a final status.
        let any = self.rng.random_ratio(1, 10);
        let orders: Vec<_> = known.orders.iter().filter(|order| any || !order.has_ended()).collect();
        let order = orders.choose(&mut self.rng).copied();
        let more_users = known.users.len() < self.load.options.aggregates;
        let more_orders = known.orders.len() < self.load.options.aggregates;
        let number = self.load.commands.fetch_add(1, Ordering::Relaxed);
        let (body, passes_by) = match (what, user, order) {
            (15..30, Some(user), _) => (self.order_of(user), true),
            (30..37, Some(user), _) if more_orders => (self.order_of(user), false),
            (37..45, _, _) if more_users => {
                let email = self.address();
                (self.user_at(email), false)
            }
            (30..70, _, Some(order)) => (self.status_of(order), false),
            (30.., Some(user), _) => (self.change_of(user), false),
            _ => (self.user_at(format!("passer-by{number}@example.com")), true),
        };
        let tenant = self.load.options.tenants[place].clone();
        let command_id = format!("tracked-{number}");
        TrackedCommand { tenant, command_id, body, passes_by, attempts: 0, fate: Fate::Open }
    }

    fn user_at(&mut self, email: String) -> Body {
        Body::CreateUser(CreateUserRequest { email, name: self.name(), ..Default::default() })
    }

    fn change_of(&mut self, user: &Seen) -> Body {
        let (email, name) = match self.rng.random_range(0..3) {
            0 => (Some(self.address()), None),
            1 => (None, Some(self.name())),
            _ => (Some(self.address()), Some(self.name())),
        };
        let expected_version = self.expected(user);
        let user_id = user.id.clone();
        Body::UpdateUser(UpdateUserProfileRequest {
            user_id,
            email,
            name,
            expected_version,
            ..Default::default()
        })
    }

    fn order_of(&mut self, user: &Seen) -> Body {
        let items = (0..self.rng.random_range(1..=3)).map(|n| OrderItem {
            product: format!("pen {n}"),
            quantity: self.rng.random_range(1..=5),
            price: Some(Money { currency_code: "USD".into(), units: n, nanos: 990_000_000 }),
        });
        Body::CreateOrder(CreateOrderRequest {
            items: items.collect(),
            user_id: user.id.clone(),
            ..Default::default()
        })
    }

    fn status_of(&mut self, order: &Seen) -> Body {
        use OrderStatus::{Cancelled, Created, Delivered, Processing, Returned, Shipped, Unspecified};
        let next = match order.status {
            Created if self.rng.random_ratio(1, 10) => Cancelled,
            Created => Processing,
            Processing => Shipped,
            Shipped => Delivered,
            Delivered => Returned,
            // Refused for any status.
            Cancelled | Returned | Unspecified => Processing,
        };
        Body::SetStatus(UpdateOrderStatusRequest {
            order_id: order.id.clone(),
            status: next.into(),
            expected_version: self.expected(order),
            ..Default::default()
        })
    }

    /// One of so few that users get in each other's way.
    fn address(&mut self) -> String {
        let addresses = 3 * self.load.options.aggregates;
        format!("user{}@example.com", self.rng.random_range(0..addresses))
    }

    fn name(&mut self) -> String {
        NAMES[self.rng.random_range(0..NAMES.len())].to_owned()
    }

    /// The version that it has seen, where it cares.
    fn expected(&mut self, seen: &Seen) -> Option<u64> {
        self.rng.random_ratio(1, 5).then_some(seen.version)
    }

    /// Sends a command until it is answered, or the end comes. Some clients break down after the first attempt.
    async fn pursue(&mut self, mut tracked: TrackedCommand) -> anyhow::Result<TrackedCommand> {
        let breaks_down = self.rng.random_ratio(1, 50);
        while !self.end.give_up.is_cancelled() {
            let Some(replica) = self.replica(Deployable::CommandService) else {
                self.wait().await;
                continue;
            };
            tracked.attempts += 1;
            match self.attempt(replica, &tracked).await? {
                Attempt::Answered(reply) => {
                    self.load.count(if reply.replayed { "replayed" } else { "answered" });
                    tracked.fate = Fate::Acknowledged(reply);
                    return Ok(tracked);
                }
                Attempt::Refused(code) => {
                    self.load.count(format!("refused: {code:?}"));
                    tracked.fate = Fate::Refused(code);
                    return Ok(tracked);
                }
                Attempt::Open(why) => self.load.count(format!("sent again: {why}")),
            }
            if breaks_down {
                self.load.count("clients that broke down");
                return Ok(tracked);
            }
            self.wait().await;
        }
        self.load.count("given up");
        Ok(tracked)
    }

    /// Sends a command that was answered once more: the answer must be the same.
    async fn repeat(&mut self) -> anyhow::Result<()> {
        let latest = &self.commands[self.commands.len().saturating_sub(LATEST)..];
        let answered: Vec<_> =
            latest.iter().filter(|tracked| matches!(tracked.fate, Fate::Acknowledged(_))).cloned().collect();
        let Some(tracked) = answered.choose(&mut self.rng) else { return Ok(()) };
        let (Some(replica), Fate::Acknowledged(first)) =
            (self.replica(Deployable::CommandService), &tracked.fate)
        else {
            return Ok(());
        };
        match self.attempt(replica, tracked).await? {
            Attempt::Answered(again) => {
                let first = Reply { replayed: true, ..first.clone() };
                ensure!(again == first, "I2: {tracked:?} was answered with {again:?} once more");
                self.load.count("sent once more after its answer");
            }
            Attempt::Refused(code) => bail!("I2: {tracked:?} was refused with {code:?} once more"),
            Attempt::Open(_) => {}
        }
        Ok(())
    }

    /// Queries a reply's aggregate: any replica must show its version.
    async fn query(&mut self, tracked: &TrackedCommand, reply: &Reply) -> anyhow::Result<()> {
        let Some(replica) = self.replica(Deployable::QueryService) else { return Ok(()) };
        let after = reply.after();
        let id = reply.aggregate_id.clone();
        let asked = async {
            match &tracked.body {
                Body::CreateUser(_) | Body::UpdateUser(_) if self.rng.random_ratio(1, 4) => {
                    let as_of = Some(AsOf { point: Some(Point::Version(reply.version)) });
                    let message = GetUserProfileAsOfRequest { user_id: id, as_of };
                    let request = request(&tracked.tenant, message)?;
                    let past = UserQueryServiceClient::new(replica).get_user_profile_as_of(request).await?;
                    Ok(past.into_inner().user_profile.map(|user| user.version))
                }
                Body::CreateUser(_) | Body::UpdateUser(_) => {
                    let request = request(&tracked.tenant, GetUserProfileRequest { user_id: id, after })?;
                    let reply = UserQueryServiceClient::new(replica).get_user_profile(request).await?;
                    Ok(reply.into_inner().user_profile.map(|user| user.version))
                }
                // Its customer's totals have the order's contribution, too.
                Body::CreateOrder(body) if self.rng.random_ratio(1, 2) => {
                    let message = GetCustomerTotalsRequest { user_id: body.user_id.clone(), after };
                    let totals = CustomerQueryServiceClient::new(replica);
                    let totals =
                        totals.clone().get_customer_totals(request(&tracked.tenant, message)?).await?;
                    let has_order = totals.into_inner().totals.is_some_and(|t| t.orders + t.cancelled > 0);
                    Ok(has_order.then_some(reply.version))
                }
                Body::CreateOrder(_) | Body::SetStatus(_) => {
                    let request = request(&tracked.tenant, GetOrderRequest { order_id: id, after })?;
                    let reply = OrderQueryServiceClient::new(replica).get_order(request).await?;
                    Ok(reply.into_inner().order.map(|order| order.version))
                }
            }
        };
        let answer = timeout(PATIENCE_WITH_ONE, asked).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
        match answer {
            Ok(version) => {
                ensure!(version >= Some(reply.version), "I7: {reply:?} was read as version {version:?}");
                self.load.count("read after it was written");
            }
            Err(status) => match sorted(&status, false)? {
                Attempt::Open(_) => self.load.count("not read in time"),
                Attempt::Answered(_) | Attempt::Refused(_) => {
                    bail!("I7: {reply:?} is answered with {status:?}")
                }
            },
        }
        Ok(())
    }

    async fn attempt(&self, replica: Channel, tracked: &TrackedCommand) -> anyhow::Result<Attempt> {
        let expects = tracked.body.expected().is_some();
        match timeout(PATIENCE_WITH_ONE, send(replica, tracked)).await {
            Ok(Ok(reply)) => {
                ensure!(reply.command_id == tracked.command_id, "{tracked:?} was answered with {reply:?}");
                Ok(Attempt::Answered(reply))
            }
            Ok(Err(status)) => {
                sorted(&status, expects).map_err(|error| error.context(format!("{tracked:?}")))
            }
            Err(_) => Ok(Attempt::Open("no answer".to_owned())),
        }
    }

    /// Any replica that runs.
    fn replica(&mut self, deployable: Deployable) -> Option<Channel> {
        let running: Vec<_> = self.fleet.of(deployable).filter_map(|member| member.channel()).collect();
        running.choose(&mut self.rng).cloned()
    }

    /// Waits before the next attempt.
    async fn wait(&mut self) {
        sleep(Duration::from_millis(self.rng.random_range(20..200))).await;
    }
}

/// Sorts a failure. Fails itself where no client must ever see it.
fn sorted(status: &Status, expects_version: bool) -> anyhow::Result<Attempt> {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone());
    // A failure on this side, such as a broken connection, has a cause; a server's status has none.
    let is_ours = status.source().is_some();
    match status.code() {
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => {
            Ok(Attempt::Open(reason.unwrap_or_else(|| format!("{:?}", status.code()))))
        }
        Code::Cancelled | Code::Unknown | Code::Internal if is_ours => {
            Ok(Attempt::Open("cut off".to_owned()))
        }
        Code::Aborted if !expects_version => Ok(Attempt::Open("others came first".to_owned())),
        code @ (Code::Aborted | Code::AlreadyExists | Code::FailedPrecondition | Code::NotFound) => {
            Ok(Attempt::Refused(code))
        }
        Code::Ok
        | Code::Cancelled
        | Code::DataLoss
        | Code::Internal
        | Code::InvalidArgument
        | Code::OutOfRange
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented
        | Code::Unknown => bail!("nobody is to be told this: {status:?}"),
    }
}

/// Sends a command once.
pub async fn send(replica: Channel, tracked: &TrackedCommand) -> Result<Reply, Status> {
    let command_id = Some(tracked.command_id.clone());
    match tracked.body.clone() {
        Body::CreateUser(body) => {
            let request = request(&tracked.tenant, CreateUserRequest { command_id, ..body })?;
            Ok(UserCommandServiceClient::new(replica).create_user(request).await?.reply())
        }
        Body::UpdateUser(body) => {
            let request = request(&tracked.tenant, UpdateUserProfileRequest { command_id, ..body })?;
            Ok(UserCommandServiceClient::new(replica).update_user_profile(request).await?.reply())
        }
        Body::CreateOrder(body) => {
            let request = request(&tracked.tenant, CreateOrderRequest { command_id, ..body })?;
            Ok(OrderCommandServiceClient::new(replica).create_order(request).await?.reply())
        }
        Body::SetStatus(body) => {
            let request = request(&tracked.tenant, UpdateOrderStatusRequest { command_id, ..body })?;
            Ok(OrderCommandServiceClient::new(replica).update_order_status(request).await?.reply())
        }
    }
}

/// A client's request, with its tenant and its deadline.
pub fn request<T>(tenant: &TenantId, message: T) -> Result<Request<T>, Status> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    let tenant = tenant.as_str().parse().map_err(|_| Status::internal("no metadata"))?;
    request.metadata_mut().insert(TENANT_KEY, tenant);
    Ok(request)
}

fn look<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

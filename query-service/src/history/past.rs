//! How an aggregate was.
//!
//! The stream is folded from its beginning by the domain's own rules, part by part, so that a history of any length takes
//! no more memory than a short one. A snapshot would be of no use: only the newest one is kept.

use millrace_domain::{
    Aggregate, StreamId, Timestamp,
    order::{Order, OrderEvent},
    user::{User, UserEvent},
};
use millrace_event_store::{Direction, Met, ReadHistory};
use millrace_proto::{
    codec::{EventCodec, item_to_proto, money_to_proto, status_to_proto, time_to_proto},
    query::{OrderSummary, UserProfile},
};
use millrace_runtime::Failure;
use uuid::Uuid;

use super::query::AsOf;

/// How many events are asked for at once: about as many as DynamoDB brings in one request, which is 1 MB.
const AT_ONCE: u16 = 1_000;

/// An aggregate that can be shown as it was.
pub(crate) trait Shown: Aggregate<Event: EventCodec> {
    /// What queries show of it.
    type View;

    /// What it is called where it is missing, and what a version of it is called.
    const NAMES: (&'static str, &'static str);

    /// Whom an event is about, and when it happened.
    fn told(event: &Self::Event) -> (Uuid, Timestamp);

    /// What queries show of a state: with what the first event said, which the state leaves out where no decision needs
    /// it. `None` where no such event can come first.
    fn view(first: &Self::Event, past: &Past<Self>) -> Option<Self::View>;
}

/// An aggregate after one of its events.
#[derive(Debug, Clone)]
pub(crate) struct Past<A> {
    state: A,
    updated_at: Timestamp,
    version: u64,
}

/// An aggregate as of a version or a time.
pub(crate) async fn as_of<A: Shown, E: ReadHistory>(
    events: &E,
    stream: &StreamId,
    as_of: AsOf,
) -> Result<A::View, Failure> {
    let (mut first, last) = match as_of {
        AsOf::Version(version) => (1, version),
        // Of whatever time the events before it are, the last one may be of the time that is asked about.
        AsOf::Time(_) => (1, u64::MAX),
    };
    let mut fold = Fold::<A>::of(stream.id, as_of);
    while first <= last {
        let part = events.part(stream, first..=last, Direction::OldestFirst, AT_ONCE).await?;
        for met in &part.met {
            fold.add(met)?;
        }
        let Some(reached) = part.met.last().filter(|_| part.more).map(Met::version) else { break };
        let Some(next) = reached.checked_add(1) else { break };
        first = next;
    }
    let (first, past) = fold.chosen()?.ok_or_else(|| missing(stream))?;
    match as_of {
        AsOf::Version(version) if version != past.version => {
            Err(Failure::NotFound { resource_type: A::NAMES.1, name: format!("{}@{version}", stream.id) })
        }
        AsOf::Version(_) | AsOf::Time(_) => A::view(&first, &past)
            .ok_or_else(|| Failure::Internal(format!("stream {stream} was folded from another first event"))),
    }
}

/// The failure where a stream has no events.
pub(crate) fn missing(stream: &StreamId) -> Failure {
    let names = [(User::TYPE, User::NAMES.0), (Order::TYPE, Order::NAMES.0)];
    let name = names.iter().find(|(kind, _)| *kind == stream.aggregate_type);
    Failure::NotFound {
        resource_type: name.map_or("aggregate", |(_, name)| name),
        name: stream.id.to_string(),
    }
}

/// What keeps an event from being folded.
#[derive(Debug, Clone)]
struct Obstacle {
    version: u64,
    reason: String,
}

impl From<Obstacle> for Failure {
    fn from(Obstacle { version, reason }: Obstacle) -> Self {
        Self::UnreadableEvent { version, reason }
    }
}

/// A stream that is being folded.
struct Fold<A: Aggregate> {
    id: Uuid,
    as_of: AsOf,
    /// The version that was met last; 0 before the first.
    met: u64,
    first: Option<A::Event>,
    newest: Option<Past<A>>,
    /// The first event that cannot be folded: nothing is folded past it.
    obstacle: Option<Obstacle>,
    /// What was asked for, as far as is known by now: how the aggregate was, or what keeps that from being known.
    chosen: Option<Result<Past<A>, Obstacle>>,
}

impl<A: Shown> Fold<A> {
    fn of(id: Uuid, as_of: AsOf) -> Self {
        Self { id, as_of, met: 0, first: None, newest: None, obstacle: None, chosen: None }
    }

    /// Adds what comes next in the stream. Fails where nothing that may follow can help any more.
    fn add(&mut self, met: &Met) -> Result<(), Failure> {
        let next = self.met.saturating_add(1);
        self.met = met.version();
        if self.obstacle.is_none() {
            match self.after(met, next) {
                Ok(past) => self.newest = Some(past),
                Err(obstacle) => self.obstacle = Some(obstacle),
            }
        }
        let may_be_meant = match (self.as_of, met) {
            (AsOf::Version(_), _) => true,
            // Nobody knows when an event happened that is missing, or damaged through and through.
            (AsOf::Time(_), met) if met.version() != next => true,
            (AsOf::Time(_), Met::NoEvent(_)) => true,
            (AsOf::Time(time), Met::Event(event)) => event.envelope.timestamp <= time,
        };
        if may_be_meant {
            self.chosen = match &self.obstacle {
                None => self.newest.clone().map(Ok),
                Some(obstacle) => Some(Err(obstacle.clone())),
            };
        }
        match (self.as_of, &self.obstacle) {
            (AsOf::Version(_), Some(obstacle)) => Err(obstacle.clone().into()),
            (AsOf::Version(_), None) | (AsOf::Time(_), _) => Ok(()),
        }
    }

    /// The aggregate after what was met, which should be the event of the version `next`.
    fn after(&mut self, met: &Met, next: u64) -> Result<Past<A>, Obstacle> {
        let obstacle = |reason: String| Obstacle { version: next, reason };
        if met.version() != next {
            return Err(obstacle("it is missing".to_owned()));
        }
        let envelope = match met {
            Met::Event(event) => &event.envelope,
            Met::NoEvent(other) => return Err(obstacle(other.error.to_string())),
        };
        let data = envelope.event_data.as_ref().ok_or_else(|| obstacle("it has no data".to_owned()))?;
        let event = A::Event::decode(&envelope.event_type, envelope.schema_version, data)
            .map_err(|error| obstacle(error.to_string()))?;
        let (about, updated_at) = A::told(&event);
        if about != self.id {
            return Err(obstacle("it names another aggregate".to_owned()));
        }
        let state = self.newest.take().map(|past| past.state);
        let state = A::evolve(state, &event).map_err(|misfit| obstacle(misfit.to_string()))?;
        self.first.get_or_insert(event);
        Ok(Past { state, updated_at, version: next })
    }

    /// The aggregate as it was, after its first event; `None` where it did not exist then.
    fn chosen(self) -> Result<Option<Known<A>>, Failure> {
        let chosen = self.chosen.transpose()?;
        Ok(self.first.zip(chosen))
    }
}

/// The first event of an aggregate, and the aggregate after a later one.
type Known<A> = (<A as Aggregate>::Event, Past<A>);

impl Shown for User {
    type View = UserProfile;

    const NAMES: (&'static str, &'static str) = ("user", "user version");

    fn told(event: &UserEvent) -> (Uuid, Timestamp) {
        match event {
            UserEvent::UserCreated { user_id, created_at, .. } => (user_id.0, *created_at),
            UserEvent::UserProfileUpdated { user_id, updated_at, .. } => (user_id.0, *updated_at),
        }
    }

    fn view(first: &UserEvent, past: &Past<Self>) -> Option<UserProfile> {
        match first {
            UserEvent::UserCreated { user_id, created_at, .. } => Some(UserProfile {
                user_id: user_id.to_string(),
                email: past.state.email().as_str().to_owned(),
                name: past.state.name().as_str().to_owned(),
                created_at: Some(time_to_proto(*created_at)),
                updated_at: Some(time_to_proto(past.updated_at)),
                version: past.version,
            }),
            UserEvent::UserProfileUpdated { .. } => None,
        }
    }
}

impl Shown for Order {
    type View = OrderSummary;

    const NAMES: (&'static str, &'static str) = ("order", "order version");

    fn told(event: &OrderEvent) -> (Uuid, Timestamp) {
        match event {
            OrderEvent::OrderCreated { order_id, created_at, .. } => (order_id.0, *created_at),
            OrderEvent::OrderStatusUpdated { order_id, updated_at, .. } => (order_id.0, *updated_at),
        }
    }

    fn view(first: &OrderEvent, past: &Past<Self>) -> Option<OrderSummary> {
        match first {
            OrderEvent::OrderCreated { order_id, user_id, basket, created_at } => Some(OrderSummary {
                order_id: order_id.to_string(),
                user_id: user_id.to_string(),
                items: basket.items().iter().map(item_to_proto).collect(),
                total_amount: Some(money_to_proto(basket.total())),
                status: status_to_proto(past.state.status()).into(),
                created_at: Some(time_to_proto(*created_at)),
                updated_at: Some(time_to_proto(past.updated_at)),
                version: past.version,
            }),
            OrderEvent::OrderStatusUpdated { .. } => None,
        }
    }
}

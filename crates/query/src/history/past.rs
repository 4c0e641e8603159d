//! Past states of an aggregate.
//!
//! The stream is folded from its beginning, page by page, so that a history of any length takes no more memory than a
//! short one: by the aggregate's own rules, which refuse events that do not fit, and by the projection into its row. A
//! snapshot would not help: only the newest one is kept.

use millrace_core::{
    Aggregate, DecodeError, Envelope, EventCodec, EvolveError, Invalid, StreamId, Timestamp,
    projection::{ProjectionError, ProjectionSpec},
    row::{Attributes, RowKey, StoredRow},
};
use millrace_event_store::{Direction, ScannedItem};
use millrace_proto::query::{AsOf as AsOfMessage, as_of::Point};
use millrace_server::{Failure, Violations};

use crate::{stores::AnyHistory, times::until};

/// How many events are read at once: about as many as DynamoDB returns in one request, which is 1 MB.
const AT_ONCE: u16 = 1_000;

/// The version or time of a past state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AsOf {
    /// After the event with this version.
    Version(u64),
    /// After the newest event at or before this time.
    Time(Timestamp),
}

impl AsOf {
    /// Reads a request's version or time.
    pub(crate) fn parse(violations: &mut Violations, as_of: Option<AsOfMessage>) -> Option<Self> {
        let Some(AsOfMessage { point }) = as_of else {
            return violations.field("as_of", Err(Invalid("must be set")));
        };
        match point {
            Some(Point::Version(0)) => violations.field("as_of.version", Err(Invalid("must be at least 1"))),
            Some(Point::Version(version)) => Some(Self::Version(version)),
            Some(Point::Time(time)) => violations.field("as_of.time", until(time)).map(Self::Time),
            None => violations.field("as_of.point", Err(Invalid("one of its fields must be set"))),
        }
    }
}

/// Why an event cannot be folded.
#[derive(Debug, Clone)]
pub(crate) struct Reason {
    text: String,
    is_of_newer_release: bool,
}

impl From<DecodeError> for Reason {
    fn from(error: DecodeError) -> Self {
        Self { text: error.to_string(), is_of_newer_release: error.is_of_newer_release() }
    }
}

impl From<ProjectionError> for Reason {
    fn from(error: ProjectionError) -> Self {
        let text = error.to_string();
        let is_of_newer_release =
            matches!(error, ProjectionError::Undecodable(error) if error.is_of_newer_release());
        Self { text, is_of_newer_release }
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), is_of_newer_release: false }
    }
}

/// Takes the events of a stream in order; the error says why one does not follow those before it.
pub(crate) type Validity = Box<dyn FnMut(&Envelope) -> Result<(), Reason> + Send>;

/// The rules of an aggregate.
pub(crate) fn validity<A: Aggregate<Event: EventCodec>>() -> Validity {
    let mut state: Option<A> = None;
    Box::new(move |envelope| {
        let data = envelope.event_data.as_ref().ok_or("it has no data")?;
        let event = A::Event::decode(&envelope.event_type, envelope.schema_version, data)?;
        state = Some(A::evolve(state.take(), &event).map_err(|EvolveError(misfit)| misfit)?);
        Ok(())
    })
}

/// The event that cannot be folded, and the reason.
#[derive(Debug, Clone)]
struct Obstacle {
    version: u64,
    reason: Reason,
}

impl From<Obstacle> for Failure {
    fn from(Obstacle { version, reason }: Obstacle) -> Self {
        let Reason { text: reason, is_of_newer_release } = reason;
        if is_of_newer_release {
            Self::NewerRelease { version, reason }
        } else {
            Self::UnreadableEvent { version, reason }
        }
    }
}

/// The attributes of a row after the event of a version; none where there is no row.
#[derive(Debug, Clone, Default)]
struct Version {
    version: u64,
    attributes: Attributes,
}

/// The row of a stream as of a version or a time, while it is being folded.
pub(crate) struct Past<'a> {
    spec: &'a ProjectionSpec,
    validity: Validity,
    as_of: AsOf,
    /// The version last read; 0 before the first.
    reached: u64,
    newest: Version,
    /// The first event that cannot be folded; folding stops there.
    obstacle: Option<Obstacle>,
    /// The reply so far: the row, or the event that prevents it.
    chosen: Option<Result<Version, Obstacle>>,
}

impl<'a> Past<'a> {
    pub(crate) fn new(spec: &'a ProjectionSpec, validity: Validity, as_of: AsOf) -> Self {
        Self { spec, validity, as_of, reached: 0, newest: Version::default(), obstacle: None, chosen: None }
    }

    /// The row. If it did not exist then, it has no attributes.
    pub(crate) async fn read(
        mut self,
        events: &dyn AnyHistory,
        stream: &StreamId,
    ) -> Result<StoredRow, Failure> {
        let (mut first, last) = match self.as_of {
            AsOf::Version(version) => (1, version),
            // Times may decrease, so even the last event may be at or before that time.
            AsOf::Time(_) => (1, u64::MAX),
        };
        while first <= last {
            let part = events.history(stream, first..=last, Direction::OldestFirst, AT_ONCE).await?;
            for item in &part.items {
                self.add(item)?;
            }
            let Some(reached) = part.items.last().filter(|_| part.more).map(ScannedItem::version) else {
                break;
            };
            let Some(next) = reached.checked_add(1) else { break };
            first = next;
        }
        let id = stream.id.to_string();
        let resource = self.spec.schema.resource;
        let missing = |resource_type, name| Failure::NotFound { resource_type, name };
        let chosen = self.chosen.ok_or_else(|| missing(resource.into(), id.clone()))??;
        match self.as_of {
            AsOf::Version(version) if version != chosen.version => {
                Err(missing(format!("{resource} version").into(), format!("{id}@{version}")))
            }
            AsOf::Version(_) | AsOf::Time(_) => Ok(StoredRow {
                key: RowKey { tenant: stream.tenant.clone(), id },
                version: chosen.version,
                attributes: chosen.attributes,
                provenance: None,
            }),
        }
    }

    /// Adds the next item of the stream. Fails if no later item can help.
    fn add(&mut self, item: &ScannedItem) -> Result<(), Failure> {
        let next = self.reached.saturating_add(1);
        self.reached = item.version();
        if self.obstacle.is_none() {
            match self.after(item, next) {
                Ok(attributes) => self.newest = Version { version: next, attributes },
                Err(reason) => self.obstacle = Some(Obstacle { version: next, reason }),
            }
        }
        let may_be_meant = match (self.as_of, item) {
            (AsOf::Version(_), _) => true,
            // The time of a missing or wholly damaged event is unknown.
            (AsOf::Time(_), item) if item.version() != next => true,
            (AsOf::Time(_), ScannedItem::Unreadable(_)) => true,
            (AsOf::Time(time), ScannedItem::Event(event)) => event.envelope.timestamp <= time,
        };
        if may_be_meant {
            self.chosen = Some(self.obstacle.clone().map_or_else(|| Ok(self.newest.clone()), Err));
        }
        match (self.as_of, &self.obstacle) {
            (AsOf::Version(_), Some(obstacle)) => Err(obstacle.clone().into()),
            (AsOf::Version(_), None) | (AsOf::Time(_), _) => Ok(()),
        }
    }

    /// The row's attributes after the item, which should be the event of version `next`.
    fn after(&mut self, item: &ScannedItem, next: u64) -> Result<Attributes, Reason> {
        if item.version() != next {
            return Err("it is missing".into());
        }
        let envelope = match item {
            ScannedItem::Event(event) => &event.envelope,
            ScannedItem::Unreadable(other) => return Err(other.error.to_string().as_str().into()),
        };
        (self.validity)(envelope)?;
        let update = (self.spec.update)(envelope)?.ok_or("it has no data")?;
        Ok(update.change.resolve(&self.newest.attributes)?)
    }
}

//! Projections: pure functions from events to changes of rows.
//!
//! | trait | a row is keyed by | a change depends on | requests an event |
//! |---|---|---|---|
//! | [`Projection`] | the aggregate | the event alone | one conditional write |
//! | [`FoldProjection`] | the aggregate | the event and the row before | a read and a write |
//! | [`AggregatingProjection`] | any value | the events of many aggregates | a transaction |
//!
//! Each kind is exactly once and proof against any order: a change leads from one version of an aggregate to the next,
//! and is written under the condition that the row has the version before.

use std::{any::type_name, fmt, sync::Arc};

use serde::{Deserialize as _, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    Aggregate, AggregateType, DecodeError, Envelope, EventCodec, EventId, StreamId, Timestamp,
    row::{Attributes, Patch, Provenance, Row, RowKey, RowSchema, UnusableAttribute},
};

/// A projection's name and version, such as `order-summaries@1`. Each version has a table and a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectionName {
    /// The name: 1 to 40 characters, words of `a-z` and `0-9` with one hyphen between them.
    pub name: &'static str,
    /// The version, from 1 on.
    pub version: u32,
}

impl ProjectionName {
    /// A name at a version.
    pub const fn new(name: &'static str, version: u32) -> Self {
        Self { name, version }
    }

    /// Both in one name of AWS, such as `order-summaries-v1`.
    pub fn id(self) -> String {
        Self::id_of(self.name, self.version)
    }

    /// The id of a projection that is not registered here.
    pub fn id_of(name: &str, version: u32) -> String {
        format!("{name}-v{version}")
    }
}

impl fmt::Display for ProjectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// An event with its place in history, as a projection sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded<E> {
    /// The stream that it belongs to.
    pub stream: StreamId,
    /// Its place in the stream: 1, 2, 3 …
    pub version: u64,
    /// Its id.
    pub event_id: EventId,
    /// When its command was accepted.
    pub time: Timestamp,
    /// The event.
    pub event: E,
}

impl<E> Recorded<E> {
    /// The aggregate's id, in the type that the application has for it.
    pub fn aggregate_id<I: From<Uuid>>(&self) -> I {
        I::from(self.stream.id)
    }
}

/// The change that one event makes in one row.
#[derive(Debug, Clone)]
pub enum Change<R> {
    /// The row is this, whatever it was before.
    Put(R),
    /// The row has new values in some attributes. There must be a row.
    Update(Patch<R>),
    /// The row stays as it is.
    Keep,
    /// There is no row any more.
    Remove,
}

/// A projection whose rows are keyed by the aggregate, and whose changes need nothing but the event.
pub trait Projection: 'static {
    /// Its name and version.
    const NAME: ProjectionName;
    /// Whether an adapter of the query service reads its rows. The query service does not start without that adapter; a
    /// new projection may be without it, to fill its rows first.
    const HAS_QUERIES: bool = true;
    /// The aggregate whose events it takes.
    type Aggregate: Aggregate<Event: EventCodec>;
    /// Its rows. A row's id is the aggregate's.
    type Row: Row;

    /// The change that an event makes in the row of its aggregate.
    fn apply(event: &Recorded<EventOf<Self::Aggregate>>) -> Change<Self::Row>;
}

/// A projection whose rows are keyed by the aggregate, and whose changes need the row before.
pub trait FoldProjection: 'static {
    /// Its name and version.
    const NAME: ProjectionName;
    /// Whether an adapter of the query service reads its rows. The query service does not start without that adapter; a
    /// new projection may be without it, to fill its rows first.
    const HAS_QUERIES: bool = true;
    /// The aggregate whose events it takes.
    type Aggregate: Aggregate<Event: EventCodec>;
    /// Its rows. A row's id is the aggregate's.
    type Row: Row;

    /// The row after an event; `None` where there is none.
    fn fold(row: Option<Self::Row>, event: &Recorded<EventOf<Self::Aggregate>>) -> Option<Self::Row>;
}

/// A projection whose rows sum up many aggregates.
///
/// Each aggregate has a *part*, folded from its own events. A row is the sum of the parts that name it, in whatever
/// order they came: [`fold`](Self::fold) must be commutative over parts, and a part that leaves must take back all that
/// it brought. An audit holds every row against the sum of its parts.
///
/// A row exists while it has parts, which its store counts. An event that leaves the part as it is leaves the row alone.
pub trait AggregatingProjection: 'static {
    /// Its name and version.
    const NAME: ProjectionName;
    /// Whether an adapter of the query service reads its rows. The query service does not start without that adapter; a
    /// new projection may be without it, to fill its rows first.
    const HAS_QUERIES: bool = true;
    /// The aggregate whose events it takes.
    type Aggregate: Aggregate<Event: EventCodec>;
    /// Its rows.
    type Row: Row;
    /// The contribution of one aggregate to one row.
    type Part: Clone + Serialize + DeserializeOwned;

    /// The part of an aggregate after an event; `None` where the aggregate contributes nothing yet.
    fn part(part: Option<Self::Part>, event: &Recorded<EventOf<Self::Aggregate>>) -> Option<Self::Part>;

    /// The row that a part belongs to. A part may move from one row to another.
    fn row_of(part: &Self::Part) -> <Self::Row as Row>::Id;

    /// The row `id` after a part of it has changed: from none when it comes to the row, to none when it leaves. `row` is
    /// `None` for the first part; after the last one there is no row, and nothing to fold.
    fn fold(
        row: Option<Self::Row>,
        id: &<Self::Row as Row>::Id,
        before: Option<&Self::Part>,
        after: Option<&Self::Part>,
    ) -> Self::Row;
}

/// The events of an aggregate.
pub type EventOf<A> = <A as Aggregate>::Event;

/// Why an event cannot be projected. Never holds a value of the event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProjectionError {
    /// The event cannot be read.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    /// The event is of an aggregate type that the projection does not take.
    #[error("the event is of another aggregate type")]
    OtherAggregateType,
    /// The change is one of another aggregate's row.
    #[error("the change names another aggregate's row")]
    OtherAggregate,
    /// The event has version 0.
    #[error("the event has no place in its stream")]
    Misplaced,
    /// The change updates a row that does not exist.
    #[error("the change updates a row that does not exist")]
    NoRow,
    /// A row or a part cannot be read or written.
    #[error(transparent)]
    Unusable(#[from] UnusableAttribute),
}

/// The change that consecutive events of one stream make in one row.
#[derive(Debug, Clone)]
pub struct RowUpdate {
    /// The row.
    pub key: RowKey,
    /// The stream whose events these are.
    pub stream: StreamId,
    /// The version that the row must have; 0 where there must be none yet.
    pub from_version: u64,
    /// The version that the row gets, which is newer.
    pub to_version: u64,
    /// The newest of the events, and its cause: the row gets it with the version.
    pub provenance: Provenance,
    /// The change itself.
    pub change: RowChange,
}

/// A change of a row's attributes, without the row's type.
#[derive(Clone)]
pub enum RowChange {
    /// The row has exactly these attributes; none where there is no row.
    Put(Attributes),
    /// The row has new values in these attributes, `null` for those that it loses.
    Set(Attributes),
    /// The row is made from the row before, step by step.
    Fold(Vec<FoldStep>),
}

/// A step from the attributes before an event to those after it; empty attributes mean that there is no row.
pub type FoldStep = Arc<dyn Fn(&Attributes) -> Result<Attributes, ProjectionError> + Send + Sync>;

impl fmt::Debug for RowChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be personal data.
        match self {
            Self::Put(attributes) => write!(f, "Put({:?})", attributes.keys()),
            Self::Set(attributes) => write!(f, "Set({:?})", attributes.keys()),
            Self::Fold(steps) => write!(f, "Fold({})", steps.len()),
        }
    }
}

impl RowChange {
    /// The row's attributes after the change.
    pub fn resolve(&self, before: &Attributes) -> Result<Attributes, ProjectionError> {
        match self {
            Self::Put(attributes) => Ok(attributes.clone()),
            Self::Set(set) if before.is_empty() && !set.is_empty() => Err(ProjectionError::NoRow),
            Self::Set(set) => {
                let mut after = before.clone();
                overlay(&mut after, set.clone());
                after.retain(|_, value| !value.is_null());
                Ok(after)
            }
            Self::Fold(steps) => steps.iter().try_fold(before.clone(), |row, step| step(&row)),
        }
    }

    /// This change and then the next; `None` where they cannot be one.
    fn then(self, next: Self) -> Option<Self> {
        match (self, next) {
            (Self::Put(_) | Self::Set(_) | Self::Fold(_), next @ Self::Put(_)) => Some(next),
            (Self::Put(row), next) => next.resolve(&row).ok().map(Self::Put),
            (Self::Set(mut first), Self::Set(second)) => {
                overlay(&mut first, second);
                Some(Self::Set(first))
            }
            (Self::Fold(mut first), Self::Fold(second)) => {
                first.extend(second);
                Some(Self::Fold(first))
            }
            (Self::Set(_), Self::Fold(_)) | (Self::Fold(_), Self::Set(_)) => None,
        }
    }
}

fn overlay(row: &mut Attributes, set: Attributes) {
    row.extend(set);
}

impl RowUpdate {
    /// The two in one, to be written at once. `None` unless `next` starts where this one ends, on the same row; a change
    /// that cannot follow stays by itself, so that it fails by itself.
    pub fn merge(self, next: Self) -> Option<Self> {
        if next.from_version != self.to_version || next.key != self.key {
            return None;
        }
        let change = self.change.then(next.change)?;
        Some(Self { from_version: self.from_version, change, ..next })
    }
}

/// How a projection writes.
#[derive(Debug, Clone, Copy)]
pub enum ProjectionKind {
    /// One conditional write an event.
    Blind,
    /// A read and a write.
    Fold,
    /// A part and a row, in one transaction.
    Aggregating(Aggregation),
}

impl ProjectionKind {
    /// Whether a write has to read first.
    pub fn reads(&self) -> bool {
        match self {
            Self::Blind => false,
            Self::Fold | Self::Aggregating(_) => true,
        }
    }
}

/// How parts make up rows. Parts and rows are attributes here; empty ones mean that there is none.
#[derive(Debug, Clone, Copy)]
pub struct Aggregation {
    /// The id of the row that a part belongs to.
    pub row_of: fn(&Attributes) -> Result<String, ProjectionError>,
    /// The row of this id after one of its parts has changed. Not asked for a row whose last part has left.
    pub fold: fn(&Attributes, &str, &Attributes, &Attributes) -> Result<Attributes, ProjectionError>,
}

/// A registered projection, without its types.
#[derive(Debug, Clone)]
pub struct ProjectionSpec {
    /// Its name and version.
    pub name: ProjectionName,
    /// The Rust type that declares it.
    pub declared_by: &'static str,
    /// Whether the query service reads its rows.
    pub has_queries: bool,
    /// The aggregate type whose events it takes.
    pub source: AggregateType,
    /// The schema of its rows.
    pub schema: &'static RowSchema,
    /// How it writes.
    pub kind: ProjectionKind,
    /// The update that an event makes, of the row of the aggregate: for an aggregating projection, of its part. `None`
    /// where the envelope is without its data, as the bus leaves large ones out; the event store has it.
    pub update: fn(&Envelope) -> Result<Option<RowUpdate>, ProjectionError>,
}

impl ProjectionSpec {
    pub(crate) fn blind<P: Projection>() -> Self {
        Self {
            name: P::NAME,
            declared_by: type_name::<P>(),
            has_queries: P::HAS_QUERIES,
            source: <P::Aggregate as Aggregate>::TYPE,
            schema: P::Row::SCHEMA,
            kind: ProjectionKind::Blind,
            update: |envelope| update_of::<P::Aggregate>(envelope, blind_change::<P>),
        }
    }

    pub(crate) fn fold<P: FoldProjection>() -> Self {
        Self {
            name: P::NAME,
            declared_by: type_name::<P>(),
            has_queries: P::HAS_QUERIES,
            source: <P::Aggregate as Aggregate>::TYPE,
            schema: P::Row::SCHEMA,
            kind: ProjectionKind::Fold,
            update: |envelope| update_of::<P::Aggregate>(envelope, fold_change::<P>),
        }
    }

    pub(crate) fn aggregating<P: AggregatingProjection>() -> Self {
        Self {
            name: P::NAME,
            declared_by: type_name::<P>(),
            has_queries: P::HAS_QUERIES,
            source: <P::Aggregate as Aggregate>::TYPE,
            schema: P::Row::SCHEMA,
            kind: ProjectionKind::Aggregating(Aggregation { row_of: row_of::<P>, fold: fold_part::<P> }),
            update: |envelope| update_of::<P::Aggregate>(envelope, part_change::<P>),
        }
    }
}

/// Whether a text is a trace context of W3C's version 00, the only one that a row may show: an envelope's sets no bound.
fn is_trace_parent(text: &str) -> bool {
    let is_hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
    let parts: Vec<_> = text.splitn(5, '-').collect();
    matches!(parts[..], ["00", trace, span, flags]
        if [trace, span, flags].map(str::len) == [32, 16, 2] && [trace, span, flags].into_iter().all(is_hex))
}

fn update_of<A: Aggregate<Event: EventCodec>>(
    envelope: &Envelope,
    change: impl Fn(Recorded<A::Event>) -> Result<RowChange, ProjectionError>,
) -> Result<Option<RowUpdate>, ProjectionError> {
    if envelope.aggregate_type != A::TYPE {
        return Err(ProjectionError::OtherAggregateType);
    }
    let from_version = envelope.version.checked_sub(1).ok_or(ProjectionError::Misplaced)?;
    let Some(data) = &envelope.event_data else {
        let is_known = A::Event::EVENT_TYPES.contains(&envelope.event_type.as_str());
        return if is_known { Ok(None) } else { Err(DecodeError::UnknownType.into()) };
    };
    let event = A::Event::decode(&envelope.event_type, envelope.schema_version, data)?;
    let stream = envelope.stream();
    let change = change(Recorded {
        stream: stream.clone(),
        version: envelope.version,
        event_id: envelope.event_id,
        time: envelope.timestamp,
        event,
    })?;
    Ok(Some(RowUpdate {
        key: RowKey { tenant: stream.tenant.clone(), id: stream.id.to_string() },
        stream,
        from_version,
        to_version: envelope.version,
        provenance: Provenance {
            event_id: envelope.event_id,
            correlation_id: envelope.correlation_id.clone(),
            causation_id: envelope.causation_id.clone(),
            trace_parent: envelope.trace_parent.clone().filter(|text| is_trace_parent(text)),
        },
        change,
    }))
}

fn blind_change<P: Projection>(event: Recorded<EventOf<P::Aggregate>>) -> Result<RowChange, ProjectionError> {
    match P::apply(&event) {
        Change::Put(row) => put(&event.stream, &row).map(RowChange::Put),
        Change::Update(Patch { unusable: Some(unusable), .. }) => Err(unusable.into()),
        Change::Update(patch) if event.version > 1 => Ok(RowChange::Set(patch.set)),
        Change::Update(_) => Err(ProjectionError::NoRow),
        Change::Keep if event.version > 1 => Ok(RowChange::Set(Attributes::new())),
        Change::Keep | Change::Remove => Ok(RowChange::Put(Attributes::new())),
    }
}

/// The attributes of a row that must be the aggregate's own.
fn put<R: Row>(stream: &StreamId, row: &R) -> Result<Attributes, ProjectionError> {
    if row.id().to_string() == stream.id.to_string() {
        attributes(row)
    } else {
        Err(ProjectionError::OtherAggregate)
    }
}

fn attributes<R: Row>(row: &R) -> Result<Attributes, ProjectionError> {
    let mut attributes = row.to_attributes()?;
    attributes.retain(|_, value| !value.is_null());
    Ok(attributes)
}

fn row<R: Row>(attributes: &Attributes) -> Result<Option<R>, ProjectionError> {
    if attributes.is_empty() { Ok(None) } else { Ok(Some(R::from_attributes(attributes)?)) }
}

fn fold_change<P: FoldProjection>(
    event: Recorded<EventOf<P::Aggregate>>,
) -> Result<RowChange, ProjectionError> {
    let is_first = event.version == 1;
    let step = move |before: &Attributes| match P::fold(row(before)?, &event) {
        Some(row) => put(&event.stream, &row),
        None => Ok(Attributes::new()),
    };
    if is_first {
        step(&Attributes::new()).map(RowChange::Put)
    } else {
        Ok(RowChange::Fold(vec![Arc::new(step)]))
    }
}

/// The attribute of a part that is the part.
const PART: &str = "Part";

fn part<P: AggregatingProjection>(attributes: &Attributes) -> Result<Option<P::Part>, ProjectionError> {
    let Some(value) = attributes.get(PART) else { return Ok(None) };
    P::Part::deserialize(value).map(Some).map_err(|_| UnusableAttribute(PART).into())
}

fn part_change<P: AggregatingProjection>(
    event: Recorded<EventOf<P::Aggregate>>,
) -> Result<RowChange, ProjectionError> {
    let is_first = event.version == 1;
    let step = move |before: &Attributes| {
        let Some(part) = P::part(part::<P>(before)?, &event) else { return Ok(Attributes::new()) };
        let value = serde_json::to_value(part).map_err(|_| UnusableAttribute(PART))?;
        Ok(Attributes::from_iter([(PART.to_owned(), value)]))
    };
    if is_first {
        step(&Attributes::new()).map(RowChange::Put)
    } else {
        Ok(RowChange::Fold(vec![Arc::new(step)]))
    }
}

fn row_of<P: AggregatingProjection>(attributes: &Attributes) -> Result<String, ProjectionError> {
    let part = part::<P>(attributes)?.ok_or(UnusableAttribute(PART))?;
    Ok(P::row_of(&part).to_string())
}

fn fold_part<P: AggregatingProjection>(
    before: &Attributes,
    id: &str,
    from: &Attributes,
    to: &Attributes,
) -> Result<Attributes, ProjectionError> {
    let unusable = UnusableAttribute(P::Row::SCHEMA.id);
    let id: <P::Row as Row>::Id = id.parse().map_err(|_| unusable)?;
    let (from, to) = (part::<P>(from)?, part::<P>(to)?);
    let after = P::fold(row(before)?, &id, from.as_ref(), to.as_ref());
    if *after.id() != id {
        return Err(unusable.into());
    }
    attributes(&after)
}

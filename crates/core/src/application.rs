//! The registration: everything that an application consists of, named once.

use std::{any::type_name, collections::BTreeMap};

use serde_json::{Map, Value};

use crate::{
    Aggregate, AggregateType, DecodeError, Envelope, EventCodec, EventMessage, EvolveError, ProjectionName,
    UniqueKey,
    projection::{AggregatingProjection, FoldProjection, Projection, ProjectionKind, ProjectionSpec},
};

/// An application under construction.
///
/// [`build`](Self::build) checks it; every deployable, the generated infrastructure and the tests work from the
/// resulting [`Application`].
#[derive(Debug, Clone)]
pub struct ApplicationBuilder {
    name: &'static str,
    aggregates: Vec<AggregateSpec>,
    projections: Vec<ProjectionSpec>,
}

/// An application: its aggregates and projections, checked against each other.
#[derive(Debug, Clone)]
pub struct Application {
    name: &'static str,
    aggregates: Vec<AggregateSpec>,
    projections: Vec<ProjectionSpec>,
}

/// Reads the message of a stored event, by the event's type, schema version and data.
pub type ReadMessage = fn(&str, u32, &Map<String, Value>) -> Result<EventMessage, DecodeError>;

/// A registered aggregate, without its types.
#[derive(Debug, Clone)]
pub struct AggregateSpec {
    /// Its type.
    pub aggregate_type: AggregateType,
    /// The Rust type that declares it.
    pub declared_by: &'static str,
    /// The names of its events.
    pub event_types: &'static [&'static str],
    /// The message of a stored event, as it was written.
    pub message: ReadMessage,
    /// The keys that an aggregate holds after all of its events, from the first one on.
    pub unique_keys: fn(&[Envelope]) -> Result<Vec<UniqueKey>, HistoryError>,
}

/// The reason that a history cannot be folded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// An event cannot be read.
    #[error("version {version}: {reason}")]
    Undecodable {
        /// The event's version.
        version: u64,
        /// The reason.
        reason: DecodeError,
    },
    /// An event cannot follow those before it.
    #[error("version {version}: {reason}")]
    Misfit {
        /// The event's version.
        version: u64,
        /// The reason.
        reason: EvolveError,
    },
}

/// A registration that cannot work, with both sides of each contradiction and a way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// A name breaks a rule.
    #[error("the {kind} `{name}` is not well named: {rule}")]
    BadName {
        /// The kind of part that has the name.
        kind: &'static str,
        /// The name.
        name: String,
        /// The rule.
        rule: &'static str,
    },
    /// Two aggregates have one type.
    #[error(
        "two aggregates have the type `{aggregate_type}`, `{first}` and `{second}`: register one of them, or give one \
         another TYPE"
    )]
    AggregateTwice {
        /// The type.
        aggregate_type: AggregateType,
        /// The Rust type that was registered first.
        first: &'static str,
        /// The other one.
        second: &'static str,
    },
    /// Two aggregates share an event type, which a search could not attribute.
    #[error("`{event_type}` is an event of `{first}` and of `{second}`: rename it in one of them")]
    EventTypeTwice {
        /// The event type.
        event_type: &'static str,
        /// The aggregate that was registered first.
        first: AggregateType,
        /// The other one.
        second: AggregateType,
    },
    /// Two projections have one name and version.
    #[error(
        "two projections are named `{name}`, `{first}` and `{second}`: register one of them, or give one another name or \
         a new version"
    )]
    ProjectionTwice {
        /// The name.
        name: ProjectionName,
        /// The Rust type that was registered first.
        first: &'static str,
        /// The other one.
        second: &'static str,
    },
    /// The names of the application and of a projection are too long for the AWS names made of both.
    #[error(
        "the application `{application}` and the projection `{projection}` make the name `{name}`, of which AWS accepts \
         {MAX_RULE} characters: shorten one of the two names by {excess}"
    )]
    TooLong {
        /// The application.
        application: &'static str,
        /// The projection.
        projection: ProjectionName,
        /// The name.
        name: String,
        /// The number of characters that it has too many.
        excess: usize,
    },
    /// A projection takes the events of an aggregate that is not registered.
    #[error(
        "the projection `{projection}` takes events of `{source_type}`, which is not registered: register it by `.aggregate`"
    )]
    UnknownSource {
        /// The projection.
        projection: ProjectionName,
        /// The aggregate.
        source_type: AggregateType,
    },
    /// A row has an attribute of a name that its store or an index needs.
    #[error(
        "the rows of `{projection}` have two attributes `{attribute}`, {first} and {second}: rename the field or the index"
    )]
    AttributeTwice {
        /// The projection.
        projection: ProjectionName,
        /// The attribute.
        attribute: String,
        /// The first part of the table that needs it.
        first: String,
        /// The second one.
        second: String,
    },
    /// An index is by an attribute that its rows do not have, so it would always be empty.
    #[error(
        "the index `{index}` of the rows of `{projection}` is by `{attribute}`, and the rows have only {known}: make it by \
         one of these, or add the field"
    )]
    UnknownAttribute {
        /// The projection.
        projection: ProjectionName,
        /// The list or the look-up.
        index: &'static str,
        /// The attribute.
        attribute: &'static str,
        /// The attributes of the rows.
        known: String,
    },
    /// There is nothing to run.
    #[error("the application `{0}` has no aggregate: register one")]
    Empty(&'static str),
}

/// The characters of a rule of EventBridge: the shortest limit of the names made of an application's and a
/// projection's.
const MAX_RULE: usize = 64;

impl Application {
    /// An application without parts yet. Its name is the default prefix of everything that it has on AWS.
    #[expect(
        clippy::new_ret_no_self,
        reason = "an application is what the builder makes, once it is checked"
    )]
    pub fn new(name: &'static str) -> ApplicationBuilder {
        ApplicationBuilder { name, aggregates: Vec::new(), projections: Vec::new() }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its aggregates, in the order of registration.
    pub fn aggregates(&self) -> &[AggregateSpec] {
        &self.aggregates
    }

    /// Its projections, in the order of registration.
    pub fn projections(&self) -> &[ProjectionSpec] {
        &self.projections
    }

    /// The aggregate of a type.
    pub fn aggregate(&self, aggregate_type: &AggregateType) -> Option<&AggregateSpec> {
        self.aggregates.iter().find(|aggregate| aggregate.aggregate_type == *aggregate_type)
    }

    /// The aggregate that has an event type.
    pub fn aggregate_of_event(&self, event_type: &str) -> Option<&AggregateSpec> {
        self.aggregates.iter().find(|aggregate| aggregate.event_types.contains(&event_type))
    }

    /// The newest version of the projection of a name.
    pub fn projection(&self, name: &str) -> Option<&ProjectionSpec> {
        self.projections
            .iter()
            .filter(|projection| projection.name.name == name)
            .max_by_key(|p| p.name.version)
    }

    /// The projections that take the events of an aggregate.
    pub fn projections_of<'a>(
        &'a self,
        aggregate_type: &'a AggregateType,
    ) -> impl Iterator<Item = &'a ProjectionSpec> {
        self.projections.iter().filter(move |projection| projection.source == *aggregate_type)
    }
}

impl ApplicationBuilder {
    /// Registers an aggregate.
    #[must_use]
    pub fn aggregate<A: Aggregate<Event: EventCodec>>(mut self) -> Self {
        self.aggregates.push(AggregateSpec {
            aggregate_type: A::TYPE,
            declared_by: type_name::<A>(),
            event_types: A::Event::EVENT_TYPES,
            message: A::Event::message,
            unique_keys: unique_keys::<A>,
        });
        self
    }

    /// Registers a projection whose changes need nothing but the event.
    #[must_use]
    pub fn projection<P: Projection>(mut self) -> Self {
        self.projections.push(ProjectionSpec::blind::<P>());
        self
    }

    /// Registers a projection whose changes need the row before.
    #[must_use]
    pub fn fold_projection<P: FoldProjection>(mut self) -> Self {
        self.projections.push(ProjectionSpec::fold::<P>());
        self
    }

    /// Registers a projection whose rows sum up many aggregates.
    #[must_use]
    pub fn aggregating_projection<P: AggregatingProjection>(mut self) -> Self {
        self.projections.push(ProjectionSpec::aggregating::<P>());
        self
    }

    /// The application, if its parts agree.
    ///
    /// # Errors
    /// The first contradiction among them.
    pub fn build(self) -> Result<Application, RegistrationError> {
        let Self { name, aggregates, projections } = self;
        check_name("application", name, 24, "1 to 24 of a-z, 0-9 and -, beginning with a letter")?;
        if aggregates.is_empty() {
            return Err(RegistrationError::Empty(name));
        }
        check_aggregates(&aggregates)?;
        check_projections(name, &aggregates, &projections)?;
        Ok(Application { name, aggregates, projections })
    }
}

fn unique_keys<A: Aggregate<Event: EventCodec>>(events: &[Envelope]) -> Result<Vec<UniqueKey>, HistoryError> {
    let mut state = None;
    for Envelope { version, event_type, schema_version, event_data, .. } in events {
        let version = *version;
        let event = match event_data {
            Some(data) => A::Event::decode(event_type, *schema_version, data),
            None => Err(DecodeError::Malformed("its data was left out".to_owned())),
        };
        let event = event.map_err(|reason| HistoryError::Undecodable { version, reason })?;
        let next = A::evolve(state, &event).map_err(|reason| HistoryError::Misfit { version, reason })?;
        state = Some(next);
    }
    Ok(state.as_ref().map(A::unique_keys).unwrap_or_default())
}

fn check_aggregates(aggregates: &[AggregateSpec]) -> Result<(), RegistrationError> {
    let (mut types, mut events) = (BTreeMap::new(), BTreeMap::new());
    for AggregateSpec { aggregate_type, declared_by, event_types, .. } in aggregates {
        let is_well_formed = aggregate_type.as_str().parse::<AggregateType>().is_ok();
        if !is_well_formed {
            return Err(bad_name("aggregate", aggregate_type.as_str(), "1 to 32 of a-z and -"));
        }
        if let Some(first) = types.insert(aggregate_type, *declared_by) {
            let (aggregate_type, second) = (aggregate_type.clone(), *declared_by);
            return Err(RegistrationError::AggregateTwice { aggregate_type, first, second });
        }
        for event_type in *event_types {
            check_event_type(event_type)?;
            if let Some(first) = events.insert(*event_type, aggregate_type) {
                let (first, second) = (first.clone(), aggregate_type.clone());
                return Err(RegistrationError::EventTypeTwice { event_type, first, second });
            }
        }
    }
    Ok(())
}

fn check_event_type(event_type: &str) -> Result<(), RegistrationError> {
    let begins = event_type.starts_with(|first: char| first.is_ascii_uppercase());
    if begins && event_type.len() <= 100 && event_type.bytes().all(|b| b.is_ascii_alphanumeric()) {
        Ok(())
    } else {
        Err(bad_name("event", event_type, "at most 100 letters and digits, beginning with a capital letter"))
    }
}

fn check_projections(
    application: &'static str,
    aggregates: &[AggregateSpec],
    projections: &[ProjectionSpec],
) -> Result<(), RegistrationError> {
    let mut seen = BTreeMap::new();
    for ProjectionSpec { name, declared_by, source, schema, kind, .. } in projections {
        check_projection_name(name.name)?;
        if name.version == 0 {
            return Err(bad_name("projection", &name.to_string(), "versions begin at 1"));
        }
        if let Some(first) = seen.insert(*name, *declared_by) {
            let (name, second) = (*name, *declared_by);
            return Err(RegistrationError::ProjectionTwice { name, first, second });
        }
        let rule = format!("{application}-{}", name.id());
        if let Some(excess @ 1..) = rule.len().checked_sub(MAX_RULE) {
            return Err(RegistrationError::TooLong { application, projection: *name, name: rule, excess });
        }
        if aggregates.iter().all(|aggregate| aggregate.aggregate_type != *source) {
            let (projection, source_type) = (*name, source.clone());
            return Err(RegistrationError::UnknownSource { projection, source_type });
        }
        if let Some((attribute, [first, second])) =
            schema.contested_attribute(matches!(kind, ProjectionKind::Aggregating(_)))
        {
            return Err(RegistrationError::AttributeTwice { projection: *name, attribute, first, second });
        }
        if let Some((index, attribute)) = schema.index_of_nothing() {
            let known = schema.names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            return Err(RegistrationError::UnknownAttribute { projection: *name, index, attribute, known });
        }
    }
    Ok(())
}

/// The names of a template's outputs have no hyphens: a word that began with a digit would merge with the one before.
fn check_projection_name(name: &str) -> Result<(), RegistrationError> {
    let rule = "1 to 40 characters: words of a-z and 0-9, each beginning with a letter, with one hyphen between them";
    check_name("projection", name, 40, rule)?;
    let is_word = |word: &str| word.starts_with(|first: char| first.is_ascii_lowercase());
    if name.split('-').all(is_word) { Ok(()) } else { Err(bad_name("projection", name, rule)) }
}

fn check_name(
    kind: &'static str,
    name: &str,
    max: usize,
    rule: &'static str,
) -> Result<(), RegistrationError> {
    let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let begins = name.starts_with(|first: char| first.is_ascii_lowercase());
    if begins && name.len() <= max && name.bytes().all(is_allowed) && !name.ends_with('-') {
        Ok(())
    } else {
        Err(bad_name(kind, name, rule))
    }
}

fn bad_name(kind: &'static str, name: &str, rule: &'static str) -> RegistrationError {
    RegistrationError::BadName { kind, name: name.to_owned(), rule }
}

//! The registration refuses parts that contradict each other, and names both sides.

#![allow(clippy::panic, clippy::wildcard_enum_match_arm, reason = "this is test code")]

use millrace_core::{
    Aggregate, AggregateType, AggregatingProjection, Application, Change, DecodeError, Encoded, EventCodec,
    EventMessage, EvolveError, Patch, Projection, ProjectionName, Recorded, RegistrationError, Rejection,
    Row, Timestamp,
    row::{Attributes, IndexedAttribute, ListSchema, LookupSchema, RowSchema, UnusableAttribute},
    uuid_id,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

uuid_id! {
    /// A counter.
    pub struct CounterId;
}

/// A row.
#[derive(Debug, Clone, PartialEq, Row)]
#[row(resource = "counter", key = counter_id)]
struct Shown {
    counter_id: CounterId,
}

struct Never;

impl From<Never> for Rejection {
    fn from(Never: Never) -> Self {
        Self::NotFound
    }
}

/// Declares an aggregate of a type with an event of a name, and a projection of it.
macro_rules! declare {
    ($module:ident: $type:literal, $event:literal, $projection:literal @ $version:literal) => {
        mod $module {
            use super::*;

            #[derive(Clone, Serialize, Deserialize)]
            pub(super) struct Counter;

            #[derive(Clone)]
            pub(super) struct Counted;

            impl EventCodec for Counted {
                const EVENT_TYPES: &'static [&'static str] = &[$event];

                fn encode(&self) -> Encoded {
                    Encoded { event_type: $event, schema_version: 1, data: Map::new() }
                }

                fn decode(_: &str, _: u32, _: &Map<String, Value>) -> Result<Self, DecodeError> {
                    Ok(Self)
                }

                fn message(_: &str, _: u32, _: &Map<String, Value>) -> Result<EventMessage, DecodeError> {
                    Err(DecodeError::UnknownType)
                }
            }

            impl Aggregate for Counter {
                const TYPE: AggregateType = AggregateType::new($type);
                const STATE_SCHEMA: u32 = 1;
                type Command = ();
                type Event = Counted;
                type Error = Never;

                fn decide(_: Option<&Self>, (): &(), _: Timestamp) -> Result<Vec<Counted>, Never> {
                    Ok(vec![Counted])
                }

                fn evolve(_: Option<Self>, _: &Counted) -> Result<Self, EvolveError> {
                    Ok(Self)
                }
            }

            #[allow(dead_code, reason = "a projection is a type without values")]
            pub(super) struct Counters;

            impl Projection for Counters {
                const NAME: ProjectionName = ProjectionName::new($projection, $version);
                type Aggregate = Counter;
                type Row = Shown;

                fn apply(recorded: &Recorded<Counted>) -> Change<Shown> {
                    Change::Put(Shown { counter_id: recorded.aggregate_id() })
                }
            }
        }
    };
}

declare!(counter: "counter", "Counted", "counters" @ 1);

/// Declares rows with a field, and a projection of counters to them.
macro_rules! rows_with {
    ($projection:ident: $($field:ident),+; $($row:meta),*) => {
        struct $projection;

        const _: () = {
            #[allow(non_snake_case, reason = "names that become one")]
            #[derive(Debug, Clone, PartialEq, Row)]
            #[row(resource = "counter", key = counter_id)]
            $(#[$row])*
            struct Of {
                counter_id: CounterId,
                at: Timestamp,
                $($field: String),+
            }

            impl Projection for $projection {
                const NAME: ProjectionName = ProjectionName::new("rows", 1);
                type Aggregate = counter::Counter;
                type Row = Of;

                fn apply(_: &Recorded<counter::Counted>) -> Change<Of> {
                    Change::Keep
                }
            }

            impl AggregatingProjection for $projection {
                const NAME: ProjectionName = ProjectionName::new("sums", 1);
                type Aggregate = counter::Counter;
                type Row = Of;
                type Part = ();

                fn part(_: Option<()>, _: &Recorded<counter::Counted>) -> Option<()> {
                    None
                }

                fn row_of((): &()) -> CounterId {
                    CounterId::from(uuid::Uuid::nil())
                }

                fn fold(row: Option<Of>, _: &CounterId, _: Option<&()>, _: Option<&()>) -> Of {
                    row.unwrap()
                }
            }
        };
    };
}

rows_with!(Versioned: version;);
rows_with!(Caused: causation_id;);
rows_with!(Twice: a_b, a__b;);
rows_with!(
    Listed: x, at_position;
    row(list(name = "by-x", by = x, order_by = at)),
    row(list(name = "by-x-again", by = x, order_by = at))
);
rows_with!(Keyed: x, by_x_key; row(lookup(name = "by-x", by = x)));
rows_with!(
    Sound: x, parts, target;
    row(list(name = "by-x", by = x, order_by = at)),
    row(list(name = "by-target-x", by = target, order_by = at))
);
/// Rows with an index by an attribute that they do not have. Derived rows cannot have one.
#[derive(Debug, Clone, PartialEq)]
struct Astray<const INDEX: usize>(CounterId);

impl<const INDEX: usize> Astray<INDEX> {
    const LIST: &'static [ListSchema] = &[ListSchema {
        name: "by-x",
        by: IndexedAttribute::of::<String>(if INDEX == 0 { "Y" } else { "X" }),
        order_by: IndexedAttribute::of::<Timestamp>(if INDEX == 1 { "Y" } else { "At" }),
        sharded: false,
    }];
    const LOOKUP: &'static [LookupSchema] = &[LookupSchema {
        name: "of-x",
        by: IndexedAttribute::of::<String>(if INDEX == 2 { "Y" } else { "CounterId" }),
        order_by: Some(IndexedAttribute::of::<Timestamp>(if INDEX == 3 { "Y" } else { "At" })),
    }];
}

impl<const INDEX: usize> Row for Astray<INDEX> {
    type Id = CounterId;
    const SCHEMA: &'static RowSchema = &RowSchema {
        resource: "counter",
        id: "CounterId",
        attributes: &["X", "At"],
        lists: Self::LIST,
        lookups: Self::LOOKUP,
    };

    fn id(&self) -> &CounterId {
        &self.0
    }

    fn to_attributes(&self) -> Result<Attributes, UnusableAttribute> {
        Ok(Attributes::new())
    }

    fn from_attributes(_: &Attributes) -> Result<Self, UnusableAttribute> {
        Err(UnusableAttribute("CounterId"))
    }
}

impl<const INDEX: usize> Projection for Astray<INDEX> {
    const NAME: ProjectionName = ProjectionName::new("astray", 1);
    type Aggregate = counter::Counter;
    type Row = Self;

    fn apply(_: &Recorded<counter::Counted>) -> Change<Self> {
        Change::Keep
    }
}

declare!(namesake: "counter", "Increased", "others" @ 1);
declare!(rival: "rival", "Counted", "counters" @ 1);
declare!(second: "second", "Added", "counters" @ 2);
declare!(twin: "twin", "Joined", "counters" @ 1);
declare!(badly: "Counter#1", "Ended", "x" @ 1);
declare!(unsayable: "unsayable", "not an event", "x" @ 1);
declare!(unnamed: "unnamed", "Named", "Projection_1" @ 1);
declare!(numbered: "numbered", "Numbered", "counters-2nd" @ 1);
declare!(long: "long", "Lasted", "counters-by-the-longest-of-all-names-xyz" @ 1);
declare!(unversioned: "unversioned", "Versioned", "counters" @ 0);

#[test]
fn parts_that_agree_are_an_application() {
    let application = Application::new("tally")
        .aggregate::<counter::Counter>()
        .aggregate::<second::Counter>()
        .projection::<counter::Counters>()
        .projection::<second::Counters>()
        .build()
        .unwrap();
    assert_eq!(application.projections().len(), 2, "two versions of one projection stand side by side");
    assert_eq!(application.projection("counters").unwrap().name.version, 2, "the newest");
    let counter = AggregateType::new("counter");
    assert_eq!(application.projections_of(&counter).count(), 1);
    assert_eq!(application.aggregate_of_event("Added").unwrap().aggregate_type.as_str(), "second");
}

#[test]
fn a_contradiction_is_refused_and_names_both_sides() {
    use RegistrationError::*;
    let one = || Application::new("tally").aggregate::<counter::Counter>();
    let table = [
        (
            one().aggregate::<namesake::Counter>(),
            AggregateTwice {
                aggregate_type: AggregateType::new("counter"),
                first: "registration::counter::Counter",
                second: "registration::namesake::Counter",
            },
            "give one another TYPE",
        ),
        (
            one().aggregate::<rival::Counter>(),
            EventTypeTwice {
                event_type: "Counted",
                first: AggregateType::new("counter"),
                second: AggregateType::new("rival"),
            },
            "`counter` and of `rival`",
        ),
        (
            one()
                .aggregate::<twin::Counter>()
                .projection::<counter::Counters>()
                .projection::<twin::Counters>(),
            ProjectionTwice {
                name: ProjectionName::new("counters", 1),
                first: "registration::counter::Counters",
                second: "registration::twin::Counters",
            },
            "`counters@1`",
        ),
        (
            one().projection::<second::Counters>(),
            UnknownSource {
                projection: ProjectionName::new("counters", 2),
                source_type: AggregateType::new("second"),
            },
            "register it by `.aggregate`",
        ),
        (Application::new("tally"), Empty("tally"), "no aggregate"),
        (
            Application::new("an-application-of-length")
                .aggregate::<long::Counter>()
                .projection::<long::Counters>(),
            TooLong {
                application: "an-application-of-length",
                projection: ProjectionName::new("counters-by-the-longest-of-all-names-xyz", 1),
                name: "an-application-of-length-counters-by-the-longest-of-all-names-xyz-v1".to_owned(),
                excess: 4,
            },
            "shorten one of the two names by 4",
        ),
    ];
    for (builder, expected, said) in table {
        let error = builder.build().unwrap_err();
        assert_eq!(error, expected);
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn a_name_that_aws_would_refuse_is_refused() {
    let one = |name| Application::new(name).aggregate::<counter::Counter>();
    let table = [
        (one(""), "application"),
        (one("Tally"), "application"),
        (one("a name that is far too long for AWS"), "application"),
        (one("tally-"), "application"),
        (one("tally").aggregate::<badly::Counter>(), "aggregate"),
        (one("tally").aggregate::<unsayable::Counter>(), "event"),
        (one("tally").aggregate::<unnamed::Counter>().projection::<unnamed::Counters>(), "projection"),
        (one("tally").aggregate::<numbered::Counter>().projection::<numbered::Counters>(), "projection"),
        (
            one("tally").aggregate::<unversioned::Counter>().projection::<unversioned::Counters>(),
            "projection",
        ),
    ];
    for (builder, refused) in table {
        match builder.build().unwrap_err() {
            RegistrationError::BadName { kind, .. } => assert_eq!(kind, refused),
            error => panic!("{error}"),
        }
    }
}

/// A row with fields whose constants would hide those of its traits.
#[derive(Debug, Clone, PartialEq, Row)]
#[row(resource = "counter", key = counter_id)]
struct Named {
    counter_id: CounterId,
    name: String,
    schema: String,
}

impl Projection for Named {
    const NAME: ProjectionName = ProjectionName::new("named", 1);
    type Aggregate = counter::Counter;
    type Row = Self;

    fn apply(_: &Recorded<counter::Counted>) -> Change<Self> {
        Change::Update(
            Patch::new().set(Self::NAME_FIELD, String::new()).set(Self::SCHEMA_FIELD, String::new()),
        )
    }
}

#[test]
fn a_field_called_name_does_not_hide_the_projections_name() {
    assert_eq!(Named::NAME, ProjectionName::new("named", 1));
    assert_eq!(Named::SCHEMA.attributes, ["Name", "Schema"]);
    assert_eq!((Named::NAME_FIELD.name(), Named::SCHEMA_FIELD.name()), ("Name", "Schema"));
}

#[test]
fn an_attribute_that_is_two_things_is_refused() {
    let one = || Application::new("tally").aggregate::<counter::Counter>();
    let table = [
        (one().projection::<Versioned>(), "Version", "one of the store's own"),
        (one().projection::<Caused>(), "CausationId", "one of the store's own"),
        (one().projection::<Twice>(), "AB", "the field `AB`"),
        (one().projection::<Listed>(), "AtPosition", "the order of `by-x-again`"),
        (one().projection::<Keyed>(), "ByXKey", "the key of `by-x`"),
        // Only rows that sum up have these of their store.
        (one().aggregating_projection::<Sound>(), "Parts", "one of the store's own"),
    ];
    for (builder, attribute, first) in table {
        let said = builder.build().unwrap_err().to_string();
        let both = format!("two attributes `{attribute}`, {first} and the field `{attribute}`: rename");
        assert!(said.contains(&both), "{said}");
    }
    one().projection::<Sound>().build().unwrap();
}

#[test]
fn an_index_by_an_attribute_that_rows_do_not_have_is_refused() {
    let one = || Application::new("tally").aggregate::<counter::Counter>();
    let table = [
        (one().projection::<Astray<0>>(), "by-x"),
        (one().projection::<Astray<1>>(), "by-x"),
        (one().projection::<Astray<2>>(), "of-x"),
        (one().projection::<Astray<3>>(), "of-x"),
    ];
    for (builder, index) in table {
        let said = builder.build().unwrap_err().to_string();
        let both = format!(
            "the index `{index}` of the rows of `astray@1` is by `Y`, and the rows have only `CounterId`, `X`, `At`:"
        );
        assert!(said.contains(&both), "{said}");
    }
    one().projection::<Astray<4>>().build().unwrap();
}

//! Given, then: the rows that a projection makes of events, without a store.

use std::{fmt::Debug, marker::PhantomData};

use millrace_core::{
    Aggregate, AggregatingProjection, Application, ApplicationBuilder, Envelope, EventCodec, FoldProjection,
    Projection, Row,
    projection::{EventOf, ProjectionError},
    row::Attributes,
};

use crate::{
    oracle::{ExpectedRow, Oracle, RowPlace, Rows},
    recording::{history, stream_of},
};

/// A projection of any kind. The marker `K` is the kind, which follows from the projection.
pub trait Projects<K>: 'static {
    /// The aggregate whose events it takes.
    type Aggregate: Aggregate<Event: EventCodec>;
    /// Its rows.
    type Row: Row;

    /// Registers it.
    fn register(application: ApplicationBuilder) -> ApplicationBuilder;
}

/// The kind of a [`Projection`].
#[derive(Debug)]
pub struct Blind;
/// The kind of a [`FoldProjection`].
#[derive(Debug)]
pub struct Fold;
/// The kind of an [`AggregatingProjection`].
#[derive(Debug)]
pub struct Aggregating;

macro_rules! projects {
    ($($kind:ident: $projection:ident, $register:ident;)*) => {$(
        impl<P: $projection> Projects<$kind> for P {
            type Aggregate = <P as $projection>::Aggregate;
            type Row = <P as $projection>::Row;

            fn register(application: ApplicationBuilder) -> ApplicationBuilder {
                application.$register::<P>()
            }
        }
    )*};
}

projects! {
    Blind: Projection, projection;
    Fold: FoldProjection, fold_projection;
    Aggregating: AggregatingProjection, aggregating_projection;
}

/// The rows that a projection makes of an aggregate's history. The aggregate is the first one in the test
/// ([`aggregate_id(1)`](crate::aggregate_id)), and its events happen at [`time_of`](crate::time_of) their versions.
pub fn project<P: Projects<K>, K>(events: &[EventOf<P::Aggregate>]) -> Projected<P, K> {
    Projected { histories: Vec::new(), projection: PhantomData }.and(events)
}

/// The projection of some histories.
pub struct Projected<P, K> {
    histories: Vec<Vec<Envelope>>,
    projection: PhantomData<fn() -> (P, K)>,
}

impl<P: Projects<K>, K> Projected<P, K> {
    /// The history of the next aggregate.
    #[must_use]
    pub fn and(mut self, events: &[EventOf<P::Aggregate>]) -> Self {
        let number = self.histories.len() as u128 + 1;
        self.histories.push(history(&stream_of::<P::Aggregate>(number), events));
        self
    }

    /// Asserts that this is the only row, or that there is none.
    #[track_caller]
    pub fn then(self, row: Option<P::Row>) {
        self.then_rows(row.as_slice());
    }

    /// Asserts that these are all rows, in the order of the texts of their ids; for a projection that aggregates, in
    /// whatever order aggregates come.
    #[track_caller]
    pub fn then_rows(self, rows: &[P::Row])
    where
        P::Row: Debug,
    {
        match self.rows() {
            Ok(found) => assert_eq!(found, rows, "the rows of the projection"),
            Err(error) => panic!("the events cannot be projected: {error}"),
        }
    }

    /// Asserts that the events cannot be projected, for this reason.
    #[track_caller]
    pub fn then_error(self, error: &ProjectionError) {
        match self.rows() {
            Ok(rows) => panic!("the events were projected: {rows:?}"),
            Err(found) => assert_eq!(found.to_string(), error.to_string(), "the reason"),
        }
    }

    #[track_caller]
    fn rows(self) -> Result<Vec<P::Row>, ProjectionError> {
        let application = P::register(Application::new("test").aggregate::<P::Aggregate>()).build();
        let application = application.unwrap_or_else(|error| panic!("it cannot be registered: {error}"));
        let oracle = Oracle::new(&application, self.histories.into_iter().flatten());
        let oracle = oracle.unwrap_or_else(|violation| panic!("the history cannot be: {violation}"));
        let (forwards, backwards) = (oracle.rows()?, oracle.rows_backwards()?);
        assert_eq!(attributes(&forwards), attributes(&backwards), "rows depend on the order of aggregates");
        let is_row = |place: &RowPlace, row: &ExpectedRow| !place.is_part && !row.attributes.is_empty();
        let rows = forwards.into_iter().filter(|(place, row)| is_row(place, row));
        rows.map(|(_, row)| Ok(P::Row::from_attributes(&row.attributes)?)).collect()
    }
}

fn attributes(rows: &Rows) -> Vec<&Attributes> {
    rows.values().map(|row| &row.attributes).collect()
}

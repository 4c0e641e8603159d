//! The kinds of projections, under one trait.

use millrace_core::{AggregatingProjection, FoldProjection, Projection, ProjectionName, Row};

use crate::history::past::{Validity, validity};

/// A projection of any kind: [`Projection`], [`FoldProjection`] or [`AggregatingProjection`].
///
/// `K` is the kind, and follows from the projection: `service.rows::<OrderSummary, _>()`.
pub trait AnyProjection<K> {
    /// Its name and version.
    const NAME: ProjectionName;
    /// Its rows.
    type Row: Row;

    /// Whose its rows are: [`OfOne`] or [`OfMany`].
    type Of: Copy + Send + Sync + 'static;

    #[doc(hidden)]
    const OF: Self::Of;
}

/// Rows that are one aggregate's each, which has past states.
#[derive(Debug, Clone, Copy)]
pub struct OfOne {
    /// Makes the check that refuses events that do not fit their stream.
    pub(crate) validity: fn() -> Validity,
}

/// Rows that sum up many aggregates.
#[derive(Debug, Clone, Copy)]
pub struct OfMany(());

/// The kind of a [`Projection`].
#[derive(Debug)]
pub enum Blind {}

/// The kind of a [`FoldProjection`].
#[derive(Debug)]
pub enum Fold {}

/// The kind of an [`AggregatingProjection`].
#[derive(Debug)]
pub enum Aggregating {}

impl<P: Projection> AnyProjection<Blind> for P {
    const NAME: ProjectionName = <P as Projection>::NAME;
    type Row = P::Row;
    type Of = OfOne;
    const OF: OfOne = OfOne { validity: validity::<P::Aggregate> };
}

impl<P: FoldProjection> AnyProjection<Fold> for P {
    const NAME: ProjectionName = <P as FoldProjection>::NAME;
    type Row = P::Row;
    type Of = OfOne;
    const OF: OfOne = OfOne { validity: validity::<P::Aggregate> };
}

impl<P: AggregatingProjection> AnyProjection<Aggregating> for P {
    const NAME: ProjectionName = <P as AggregatingProjection>::NAME;
    type Row = P::Row;
    type Of = OfMany;
    const OF: OfMany = OfMany(());
}

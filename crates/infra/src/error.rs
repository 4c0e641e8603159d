//! Reasons to refuse a description.

use crate::names::NameKind;

/// The way out where too many projections share a template.
pub(crate) const SPLIT_APPLICATION: &str =
    "Move some projections to an application of their own, with another prefix";

/// The reason why a [`Stack`](crate::Stack) cannot be rendered. Each message ends with the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InfraError {
    /// AWS, or the naming convention, would refuse a name.
    #[error("the {kind} \"{name}\" would be refused: {rule}. {way_out}")]
    Name {
        /// The kind of resource.
        kind: NameKind,
        /// The requested name.
        name: String,
        /// The rule that it breaks.
        rule: String,
        /// The change that helps.
        way_out: String,
    },
    /// Something is declared twice, so two resources would have one name.
    #[error("the {thing} \"{name}\" is declared twice. {way_out}")]
    Duplicate {
        /// The kind of part: an aggregate, a projection, a source or an index.
        thing: &'static str,
        /// Its name.
        name: String,
        /// The change that helps.
        way_out: &'static str,
    },
    /// A projection would receive no event.
    #[error(
        "the projection \"{projection}\" has no sources, so no event would reach it. Name at least one aggregate type"
    )]
    NoSources {
        /// The projection with its version.
        projection: String,
    },
    /// A projection asks for events of an aggregate that the application does not have.
    #[error(
        "the projection \"{projection}\" asks for events of \"{source_type}\", but the application's aggregates are \
         {aggregates}. Register the aggregate, or correct the projection's sources"
    )]
    UnknownSource {
        /// The projection with its version.
        projection: String,
        /// The unknown aggregate type.
        source_type: String,
        /// The known aggregate types.
        aggregates: String,
    },
    /// An index uses the same attribute twice.
    #[error(
        "the index \"{index}\" of the projection \"{projection}\" has the attribute \"{attribute}\" as hash and as \
         range key, which DynamoDB refuses. Give it two attributes, or leave the range key out"
    )]
    IndexKey {
        /// The projection with its version.
        projection: String,
        /// The index.
        index: String,
        /// The attribute.
        attribute: String,
    },
    /// Something would pass a limit of AWS.
    #[error("{subject} would have {found} {unit}, but AWS accepts at most {limit}. {way_out}")]
    Limit {
        /// The template, policy, role or table.
        subject: String,
        /// The number of units that it would have.
        found: usize,
        /// The unit: bytes, resources, indexes.
        unit: &'static str,
        /// The limit of AWS.
        limit: usize,
        /// The change that helps.
        way_out: &'static str,
    },
}

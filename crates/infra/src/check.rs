//! Checks of a description, before anything is rendered.

use std::collections::HashSet;

use crate::{
    InfraError, ProjectionResources, Stack, access,
    names::{self, NameKind},
};

/// The indexes that DynamoDB accepts on a table.
const MAX_INDEXES: usize = 20;

/// The characters that EventBridge accepts in a pattern.
const MAX_PATTERN_LENGTH: usize = 2048;

/// The longest source of events that the templates' parameter `EventSource` allows.
const MAX_SOURCE_LENGTH: usize = 256;

impl NameKind {
    /// Checks a name of this kind.
    ///
    /// # Errors
    /// If AWS or the convention would refuse it. `way_out` is the advice in the error.
    pub fn check(self, name: &str, way_out: &str) -> Result<(), InfraError> {
        let (accepted, characters) = self.characters(name);
        let (min, max) = (self.min_length(), self.max_length());
        if accepted && (min..=max).contains(&name.len()) {
            return Ok(());
        }
        let rule = format!("a name of this kind has {min} to {max} characters, {characters}");
        Err(InfraError::Name { kind: self, name: name.to_owned(), rule, way_out: way_out.to_owned() })
    }
}

impl Stack {
    /// The longest prefix with which every name is accepted. The templates' parameter `Prefix` allows no longer one.
    #[must_use]
    pub fn max_prefix_length(&self) -> usize {
        let lengths = physical_names(self, "").into_iter();
        let left = lengths.map(|(kind, name)| kind.max_length().saturating_sub(name.len()));
        left.min().unwrap_or(names::MAX_PREFIX_LENGTH).min(names::MAX_PREFIX_LENGTH)
    }
}

/// Checks everything that does not depend on the prefix of a deployment.
pub(crate) fn description(stack: &Stack) -> Result<(), InfraError> {
    NameKind::Prefix.check(&stack.application, "Choose another name for the application.")?;
    for aggregate in &stack.aggregates {
        NameKind::Aggregate.check(aggregate, "Correct the aggregate's type.")?;
    }
    unique(
        "aggregate",
        stack.aggregates.iter().map(String::as_str),
        "Register the aggregate once, or give it another type",
    )?;
    for projection in &stack.projections {
        self::projection(stack, projection)?;
    }
    pattern("aggregates without a projection", stack.unconsumed(), "Register projections of some of them")?;
    let ids: Vec<String> = stack.projections.iter().map(ProjectionResources::id).collect();
    unique(
        "projection",
        ids.iter().map(String::as_str),
        "Register the projection once, or give it another version",
    )?;
    prefix(stack, &stack.application)
}

/// Checks every name that a prefix yields.
pub(crate) fn prefix(stack: &Stack, prefix: &str) -> Result<(), InfraError> {
    NameKind::Prefix.check(prefix, "Choose another prefix.")?;
    for (kind, name) in physical_names(stack, prefix) {
        kind.check(
            &name,
            "Shorten the prefix (by default the application's name) or the projection's name.",
        )?;
    }
    Ok(())
}

/// The kinds and names of all resources whose names have a rule.
pub(crate) fn physical_names(stack: &Stack, prefix: &str) -> Vec<(NameKind, String)> {
    let fixed = [
        (NameKind::Table, names::events(prefix)),
        (NameKind::Table, names::unique_keys(prefix)),
        (NameKind::Table, names::snapshots(prefix)),
        (NameKind::Table, names::relay_leases(prefix)),
        (NameKind::Table, names::jobs(prefix)),
        (NameKind::Queue, names::undelivered_queue(prefix)),
        (NameKind::Queue, names::unconsumed(prefix)),
        (NameKind::Bus, names::bus(prefix)),
        (NameKind::Archive, names::archive(prefix)),
    ];
    let programs = access::PROGRAMS.into_iter().flat_map(|program| {
        let name = names::access(prefix, program);
        [(NameKind::Policy, name.clone()), (NameKind::Role, name)]
    });
    let projections = stack.projections.iter().flat_map(|projection| projection.physical_names(prefix));
    fixed.into_iter().chain(programs).chain(projections).collect()
}

fn projection(stack: &Stack, projection: &ProjectionResources) -> Result<(), InfraError> {
    NameKind::Projection.check(&projection.name, "Choose another name for the projection.")?;
    sources(stack, projection)?;
    indexes(projection)
}

fn sources(stack: &Stack, projection: &ProjectionResources) -> Result<(), InfraError> {
    let id = projection.id();
    if projection.sources.is_empty() {
        return Err(InfraError::NoSources { projection: id });
    }
    if let Some(unknown) = projection.sources.iter().find(|source| !stack.aggregates.contains(source)) {
        return Err(InfraError::UnknownSource {
            projection: id,
            source_type: unknown.clone(),
            aggregates: if stack.aggregates.is_empty() {
                "none".to_owned()
            } else {
                stack.aggregates.join(", ")
            },
        });
    }
    unique("source", projection.sources.iter().map(String::as_str), "Name each source of a projection once")?;
    let subject = format!("the projection \"{id}\"");
    pattern(&subject, &projection.sources, "Split the projection by its sources")
}

/// Checks the length of `{"source":["…"],"detail":{"AggregateType":["…","…"]}}`.
fn pattern<'a>(
    subject: &str,
    sources: impl IntoIterator<Item = &'a String>,
    way_out: &'static str,
) -> Result<(), InfraError> {
    let frame = r#"{"source":[""],"detail":{"AggregateType":[]}}"#.len();
    let sources: usize = sources.into_iter().map(|source| source.len() + r#""","#.len()).sum();
    let (found, limit) = (frame + MAX_SOURCE_LENGTH + sources, MAX_PATTERN_LENGTH);
    if found > limit {
        let subject = format!("the event pattern of {subject}");
        return Err(InfraError::Limit { subject, found, unit: "characters", limit, way_out });
    }
    Ok(())
}

fn indexes(projection: &ProjectionResources) -> Result<(), InfraError> {
    let id = projection.id();
    if projection.indexes.len() > MAX_INDEXES {
        return Err(InfraError::Limit {
            subject: format!("the table of the projection \"{id}\""),
            found: projection.indexes.len(),
            unit: "indexes",
            limit: MAX_INDEXES,
            way_out: "Divide the lists between two projections",
        });
    }
    for index in &projection.indexes {
        NameKind::Index.check(&index.name, "Choose another name for the index.")?;
        for attribute in [Some(&index.hash), index.range.as_ref()].into_iter().flatten() {
            NameKind::Attribute.check(attribute, "Choose another attribute for the index.")?;
        }
        if index.range.as_ref() == Some(&index.hash) {
            return Err(InfraError::IndexKey {
                projection: id,
                index: index.name.clone(),
                attribute: index.hash.clone(),
            });
        }
    }
    unique(
        "index",
        projection.indexes.iter().map(|index| index.name.as_str()),
        "Give each index of a projection a name of its own",
    )
}

fn unique<'a>(
    thing: &'static str,
    names: impl IntoIterator<Item = &'a str>,
    way_out: &'static str,
) -> Result<(), InfraError> {
    let mut seen = HashSet::new();
    match names.into_iter().find(|name| !seen.insert(*name)) {
        Some(twice) => Err(InfraError::Duplicate { thing, name: twice.to_owned(), way_out }),
        None => Ok(()),
    }
}

//! Rows that sum up aggregates: the effect of a changed part.

use millrace_core::{
    TenantId,
    projection::{Aggregation, ProjectionError},
    row::{Attributes, RowKey},
};

/// A row that parts add up to.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Summed {
    /// How often it was changed.
    pub(crate) version: u64,
    /// How many parts it has.
    pub(crate) parts: u64,
    /// Its attributes; none where it has no parts.
    pub(crate) attributes: Attributes,
}

impl Summed {
    /// The row after a change of a part. An empty part does not exist.
    pub(crate) fn with(
        mut self,
        aggregation: &Aggregation,
        key: &RowKey,
        before: &Attributes,
        after: &Attributes,
    ) -> Result<Self, ProjectionError> {
        self.version = self.version.saturating_add(1);
        self.parts = self.parts.saturating_add((!after.is_empty()).into());
        self.parts = self.parts.saturating_sub((!before.is_empty()).into());
        // So that a row without parts has no remains, whatever a fold can take back.
        self.attributes = match self.parts {
            0 => Attributes::new(),
            _ => (aggregation.fold)(&self.attributes, &key.id, before, after)?,
        };
        Ok(self)
    }
}

/// A part before and after an event.
#[derive(Debug)]
pub(crate) struct PartChange {
    before: Attributes,
    pub(crate) after: Attributes,
    from: Option<RowKey>,
    /// The row that the part belongs to afterwards.
    pub(crate) to: Option<RowKey>,
}

impl PartChange {
    pub(crate) fn new(
        aggregation: &Aggregation,
        tenant: &TenantId,
        before: Attributes,
        after: Attributes,
    ) -> Result<Self, ProjectionError> {
        let (from, to) = (target(aggregation, tenant, &before)?, target(aggregation, tenant, &after)?);
        Ok(Self { before, after, from, to })
    }

    /// The rows that change: none where the part stays as it is, two where it moves.
    pub(crate) fn rows(&self) -> Vec<&RowKey> {
        if self.before == self.after {
            return Vec::new();
        }
        let mut rows: Vec<_> = self.from.iter().chain(&self.to).collect();
        rows.dedup();
        rows
    }

    /// One of these rows after the change.
    pub(crate) fn apply(
        &self,
        aggregation: &Aggregation,
        key: &RowKey,
        row: Summed,
    ) -> Result<Summed, ProjectionError> {
        let none = Attributes::new();
        let before = if self.from.as_ref() == Some(key) { &self.before } else { &none };
        let after = if self.to.as_ref() == Some(key) { &self.after } else { &none };
        row.with(aggregation, key, before, after)
    }
}

/// The row that a part belongs to; `None` where there is no part.
pub(crate) fn target(
    aggregation: &Aggregation,
    tenant: &TenantId,
    part: &Attributes,
) -> Result<Option<RowKey>, ProjectionError> {
    if part.is_empty() {
        return Ok(None);
    }
    Ok(Some(RowKey { tenant: tenant.clone(), id: (aggregation.row_of)(part)? }))
}

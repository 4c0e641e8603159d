//! The typed rows of a projection, for adapters.

use std::{fmt, marker::PhantomData, sync::Arc};

use millrace_core::{
    Application, Field, IndexValue, Invalid, Row, StreamId, Versioned,
    ids::parse_uuid,
    row::{self, ListSchema, Lookup, RowKey, StoredRow},
};
use millrace_proto::{
    Timestamp,
    query::{AsOf, ReadAfter},
};
use millrace_rows::{Filter, ListQuery, TimeRange};
use millrace_server::{Call, Failure, Violations};
use prost::Message;
use serde::Serialize;
use tonic::Response;

use crate::{
    batch::{self, Batch},
    history::past::{self, Past},
    kinds::OfOne,
    list::{Listed, Page, overlay, page},
    lookup,
    models::{After, ReadModel, typed},
    paging::{page_size, reached},
    reply::{Messages, Reply},
    shared::Shared,
    times::range,
    watch::Hub,
};

/// The typed rows of a projection. Clones are the same.
///
/// Each method answers one kind of query completely: it checks the request's fields and names all bad ones, waits for
/// the read-after token, reads, and merges the awaited row into an index that lags behind it.
///
/// Rows that sum up aggregates are `Rows<R, OfMany>`, and have no past states.
///
/// ```
/// # use millrace_query::Rows;
/// # use millrace_core::{Row, Versioned};
/// # use millrace_server::{Call, Failure};
/// async fn first<R: Row>(rows: Rows<R>, call: &Call) -> Result<Versioned<R>, Failure> {
///     rows.as_of(call, ("id", ""), None).await
/// }
/// ```
///
/// ```compile_fail,E0599
/// # use millrace_query::{OfMany, Rows};
/// # use millrace_core::{Row, Versioned};
/// # use millrace_server::{Call, Failure};
/// async fn first<R: Row>(rows: Rows<R, OfMany>, call: &Call) -> Result<Versioned<R>, Failure> {
///     rows.as_of(call, ("id", ""), None).await
/// }
/// ```
pub struct Rows<R, Of = OfOne> {
    shared: Arc<Shared>,
    model: Arc<ReadModel>,
    hub: Hub,
    of: Of,
    row: PhantomData<fn() -> R>,
}

impl<R, Of: Copy> Clone for Rows<R, Of> {
    fn clone(&self) -> Self {
        let (shared, model, hub) = (Arc::clone(&self.shared), Arc::clone(&self.model), self.hub.clone());
        Self { shared, model, hub, of: self.of, row: PhantomData }
    }
}

impl<R, Of> fmt::Debug for Rows<R, Of> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rows({})", self.model.spec.name)
    }
}

impl<R: Row, Of> Rows<R, Of> {
    pub(crate) fn new(shared: Arc<Shared>, model: Arc<ReadModel>, hub: Hub, of: Of) -> Self {
        Self { shared, model, hub, of, row: PhantomData }
    }

    /// The row of the id in the request's field of this name.
    ///
    /// # Errors
    /// [`Failure::NotFound`] if there is none.
    pub async fn get(
        &self,
        call: &Call,
        id: (&str, &str),
        after: Option<ReadAfter>,
    ) -> Result<Versioned<R>, Failure> {
        self.stored(call, id, after).await.map(|(_, row)| row)
    }

    /// Several rows, by the ids in the request's field of this name, as messages.
    ///
    /// # Errors
    /// If no id has an answer.
    pub async fn batch<M: Message + From<Versioned<R>>>(
        &self,
        call: &Call,
        (field, ids): (&str, &[String]),
        after: Option<ReadAfter>,
    ) -> Result<Batch<M>, Failure> {
        let mut violations = Violations::default();
        let ids = batch::ids::<R::Id>(&mut violations, field, ids);
        let after = self.after(&mut violations, call, after);
        let ids = violations.finish(ids)?;
        let awaited = self.awaited(call, after).await?;
        batch::read(call, &self.model, &ids, awaited).await
    }

    /// The row with a value, by a look-up such as `UserProfile::BY_EMAIL`. The value is in the request's field of this
    /// name.
    ///
    /// # Errors
    /// [`Failure::NotFound`] if there is none. The error does not repeat the value, which may be personal data.
    pub async fn lookup<V: IndexValue>(
        &self,
        call: &Call,
        lookup: Lookup<R, V>,
        (field, value): (&str, Result<V, Invalid>),
        after: Option<ReadAfter>,
    ) -> Result<Versioned<R>, Failure> {
        let mut violations = Violations::default();
        let value = violations.field(field, value.and_then(|value| indexed(&value)));
        let after = self.after(&mut violations, call, after);
        let value = violations.finish(value)?;
        let awaited = self.awaited(call, after).await?;
        let found = lookup::holder(&self.model, lookup.schema(), &call.tenant, &value, awaited).await?;
        found.map(typed).transpose()?.flatten().ok_or_else(|| not_found::<R>(String::new()))
    }

    /// The rows that share a value, by a list such as `OrderSummary::BY_STATUS`. The value is in the request's field of
    /// this name.
    pub fn list<V: IndexValue>(
        &self,
        list: row::List<R, V>,
        (field, value): (&str, Result<V, Invalid>),
    ) -> List<'_, R, Of> {
        let mut violations = Violations::default();
        let value = violations.field(field, value.and_then(|value| indexed(&value)));
        let times = Some(TimeRange::default());
        List { rows: self, list: list.schema(), violations, value, filter: Some(None), times }
    }

    /// A stream of the row's states newer than version `seen`: the present one, and later ones. `message` makes a
    /// message of each.
    ///
    /// # Errors
    /// [`Failure::NotFound`] if there is no row.
    pub async fn watch<S: From<Versioned<R>>, M: Send + 'static>(
        &self,
        call: &Call,
        id: (&str, &str),
        seen: u64,
        after: Option<ReadAfter>,
        message: impl Fn(S) -> M + Send + 'static,
    ) -> Reply<Messages<M>> {
        let permit = self.hub.permit(&call.tenant)?;
        let (row, _) = self.stored(call, id, after).await?;
        let watch = self.hub.watch(permit, row);
        let message = move |row| message(S::from(row));
        Ok(Response::new(watch.messages(seen, call.end_of_stream, message)))
    }

    /// The row of an id, as stored and typed.
    async fn stored(
        &self,
        call: &Call,
        (field, id): (&str, &str),
        after: Option<ReadAfter>,
    ) -> Result<(StoredRow, Versioned<R>), Failure> {
        let mut violations = Violations::default();
        let id = violations.field(field, id.parse::<R::Id>());
        let after = self.after(&mut violations, call, after);
        let id = violations.finish(id)?.to_string();
        let key = RowKey { tenant: call.tenant.clone(), id };
        let row = match self.awaited(call, after).await? {
            Some(row) if row.key == key => Some(row),
            Some(_) | None => self.model.rows.get(&key).await?,
        };
        let found = match row {
            Some(row) => typed(row.clone())?.map(|typed| (row, typed)),
            None => None,
        };
        found.ok_or_else(|| not_found::<R>(key.id))
    }

    fn after(&self, violations: &mut Violations, call: &Call, after: Option<ReadAfter>) -> Option<After> {
        After::parse(violations, self.application(), &call.tenant, after)
    }

    /// Waits for the token's aggregate. Returns its row, if it is one of these.
    async fn awaited(&self, call: &Call, after: Option<After>) -> Result<Option<StoredRow>, Failure> {
        let Some(after) = after else { return Ok(None) };
        if self.model.spec.source == after.stream.aggregate_type {
            return self.model.caught_up(call, &after).await;
        }
        if let Some(other) = self.shared.model_of(&after.stream.aggregate_type) {
            other.caught_up(call, &after).await?;
        }
        Ok(None)
    }

    fn application(&self) -> &Application {
        &self.shared.application
    }
}

impl<R: Row> Rows<R> {
    /// The row of an aggregate in a past state, folded from the aggregate's events. The id is in the request's field of
    /// this name.
    ///
    /// # Errors
    /// [`Failure::NotFound`] if there was none, [`Failure::UnreadableEvent`] if an event cannot be folded.
    pub async fn as_of(
        &self,
        call: &Call,
        (field, id): (&str, &str),
        as_of: Option<AsOf>,
    ) -> Result<Versioned<R>, Failure> {
        let mut violations = Violations::default();
        let id = violations.field(field, parse_uuid(id));
        let as_of = past::AsOf::parse(&mut violations, as_of);
        let (id, as_of) = violations.finish(id.zip(as_of))?;
        let aggregate_type = self.model.spec.source.clone();
        let stream = StreamId { tenant: call.tenant.clone(), aggregate_type, id };
        let row = Past::new(&self.model.spec, (self.of.validity)(), as_of)
            .read(&*self.shared.events, &stream)
            .await?;
        typed(row)?.ok_or_else(|| not_found::<R>(stream.id.to_string()))
    }
}

fn not_found<R: Row>(name: String) -> Failure {
    Failure::NotFound { resource_type: R::SCHEMA.resource.into(), name }
}

/// A value in an index's form.
fn indexed(value: &impl IndexValue) -> Result<String, Invalid> {
    value.index_value().ok_or(Invalid("must be a value that is indexed"))
}

/// A list query, page by page.
#[must_use]
pub struct List<'a, R, Of = OfOne> {
    rows: &'a Rows<R, Of>,
    list: &'static ListSchema,
    violations: Violations,
    value: Option<String>,
    filter: Option<Option<Filter>>,
    times: Option<TimeRange>,
}

impl<R: Row, Of> List<'_, R, Of> {
    /// Only rows with a value in another attribute, if the request's field of this name has one. Values are compared as
    /// stored, unlike those of lists and look-ups: texts in their case.
    pub fn filter<V: Serialize>(
        mut self,
        attribute: Field<R, V>,
        (field, value): (&str, Result<Option<V>, Invalid>),
    ) -> Self {
        let filter = |value| Filter::by(attribute, &value).ok_or(Invalid("must be a value that rows store"));
        let value = value.and_then(|value| value.map(filter).transpose());
        self.filter = self.violations.field(field, value);
        self
    }

    /// Only rows in a range of times, from the fields of these names: from the first on, and before the second.
    pub fn times(mut self, since: (&str, Option<Timestamp>), before: (&str, Option<Timestamp>)) -> Self {
        self.times = range(&mut self.violations, since, before);
        self
    }

    /// A page of the list, as messages. The arguments are the request's `page_size`, `page_token` and `after`.
    ///
    /// # Errors
    /// If a field is bad, or a read fails.
    pub async fn page<M: Message + From<Versioned<R>>>(
        self,
        call: &Call,
        page_size_: i32,
        page_token: &str,
        after: Option<ReadAfter>,
    ) -> Result<Page<M>, Failure> {
        let Self { rows, list, mut violations, value, filter, times } = self;
        let size = page_size(&mut violations, page_size_);
        let query = value.zip(filter).zip(times).map(|((value, filter), times)| {
            let query = ListQuery { list, tenant: call.tenant.clone(), value, filter, times };
            Listed { projection: rows.model.spec.name.name, query }
        });
        let tokens = &rows.shared.tokens;
        let before = reached(&mut violations, tokens, &call.tenant, query.as_ref(), page_token);
        let after = rows.after(&mut violations, call, after);
        let (listed, (size, before)) = violations.finish(query.zip(size.zip(before)))?;

        let awaited = rows.awaited(call, after).await?;
        // One more than fits shows whether there is a next page; another replaces a row that the overlay may remove.
        let limit = size + 1 + u16::from(awaited.is_some());
        let mut found = rows.model.rows.page(&listed.query, before.as_ref(), limit).await?;
        if let Some(awaited) = awaited {
            overlay(&mut found, &listed.query, before.as_ref(), awaited);
        }
        let (rows, next) = page(found, list, size.into())?;
        let next_page_token = next.map(|position| tokens.seal(&call.tenant, &listed, &position));
        Ok(Page { rows, next_page_token: next_page_token.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{BookRow, application, at, service};

    #[test]
    fn a_filter_by_a_value_that_no_row_stores_is_refused() {
        let rows = service(&application()).rows::<BookRow, _>().unwrap();
        let list = || rows.list(BookRow::BY_SHELF, ("shelf", Ok("a".to_owned())));
        let refused = |list: List<'_, BookRow>| list.violations.finish(Some(())).is_err();
        assert!(!refused(list().filter(BookRow::READER, ("reader", Ok(None)))));
        assert!(!refused(list().filter(BookRow::READER, ("reader", Ok(Some(Some("Ann".to_owned())))))));
        assert!(!refused(list().filter(BookRow::UPDATED_AT, ("updated_at", Ok(Some(at(1)))))));
        assert!(refused(list().filter(BookRow::READER, ("reader", Ok(Some(None))))));
    }
}

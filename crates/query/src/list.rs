//! Pages of lists.

use millrace_aws::AwsError;
use millrace_core::{
    Row, Timestamp, Versioned,
    row::{ListSchema, Position, StoredRow},
};
use millrace_rows::{ListPage, ListQuery};
use prost::Message;

use crate::{models::typed, paging::MAX_BYTES, token::Paged};

/// A page of a list, as messages.
#[derive(Debug)]
pub struct Page<M> {
    /// The rows, newest first.
    pub rows: Vec<M>,
    /// The token of the next page; empty on the last page.
    pub next_page_token: String,
}

/// A list of a projection's rows, of any version: page tokens outlive a change of versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) projection: &'static str,
    pub(crate) query: ListQuery,
}

/// The place is that of the last row examined, shown or skipped.
impl Paged for Listed {
    type Place = Position;

    fn identity(&self) -> Vec<Vec<u8>> {
        let time = |time: Option<Timestamp>| {
            time.map_or_else(Vec::new, |time| time.unix_micros().to_be_bytes().into())
        };
        let ListQuery { list, tenant: _, value, filter, times } = &self.query;
        let filter = filter.as_ref().map(|filter| (filter.attribute, filter.value.to_string()));
        let (attribute, wanted) = filter.unwrap_or_default();
        let texts = ["rows of list", self.projection, list.name, value, attribute, &wanted];
        let texts = texts.into_iter().map(|text| text.as_bytes().to_vec());
        texts.chain([time(times.since), time(times.before)]).collect()
    }

    fn write(position: &Position) -> Vec<u8> {
        [&position.at.unix_micros().to_be_bytes()[..], position.id.as_bytes()].concat()
    }

    fn read(bytes: &[u8]) -> Option<Position> {
        let (at, id) = bytes.split_first_chunk()?;
        Some(Position {
            at: Timestamp::from_unix_micros(i64::from_be_bytes(*at)),
            id: std::str::from_utf8(id).ok()?.to_owned(),
        })
    }
}

/// Merges a strongly read row into an index's page, which may be older: its newest version replaces any other, if the
/// list holds it at all and its place is on this page, which follows `before`.
pub(crate) fn overlay(page: &mut ListPage, query: &ListQuery, before: Option<&Position>, certain: StoredRow) {
    let shown = page.rows.iter().position(|row| row.key == certain.key);
    let shown = shown.map(|place| page.rows.remove(place));
    // The index is read after the row, so it may show the same row newer.
    let newest = match shown {
        Some(shown) if shown.version > certain.version => shown,
        Some(_) | None => certain,
    };
    let Some(position) = newest.position(query.list).filter(|_| query.holds(&newest)) else { return };
    let is_within = before.is_none_or(|before| position < *before)
        && page.end.as_ref().is_none_or(|end| position >= *end);
    if is_within {
        let place =
            page.rows.partition_point(|row| row.position(query.list).is_some_and(|other| other > position));
        page.rows.insert(place, newest);
    }
}

/// The first rows, at most `size` and as many as fit into a reply, and the place after which the next page begins, if
/// there is one.
pub(crate) fn page<R: Row, M: Message + From<Versioned<R>>>(
    page: ListPage,
    list: &ListSchema,
    size: usize,
) -> Result<(Vec<M>, Option<Position>), AwsError> {
    let mut messages: Vec<M> = Vec::with_capacity(size.min(page.rows.len()));
    let (mut bytes, mut last) = (0, None);
    for row in page.rows {
        if messages.len() == size {
            return Ok((messages, last));
        }
        let position = row.position(list);
        let Some(row) = typed(row)? else { continue };
        let message = M::from(row);
        bytes += message.encoded_len();
        if bytes > MAX_BYTES && !messages.is_empty() {
            return Ok((messages, last));
        }
        messages.push(message);
        last = position;
    }
    Ok((messages, page.end))
}

#[cfg(test)]
mod tests {
    use millrace_core::TenantId;
    use millrace_rows::TimeRange;

    use super::*;
    use crate::testing::{BookRow, book, stored};

    fn query() -> ListQuery {
        let (list, value) = (&BookRow::SCHEMA.lists[0], "a".to_owned());
        ListQuery { list, tenant: TenantId::default(), value, filter: None, times: TimeRange::default() }
    }

    /// The index is read after the row, which may have changed in between.
    #[test]
    fn a_row_that_the_index_shows_newer_than_the_awaited_one_stays_as_the_index_has_it() {
        let (awaited, newer) = (stored(2, &book(1, None)), stored(3, &book(1, Some("john"))));
        let mut page = ListPage { rows: vec![newer.clone()], end: None };
        overlay(&mut page, &query(), None, awaited);
        assert_eq!(page.rows, [newer]);
    }

    #[test]
    fn a_row_that_is_gone_is_on_no_list() {
        let mut gone = stored(2, &book(1, None));
        gone.attributes.clear();
        let mut page = ListPage { rows: vec![stored(1, &book(1, None))], end: None };
        overlay(&mut page, &query(), None, gone);
        assert_eq!(page.rows, []);
    }
}

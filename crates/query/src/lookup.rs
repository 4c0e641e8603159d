//! The row with a value, by an index that may lag.

use millrace_aws::AwsError;
use millrace_core::{
    TenantId,
    row::{IndexedAttribute, LookupSchema, StoredRow},
};
use millrace_rows::Consistency;

use crate::models::ReadModel;

/// The row that holds a value, with `certain` as it was just read.
///
/// A single row in the index is believed, like all its rows. If the index shows several, which is a contradiction, or
/// may be behind `certain`, each row is read strongly: while a value passes from one row to the next, their order in
/// the index does not tell the last holder.
pub(crate) async fn holder(
    model: &ReadModel,
    lookup: &'static LookupSchema,
    tenant: &TenantId,
    value: &str,
    certain: Option<StoredRow>,
) -> Result<Option<StoredRow>, AwsError> {
    let has_it = |row: &StoredRow| text(row, &lookup.by).as_deref() == Some(value);
    let mut indexed = model.rows.lookup(lookup, tenant, value).await?;
    if let Some(certain) = &certain {
        // The index is read after the row, so it may show the same row newer. An older version is known to be past.
        indexed.retain(|row| row.key != certain.key || row.version > certain.version);
        let newer = indexed.iter().find(|row| row.key == certain.key);
        if let Some(newer) = newer {
            return Ok(Some(newer.clone()));
        }
        if has_it(certain) {
            return Ok(Some(certain.clone()));
        }
    } else if indexed.len() <= 1 {
        return Ok(indexed.pop());
    }
    if indexed.is_empty() {
        return Ok(None);
    }
    let keys: Vec<_> = indexed.into_iter().map(|row| row.key).collect();
    let rows = model.rows.get_many(&keys, Consistency::Strong).await?;
    if !rows.left.is_empty() {
        return Err(AwsError::Throttled("a row was left out of many".to_owned()));
    }
    let rows = rows.found.into_iter().map(|(_, row)| row).collect::<Result<Vec<_>, _>>()?;
    // If the rows themselves are behind, several still hold it: the one that changed last is the likeliest.
    let changed = |row: &StoredRow| lookup.order_by.as_ref().and_then(|order_by| text(row, order_by));
    Ok(rows.into_iter().filter(has_it).max_by_key(|row| (changed(row), row.version, row.key.clone())))
}

fn text(row: &StoredRow, attribute: &IndexedAttribute) -> Option<String> {
    (attribute.text)(row.attributes.get(attribute.name)?)
}

#[cfg(test)]
mod tests {
    use millrace_core::{Row as _, Versioned};
    use millrace_rows::MemoryRows;

    use super::*;
    use crate::testing::{BookRow, book, books, stored};

    /// Books that pass a reader on, each in the index's version and the actual one.
    fn model(all: &[[(u64, BookRow); 2]]) -> ReadModel {
        let rows = MemoryRows::new(&books());
        let version = |n: usize| {
            let rows = all.iter().map(move |book| &book[n]);
            rows.map(|(version, row)| Versioned {
                tenant: TenantId::default(),
                version: *version,
                row: row.clone(),
            })
        };
        rows.extend(version(0));
        rows.hold_index();
        rows.extend(version(1));
        ReadModel::new(&books(), rows)
    }

    async fn found(model: &ReadModel, certain: Option<StoredRow>) -> Option<u64> {
        let lookup = BookRow::SCHEMA.lookup("by-reader").unwrap();
        let row = holder(model, lookup, &TenantId::default(), "john", certain).await.unwrap();
        row.map(|row| row.version)
    }

    /// The index is read after the row, which may have changed in between.
    #[tokio::test]
    async fn a_row_that_the_index_shows_newer_than_the_awaited_one_is_found_as_the_index_has_it() {
        let newer = (3, book(1, Some("john")));
        let model = model(&[[newer.clone(), newer]]);
        for reader in [Some("john"), Some("jack"), None] {
            assert_eq!(found(&model, Some(stored(2, &book(1, reader)))).await, Some(3));
        }
    }

    /// One row after the other held the value. The index still shows the first two, in any order.
    #[tokio::test]
    async fn of_several_that_the_index_shows_the_one_that_holds_the_value_is_found() {
        for ids in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
            let [first, second, third] = ids;
            let model = model(&[
                [(1, book(first, Some("john"))), (2, book(first, None))],
                [(10, book(second, Some("john"))), (11, book(second, None))],
                [(20, book(third, Some("john"))), (20, book(third, Some("john")))],
            ]);
            for certain in [None, Some(stored(2, &book(first, None))), Some(stored(11, &book(second, None)))]
            {
                assert_eq!(found(&model, certain).await, Some(20), "{ids:?}");
            }
        }
    }

    #[tokio::test]
    async fn nobody_is_found_whom_the_index_shows_and_who_passed_the_value_on() {
        let passed_on = |id, version| [(version, book(id, Some("john"))), (version + 1, book(id, None))];
        let model = model(&[passed_on(1, 1), passed_on(2, 10)]);
        assert_eq!(found(&model, Some(stored(2, &book(1, None)))).await, None);
        assert_eq!(found(&model, None).await, None, "the index contradicts itself");
    }
}

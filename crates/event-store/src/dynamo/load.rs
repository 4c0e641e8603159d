//! Loading: only the attributes of each event that a fold needs.

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use millrace_aws::AwsError;
use millrace_core::StreamId;

use super::{DynamoReader, no_event};
use crate::{
    Entry, LoadEvents, consecutive, following,
    item::{AGGREGATE_ID, ENTRY, VERSION, entry_from_item, number, text},
};

impl LoadEvents for DynamoReader {
    async fn newest(&self, stream: &StreamId, after: u64, limit: u16) -> Result<Vec<Entry>, AwsError> {
        let query = self
            .entries(stream, "#stream = :stream AND #version > :after")
            .expression_attribute_values(":after", number(after))
            .scan_index_forward(false)
            .limit(i32::from(limit).max(1));
        let mut entries = read(stream, query).await?;
        entries.reverse();
        consecutive(stream, entries)
    }

    async fn between(&self, stream: &StreamId, after: u64, before: u64) -> Result<Vec<Entry>, AwsError> {
        // DynamoDB refuses a range that ends before it begins.
        let Some((first, last)) = range(after, before) else { return Ok(Vec::new()) };
        let query = self
            .entries(stream, "#stream = :stream AND #version BETWEEN :first AND :last")
            .expression_attribute_values(":first", number(first))
            .expression_attribute_values(":last", number(last));
        following(stream, after, read(stream, query).await?)
    }
}

impl DynamoReader {
    /// A query for entries. DynamoDB charges for the size of the whole events, but sends only these attributes.
    fn entries(&self, stream: &StreamId, condition: &str) -> QueryFluentBuilder {
        let names = (0..ENTRY.len()).map(|n| format!("#n{n}"));
        let query = self
            .client
            .query()
            .table_name(&*self.events)
            .consistent_read(true)
            .key_condition_expression(condition)
            .projection_expression(names.clone().collect::<Vec<_>>().join(","))
            .expression_attribute_names("#stream", AGGREGATE_ID)
            .expression_attribute_names("#version", VERSION)
            .expression_attribute_values(":stream", text(stream));
        names
            .zip(ENTRY)
            .fold(query, |query, (name, attribute)| query.expression_attribute_names(name, attribute))
    }
}

/// The first and the last version between two others, where there is one.
fn range(after: u64, before: u64) -> Option<(u64, u64)> {
    let (first, last) = (after.checked_add(1)?, before.checked_sub(1)?);
    (first <= last).then_some((first, last))
}

async fn read(stream: &StreamId, query: QueryFluentBuilder) -> Result<Vec<Entry>, AwsError> {
    let output = query.send().await?;
    if output.items().is_empty() && output.last_evaluated_key().is_some_and(|key| !key.is_empty()) {
        return Err(AwsError::InvalidResponse(format!(
            "a page of stream {stream} is empty, and not the last one"
        )));
    }
    let entry = |item| entry_from_item(item).map_err(|error| no_event(stream, item, &error));
    output.items().iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_lies_between_its_ends() {
        let ranges =
            [(0, 3, Some((1, 2))), (4, 6, Some((5, 5))), (4, 5, None), (0, 0, None), (u64::MAX, 0, None)];
        for (after, before, between) in ranges {
            assert_eq!(range(after, before), between, "{after} {before}");
        }
    }
}

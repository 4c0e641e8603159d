//! The event store's stream on DynamoDB.

use std::sync::{Arc, OnceLock};

use aws_sdk_dynamodbstreams::{
    Client,
    error::ProvideErrorMetadata as _,
    operation::{get_records::GetRecordsError, get_shard_iterator::GetShardIteratorError},
    types::{
        OperationType, Record as StreamRecord, ShardFilter, ShardFilterType, ShardIteratorType,
        StreamDescription,
    },
};
use millrace_aws::AwsError;
use millrace_event_store::stored_from_stream_image;

use super::undecoded::undecoded;
use crate::stream::{
    Content, Position, Record, Records, Sequence, Shard, ShardId, ShardStream, Shards, StreamError, Undecoded,
};

/// AWS's error code for an invalid parameter of a call.
const VALIDATION: &str = "ValidationException";

/// The stream of the event store's table.
///
/// A table whose stream is switched off and on again has a new stream with another label, and its shards may have the
/// old names (the emulator uses the same names in every stream). So a [`ShardId`] here is `<label>/<shard>`. DynamoDB
/// keeps the old stream for a day, and it can be read to its end.
#[derive(Debug, Clone)]
pub struct DynamoStream {
    tables: aws_sdk_dynamodb::Client,
    client: Client,
    table: String,
    /// The ARN of every stream of the table, without the label.
    stem: Arc<OnceLock<String>>,
}

/// A stream of the table.
struct Stream {
    arn: String,
    label: String,
}

impl DynamoStream {
    /// The stream of the table called `table`.
    pub fn new(tables: aws_sdk_dynamodb::Client, client: Client, table: impl Into<String>) -> Self {
        Self { tables, client, table: table.into(), stem: Arc::default() }
    }

    /// The table's present stream.
    async fn latest(&self) -> Result<Stream, AwsError> {
        let reply = self.tables.describe_table().table_name(&self.table).send().await?;
        let arn = reply.table.and_then(|table| table.latest_stream_arn);
        let arn = arn.ok_or_else(|| AwsError::Refused(format!("the table {} has no stream", self.table)))?;
        let label = arn.rsplit('/').next().unwrap_or_default().to_owned();
        if let Some(stem) = arn.strip_suffix(&label) {
            self.stem.get_or_init(|| stem.to_owned());
        }
        Ok(Stream { arn, label })
    }

    /// The stream of this label, maybe an earlier one of the table.
    async fn labelled(&self, label: &str) -> Result<Stream, AwsError> {
        if self.stem.get().is_none() {
            self.latest().await?;
        }
        let stem = self.stem.get().ok_or_else(nameless)?;
        Ok(Stream { arn: format!("{stem}{label}"), label: label.to_owned() })
    }
}

impl ShardStream for DynamoStream {
    type Cursor = String;

    async fn shards(&self, from: Option<&ShardId>) -> Result<Shards, AwsError> {
        let (Stream { arn, label }, from) = match from {
            None => (self.latest().await?, None),
            Some(shard) => {
                let (label, shard) = parts(shard).ok_or_else(nameless)?;
                (self.labelled(label).await?, Some(shard.to_owned()))
            }
        };
        let call = self.client.describe_stream().stream_arn(arn).set_exclusive_start_shard_id(from);
        let page = described(call.send().await?.stream_description)?;
        let next = page.last_evaluated_shard_id.clone().map(|last| named(&label, &last));
        Ok(Shards { shards: shards_of(page, &label)?, next })
    }

    async fn children(&self, parent: &ShardId) -> Result<Vec<Shard>, AwsError> {
        let (label, shard) = parts(parent).ok_or_else(nameless)?;
        let Stream { arn, label } = self.labelled(label).await?;
        let filter = ShardFilter::builder().r#type(ShardFilterType::ChildShards).shard_id(shard).build();
        let call = self.client.describe_stream().stream_arn(arn).shard_filter(filter);
        let mut shards = shards_of(described(call.send().await?.stream_description)?, &label)?;
        // An emulator may know no filter.
        shards.retain(|shard| shard.parent.as_ref() == Some(parent));
        Ok(shards)
    }

    async fn open(&self, shard: &ShardId, position: &Position) -> Result<String, StreamError> {
        // No stream has a shard with another name.
        let (label, shard) = parts(shard).ok_or(StreamError::Gone)?;
        let Stream { arn, .. } = self.labelled(label).await?;
        let call = self.client.get_shard_iterator().stream_arn(arn).shard_id(shard);
        let call = match position {
            Position::TrimHorizon => call.shard_iterator_type(ShardIteratorType::TrimHorizon),
            Position::After(Sequence(number)) => {
                call.shard_iterator_type(ShardIteratorType::AfterSequenceNumber).sequence_number(number)
            }
        };
        let reply = call.send().await.map_err(|error| {
            let known = error.as_service_error().and_then(|error| refused_position(error, position));
            known.unwrap_or_else(|| StreamError::Failed(error.into()))
        })?;
        reply.shard_iterator.ok_or_else(|| AwsError::InvalidResponse("no shard iterator".to_owned()).into())
    }

    async fn read(&self, cursor: &String) -> Result<Records<String>, StreamError> {
        let reply = self.client.get_records().shard_iterator(cursor).send().await.map_err(|error| {
            match error.as_service_error() {
                Some(GetRecordsError::TrimmedDataAccessException(_)) => StreamError::Trimmed,
                Some(GetRecordsError::ExpiredIteratorException(_)) => StreamError::Expired,
                Some(GetRecordsError::ResourceNotFoundException(_)) => StreamError::Gone,
                // The cursor of a vanished stream. Opening the shard again shows whether the shard is gone.
                Some(invalid) if invalid.code() == Some(VALIDATION) => StreamError::Expired,
                Some(_) | None => StreamError::Failed(error.into()),
            }
        })?;
        // An empty reply would count as the shard's end. DynamoDB's replies always have a list of records, maybe empty.
        let records =
            reply.records.ok_or_else(|| AwsError::InvalidResponse("a reply without records".to_owned()))?;
        let records = records.into_iter().map(record).collect::<Result<_, _>>()?;
        Ok(Records { records, next: reply.next_shard_iterator })
    }
}

/// The fault of the shard or the position that a refusal to open names; `None` if only the call failed.
///
/// DynamoDB always refuses a sequence number of another stream as invalid. The checkpoint's number was taken from the
/// stream, so the stream was exchanged and its records are gone, as if they were trimmed.
fn refused_position(error: &GetShardIteratorError, position: &Position) -> Option<StreamError> {
    match (error, position) {
        (GetShardIteratorError::TrimmedDataAccessException(_), _) => Some(StreamError::Trimmed),
        (GetShardIteratorError::ResourceNotFoundException(_), _) => Some(StreamError::Gone),
        (error, Position::After(_)) if error.code() == Some(VALIDATION) => Some(StreamError::Trimmed),
        _ => None,
    }
}

fn described(stream: Option<StreamDescription>) -> Result<StreamDescription, AwsError> {
    stream.ok_or_else(|| AwsError::InvalidResponse("a stream without a description".to_owned()))
}

/// The label of its stream and the name of a shard.
fn parts(shard: &ShardId) -> Option<(&str, &str)> {
    shard.as_str().split_once('/')
}

fn nameless() -> AwsError {
    AwsError::InvalidResponse("a shard without a stream".to_owned())
}

fn named(label: &str, shard: &str) -> ShardId {
    ShardId::from(format!("{label}/{shard}"))
}

/// The shards of a page.
fn shards_of(page: StreamDescription, label: &str) -> Result<Vec<Shard>, AwsError> {
    let shard = |shard: aws_sdk_dynamodbstreams::types::Shard| {
        let id =
            shard.shard_id.ok_or_else(|| AwsError::InvalidResponse("a shard without an id".to_owned()))?;
        let parent = shard.parent_shard_id.map(|parent| named(label, &parent));
        Ok(Shard { id: named(label, &id), parent })
    };
    page.shards.unwrap_or_default().into_iter().map(shard).collect()
}

fn record(record: StreamRecord) -> Result<Record, AwsError> {
    let (place, image) =
        record.dynamodb.map_or((None, None), |change| (change.sequence_number, change.new_image));
    let sequence = place.ok_or_else(|| AwsError::InvalidResponse("a record without a place".to_owned()))?;
    let content = match (record.event_name, image) {
        (Some(OperationType::Insert), Some(image)) => match stored_from_stream_image(&image) {
            Ok(stored) => Content::Event(Box::new(stored.envelope)),
            Err(error) => undecoded(&image, &error),
        },
        (Some(OperationType::Insert), None) => Content::Undecodable(Box::new(Undecoded {
            reason: "the stream has no new images".to_owned(),
            ..Undecoded::default()
        })),
        (Some(_) | None, _) => Content::Skip,
    };
    Ok(Record { sequence: Sequence(sequence), content })
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodbstreams::error::ErrorMetadata;

    use super::*;

    #[test]
    fn a_checkpoint_that_the_stream_refuses_as_invalid_counts_as_trimmed() {
        let refused = |code: &str, position: &Position| {
            let error = GetShardIteratorError::generic(ErrorMetadata::builder().code(code).build());
            refused_position(&error, position)
        };
        let after = Position::After(Sequence("of another stream".to_owned()));
        assert!(matches!(refused(VALIDATION, &after), Some(StreamError::Trimmed)));
        assert!(refused(VALIDATION, &Position::TrimHorizon).is_none(), "the call itself is at fault");
        assert!(refused("LimitExceededException", &after).is_none());
    }
}

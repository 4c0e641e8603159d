//! Snapshots.

use std::io::{self, Read as _};

use aws_sdk_dynamodb::{operation::put_item::PutItemError, primitives::Blob, types::AttributeValue};
use millrace_aws::AwsError;
use millrace_core::StreamId;
use sha2::{Digest as _, Sha256};

use super::{DynamoStore, command_blocks};
use crate::{
    CommandBlock, Replaces, Snapshot, Snapshots,
    item::{AGGREGATE_ID, Item, VERSION, number, text},
    plan::ITEM_BYTES,
    size::item_size,
};

const STATE_SCHEMA: &str = "StateSchema";
/// The checksum of the state: a damaged state does not have it.
pub(super) const CHECKSUM: &str = "Checksum";
/// The state is JSON text and not a map: no reader needs a part of it, numbers come back exactly as they were, and its
/// nesting may exceed DynamoDB's 32 levels. It is compressed (zstd), since a write is charged by the kilobyte: most of
/// it are hexadecimal digits, which take half their room.
const STATE: &str = "State";
/// The fastest of zstd's levels that compress: the slowest makes ids 6 % smaller, in many times the time.
const LEVEL: i32 = 1;
/// The longest text of a state, in bytes: ten times the size of an item.
const STATE_BYTES: usize = 10 * ITEM_BYTES;

/// The form of all that an aggregate's own schema says nothing of. It is part of the key: releases with another form have
/// other snapshots.
const FORM: u32 = 2;

/// Holds while there is no snapshot, or one without a version, or an older one.
const IS_NEWER: &str = "attribute_not_exists(#version) OR #version < :version";

impl Snapshots for DynamoStore {
    /// Reads without strong consistency, for half the price: with a snapshot that is older than it might be, or none,
    /// the caller reads more events.
    async fn snapshot(&self, stream: &StreamId, schema: u32) -> Result<Option<Snapshot>, AwsError> {
        let key = text(key(stream, schema));
        let get = self.reader.client.get_item().table_name(&*self.snapshots).key(AGGREGATE_ID, key);
        let Some(item) = get.send().await?.item else { return Ok(None) };
        let snapshot = from_item(stream, &item).filter(|snapshot| snapshot.schema == schema);
        if snapshot.is_none() {
            tracing::warn!(%stream, "the snapshot cannot be read and is passed over");
        }
        Ok(snapshot)
    }

    async fn put_snapshot(&self, snapshot: &Snapshot, replaces: Replaces) -> Result<bool, AwsError> {
        self.put_if_newer(to_item(snapshot)?, snapshot.version, replaces).await
    }

    async fn command_blocks(
        &self,
        stream: &StreamId,
        numbers: &[u64],
    ) -> Result<Vec<CommandBlock>, AwsError> {
        self.blocks(stream, numbers).await
    }

    async fn put_command_block(&self, block: &CommandBlock, replaces: Replaces) -> Result<bool, AwsError> {
        self.put_if_newer(command_blocks::to_item(block)?, block.last_version(), replaces).await
    }
}

impl DynamoStore {
    /// Puts an item of this version into the table of snapshots. Returns whether it was put.
    async fn put_if_newer(&self, item: Item, version: u64, replaces: Replaces) -> Result<bool, AwsError> {
        let put = self.reader.client.put_item().table_name(&*self.snapshots).set_item(Some(item));
        let put = match replaces {
            Replaces::Older => put
                .condition_expression(IS_NEWER)
                .expression_attribute_names("#version", VERSION)
                .expression_attribute_values(":version", number(version)),
            Replaces::Any => put,
        };
        let Err(error) = put.send().await else { return Ok(true) };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(_)) => Ok(false),
            Some(_) | None => Err(error.into()),
        }
    }
}

/// The key of a snapshot. It begins with the tenant, as every key does.
fn key(stream: &StreamId, schema: u32) -> String {
    format!("{stream}#{FORM}.{schema}")
}

/// The item of a snapshot. One that does not fit into an item is refused.
pub(crate) fn to_item(snapshot: &Snapshot) -> Result<Item, AwsError> {
    let text_of_state = snapshot.state.to_string();
    let too_large = || AwsError::Refused("a state is too large for a snapshot".to_owned());
    if text_of_state.len() > STATE_BYTES {
        return Err(too_large());
    }
    let state = zstd::bulk::compress(text_of_state.as_bytes(), LEVEL)
        .map_err(|error| AwsError::Refused(format!("a snapshot cannot be compressed: {error}")))?;
    let item: Item = [
        (AGGREGATE_ID, text(key(&snapshot.stream, snapshot.schema))),
        (VERSION, number(snapshot.version)),
        (STATE_SCHEMA, number(snapshot.schema)),
        (CHECKSUM, text(checksum(&snapshot.stream, snapshot.version, snapshot.schema, &state))),
        (STATE, AttributeValue::B(Blob::new(state))),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if item_size(&item) > ITEM_BYTES { Err(too_large()) } else { Ok(item) }
}

fn from_item(stream: &StreamId, item: &Item) -> Option<Snapshot> {
    let number = |name| item.get(name).and_then(|v: &AttributeValue| v.as_n().ok());
    let (version, schema) = (number(VERSION)?.parse().ok()?, number(STATE_SCHEMA)?.parse().ok()?);
    let state = item.get(STATE)?.as_b().ok()?.as_ref();
    let is_whole = *item.get(CHECKSUM)?.as_s().ok()? == checksum(stream, version, schema, state);
    // Only data written by this store is decompressed.
    let text = is_whole.then(|| decompressed(state))?.ok()?;
    Some(Snapshot { stream: stream.clone(), version, schema, state: serde_json::from_str(&text).ok()? })
}

/// The text of a state, if it is no longer than one may be.
fn decompressed(state: &[u8]) -> io::Result<String> {
    let most = u64::try_from(STATE_BYTES).unwrap_or(u64::MAX);
    let mut text = String::new();
    zstd::Decoder::with_buffer(state)?.take(most.saturating_add(1)).read_to_string(&mut text)?;
    if text.len() > STATE_BYTES { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

/// 128 bits of SHA-256 over the whole snapshot.
fn checksum(stream: &StreamId, version: u64, schema: u32, state: &[u8]) -> String {
    checksum_of(format!("{stream} {version} {schema} "), state)
}

/// 128 bits of SHA-256 over an item's parts.
pub(super) fn checksum_of(prefix: String, data: &[u8]) -> String {
    let hash = Sha256::new_with_prefix(prefix).chain_update(data).finalize();
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{any_stream, any_value};

    proptest! {
        #[test]
        fn a_snapshot_survives_its_item(version: u64, schema: u32, state in any_value()) {
            let stream = any_stream();
            let snapshot = Snapshot { stream: stream.clone(), version, schema, state };
            prop_assert_eq!(from_item(&stream, &to_item(&snapshot).unwrap()), Some(snapshot));
        }
    }

    #[test]
    fn a_number_with_a_fraction_comes_back_exactly() {
        let stream = any_stream();
        for number in [5.000_999_999_999_999_4e32, 0.1 + 0.2, f64::MIN_POSITIVE, f64::MAX] {
            let snapshot = Snapshot { stream: stream.clone(), version: 7, schema: 1, state: json!(number) };
            assert_eq!(from_item(&stream, &to_item(&snapshot).unwrap()), Some(snapshot));
        }
    }

    #[test]
    fn a_snapshot_that_cannot_be_read_is_none() {
        let stream = any_stream();
        let snapshot = Snapshot { stream: stream.clone(), version: 7, schema: 1, state: json!({"a": 1}) };
        let item = to_item(&snapshot).unwrap();
        for name in [VERSION, STATE_SCHEMA, STATE, CHECKSUM] {
            for bad in [
                None,
                Some(text("{")),
                Some(number("-1")),
                Some(number("8")),
                Some(text("{\"a\":1}")),
                Some(AttributeValue::B(Blob::new("{\"a\":1}"))),
                Some(AttributeValue::B(Blob::new([]))),
                Some(AttributeValue::Null(true)),
            ] {
                let mut item = item.clone();
                item.remove(name);
                item.extend(bad.clone().map(|bad| (name.to_owned(), bad)));
                assert_eq!(from_item(&stream, &item), None, "{name} {bad:?}");
            }
        }
        assert_eq!(from_item(&any_stream(), &item), None, "another stream's");
    }

    #[test]
    fn a_state_is_compressed_and_bounded_all_the_same() {
        let stream = any_stream();
        let of = |bytes: usize| {
            let state = json!("a".repeat(bytes));
            Snapshot { stream: stream.clone(), version: 7, schema: 1, state }
        };
        // With its quotes it is as long as a state may be.
        let longest = of(STATE_BYTES - 2);
        let mut item = to_item(&longest).unwrap();
        assert!(item_size(&item) < 4_096, "{}", item_size(&item));
        assert_eq!(from_item(&stream, &item), Some(longest));
        assert!(matches!(to_item(&of(STATE_BYTES - 1)), Err(AwsError::Refused(_))));

        // Forged with the right checksum: a text that is too long though it is JSON, and one that is no JSON.
        let mut forged = |state: Vec<u8>| {
            item.insert(CHECKSUM.to_owned(), text(checksum(&stream, 7, 1, &state)));
            item.insert(STATE.to_owned(), AttributeValue::B(Blob::new(state)));
            from_item(&stream, &item)
        };
        let padded = |bytes: usize| {
            let text = format!("1{}", " ".repeat(bytes - 1));
            zstd::bulk::compress(text.as_bytes(), LEVEL).unwrap()
        };
        assert_eq!(forged(padded(STATE_BYTES)).map(|snapshot| snapshot.state), Some(json!(1)));
        assert_eq!(forged(padded(STATE_BYTES + 1)), None);
        assert_eq!(forged(b"1".to_vec()), None);

        let noise = (0..ITEM_BYTES / 16).map(|_| json!(uuid::Uuid::new_v4().simple().to_string()));
        let noise = Snapshot { state: noise.collect(), ..of(0) };
        assert!(matches!(to_item(&noise), Err(AwsError::Refused(_))), "what does not fit even so");
    }
}

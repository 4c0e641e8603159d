//! Blocks of remembered commands, in the table of snapshots.

use aws_sdk_dynamodb::{
    primitives::Blob,
    types::{AttributeValue, KeysAndAttributes},
};
use millrace_aws::AwsError;
use millrace_core::{EventId, StreamId};

use super::{
    DynamoStore,
    snapshots::{CHECKSUM, checksum_of},
};
use crate::{
    BLOCK_VERSIONS, CommandBlock, MAX_BLOCKS,
    item::{AGGREGATE_ID, EVENT_ID, Item, VERSION, number, text},
};

const BEFORE: &str = "Before";
const NEWEST: &str = "Newest";
/// Four bytes a fingerprint. They cannot be compressed.
const FINGERPRINTS: &str = "Fingerprints";

/// The form of a block, which is part of its key: releases with another form have other blocks.
const FORM: u32 = 1;

impl DynamoStore {
    /// Reads without strong consistency, for half the price: a block that is missed is read from the stream.
    pub(super) async fn blocks(
        &self,
        stream: &StreamId,
        numbers: &[u64],
    ) -> Result<Vec<CommandBlock>, AwsError> {
        if numbers.len() > MAX_BLOCKS {
            return Err(AwsError::Refused(format!("more than {MAX_BLOCKS} blocks were asked for")));
        }
        let mut numbers = numbers.to_vec();
        // A key may be asked for once.
        numbers.sort_unstable_by_key(|number| CommandBlock::slot(*number));
        numbers.dedup_by_key(|number| CommandBlock::slot(*number));
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let key = |number: &u64| Item::from([(AGGREGATE_ID.to_owned(), text(key(stream, *number)))]);
        let wanted = KeysAndAttributes::builder()
            .set_keys(Some(numbers.iter().map(key).collect()))
            .build()
            .map_err(|error| AwsError::Refused(error.to_string()))?;
        let get = self.reader.client.batch_get_item().request_items(&*self.snapshots, wanted);
        let reply = get.send().await?;
        if reply.unprocessed_keys.is_some_and(|left| !left.is_empty()) {
            // A hundred of them are below the limit of a reply.
            return Err(AwsError::Throttled("a part of the blocks was not read".into()));
        }
        let found = reply.responses.unwrap_or_default().remove(&*self.snapshots).unwrap_or_default();
        let mut blocks = Vec::with_capacity(found.len());
        for item in &found {
            match from_item(stream, item) {
                Some(block) if numbers.contains(&block.number) => blocks.push(block),
                // Its place has an earlier or a later one.
                Some(_) => {}
                None => tracing::warn!(%stream, "a block of commands cannot be read and is passed over"),
            }
        }
        Ok(blocks)
    }
}

/// The key of a block. It begins with the tenant, as every key does, and cannot be that of a snapshot.
fn key(stream: &StreamId, number: u64) -> String {
    format!("{stream}#recent.{FORM}#{}", CommandBlock::slot(number))
}

/// The item of a block. One that is not of as many events as a block has is refused.
pub(crate) fn to_item(block: &CommandBlock) -> Result<Item, AwsError> {
    if u64::try_from(block.fingerprints.len()) != Ok(BLOCK_VERSIONS)
        || block.before.is_none() != (block.number == 0)
    {
        return Err(AwsError::Refused("a block of commands that is not whole".to_owned()));
    }
    let fingerprints: Vec<u8> = block.fingerprints.iter().flat_map(|each| each.to_be_bytes()).collect();
    let mut item: Item = [
        (AGGREGATE_ID, text(key(&block.stream, block.number))),
        (VERSION, number(block.last_version())),
        (EVENT_ID, text(block.last)),
        (NEWEST, number(block.newest)),
        (CHECKSUM, text(checksum(block, &fingerprints))),
        (FINGERPRINTS, AttributeValue::B(Blob::new(fingerprints))),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    item.extend(block.before.map(|before| (BEFORE.to_owned(), text(before))));
    Ok(item)
}

fn from_item(stream: &StreamId, item: &Item) -> Option<CommandBlock> {
    let text = |name| item.get(name).and_then(|value: &AttributeValue| value.as_s().ok());
    let number = |name| item.get(name).and_then(|value: &AttributeValue| value.as_n().ok());
    let event = |name| Some(EventId(text(name)?.parse().ok()?));
    let last_version: u64 = number(VERSION)?.parse().ok()?;
    let bytes = item.get(FINGERPRINTS)?.as_b().ok()?.as_ref();
    let (fingerprints, []) = bytes.as_chunks() else { return None };
    let block = CommandBlock {
        stream: stream.clone(),
        number: (last_version / BLOCK_VERSIONS).checked_sub(1)?,
        before: event(BEFORE),
        last: event(EVENT_ID)?,
        newest: number(NEWEST)?.parse().ok()?,
        fingerprints: fingerprints.iter().map(|four| u32::from_be_bytes(*four)).collect(),
    };
    let is_whole = last_version == block.last_version()
        && u64::try_from(fingerprints.len()) == Ok(BLOCK_VERSIONS)
        && *text(CHECKSUM)? == checksum(&block, bytes);
    is_whole.then_some(block)
}

/// A checksum over the whole block.
fn checksum(block: &CommandBlock, fingerprints: &[u8]) -> String {
    let CommandBlock { stream, number, before, last, newest, .. } = block;
    let before = before.map(|before| before.to_string()).unwrap_or_default();
    checksum_of(format!("{stream} {number} {before} {last} {newest} "), fingerprints)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use uuid::Uuid;

    use super::*;
    use crate::{size::item_size, testing::any_stream};

    fn block(number: u64, newest: i64, fingerprints: Vec<u32>) -> CommandBlock {
        let event = |n: u64| EventId(Uuid::from_u128(n.into()));
        let before = (number > 0).then(|| event(number));
        CommandBlock { stream: any_stream(), number, before, last: event(number + 1), newest, fingerprints }
    }

    fn any_block() -> impl Strategy<Value = CommandBlock> {
        let length = usize::try_from(BLOCK_VERSIONS).unwrap();
        (0..u64::MAX / BLOCK_VERSIONS, any::<i64>(), vec(any::<u32>(), length..=length))
            .prop_map(|(number, newest, fingerprints)| block(number, newest, fingerprints))
    }

    proptest! {
        #[test]
        fn a_block_survives_its_item(block in any_block()) {
            let item = to_item(&block).unwrap();
            prop_assert_eq!(from_item(&block.stream, &item), Some(block));
        }
    }

    #[test]
    fn a_block_costs_three_write_units() {
        let size = item_size(&to_item(&block(100_000, 1_800_000_000, vec![7; 512])).unwrap());
        assert!((2 * 1024..3 * 1024).contains(&size), "{size}");
    }

    #[test]
    fn a_block_that_cannot_be_read_is_none() {
        let block = block(7, 1_800_000_000, (0..512).collect());
        let item = to_item(&block).unwrap();
        for name in [VERSION, EVENT_ID, NEWEST, CHECKSUM, FINGERPRINTS, BEFORE] {
            for bad in [
                None,
                Some(text("{")),
                Some(text(Uuid::nil())),
                Some(number("-1")),
                Some(number("512")),
                Some(number("4097")),
                Some(AttributeValue::B(Blob::new([0; 2_048]))),
                Some(AttributeValue::B(Blob::new([0; 7]))),
                Some(AttributeValue::Null(true)),
            ] {
                let mut item = item.clone();
                item.remove(name);
                item.extend(bad.clone().map(|bad| (name.to_owned(), bad)));
                assert_eq!(from_item(&block.stream, &item), None, "{name} {bad:?}");
            }
        }
        let other = StreamId { id: Uuid::nil(), ..any_stream() };
        assert_eq!(from_item(&other, &item), None, "another stream's");
        let short = CommandBlock { fingerprints: vec![1; 511], ..block.clone() };
        assert!(matches!(to_item(&short), Err(AwsError::Refused(_))));
        assert!(matches!(to_item(&CommandBlock { before: None, ..block }), Err(AwsError::Refused(_))));
    }
}

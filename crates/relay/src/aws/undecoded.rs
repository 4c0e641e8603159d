//! Items that are no events, for the bus: in DynamoDB's own JSON, which preserves them whole.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodbstreams::types::AttributeValue as StreamValue;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use millrace_aws::item::{Attribute, parsed, whole};
use millrace_core::StreamId;
use millrace_event_store::ItemError;
use serde_json::{Map, Value, json};

use crate::stream::{Content, Undecoded};

/// An item, with the stream and version that its key names.
pub(super) fn undecoded<A: Attribute + Typed>(item: &HashMap<String, A>, error: &ItemError) -> Content {
    let stream = parsed::<_, StreamId>(item, "AggregateId").ok();
    let of_key = stream.as_ref().map(|stream| stream.aggregate_type.clone());
    Content::Undecodable(Box::new(Undecoded {
        reason: error.to_string(),
        aggregate_type: of_key.or_else(|| parsed(item, "AggregateType").ok()),
        version: whole(item, "Version").ok(),
        item: Some(typed_map(item)),
        stream,
    }))
}

fn typed_map<A: Typed>(values: &HashMap<String, A>) -> Map<String, Value> {
    values.iter().map(|(name, value)| (name.clone(), value.typed())).collect()
}

/// An attribute's value with its type, as DynamoDB writes it (DynamoDB API Reference, `AttributeValue`).
pub(super) trait Typed: Sized {
    fn typed(&self) -> Value;
}

macro_rules! typed {
    ($type:ident) => {
        impl Typed for $type {
            fn typed(&self) -> Value {
                match self {
                    Self::S(text) => json!({ "S": text }),
                    Self::N(number) => json!({ "N": number }),
                    Self::B(blob) => json!({ "B": STANDARD.encode(blob) }),
                    Self::Ss(texts) => json!({ "SS": texts }),
                    Self::Ns(numbers) => json!({ "NS": numbers }),
                    Self::Bs(blobs) => {
                        json!({ "BS": blobs.iter().map(|blob| STANDARD.encode(blob)).collect::<Vec<_>>() })
                    }
                    Self::Bool(truth) => json!({ "BOOL": truth }),
                    Self::Null(truth) => json!({ "NULL": truth }),
                    Self::L(values) => json!({ "L": values.iter().map(Typed::typed).collect::<Vec<_>>() }),
                    Self::M(values) => json!({ "M": typed_map(values) }),
                    // An attribute type unknown to this release's SDK.
                    _ => Value::Null,
                }
            }
        }
    };
}

typed!(AttributeValue);
typed!(StreamValue);

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::primitives::Blob;
    use millrace_event_store::stored_from_item;

    use super::*;

    #[test]
    fn an_item_goes_whole_with_what_its_key_says() {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let item = HashMap::from([
            ("AggregateId".to_owned(), text("acme#user#00000000-0000-0000-0000-000000000007")),
            ("Version".to_owned(), AttributeValue::N("3".to_owned())),
            ("EventData".to_owned(), AttributeValue::B(Blob::new([1, 2, 255]))),
            ("More".to_owned(), AttributeValue::L(vec![AttributeValue::Ns(vec!["1.50".to_owned()])])),
        ]);
        let error = stored_from_item(&item).unwrap_err();
        let Content::Undecodable(undecoded) = undecoded(&item, &error) else { panic!("not so") };
        assert_eq!(undecoded.stream.as_ref().unwrap().id.as_u128(), 7);
        assert_eq!((undecoded.aggregate_type.unwrap().as_str(), undecoded.version), ("user", Some(3)));
        let item = Value::Object(undecoded.item.unwrap());
        assert_eq!(item["EventData"], json!({ "B": "AQL/" }));
        assert_eq!(item["More"], json!({ "L": [{ "NS": ["1.50"] }] }));
    }
}

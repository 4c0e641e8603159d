//! The attributes of a row that say what made it.

use aws_sdk_dynamodb::types::AttributeValue;
use millrace_aws::AwsError;

use super::item::{Item, parsed, text, unreadable};
use crate::Provenance;

const EVENT_ID: &str = "EventId";
const CORRELATION_ID: &str = "CorrelationId";
const CAUSATION_ID: &str = "CausationId";
const TRACE_PARENT: &str = "TraceParent";

/// The names of all of them.
#[cfg(any(test, feature = "audit"))]
pub(super) const PROVENANCE: [&str; 4] = [EVENT_ID, CORRELATION_ID, CAUSATION_ID, TRACE_PARENT];

/// The attributes, each with its value; none for one that must not be there, since the row would pass an older event's
/// off as this one's.
pub(super) fn attributes(provenance: &Provenance) -> [(&'static str, Option<AttributeValue>); 4] {
    // Taken apart whole, so that a new field is not forgotten here.
    let Provenance { event_id, correlation_id, causation_id, trace_parent } = provenance;
    let text = |text: String| AttributeValue::S(text);
    [
        (EVENT_ID, Some(text(event_id.to_string()))),
        (CORRELATION_ID, Some(text(correlation_id.to_string()))),
        (CAUSATION_ID, Some(text(causation_id.to_string()))),
        (TRACE_PARENT, trace_parent.clone().map(text)),
    ]
}

/// What made a row; `None` where the row does not say all of it, or says what cannot be read.
///
/// Older releases wrote rows without a provenance, and no query asks for one: a row is not refused for its lack. It is
/// there as a whole or not at all, so that what is there can be relied on.
pub(super) fn provenance(item: &Item) -> Option<Provenance> {
    readable(item).ok()
}

fn readable(item: &Item) -> Result<Provenance, AwsError> {
    Ok(Provenance {
        event_id: text(item, EVENT_ID)?.parse().map_err(|_| unreadable(EVENT_ID))?,
        correlation_id: parsed(item, CORRELATION_ID)?,
        causation_id: parsed(item, CAUSATION_ID)?,
        trace_parent: item.contains_key(TRACE_PARENT).then(|| parsed(item, TRACE_PARENT)).transpose()?,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use millrace_domain::EventId;
    use uuid::Uuid;

    use super::*;

    /// A provenance with a trace.
    pub(in crate::dynamo) fn some() -> Provenance {
        Provenance {
            event_id: EventId(Uuid::from_u128(7)),
            correlation_id: "checkout 名前".parse().unwrap(),
            causation_id: "command".parse().unwrap(),
            trace_parent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        }
    }

    /// What a row may hold in place of its provenance, besides nothing at all: each of its attributes missing or not
    /// readable.
    pub(in crate::dynamo) fn unreadable_ones() -> Vec<Vec<(&'static str, AttributeValue)>> {
        let whole: Vec<_> =
            attributes(&some()).into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let bad = |name, value| {
            let others = whole.iter().filter(|(other, _)| *other != name).cloned();
            others.chain([(name, value)]).collect()
        };
        let missing = whole[..3]
            .iter()
            .map(|(name, _)| whole.iter().filter(|(other, _)| other != name).cloned().collect::<Vec<_>>());
        let wrong = whole.iter().map(|(name, _)| bad(*name, AttributeValue::N("1".to_owned())));
        let senseless = ["", "a\n", &"x".repeat(129)]
            .iter()
            .flat_map(|text| {
                [EVENT_ID, CORRELATION_ID, CAUSATION_ID]
                    .map(|name| bad(name, AttributeValue::S((*text).to_owned())))
            })
            .collect::<Vec<_>>();
        missing.chain(wrong).chain(senseless).chain([vec![]]).collect()
    }

    fn item(attributes: impl IntoIterator<Item = (&'static str, AttributeValue)>) -> Item {
        attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    #[test]
    fn a_provenance_survives_its_attributes() {
        for expected in [some(), Provenance { trace_parent: None, ..some() }] {
            let written = attributes(&expected).into_iter().filter_map(|(name, value)| Some((name, value?)));
            assert_eq!(provenance(&item(written)), Some(expected));
        }
    }

    #[test]
    fn what_is_not_readable_whole_is_none() {
        for attributes in unreadable_ones() {
            assert_eq!(provenance(&item(attributes.clone())), None, "{attributes:?}");
        }
    }
}

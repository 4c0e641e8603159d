//! The attributes of an item that name the event that made it.

use std::str::FromStr;

use millrace_core::row::{Attributes, Provenance};
use serde_json::Value;

const EVENT_ID: &str = "EventId";
const CORRELATION_ID: &str = "CorrelationId";
const CAUSATION_ID: &str = "CausationId";
const TRACE_PARENT: &str = "TraceParent";

/// The names of all of them.
pub(crate) const PROVENANCE: [&str; 4] = [EVENT_ID, CORRELATION_ID, CAUSATION_ID, TRACE_PARENT];

/// The attributes, each with its value; none for one that must not be there, since the row would pass an older event's
/// off as this one's.
pub(crate) fn assignments(provenance: &Provenance) -> [(String, Option<Value>); 4] {
    // Taken apart whole, so that a new field is not forgotten here.
    let Provenance { event_id, correlation_id, causation_id, trace_parent } = provenance;
    [
        (EVENT_ID, Some(event_id.to_string())),
        (CORRELATION_ID, Some(correlation_id.to_string())),
        (CAUSATION_ID, Some(causation_id.to_string())),
        (TRACE_PARENT, trace_parent.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value.map(Value::String)))
}

/// The provenance in an item; `None` where a part of it is missing or unreadable.
///
/// No query needs it, so a row is not refused for its lack. It is present as a whole or not at all, so that a reader
/// can rely on it.
pub(crate) fn provenance(item: &Attributes) -> Option<Provenance> {
    let trace_parent = match item.get(TRACE_PARENT) {
        Some(text) => Some(text.as_str()?.to_owned()),
        None => None,
    };
    Some(Provenance {
        event_id: parsed(item, EVENT_ID)?,
        correlation_id: parsed(item, CORRELATION_ID)?,
        causation_id: parsed(item, CAUSATION_ID)?,
        trace_parent,
    })
}

fn parsed<T: FromStr>(item: &Attributes, name: &str) -> Option<T> {
    item.get(name)?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use millrace_core::EventId;
    use uuid::Uuid;

    use super::*;

    fn some() -> Provenance {
        Provenance {
            event_id: EventId(Uuid::from_u128(7)),
            correlation_id: "checkout 名前".parse().unwrap(),
            causation_id: "command".parse().unwrap(),
            trace_parent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        }
    }

    fn item(provenance: &Provenance) -> Attributes {
        crate::audit::values(assignments(provenance).into())
    }

    #[test]
    fn a_provenance_survives_its_attributes() {
        for expected in [some(), Provenance { trace_parent: None, ..some() }] {
            assert_eq!(provenance(&item(&expected)), Some(expected));
        }
    }

    #[test]
    fn a_provenance_is_read_as_a_whole_or_not_at_all() {
        let whole = item(&some());
        let with = |name: &str, value: Option<Value>| {
            let mut item = whole.clone();
            item.remove(name);
            item.extend(value.map(|value| (name.to_owned(), value)));
            item
        };
        let mut unreadable = vec![Attributes::new()];
        unreadable.extend(PROVENANCE.map(|name| with(name, Some(1.into()))));
        for name in &PROVENANCE[..3] {
            unreadable.push(with(name, None));
            unreadable.extend(["", "a\n", &"x".repeat(129)].map(|text| with(name, Some(text.into()))));
        }
        for item in unreadable {
            assert_eq!(provenance(&item), None, "{item:?}");
        }
    }
}

//! The JSON that EventBridge puts into a queue.

use millrace_core::{AggregateType, CommandId, Envelope, EventId, TenantId, Timestamp};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, error::Category};
use uuid::Uuid;

use crate::ApplyError;

/// The field of a bus event that matters here ("Events", EventBridge's user guide): all others repeat the envelope.
#[derive(Deserialize)]
struct BusEvent<D> {
    detail: D,
}

/// Reads the envelope out of a message's body.
///
/// The body is hostile. serde_json refuses nesting beyond 128 levels and numbers that do not fit. Its error messages
/// can quote the body, so they are dropped.
pub fn envelope(body: &str) -> Result<Envelope, ApplyError> {
    let error = match serde_json::from_str::<BusEvent<Envelope>>(body) {
        Ok(event) if event.detail.version == 0 => return Err(ApplyError::BadEnvelope("Version")),
        Ok(event) => return Ok(event.detail),
        Err(error) => error,
    };
    match error.classify() {
        Category::Data => Err(culprit(body).map_or(ApplyError::NotABusEvent, ApplyError::BadEnvelope)),
        Category::Io | Category::Syntax | Category::Eof => Err(ApplyError::NotJson),
    }
}

/// The first field of the envelope that cannot be read.
fn culprit(body: &str) -> Option<&'static str> {
    type Check = fn(&Value) -> bool;
    const REQUIRED: [(&str, Check); 11] = [
        ("EventId", reads::<EventId>),
        ("TenantId", reads::<TenantId>),
        ("AggregateType", reads::<AggregateType>),
        ("AggregateId", reads::<Uuid>),
        ("Version", reads::<u64>),
        ("EventType", reads::<String>),
        ("SchemaVersion", reads::<u32>),
        ("Timestamp", reads::<Timestamp>),
        ("CommandId", reads::<CommandId>),
        ("CorrelationId", reads::<CommandId>),
        ("CausationId", reads::<CommandId>),
    ];
    const OPTIONAL: [(&str, Check); 2] =
        [("EventData", reads::<Option<Map<String, Value>>>), ("TraceParent", reads::<Option<String>>)];

    let detail = serde_json::from_str::<BusEvent<Map<String, Value>>>(body).ok()?.detail;
    let missing = REQUIRED.iter().find(|(name, reads)| !detail.get(*name).is_some_and(reads));
    let broken = || OPTIONAL.iter().find(|(name, reads)| !detail.get(*name).is_none_or(reads));
    missing.or_else(broken).map(|(name, _)| *name)
}

fn reads<T: DeserializeOwned>(value: &Value) -> bool {
    T::deserialize(value).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn event() -> Value {
        json!({
            "version": "0",
            "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
            "detail-type": "CounterOpened",
            "source": "millrace",
            "account": "111122223333",
            "time": "2026-11-23T12:00:00Z",
            "region": "us-east-1",
            "resources": [],
            "detail": {
                "EventId": "00000000-0000-0000-0000-000000000001",
                "TenantId": "acme",
                "AggregateType": "counter",
                "AggregateId": "00000000-0000-0000-0000-000000000002",
                "Version": 1,
                "EventType": "CounterOpened",
                "SchemaVersion": 1,
                "Timestamp": "2026-11-23T12:00:00.000000Z",
                "EventData": {"email": "secret@example.com"},
                "CommandId": "c",
                "CorrelationId": "c",
                "CausationId": "c",
                "TraceParent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                "OfANewerRelease": [1, 2, 3],
            },
        })
    }

    fn with(name: &str, value: Value) -> String {
        let mut event = event();
        event["detail"][name] = value;
        event.to_string()
    }

    #[test]
    fn an_event_of_the_bus_is_read() {
        let envelope = envelope(&event().to_string()).unwrap();
        assert_eq!(envelope.stream().to_string(), "acme#counter#00000000-0000-0000-0000-000000000002");
        assert_eq!(envelope.version, 1);
    }

    #[test]
    fn what_is_not_json_is_told_from_what_is_of_another_shape() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let deep_data = format!("{{\"detail\":{{\"EventData\":{{\"a\":{deep}}}}}}}");
        for body in ["", "hello", "{", "\u{0}", "{\"detail\":1e999}", &deep_data] {
            assert!(matches!(envelope(body), Err(ApplyError::NotJson)), "{}", &body[..body.len().min(40)]);
        }
        for body in
            ["null", "7", "[]", &deep, "{}", "{\"detail\":null}", "{\"detail\":[1]}", "{\"Detail\":{}}"]
        {
            assert!(
                matches!(envelope(body), Err(ApplyError::NotABusEvent)),
                "{}",
                &body[..body.len().min(40)]
            );
        }
    }

    #[test]
    fn a_bad_field_is_named_and_its_value_is_not() {
        let deep = (0..120).fold(json!("secret"), |inner, _| json!([inner]));
        let table = [
            ("EventId", json!("secret")),
            ("TenantId", json!("SECRET#counter")),
            ("AggregateType", json!("secret#")),
            ("AggregateId", json!(7)),
            ("Version", json!(0)),
            ("Version", json!(-1)),
            ("Version", json!(1.5)),
            ("Version", json!(18_446_744_073_709_551_616.0)),
            ("EventType", json!(["secret"])),
            ("SchemaVersion", json!(4_294_967_296_u64)),
            ("Timestamp", json!("secret")),
            ("CommandId", json!("")),
            ("CorrelationId", json!("secret\n")),
            ("CausationId", json!("s".repeat(129))),
            ("EventData", json!("secret")),
            ("EventData", json!([deep])),
            ("TraceParent", json!({"secret": 1})),
        ];
        for (name, bad) in table {
            let error = envelope(&with(name, bad)).unwrap_err();
            assert!(matches!(error, ApplyError::BadEnvelope(field) if field == name), "{name}: {error}");
            assert!(!error.to_string().to_lowercase().contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_missing_field_is_named() {
        for name in ["EventId", "TenantId", "Version", "Timestamp", "CausationId"] {
            let mut event = event();
            event["detail"].as_object_mut().unwrap().remove(name);
            let error = envelope(&event.to_string()).unwrap_err();
            assert!(matches!(error, ApplyError::BadEnvelope(field) if field == name), "{name}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in ".*", cut in 0_usize..900, noise in any::<u8>()) {
            let _ = envelope(&body);
            let mut bytes = event().to_string().into_bytes();
            let at = cut % bytes.len();
            bytes[at] = noise;
            let _ = envelope(&String::from_utf8_lossy(&bytes));
            bytes.truncate(at);
            let _ = envelope(&String::from_utf8_lossy(&bytes));
        }
    }
}

//! Calls with many entries, of which AWS may take some and refuse others.

use hyper::body::Bytes;
use serde_json::{Map, Value, json};

/// The body of a call or a reply.
type Fields = Map<String, Value>;

/// Some entries of a batch: bit `n` stands for the entry at place `n`, counted from 0. If the batch has none of them,
/// the first entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries(pub u16);

impl Entries {
    /// The places of these entries in a batch of `size`.
    pub(super) fn of(self, size: usize) -> Vec<usize> {
        let among = |place: &usize| *place < 16 && self.0 >> *place & 1 == 1;
        let places: Vec<_> = (0..size).filter(among).collect();
        if places.is_empty() && size > 0 { vec![0] } else { places }
    }
}

/// A call with entries.
pub(super) struct Batch {
    call: Fields,
    entries: Vec<Value>,
    /// The places of the entries that AWS refuses.
    refused: Vec<usize>,
    service: Service,
}

/// Services that take entries, and identify each by its place or by its id.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Service {
    EventBridge,
    Sqs,
}

impl Service {
    fn of(operation: &str) -> Option<Self> {
        match operation {
            "PutEvents" => Some(Self::EventBridge),
            "ChangeMessageVisibilityBatch" | "DeleteMessageBatch" | "SendMessageBatch" => Some(Self::Sqs),
            _ => None,
        }
    }
}

/// Whether an operation takes entries.
pub(super) fn is_batch(operation: &str) -> bool {
    Service::of(operation).is_some()
}

impl Batch {
    /// The batch in a call, some of whose entries are to be refused; none where the call has no entries.
    pub(super) fn of(operation: &str, body: &[u8], refused: Entries) -> Option<Self> {
        let service = Service::of(operation)?;
        let mut call: Fields = serde_json::from_slice(body).ok()?;
        let Some(Value::Array(entries)) = call.remove("Entries") else { return None };
        let refused = refused.of(entries.len());
        Some(Self { call, entries, refused, service })
    }

    /// The call without the refused entries; none where no entry is left.
    pub(super) fn rest(&self) -> Option<Bytes> {
        let rest: Vec<_> = self.places().filter(|place| !self.refused.contains(place)).collect();
        if rest.is_empty() {
            return None;
        }
        let mut call = self.call.clone();
        let entries = rest.into_iter().map(|place| self.entries[place].clone()).collect();
        call.insert("Entries".to_owned(), Value::Array(entries));
        Some(bytes(call))
    }

    /// The reply to the call, made from AWS's `reply` to [the rest](Self::rest) of it.
    pub(super) fn told_of_rest(&self, reply: &[u8]) -> Option<Bytes> {
        self.told(reply, |place| !self.refused.contains(&place))
    }

    /// The reply to the call, made from AWS's `reply` to all of it.
    pub(super) fn told_of_all(&self, reply: &[u8]) -> Option<Bytes> {
        self.told(reply, |_| true)
    }

    fn told(&self, reply: &[u8], sent: impl Fn(usize) -> bool) -> Option<Bytes> {
        let mut reply: Fields = serde_json::from_slice(reply).ok()?;
        let mut list = |name: &str| match reply.remove(name) {
            Some(Value::Array(list)) => list,
            _ => Vec::new(),
        };
        match self.service {
            Service::EventBridge => {
                let mut answers = list("Entries").into_iter();
                let told = self.places().filter_map(|place| {
                    let answer = if sent(place) { answers.next() } else { None };
                    if self.refused.contains(&place) { Some(self.refusal(place)) } else { answer }
                });
                let told: Vec<_> = told.collect();
                let failed = told.iter().filter(|answer| answer.get("ErrorCode").is_some()).count();
                reply.insert("FailedEntryCount".to_owned(), json!(failed));
                reply.insert("Entries".to_owned(), Value::Array(told));
            }
            Service::Sqs => {
                let (mut done, mut failed) = (list("Successful"), list("Failed"));
                let refused =
                    |answer: &Value| self.refused.iter().any(|n| self.entries[*n]["Id"] == answer["Id"]);
                done.retain(|answer| !refused(answer));
                failed.retain(|answer| !refused(answer));
                failed.extend(self.refused.iter().map(|place| self.refusal(*place)));
                reply.insert("Successful".to_owned(), Value::Array(done));
                reply.insert("Failed".to_owned(), Value::Array(failed));
            }
        }
        Some(bytes(reply))
    }

    /// The reply for a refused entry: throttling and internal errors in turn. The API References of both services name
    /// these codes as transient (`PutEventsResultEntry`, `BatchResultErrorEntry` and the common errors).
    fn refusal(&self, place: usize) -> Value {
        const WHY: &str = "injected by a test";
        let too_much = place.is_multiple_of(2);
        match (self.service, too_much) {
            (Service::EventBridge, true) => {
                json!({ "ErrorCode": "ThrottlingException", "ErrorMessage": WHY })
            }
            (Service::EventBridge, false) => json!({ "ErrorCode": "InternalFailure", "ErrorMessage": WHY }),
            (Service::Sqs, _) => {
                let code = if too_much { "RequestThrottled" } else { "InternalError" };
                json!({ "Id": self.entries[place]["Id"], "Code": code, "SenderFault": too_much, "Message": WHY })
            }
        }
    }

    fn places(&self) -> std::ops::Range<usize> {
        0..self.entries.len()
    }
}

fn bytes(fields: Fields) -> Bytes {
    Value::Object(fields).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn refused_entries_of_a_bus_are_told_at_their_places() {
        let call =
            json!({ "Entries": [{ "Detail": 0 }, { "Detail": 1 }, { "Detail": 2 }], "EndpointId": "e" });
        let batch = Batch::of("PutEvents", call.to_string().as_bytes(), Entries(0b011)).unwrap();
        assert_eq!(read(&batch.rest().unwrap()), json!({ "Entries": [{ "Detail": 2 }], "EndpointId": "e" }));
        let reply = json!({ "FailedEntryCount": 0, "Entries": [{ "EventId": "two" }] }).to_string();
        let told = read(&batch.told_of_rest(reply.as_bytes()).unwrap());
        assert_eq!(told["FailedEntryCount"], 2);
        let codes: Vec<_> = (0..3).map(|n| told["Entries"][n]["ErrorCode"].as_str()).collect();
        assert_eq!(codes, [Some("ThrottlingException"), Some("InternalFailure"), None]);
        assert_eq!(told["Entries"][2]["EventId"], "two");

        let ids = [json!({ "EventId": "zero" }), json!({ "EventId": "one" }), json!({ "EventId": "two" })];
        let reply = json!({ "FailedEntryCount": 0, "Entries": ids }).to_string();
        assert_eq!(
            read(&batch.told_of_all(reply.as_bytes()).unwrap()),
            told,
            "what took effect is told alike"
        );
    }

    #[test]
    fn refused_entries_of_a_queue_are_told_by_their_names() {
        let call =
            json!({ "QueueUrl": "q", "Entries": [{ "Id": "a" }, { "Id": "b" }, { "Id": "c" }] }).to_string();
        let batch = Batch::of("DeleteMessageBatch", call.as_bytes(), Entries(0b110)).unwrap();
        assert_eq!(read(&batch.rest().unwrap()), json!({ "QueueUrl": "q", "Entries": [{ "Id": "a" }] }));
        let told = read(&batch.told_of_rest(br#"{"Successful":[{"Id":"a"}]}"#).unwrap());
        assert_eq!(told["Successful"], json!([{ "Id": "a" }]));
        let failed: Vec<_> = (0..2).map(|n| (&told["Failed"][n]["Id"], &told["Failed"][n]["Code"])).collect();
        assert_eq!(
            failed,
            [(&json!("b"), &json!("InternalError")), (&json!("c"), &json!("RequestThrottled"))]
        );
        let all = batch.told_of_all(br#"{"Successful":[{"Id":"a"},{"Id":"b"},{"Id":"c"}]}"#).unwrap();
        assert_eq!(read(&all), told);
    }

    #[test]
    fn nothing_is_sent_where_all_is_refused() {
        let call = json!({ "Entries": [{ "Detail": 0 }, { "Detail": 1 }] }).to_string();
        let batch = Batch::of("PutEvents", call.as_bytes(), Entries(u16::MAX)).unwrap();
        assert!(batch.rest().is_none());
        assert_eq!(read(&batch.told_of_rest(b"{}").unwrap())["FailedEntryCount"], 2);
    }

    #[test]
    fn a_call_without_entries_is_no_batch() {
        for (operation, body) in [("PutItem", r#"{"Entries":[]}"#), ("PutEvents", "{}"), ("PutEvents", "{")] {
            assert!(Batch::of(operation, body.as_bytes(), Entries(1)).is_none(), "{operation} {body}");
        }
    }
}

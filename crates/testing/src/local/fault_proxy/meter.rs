//! The cost of a request: bytes, and DynamoDB's units.

use std::ops::AddAssign;

use hyper::{StatusCode, body::Bytes};
use serde_json::{Map, Value};

/// The traffic of one operation.
#[derive(Default, Clone, Copy, Debug, PartialEq)]
pub struct Traffic {
    /// Requests that came in, every attempt for itself.
    pub requests: u64,
    /// Bytes of the requests' bodies, as the client sent them.
    pub request_bytes: u64,
    /// Bytes of the replies' bodies, as the client was sent them.
    pub response_bytes: u64,
    /// Read units of DynamoDB that were used up, also where the reply was lost, and twice by a duplicate.
    pub read_units: f64,
    /// Write units of DynamoDB that were used up, in the same way.
    ///
    /// A failed condition consumes some as well, but DynamoDB does not report how many: they are not counted.
    pub write_units: f64,
    /// Writes that a condition stopped. A transaction counts once.
    pub failed_conditions: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.request_bytes += other.request_bytes;
        self.response_bytes += other.response_bytes;
        self.read_units += other.read_units;
        self.write_units += other.write_units;
        self.failed_conditions += other.failed_conditions;
    }
}

/// A request to DynamoDB for data, which asks for its consumed capacity.
pub(super) struct Bill {
    operation: String,
    request: Map<String, Value>,
    reads: bool,
    /// The client did not ask, so the answer is removed from its reply.
    hidden: bool,
}

impl Bill {
    /// Asks for the cost of a request. `None` for other services and for bodies that are no JSON object.
    pub(super) fn ask(service: &str, operation: &str, body: &[u8]) -> Option<(Self, Bytes)> {
        let reads = match operation {
            "GetItem" | "Query" | "Scan" | "BatchGetItem" | "TransactGetItems" => true,
            "PutItem" | "UpdateItem" | "DeleteItem" | "BatchWriteItem" | "TransactWriteItems" => false,
            _ => return None,
        };
        let mut request = match serde_json::from_slice(body) {
            Ok(Value::Object(request)) if service == "DynamoDB_20120810" => request,
            _ => return None,
        };
        let asked = request.get("ReturnConsumedCapacity").and_then(Value::as_str);
        let hidden = matches!(asked, None | Some("NONE"));
        if hidden {
            request.insert("ReturnConsumedCapacity".into(), "TOTAL".into());
        }
        let body = bytes(&request);
        Some((Self { operation: operation.to_owned(), request, reads, hidden }, body))
    }

    /// Reads the bill in a reply, and hands back the reply as the client would have got it.
    pub(super) fn settle(&self, status: StatusCode, body: Bytes) -> (Traffic, Bytes) {
        let mut traffic = Traffic::default();
        let Ok(Value::Object(mut reply)) = serde_json::from_slice(&body) else { return (traffic, body) };
        if !status.is_success() {
            traffic.failed_conditions = condition_failed(&reply).into();
            return (traffic, body);
        }
        for table in entries(reply.get("ConsumedCapacity")) {
            let units = table["CapacityUnits"].as_f64().unwrap_or(0.0);
            // A transaction that was done before costs reads of its items only.
            let read = table.get("ReadCapacityUnits").is_some() && table.get("WriteCapacityUnits").is_none();
            if self.reads || read { traffic.read_units += units } else { traffic.write_units += units }
        }
        if self.reads {
            traffic.read_units = traffic.read_units.max(read_units(&self.operation, &self.request, &reply));
        }
        if !self.hidden {
            return (traffic, body);
        }
        reply.remove("ConsumedCapacity");
        (traffic, bytes(&reply))
    }
}

fn bytes(json: &Map<String, Value>) -> Bytes {
    serde_json::to_vec(json).expect("what was read as JSON can be written").into()
}

fn entries(list_or_one: Option<&Value>) -> &[Value] {
    match list_or_one {
        Some(Value::Array(list)) => list,
        Some(one) => std::slice::from_ref(one),
        None => &[],
    }
}

fn condition_failed(error: &Map<String, Value>) -> bool {
    const CODE: &str = "ConditionalCheckFailed";
    let kind = error.get("__type").and_then(Value::as_str).unwrap_or_default();
    kind.rsplit('#').next() == Some("ConditionalCheckFailedException")
        || entries(error.get("CancellationReasons")).iter().any(|reason| reason["Code"] == CODE)
}

/// The least cost of a read, by the rules of the DynamoDB Developer Guide, "DynamoDB read and write operations".
///
/// The local AWS reports the same for a large item and a small one. AWS also charges the data that a filter or a
/// projection leaves out, which is not visible here.
fn read_units(operation: &str, request: &Map<String, Value>, reply: &Map<String, Value>) -> f64 {
    let none = Value::Null;
    let of = |json: &Map<String, Value>, name: &str| json.get(name).unwrap_or(&none).clone();
    let rate = |read: Option<&Value>| if read == Some(&Value::Bool(true)) { 1.0 } else { 0.5 };
    let consistent = rate(request.get("ConsistentRead"));
    match operation {
        "GetItem" => consistent * blocks(item_size(&of(reply, "Item"))),
        // Sizes are summed up before they are rounded up.
        "Query" | "Scan" => consistent * blocks(entries(reply.get("Items")).iter().map(item_size).sum()),
        "BatchGetItem" => {
            let (replies, left) = (of(reply, "Responses"), of(reply, "UnprocessedKeys"));
            let tables = of(request, "RequestItems");
            let tables = tables.as_object().into_iter().flatten().map(|(name, asked)| {
                let found = entries(replies.get(name));
                let nothing = entries(asked.get("Keys")).len().saturating_sub(found.len());
                let nothing = nothing.saturating_sub(entries(left[name].get("Keys")).len());
                let found: f64 = found.iter().map(|item| blocks(item_size(item))).sum();
                rate(asked.get("ConsistentRead")) * (found + count(nothing))
            });
            tables.sum()
        }
        "TransactGetItems" => {
            entries(reply.get("Responses")).iter().map(|one| 2.0 * blocks(item_size(&one["Item"]))).sum()
        }
        _ => 0.0,
    }
}

/// Begun blocks of 4 KB; nothing costs as much as one.
fn blocks(size: usize) -> f64 {
    count(size.div_ceil(4096).max(1))
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).expect("no more than a body has bytes"))
}

/// The size of an item by the same guide, "DynamoDB item sizes and formats".
fn item_size(item: &Value) -> usize {
    item.as_object().into_iter().flatten().map(|(name, value)| name.len() + value_size(value)).sum()
}

fn value_size(value: &Value) -> usize {
    let Some((kind, value)) = value.as_object().and_then(|typed| typed.iter().next()) else { return 0 };
    match (kind.as_str(), value) {
        ("L", Value::Array(list)) => 3 + list.iter().map(|value| 1 + value_size(value)).sum::<usize>(),
        ("M", Value::Object(map)) => {
            3 + map.iter().map(|(name, value)| 1 + name.len() + value_size(value)).sum::<usize>()
        }
        ("BOOL" | "NULL", _) => 1,
        (kind, value) => {
            entries(Some(value)).iter().filter_map(Value::as_str).map(|text| scalar_size(kind, text)).sum()
        }
    }
}

fn scalar_size(kind: &str, text: &str) -> usize {
    match kind {
        "N" | "NS" => {
            let digits = text.bytes().filter(u8::is_ascii_digit).count();
            digits.div_ceil(2) + 1 + usize::from(text.starts_with('-'))
        }
        // Base64.
        "B" | "BS" => text.trim_end_matches('=').len() * 3 / 4,
        _ => text.len(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DYNAMODB: &str = "DynamoDB_20120810";

    /// The units of reading and of writing by which a reply is billed.
    fn units(operation: &str, request: Value, reply: Value) -> (f64, f64) {
        let (bill, _) = Bill::ask(DYNAMODB, operation, request.to_string().as_bytes()).unwrap();
        let (traffic, _) = bill.settle(StatusCode::OK, reply.to_string().into());
        (traffic.read_units, traffic.write_units)
    }

    fn item(size: usize) -> Value {
        json!({ "K": { "S": "x".repeat(size - 1) } })
    }

    fn json(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn the_client_does_not_see_what_it_did_not_ask_for() {
        let capacity = json!({ "TableName": "t", "CapacityUnits": 1.0 });
        let reply = json!({ "ConsumedCapacity": capacity, "Attributes": item(9) }).to_string();
        for request in [json!({ "TableName": "t" }), json!({ "ReturnConsumedCapacity": "NONE" })] {
            let (bill, asked) = Bill::ask(DYNAMODB, "PutItem", request.to_string().as_bytes()).unwrap();
            assert_eq!(json(&asked)["ReturnConsumedCapacity"], "TOTAL");
            let (traffic, seen) = bill.settle(StatusCode::OK, reply.clone().into());
            assert_eq!(traffic, Traffic { write_units: 1.0, ..Traffic::default() });
            assert_eq!(json(&seen), json!({ "Attributes": item(9) }));
        }
        let request = json!({ "ReturnConsumedCapacity": "INDEXES" });
        let (bill, asked) = Bill::ask(DYNAMODB, "PutItem", request.to_string().as_bytes()).unwrap();
        assert_eq!(json(&asked), request);
        let (traffic, seen) = bill.settle(StatusCode::OK, reply.clone().into());
        assert_eq!((traffic.write_units, seen), (1.0, reply.into()));
    }

    #[test]
    fn only_requests_for_data_are_billed() {
        for (service, operation, body) in [
            (DYNAMODB, "DescribeTable", "{}"),
            ("DynamoDBStreams_20120810", "GetRecords", "{}"),
            ("AmazonSQS", "Query", "{}"),
            (DYNAMODB, "Query", "[]"),
            (DYNAMODB, "Query", "{"),
        ] {
            assert!(Bill::ask(service, operation, body.as_bytes()).is_none(), "{service}.{operation} {body}");
        }
    }

    #[test]
    fn every_table_of_a_reply_counts() {
        let table = |units: f64| json!({ "CapacityUnits": units, "WriteCapacityUnits": units });
        let reply = json!({ "ConsumedCapacity": [table(4.0), table(2.5)] });
        assert_eq!(units("TransactWriteItems", json!({}), reply), (0.0, 6.5));
        let again = json!({ "ConsumedCapacity": [{ "CapacityUnits": 2.0, "ReadCapacityUnits": 2.0 }] });
        assert_eq!(units("TransactWriteItems", json!({}), again), (2.0, 0.0), "it had been done before");
    }

    #[test]
    fn reads_cost_by_size() {
        let strong = || json!({ "ConsistentRead": true });
        for (size, blocks) in [(4096, 1.0), (4097, 2.0), (9000, 3.0)] {
            let reply = || json!({ "Item": item(size) });
            assert_eq!(units("GetItem", strong(), reply()), (blocks, 0.0), "{size}");
            assert_eq!(units("GetItem", json!({}), reply()), (blocks / 2.0, 0.0), "{size}");
            let reply = json!({ "Responses": [{ "Item": item(size) }, {}] });
            assert_eq!(units("TransactGetItems", json!({}), reply), (2.0 * blocks + 2.0, 0.0), "{size}");
        }
        assert_eq!(units("GetItem", json!({}), json!({})), (0.5, 0.0), "nothing there");
        let reply = json!({ "Items": [item(3000), item(3000), item(3000)] });
        assert_eq!(units("Query", strong(), reply), (3.0, 0.0), "9000 bytes, not three times 3000");

        let keys = [json!({}), json!({}), json!({}), json!({})];
        let batch = json!({ "RequestItems": { "t": { "Keys": keys, "ConsistentRead": true } } });
        let left = json!({ "t": { "Keys": [{}] } });
        let reply = json!({ "Responses": { "t": [item(5000), item(10)] }, "UnprocessedKeys": left });
        assert_eq!(units("BatchGetItem", batch, reply), (2.0 + 1.0 + 1.0, 0.0), "one more was not there");

        let said = json!({ "Items": [], "ConsumedCapacity": { "CapacityUnits": 7.5 } });
        assert_eq!(units("Query", json!({}), said), (7.5, 0.0), "AWS knows what a filter left out");
    }

    #[test]
    fn a_failed_condition_is_told_from_other_failures() {
        let failed = |error: Value| {
            let (bill, _) = Bill::ask(DYNAMODB, "PutItem", b"{}").unwrap();
            bill.settle(StatusCode::BAD_REQUEST, error.to_string().into()).0.failed_conditions
        };
        let code = |code: &str| json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{code}") });
        assert_eq!(failed(code("ConditionalCheckFailedException")), 1);
        assert_eq!(failed(code("ValidationException")), 0);
        let cancelled = |reasons: &[&str]| {
            let reasons = reasons.iter().map(|code| json!({ "Code": code })).collect::<Vec<_>>();
            json!({ "__type": "TransactionCanceledException", "CancellationReasons": reasons })
        };
        let two = ["None", "ConditionalCheckFailed", "ConditionalCheckFailed"];
        assert_eq!(failed(cancelled(&two)), 1);
        assert_eq!(failed(cancelled(&["TransactionConflict", "None"])), 0);
    }

    #[test]
    fn sizes_follow_the_guide() {
        let value = json!({ "M": {
            "ab": { "L": [{ "S": "é" }, { "NULL": true }] },
            "c": { "B": "AAECAwQ=" },
            "d": { "NS": ["123", "-123"] },
        }});
        let size = 3 + (1 + 2 + 3 + (1 + 2) + (1 + 1)) + (1 + 1 + 5) + (1 + 1 + 3 + 4);
        assert_eq!(item_size(&json!({ "name": value })), 4 + size);
    }
}

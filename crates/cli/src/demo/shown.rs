//! Messages and items as short, readable JSON.

use std::fmt;

use anyhow::Context;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

use crate::running::Item;

/// How long a line may get.
const WIDTH: usize = 108;

/// The attributes of a stored event that are worth reading first.
const EVENT_FIRST: [&str; 8] = [
    "AggregateId",
    "Version",
    "EventType",
    "EventData",
    "EventId",
    "Timestamp",
    "CommandId",
    "CorrelationId",
];

/// The contracts, as clients by reflection see them.
#[derive(Debug)]
pub(super) struct Contracts(DescriptorPool);

impl Contracts {
    pub(super) fn read(descriptors: &[u8]) -> anyhow::Result<Self> {
        DescriptorPool::decode(descriptors).map(Self).context("cannot read the contracts")
    }

    /// A request of the method, which is named `package.Service/Method`.
    pub(super) fn request(&self, method: &str, message: &impl Message) -> anyhow::Result<Shown> {
        shown(self.method(method)?.input(), message)
    }

    /// A reply of the method.
    pub(super) fn reply(&self, method: &str, message: &impl Message) -> anyhow::Result<Shown> {
        shown(self.method(method)?.output(), message)
    }

    fn method(&self, name: &str) -> anyhow::Result<MethodDescriptor> {
        let (service, method) = name.split_once('/').context("not the name of a method")?;
        let service = self.0.get_service_by_name(service);
        let found = service.and_then(|service| service.methods().find(|found| found.name() == method));
        found.with_context(|| format!("the contracts lack {name}"))
    }
}

/// All present fields of a message, zero and empty ones included.
fn shown(descriptor: MessageDescriptor, message: &impl Message) -> anyhow::Result<Shown> {
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())?;
    let options = SerializeOptions::new().stringify_64_bit_integers(false).skip_default_fields(false);
    let mut json = Vec::new();
    message.serialize_with_options(&mut serde_json::Serializer::new(&mut json), &options)?;
    Ok(serde_json::from_slice(&json)?)
}

/// An item of the event store.
pub(super) fn event(item: Item) -> anyhow::Result<Shown> {
    let mut event: Shown = serde_dynamo::aws_sdk_dynamodb_1::from_item(item)?;
    event.sort();
    if let Shown::Object(attributes) = &mut event {
        let place = |name: &str| EVENT_FIRST.iter().position(|first| *first == name).unwrap_or(usize::MAX);
        attributes.sort_by_key(|(name, _)| place(name));
    }
    Ok(event)
}

/// JSON whose objects keep their order.
#[derive(Debug, PartialEq)]
pub(super) enum Shown {
    Object(Vec<(String, Shown)>),
    List(Vec<Shown>),
    Value(Value),
}

impl Shown {
    /// Gives every object an order: DynamoDB's maps have none.
    fn sort(&mut self) {
        match self {
            Self::Object(fields) => {
                fields.sort_by(|(a, _), (b, _)| a.cmp(b));
                fields.iter_mut().for_each(|(_, value)| value.sort());
            }
            Self::List(values) => values.iter_mut().for_each(Self::sort),
            Self::Value(_) => {}
        }
    }

    /// Its lines, the first without indentation.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![String::new()];
        self.write(0, &mut lines);
        lines
    }

    /// Appends to the last line. The parts that do not fit there go on below, by `indent`.
    fn write(&self, indent: usize, lines: &mut Vec<String>) {
        if fits(lines, &self.to_string()) {
            return append(lines, &self.to_string());
        }
        match self {
            Self::Object(fields) => {
                append(lines, "{ ");
                let names = fields.iter().map(|(name, _)| format!("{}: ", Value::from(name.as_str())));
                fill(names.zip(fields.iter().map(|(_, value)| value)), indent + 2, lines);
                append(lines, " }");
            }
            Self::List(values) => {
                append(lines, "[");
                fill(values.iter().map(|value| (String::new(), value)), indent + 1, lines);
                append(lines, "]");
            }
            Self::Value(value) => append(lines, &value.to_string()),
        }
    }
}

/// Writes members one after the other, on a new line where the last one is full.
fn fill<'a>(members: impl Iterator<Item = (String, &'a Shown)>, indent: usize, lines: &mut Vec<String>) {
    for (number, (name, value)) in members.enumerate() {
        if number > 0 {
            append(lines, ",");
            if fits(lines, &format!(" {name}{value},")) {
                append(lines, " ");
            } else {
                lines.push(" ".repeat(indent));
            }
        }
        append(lines, &name);
        value.write(indent, lines);
    }
}

fn fits(lines: &[String], text: &str) -> bool {
    let before = lines.last().map_or(0, |line| line.chars().count());
    before + text.chars().count() <= WIDTH
}

fn append(lines: &mut [String], text: &str) {
    if let Some(line) = lines.last_mut() {
        line.push_str(text);
    }
}

/// On one line.
impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(fields) if fields.is_empty() => f.write_str("{}"),
            Self::Object(fields) => {
                for (number, (name, value)) in fields.iter().enumerate() {
                    let before = if number == 0 { "{ " } else { ", " };
                    write!(f, "{before}{}: {value}", Value::from(name.as_str()))?;
                }
                f.write_str(" }")
            }
            Self::List(values) => {
                f.write_str("[")?;
                for (number, value) in values.iter().enumerate() {
                    let before = if number == 0 { "" } else { ", " };
                    write!(f, "{before}{value}")?;
                }
                f.write_str("]")
            }
            Self::Value(value) => write!(f, "{value}"),
        }
    }
}

impl<'de> Deserialize<'de> for Shown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InOrder)
    }
}

struct InOrder;

impl<'de> Visitor<'de> for InOrder {
    type Value = Shown;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shown, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Shown::Object(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shown, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element()? {
            values.push(value);
        }
        Ok(Shown::List(values))
    }

    fn visit_str<E>(self, text: &str) -> Result<Shown, E> {
        Ok(Shown::Value(text.into()))
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Shown, E> {
        Ok(Shown::Value(truth.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Shown, E> {
        Ok(Shown::Value(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Shown, E> {
        Ok(Shown::Value(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Shown, E> {
        Ok(Shown::Value(number.into()))
    }

    fn visit_unit<E>(self) -> Result<Shown, E> {
        Ok(Shown::Value(Value::Null))
    }
}

#[cfg(test)]
mod tests {
    use millrace_proto::{
        DESCRIPTORS,
        query::{GetHistoryResponse, RecordedEvent},
    };

    use super::*;

    fn lines(reply: &GetHistoryResponse) -> Vec<String> {
        let contracts = Contracts::read(DESCRIPTORS).unwrap();
        contracts.reply("millrace.query.v1.HistoryService/GetHistory", reply).unwrap().lines()
    }

    #[test]
    fn what_fits_is_one_line_in_the_order_of_the_contract() {
        let reply = GetHistoryResponse { next_page_token: "t".to_owned(), ..Default::default() };
        assert_eq!(lines(&reply), [r#"{ "events": [], "nextPageToken": "t" }"#]);
    }

    #[test]
    fn what_does_not_fit_goes_on_below_and_stays_json() {
        let event = RecordedEvent { event_type: "E".repeat(80), version: 7, ..Default::default() };
        let reply = GetHistoryResponse { events: vec![event.clone(), event], ..Default::default() };
        let lines = lines(&reply);
        assert_eq!(
            lines[0],
            r#"{ "events": [{ "eventId": "", "aggregateType": "", "aggregateId": "", "version": 7,"#
        );
        assert!(lines[1].starts_with(r#"     "eventType": "EEE"#), "{lines:#?}");
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH + 10), "{lines:#?}");
        let text: Value = serde_json::from_str(&lines.join("\n")).unwrap();
        assert_eq!(text["events"][1]["version"], 7);
    }
}

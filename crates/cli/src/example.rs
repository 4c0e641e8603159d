//! The smallest application, for the tests.

use millrace_core::{
    Aggregate, AggregateType, Application, DecodeError, Encoded, EventCodec, EventMessage, EvolveError,
    Rejection, Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) fn application() -> Application {
    Application::new("example").aggregate::<Light>().build().unwrap()
}

/// A light that is switched on and off.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Light;

#[derive(Debug, Clone)]
struct Switched;

impl Aggregate for Light {
    const TYPE: AggregateType = AggregateType::new("light");
    const STATE_SCHEMA: u32 = 1;
    type Command = ();
    type Event = Switched;
    type Error = Rejection;

    fn decide(_: Option<&Self>, (): &(), _: Timestamp) -> Result<Vec<Switched>, Rejection> {
        Ok(vec![Switched])
    }

    fn evolve(_: Option<Self>, Switched: &Switched) -> Result<Self, EvolveError> {
        Ok(Self)
    }
}

impl EventCodec for Switched {
    const EVENT_TYPES: &'static [&'static str] = &["Switched"];

    fn encode(&self) -> Encoded {
        Encoded { event_type: "Switched", schema_version: 1, data: Map::new() }
    }

    fn message(_: &str, _: u32, _: &Map<String, Value>) -> Result<EventMessage, DecodeError> {
        Ok(EventMessage { name: "Switched".to_owned(), bytes: Vec::new() })
    }

    fn decode(_: &str, _: u32, _: &Map<String, Value>) -> Result<Self, DecodeError> {
        Ok(Self)
    }
}

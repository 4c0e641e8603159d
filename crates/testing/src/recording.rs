//! Events as a store holds them, for tests without a command service.

use millrace_core::{Aggregate, CommandId, Envelope, EventCodec, EventId, StreamId, TenantId, Timestamp};
use uuid::Uuid;

/// The time at which histories in tests begin.
pub fn noon() -> Timestamp {
    // 2026-11-23T12:00:00Z.
    Timestamp::from_unix_micros(1_795_435_200_000_000)
}

/// The time of an event in a test: each version comes a second after the one before, and the first at [`noon`].
pub fn time_of(version: u64) -> Timestamp {
    let seconds = i64::try_from(version.saturating_sub(1)).unwrap_or(i64::MAX);
    Timestamp::from_unix_micros(noon().unix_micros().saturating_add(seconds.saturating_mul(1_000_000)))
}

/// The id of the n-th aggregate in a test, counted from 1.
pub fn aggregate_id<I: From<Uuid>>(number: u128) -> I {
    I::from(Uuid::from_u128(number))
}

/// The stream of the n-th aggregate in a test, counted from 1.
pub fn stream_of<A: Aggregate>(number: u128) -> StreamId {
    StreamId { tenant: TenantId::default(), aggregate_type: A::TYPE, id: aggregate_id(number) }
}

/// An event as it is stored. Ids follow from the stream and the version; the command is its own cause.
pub fn recorded<E: EventCodec>(stream: &StreamId, version: u64, at: Timestamp, event: &E) -> Envelope {
    let encoded = event.encode();
    let event_id = EventId(Uuid::new_v5(
        &stream.id,
        format!("{}#{}#{version}", stream.tenant, stream.aggregate_type).as_bytes(),
    ));
    let command_id = command_id(version);
    Envelope {
        event_id,
        tenant_id: stream.tenant.clone(),
        aggregate_type: stream.aggregate_type.clone(),
        aggregate_id: stream.id,
        version,
        event_type: encoded.event_type.to_owned(),
        schema_version: encoded.schema_version,
        timestamp: at,
        event_data: Some(encoded.data),
        correlation_id: command_id.clone(),
        causation_id: command_id.clone(),
        command_id,
        trace_parent: None,
    }
}

/// A history as it is stored: versions 1, 2, 3 …, each a second after the one before.
pub fn history<E: EventCodec>(stream: &StreamId, events: &[E]) -> Vec<Envelope> {
    (1..).zip(events).map(|(version, event)| recorded(stream, version, time_of(version), event)).collect()
}

#[expect(clippy::expect_used, reason = "a short text without control characters is a command id")]
fn command_id(version: u64) -> CommandId {
    format!("command-{version}").parse().expect("a command id")
}

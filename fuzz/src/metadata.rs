//! The metadata of a call, and the names of things.

use std::{fmt::Display, str::FromStr};

use millrace_core::{
    AggregateType, CommandId, StreamId, TenantId, Timestamp,
    row::{Position, RowKey},
};
use millrace_server::{Call, Failure, TraceParent, fuzzing};
use shop::{Email, Label, UserId};
use tonic::{Request, metadata::MetadataValue};

/// A header and a name of every kind. An accepted name is bounded, is the same when it is written and read again, and
/// holds no character that joins keys.
pub(crate) fn call_metadata(data: &[u8]) {
    let mut request = Request::new(());
    for value in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = MetadataValue::try_from(value) {
            request.metadata_mut().append("x-tenant-id", value);
        }
    }
    match Call::of(&request) {
        Ok(call) => assert_tenant(&call.tenant),
        Err(Failure::InvalidArgument(_)) => {}
        Err(other) => panic!("bad metadata is bad input: {other}"),
    }
    // As long as eight digits of hours can be, and no longer.
    assert!(fuzzing::timeout(data).is_none_or(|timeout| timeout.as_secs() <= 99_999_999 * 3600));
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(trace) = assert_survives::<TraceParent>(text) {
        assert_eq!(trace.to_string(), text, "a traceparent has one form");
        assert_eq!(trace.child().trace_id(), trace.trace_id(), "a child stays in the trace");
    }
    assert_survives::<TenantId>(text).iter().for_each(assert_tenant);
    if let Some(kind) = assert_survives::<AggregateType>(text) {
        assert!(kind.as_str().len() <= 32 && !kind.as_str().contains('#'));
    }
    if let Some(id) = assert_survives::<CommandId>(text) {
        assert!(id.as_str().chars().count() <= 128 && !id.as_str().contains(char::is_control));
    }
    if let Some(stream) = assert_survives::<StreamId>(text) {
        assert_eq!(stream.to_string(), text.to_lowercase(), "a key has one form");
        assert_eq!(stream.to_string().matches('#').count(), 2, "a key has three parts");
    }
    if let Some(time) = assert_survives::<Timestamp>(text) {
        assert_eq!(time.to_string().len(), "2026-11-23T12:00:00.000000Z".len(), "times sort as texts");
    }
    assert_survives::<UserId>(text);
    assert_survives::<Position>(text);
    assert_survives::<RowKey>(text);
    if let Ok(email) = Email::try_from(text.to_owned()) {
        assert!(email.as_str().len() <= Email::MAX_LEN && email.as_str().is_ascii());
        assert!(
            Email::try_from(email.normalised()).is_ok_and(|same| same.normalised() == email.normalised())
        );
    }
    if let Ok(label) = Label::try_from(text.to_owned()) {
        assert!(
            label.as_str().chars().count() <= Label::MAX_LEN && !label.as_str().contains(char::is_control)
        );
    }
}

fn assert_tenant(tenant: &TenantId) {
    let is_safe = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    assert!((1..=64).contains(&tenant.as_str().len()) && tenant.as_str().bytes().all(is_safe), "{tenant}");
}

fn assert_survives<T: FromStr + Display + PartialEq>(text: &str) -> Option<T> {
    let read: T = text.parse().ok()?;
    assert!(read.to_string().parse::<T>().is_ok_and(|again| again == read), "{read} survives its text");
    Some(read)
}

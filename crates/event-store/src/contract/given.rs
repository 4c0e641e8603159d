//! Fixtures and assertions of the facts.

use std::{future::Future, time::Duration};

use millrace_core::Envelope;
use millrace_core::{AggregateType, CommandDigest, EventId, StreamId, TenantId, Timestamp, UniqueKey};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::Store;
use crate::{AppendError, Commit, StoredEvent};

/// How many write at once where writers race.
pub(super) const WRITERS: u64 = 16;

/// An unused tenant.
pub fn fresh_tenant() -> TenantId {
    let name = format!("t-{}", Uuid::new_v4().as_simple());
    name.parse().expect("hexadecimal digits are allowed in a tenant's name")
}

/// A stream of a tenant that nobody has used.
pub fn stream_of(tenant: &TenantId) -> StreamId {
    StreamId { tenant: tenant.clone(), aggregate_type: AggregateType::new("user"), id: Uuid::new_v4() }
}

/// An event at a place of a stream. No two are the same.
pub fn event(stream: &StreamId, version: u64) -> StoredEvent {
    event_with(
        stream,
        version,
        json!({
            "text": "Grüße", "empty": "", "units": "9223372036854775807", "nanos": -500_000_000, "yes": true,
            "nothing": null, "lines": [{"quantity": 2, "tags": []}, {}],
        }),
    )
}

pub(super) fn event_with(stream: &StreamId, version: u64, data: Value) -> StoredEvent {
    let id = Uuid::new_v4();
    let cause = |kind: &str| format!("{kind}-{id}").parse().expect("a short text without control characters");
    StoredEvent {
        envelope: Envelope {
            event_id: EventId(id),
            tenant_id: stream.tenant.clone(),
            aggregate_type: stream.aggregate_type.clone(),
            aggregate_id: stream.id,
            version,
            event_type: "UserCreated".to_owned(),
            schema_version: 1,
            timestamp: Timestamp::from_unix_micros(1_800_000_000_000_001),
            event_data: data.as_object().cloned(),
            command_id: cause("command"),
            correlation_id: cause("correlation"),
            causation_id: cause("causation"),
            trace_parent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        },
        command_digest: CommandDigest(id.as_u128()),
    }
}

/// An event of about this size.
pub(super) fn large_event(stream: &StreamId, version: u64, bytes: usize) -> StoredEvent {
    event_with(stream, version, json!({"text": "x".repeat(bytes)}))
}

pub(super) fn email(value: &str) -> UniqueKey {
    UniqueKey { scope: "user.email", value: value.to_owned() }
}

pub(super) fn commit(events: impl Into<Vec<StoredEvent>>) -> Commit {
    Commit { events: events.into(), claims: Vec::new(), releases: Vec::new() }
}

/// A commit of one event that moves keys.
pub(super) fn moving(stream: &StreamId, version: u64, claims: &[&str], releases: &[&str]) -> Commit {
    Commit {
        events: vec![event(stream, version)],
        claims: claims.iter().map(|key| email(key)).collect(),
        releases: releases.iter().map(|key| email(key)).collect(),
    }
}

/// Appends, and retries a bounded number of times while another commit is under way.
pub(super) async fn append<S: Store>(store: &S, commit: &Commit) -> Result<(), AppendError> {
    for attempt in 1..=100 {
        match store.append(commit).await {
            Err(AppendError::Contended) => tokio::time::sleep(Duration::from_millis(5 * attempt)).await,
            outcome @ (Ok(()) | Err(_)) => return outcome,
        }
    }
    Err(AppendError::Contended)
}

pub(super) async fn stored<S: Store>(store: &S, commit: &Commit) {
    append(store, commit).await.expect("the commit is stored");
}

/// Loads a stream by pages of at most `limit` events.
pub(super) async fn load<S: Store>(store: &S, stream: &StreamId, limit: u16) -> Vec<StoredEvent> {
    let mut events: Vec<StoredEvent> = Vec::new();
    loop {
        let after = events.last().map_or(0, |event| event.envelope.version);
        let page = store.page(stream, after, limit).await.expect("a page is read");
        assert!(page.events.len() <= usize::from(limit), "{} events on a page of {limit}", page.events.len());
        assert!(!(page.more && page.events.is_empty()), "an empty page that is not the last one never ends");
        events.extend(page.events);
        if !page.more {
            return events;
        }
    }
}

#[track_caller]
pub(super) fn assert_same(found: &[StoredEvent], expected: &[StoredEvent]) {
    let versions = |events: &[StoredEvent]| events.iter().map(|e| e.envelope.version).collect::<Vec<_>>();
    assert_eq!(versions(found), versions(expected), "the versions");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected, "version {}", expected.envelope.version);
    }
}

pub(super) async fn assert_holds<S: Store>(store: &S, stream: &StreamId, expected: &[StoredEvent]) {
    assert_same(&load(store, stream, 1000).await, expected);
}

/// Runs `write` for each number concurrently, and collects the outcomes.
pub(super) async fn race<T, F>(write: impl Fn(u64) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut writers = JoinSet::new();
    for n in 0..WRITERS {
        writers.spawn(write(n));
    }
    writers.join_all().await
}

#[track_caller]
pub(super) fn assert_conflict(outcome: Result<(), AppendError>, with: &StoredEvent) {
    match outcome {
        Err(AppendError::Conflict { existing: Some(existing) }) => {
            assert_eq!(*existing, *with, "the existing event")
        }
        other => panic!("not a conflict that shows the existing event: {other:?}"),
    }
}

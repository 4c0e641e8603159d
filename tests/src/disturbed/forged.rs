//! Wrong snapshots. All can be read; none of them may be believed.

use millrace_core::StreamId;
use millrace_event_store::{AppendEvents, Snapshot, Snapshots};
use rand::{RngExt as _, seq::IteratorRandom as _};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Disturbed, Sky};

impl<S: AppendEvents + Snapshots> Disturbed<S> {
    /// The snapshot, or one in its place.
    pub(super) fn forge(&self, stream: &StreamId, kept: Option<Snapshot>) -> Option<Snapshot> {
        let mut sky = self.look();
        if !sky.draw(500) {
            return kept;
        }
        let Sky { rng, old, .. } = &mut *sky;
        let old = old.iter().filter(|old| old.stream == *stream).choose(rng).cloned();
        let mut snapshot = kept.or_else(|| old.clone())?;
        match sky.rng.random_range(0..8) {
            0 => return None,
            1 | 2 => return old,
            3 | 4 => another_history(&mut snapshot.state, sky.rng.random()),
            5 => {
                // Its last event is at another version in the stream.
                let by = sky.rng.random_range(1..=3);
                let longer = sky.rng.random::<bool>();
                let shifted =
                    if longer { snapshot.version + by } else { snapshot.version.saturating_sub(by) };
                snapshot.version = shifted.max(1);
                snapshot.state["version"] = json!(snapshot.version);
            }
            6 => snapshot.version += 1,
            _ => match sky.rng.random_range(0..2) {
                0 => snapshot.schema += 1,
                _ => snapshot.state = Value::Null,
            },
        }
        Some(snapshot)
    }
}

/// Makes of a state the one of another history as long as its own, as that of a table that was restored.
fn another_history(state: &mut Value, event_id: u128) {
    state["last_event"] = json!(Uuid::from_u128(event_id));
    if let Some(email) = state.pointer_mut("/state/email") {
        *email = json!("another@example.com");
    }
    if let Some(status) = state.pointer_mut("/state/status") {
        *status = json!(if *status == "CREATED" { "DELIVERED" } else { "CREATED" });
    }
}

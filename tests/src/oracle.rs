//! Compares clients' replies with the event store.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use millrace_core::Envelope;
use millrace_testing::Oracle;

use crate::{
    Reply,
    history::ensure_says,
    load::{Fate, TrackedCommand},
};

#[cfg(test)]
mod tests;

/// Fails unless the events match the clients' replies: I1, an acknowledged event is there; I2, it is there once; and
/// neither a refused event nor any other is there.
pub fn check_commands(oracle: &Oracle, commands: &[TrackedCommand]) -> anyhow::Result<()> {
    let mut by_command: BTreeMap<(&str, &str), Vec<&Envelope>> = BTreeMap::new();
    for event in oracle.events() {
        by_command.entry((event.tenant_id.as_str(), event.command_id.as_str())).or_default().push(event);
    }
    for tracked in commands {
        let events = by_command.remove(&(tracked.tenant.as_str(), tracked.command_id.as_str()));
        let events = events.unwrap_or_default();
        ensure!(events.len() <= 1, "I2: {tracked:?} was done {} times", events.len());
        let event = events.first().copied();
        check_command(tracked, event).with_context(|| format!("{tracked:?}, and its event is {event:?}"))?;
    }
    ensure!(by_command.is_empty(), "there are events of commands that nobody sent: {:?}", by_command.keys());
    Ok(())
}

fn check_command(tracked: &TrackedCommand, event: Option<&Envelope>) -> anyhow::Result<()> {
    if let Some(event) = event {
        ensure_says(event, &tracked.body)?;
        let version = event.version;
        ensure!(tracked.body.creates() == (version == 1), "it stands at version {version}");
        let expected = tracked.body.expected();
        ensure!(expected.is_none_or(|e| e + 1 == version), "it was to follow version {expected:?}");
    }
    match (&tracked.fate, event) {
        (Fate::Acknowledged(reply), Some(event)) => {
            let Reply { aggregate_type, aggregate_id, version, event_id, command_id: _, replayed } = reply;
            let stream = (event.aggregate_type.as_str(), event.aggregate_id.to_string());
            ensure!(
                (aggregate_type.as_str(), aggregate_id.clone()) == stream,
                "I1: it is of another aggregate"
            );
            ensure!(*version == event.version, "I1: it is of another version");
            ensure!(*event_id == event.event_id.to_string(), "I1: it is another one");
            ensure!(!replayed || tracked.attempts > 1, "I2: the first answer is said to be a replay");
        }
        (Fate::Acknowledged(_), None) => anyhow::bail!("I1: what was acknowledged is not there"),
        // An earlier attempt may have taken effect after the last one was refused.
        (Fate::Refused(_), Some(_)) => ensure!(tracked.attempts > 1, "what was refused is there"),
        (Fate::Refused(_) | Fate::Open, None) | (Fate::Open, Some(_)) => {}
    }
    Ok(())
}

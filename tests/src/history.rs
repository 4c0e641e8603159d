//! Judges every reply to a client by the store's final content.
//!
//! A call's reply is judged by the moments of its streams between its begin and its end: a refused command must have
//! been refusable at one of them, and an acknowledged event must be there.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    num::NonZeroU64,
    sync::Arc,
};

use anyhow::{Context as _, bail, ensure};
use futures::future::try_join_all;
use millrace_command::{StateCache, loader::Loader, snapshots::Snapshotter};
use millrace_core::{Aggregate, AggregateState, Envelope, EventCodec, EventId, StreamId};
use millrace_event_store::{AppendEvents, Entry, LoadEvents, ReadEvents, Snapshots, StoredEvent};
use shop::{contracts::types::OrderStatus, order::Order, user::User};

use crate::{
    Reply,
    disturbed::{Disturbed, Sending, Teller},
    workload::{Body, Call, Outcome, Sent},
};

mod holds;
mod refusals;

use holds::Holds;

/// How many of its latest commands an aggregate remembers, as the contract says.
const REMEMBERED: usize = 128;

/// The streams, and the calls that wrote them.
pub struct History<'a> {
    streams: BTreeMap<StreamId, Vec<Event>>,
    holds: Holds,
    calls: &'a [Call],
    teller: &'a Teller,
}

/// An event with the sending that stored it.
struct Event {
    stored: StoredEvent,
    sending: Sending,
}

/// Every event of some streams.
pub async fn read_all(
    store: &impl ReadEvents,
    streams: &[StreamId],
) -> anyhow::Result<BTreeMap<StreamId, Vec<StoredEvent>>> {
    let mut all = BTreeMap::new();
    for stream in streams {
        let mut events: Vec<StoredEvent> = Vec::new();
        loop {
            let after = events.last().map_or(0, |last| last.envelope.version);
            let page = store.page(stream, after, 1_000).await?;
            events.extend(page.events);
            if !page.more {
                break;
            }
        }
        all.insert(stream.clone(), events);
    }
    Ok(all)
}

/// Fails unless the earlier events are still there, unchanged, and first.
pub fn ensure_kept(
    once: &BTreeMap<StreamId, Vec<StoredEvent>>,
    now: &BTreeMap<StreamId, Vec<StoredEvent>>,
) -> anyhow::Result<()> {
    for (stream, events) in once {
        let kept = now.get(stream).is_some_and(|now| now.starts_with(events));
        ensure!(kept, "I3: the events of {stream} have changed");
    }
    Ok(())
}

impl<'a> History<'a> {
    /// The history that `streams` hold after `calls`. Fails where it is impossible.
    pub fn of(
        streams: BTreeMap<StreamId, Vec<StoredEvent>>,
        calls: &'a [Call],
        teller: &'a Teller,
    ) -> anyhow::Result<Self> {
        let sendings = teller.sendings();
        let mut history = Self { streams: BTreeMap::new(), holds: Holds::default(), calls, teller };
        for (stream, stored) in streams {
            let events =
                history.check_stream(&stream, stored, &sendings).with_context(|| stream.to_string())?;
            history.streams.insert(stream, events);
        }
        history.check_sendings(&sendings)?;
        history.check_buyers()?;
        history.holds.check()?;
        Ok(history)
    }

    /// Fails unless every reply was true.
    pub fn check_answers(&self) -> anyhow::Result<()> {
        // Calls that began before all others only stand for the prepared history.
        for (number, call) in self.calls.iter().enumerate().filter(|(_, call)| call.begun > 0) {
            let checked = match &call.outcome {
                Outcome::Answered(reply) => self.check_reply(number, call, reply),
                Outcome::Failed(status) => self.check_refusal(number, call, status),
                Outcome::Abandoned => Ok(()),
            };
            checked.with_context(|| format!("call {number}: {call:?}"))?;
        }
        Ok(())
    }

    /// Fails unless every aggregate is loaded as the fold of its events, with the stored snapshots and without.
    pub async fn check_loads<S>(&self, store: &Disturbed<S>) -> anyhow::Result<()>
    where
        S: AppendEvents + Snapshots,
    {
        for round in 0..3 {
            if round == 2 {
                store.forget_snapshots();
            }
            let streams = self.streams.iter().filter(|(_, events)| !events.is_empty());
            try_join_all(streams.map(async |(stream, events)| {
                let events: Vec<_> = events.iter().map(|event| event.stored.clone()).collect();
                match stream.aggregate_type.as_str() {
                    "user" => ensure_loads::<User, _>(store, stream, &events).await,
                    "order" => ensure_loads::<Order, _>(store, stream, &events).await,
                    other => bail!("there are no aggregates of the type {other}"),
                }
            }))
            .await?;
        }
        Ok(())
    }

    /// I2 and I3 for one stream: its versions have no gaps, and each event does its command's request, by a command
    /// that was not remembered.
    fn check_stream(
        &mut self,
        stream: &StreamId,
        stored: Vec<StoredEvent>,
        sendings: &HashMap<EventId, Sending>,
    ) -> anyhow::Result<Vec<Event>> {
        let mut events: Vec<Event> = Vec::with_capacity(stored.len());
        let mut status = OrderStatus::Unspecified;
        for (version, event) in (1..).zip(stored) {
            let envelope = &event.envelope;
            ensure!(
                envelope.version == version,
                "I3: version {} where {version} should be",
                envelope.version
            );
            ensure!(envelope.stream() == *stream, "I8: an event of {}", envelope.stream());
            let sending = *sendings.get(&envelope.event_id).context("an event that nobody sent")?;
            let sent = &self.calls[sending.call].sent;
            ensure!(sent.stream == *stream, "an event for {}", sent.stream);
            ensure!(envelope.command_id.as_str() == sent.command_id, "an event of another command");
            ensure!(sent.body.creates() == (version == 1), "version {version} by {sent:?}");
            let expected = sent.body.expected();
            ensure!(expected.is_none_or(|e| e + 1 == version), "version {version}, expected {expected:?}");
            ensure!(
                remembered(&events, &sent.command_id).is_none(),
                "I2: version {version} is the command {} once more",
                sent.command_id
            );
            ensure_says(&event.envelope, &sent.body).with_context(|| format!("version {version}"))?;
            if let Some(next) = next_status(&sent.body) {
                ensure!(leads_to(status, next), "version {version}: from {status:?} to {next:?}");
                status = next;
            }
            self.holds.note(stream, &event, sending);
            events.push(Event { stored: event, sending });
        }
        Ok(events)
    }

    /// I1: every append that the store acknowledged is there.
    fn check_sendings(&self, sendings: &HashMap<EventId, Sending>) -> anyhow::Result<()> {
        let mut there: HashMap<EventId, &Event> = HashMap::new();
        for event in self.streams.values().flatten() {
            let id = event.stored.envelope.event_id;
            ensure!(there.insert(id, event).is_none(), "two events have the id {id}");
        }
        for (id, sending) in sendings.iter().filter(|(_, sending)| sending.stored) {
            ensure!(there.contains_key(id), "I1: the event {id} of call {} is lost", sending.call);
        }
        Ok(())
    }

    /// Every order's user was there before it.
    fn check_buyers(&self) -> anyhow::Result<()> {
        for (stream, events) in &self.streams {
            let Some(first) = events.first() else { continue };
            if let Body::CreateOrder(body) = &self.sent(first).body {
                let user = self.user(stream, &body.user_id)?;
                let there = self
                    .events(&user)
                    .first()
                    .is_some_and(|user| user.sending.earliest < first.sending.latest);
                ensure!(there, "the order {stream} is of {user}, who did not exist");
            }
        }
        Ok(())
    }

    /// I1 and I2 for a reply.
    fn check_reply(&self, number: usize, call: &Call, reply: &Reply) -> anyhow::Result<()> {
        let Call { sent, .. } = call;
        let stream = (reply.aggregate_type.as_str(), reply.aggregate_id.as_str());
        let right = (sent.stream.aggregate_type.as_str(), sent.stream.id.to_string());
        ensure!(stream == (right.0, right.1.as_str()), "a reply about another aggregate");
        ensure!(reply.command_id == sent.command_id, "a reply to another command");
        let place = usize::try_from(reply.version)?.checked_sub(1).context("version 0")?;
        let events = self.events(&sent.stream);
        let event = events.get(place).context("I1: the event of a reply is lost")?;
        ensure!(event.stored.envelope.event_id.to_string() == reply.event_id, "I1: the event is another one");
        ensure!(event.sending.earliest < call.ended, "I1: the reply came before its event");
        ensure!(self.sent(event) == sent, "I2: the event is that of {:?}", self.sent(event));
        ensure!(
            reply.replayed != (event.sending.call == number),
            "I2: replayed is {}, and the event is that of call {}",
            reply.replayed,
            event.sending.call
        );
        let is_latest = |n: usize| {
            remembered(&events[..n], &sent.command_id).is_some_and(|latest| std::ptr::eq(latest, event))
        };
        // A replica may remember more than it must: its state may be old.
        let was_true = sent.body.creates() || (0..=*self.moments(call, &sent.stream).end()).any(is_latest);
        ensure!(was_true, "I2: the receipt is not that of the command's latest event");
        Ok(())
    }

    /// How many events a stream may have had at the moments of a call.
    fn moments(&self, call: &Call, stream: &StreamId) -> std::ops::RangeInclusive<usize> {
        let events = self.events(stream);
        let there = events.iter().rposition(|event| event.sending.latest < call.begun).map_or(0, |n| n + 1);
        let not_yet = events.iter().position(|event| event.sending.earliest > call.ended);
        there..=not_yet.unwrap_or(events.len())
    }

    fn events(&self, stream: &StreamId) -> &[Event] {
        self.streams.get(stream).map_or(&[], Vec::as_slice)
    }

    /// The command of an event.
    fn sent(&self, event: &Event) -> &Sent {
        &self.calls[event.sending.call].sent
    }

    /// The stream of a user of the same tenant as another stream's.
    fn user(&self, other: &StreamId, user_id: &str) -> anyhow::Result<StreamId> {
        Ok(StreamId { tenant: other.tenant.clone(), aggregate_type: User::TYPE, id: user_id.parse()? })
    }
}

/// Fails unless the store's aggregates are loaded as the folds of their histories, with any snapshots.
async fn ensure_loads<A, S>(store: &S, stream: &StreamId, events: &[StoredEvent]) -> anyhow::Result<()>
where
    A: Aggregate<Event: EventCodec> + PartialEq + Debug,
    S: LoadEvents + Snapshots,
{
    let mut folded = AggregateState::<A>::default();
    for event in events {
        folded = folded.apply(&Entry::from(event.clone()).recorded()?)?;
    }
    let loader =
        Loader::new(store.clone(), StateCache::new(0), Snapshotter::new(store.clone(), NonZeroU64::MIN));
    let loaded = loader.refresh(stream, Arc::default()).await?;
    ensure!(
        *loaded.state == folded,
        "{stream} is loaded as {:?}, and its events are {folded:?}",
        loaded.state
    );
    Ok(())
}

/// The event of a command that a stream with these events still remembers.
fn remembered<'e>(events: &'e [Event], command_id: &str) -> Option<&'e Event> {
    let latest = &events[events.len().saturating_sub(REMEMBERED)..];
    latest.iter().rfind(|event| event.stored.envelope.command_id.as_str() == command_id)
}

/// Fails unless an event matches its command's request.
pub(crate) fn ensure_says(event: &Envelope, body: &Body) -> anyhow::Result<()> {
    let data = event.event_data.as_ref().context("an event without data")?;
    let text = |name: &str| data.get(name).and_then(serde_json::Value::as_str);
    let says = match body {
        Body::CreateUser(body) => {
            text("email") == Some(body.email.as_str()) && text("name") == Some(body.name.as_str())
        }
        Body::UpdateUser(body) => {
            text("email") == body.email.as_deref() && text("name") == body.name.as_deref()
        }
        Body::CreateOrder(body) => {
            let quantity = data.get("items").and_then(|items| items.get(0)?.get("quantity")?.as_i64());
            text("userId") == Some(body.user_id.as_str())
                && quantity == body.items.first().map(|item| i64::from(item.quantity))
        }
        Body::SetStatus(body) => text("status") == Some(body.status().as_str_name()),
    };
    ensure!(says, "it says {data:?}");
    Ok(())
}

/// The status of an order after a command.
fn next_status(body: &Body) -> Option<OrderStatus> {
    match body {
        Body::CreateOrder(_) => Some(OrderStatus::Created),
        Body::SetStatus(body) => Some(body.status()),
        Body::CreateUser(_) | Body::UpdateUser(_) => None,
    }
}

/// Whether an order may go from one status to another, as the contract says.
fn leads_to(from: OrderStatus, to: OrderStatus) -> bool {
    use OrderStatus::*;
    match from {
        Unspecified => to == Created,
        Created => matches!(to, Processing | Cancelled),
        Processing => matches!(to, Shipped | Cancelled),
        Shipped => to == Delivered,
        Delivered => to == Returned,
        Cancelled | Returned => false,
    }
}

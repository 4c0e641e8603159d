//! The holders of each address, with their times.

use std::collections::BTreeMap;

use anyhow::ensure;
use millrace_core::StreamId;
use millrace_event_store::StoredEvent;

use crate::{disturbed::Sending, workload::Call};

/// Every address of every tenant, with all its holders.
#[derive(Debug, Default)]
pub(super) struct Holds(BTreeMap<(String, String), Vec<Hold>>);

/// Times at which a user held an address.
#[derive(Debug)]
struct Hold {
    user: StreamId,
    since: Sending,
    until: Option<Sending>,
}

impl Hold {
    /// Whether it certainly lasted at the moment when a sending took effect.
    fn surely_at(&self, other: Sending) -> bool {
        self.since.latest < other.earliest && self.until.is_none_or(|end| end.earliest > other.latest)
    }
}

impl Holds {
    /// Notes an event's changes. A user's events come in their order.
    pub(super) fn note(&mut self, user: &StreamId, event: &StoredEvent, sending: Sending) {
        let data = event.envelope.event_data.as_ref();
        let Some(email) = data.and_then(|data| data.get("email")?.as_str()) else { return };
        let tenant = user.tenant.as_str();
        let key = (tenant.to_owned(), email.to_lowercase());
        let current = |hold: &Hold| hold.user == *user && hold.until.is_none();
        if self.0.get(&key).is_some_and(|holds| holds.iter().any(current)) {
            return;
        }
        for hold in self.0.values_mut().flatten().filter(|hold| current(hold)) {
            hold.until = Some(sending);
        }
        self.0.entry(key).or_default().push(Hold { user: user.clone(), since: sending, until: None });
    }

    /// I6: no two users held an address at the same time.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        for ((tenant, email), holds) in &self.0 {
            for taken in holds {
                let others = holds.iter().find(|hold| hold.user != taken.user && hold.surely_at(taken.since));
                ensure!(
                    others.is_none(),
                    "I6: {email} of {tenant} was held by {others:?} and taken by {taken:?}"
                );
            }
            let now: Vec<_> = holds.iter().filter(|hold| hold.until.is_none()).collect();
            ensure!(now.len() <= 1, "I6: {email} of {tenant} is held by {now:?}");
        }
        Ok(())
    }

    /// Whether another user may have held an address at a moment of a call.
    pub(super) fn may_be_taken(&self, email: &str, call: &Call) -> bool {
        let user = &call.sent.stream;
        let holds = self.0.get(&(user.tenant.as_str().to_owned(), email.to_owned()));
        holds.into_iter().flatten().any(|hold| {
            hold.user != *user
                && hold.since.earliest < call.ended
                && hold.until.is_none_or(|end| end.latest > call.begun)
        })
    }
}

//! The table of errors, and whether a refusal by it is true.

use anyhow::{Context as _, bail, ensure};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Event, History, REMEMBERED, leads_to, next_status, remembered};
use crate::workload::{Body, Call};

/// A row of the table of errors, with its details.
#[derive(Debug)]
enum Row {
    CommandIdReused,
    NotFound { resource_type: String, name: String },
    EmailTaken,
    VersionConflict { current: u64 },
    Precondition { kind: String, subject: String },
    Throttled,
    Overloaded,
    Unreachable,
}

impl Row {
    /// The row of a status. Fails where there is none, or where the row's details are missing.
    fn of(status: &Status) -> anyhow::Result<Self> {
        let details = status.get_error_details();
        let info = details.error_info();
        ensure!(info.is_none_or(|info| info.domain == "millrace"), "an error of another domain");
        let reason = info.map_or("", |info| info.reason.as_str());
        let again = details.retry_info().is_some_and(|retry| retry.retry_delay.is_some());
        let passing = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted);
        ensure!(again == passing, "whether it may be tried again is not as its code says");
        Ok(match (status.code(), reason) {
            (Code::InvalidArgument, "COMMAND_ID_REUSED") => Self::CommandIdReused,
            (Code::NotFound, "") => {
                let resource = details.resource_info().context("it does not say what was not found")?.clone();
                Self::NotFound { resource_type: resource.resource_type, name: resource.resource_name }
            }
            (Code::AlreadyExists, "EMAIL_TAKEN") => Self::EmailTaken,
            (Code::Aborted, "VERSION_CONFLICT") => {
                let current = info.and_then(|info| info.metadata.get("current_version"));
                Self::VersionConflict { current: current.context("it does not name the version")?.parse()? }
            }
            (Code::FailedPrecondition, "") => {
                let failure = details.precondition_failure().context("it does not say which")?;
                let violation = failure.violations.first().context("it names no violation")?.clone();
                Self::Precondition { kind: violation.r#type, subject: violation.subject }
            }
            (Code::ResourceExhausted, "THROTTLED") => Self::Throttled,
            (Code::ResourceExhausted, "OVERLOADED") => Self::Overloaded,
            (Code::Unavailable, "STORAGE_UNREACHABLE") => Self::Unreachable,
            (code, reason) => bail!("{code:?} {reason} is not in the table, or not for this"),
        })
    }

    /// Whether the status promises that the call did nothing.
    fn is_final(&self) -> bool {
        !matches!(self, Self::Unreachable)
    }

    /// Whether the status says that no call can carry the command out. A key that is taken
    /// may be free when a request of an earlier call arrives.
    fn is_of_the_command(&self) -> bool {
        !matches!(self, Self::EmailTaken | Self::Throttled | Self::Overloaded | Self::Unreachable)
    }
}

impl History<'_> {
    /// Whether an error is one of the table's, and true.
    pub(super) fn check_refusal(&self, number: usize, call: &Call, status: &Status) -> anyhow::Result<()> {
        let row = Row::of(status)?;
        if row.is_final() {
            let done = self.events(&call.sent.stream).iter().find(|event| event.sending.call == number);
            ensure!(done.is_none(), "I17: {row:?}, and yet it was done");
        }
        if row.is_of_the_command() {
            let done = self.done_by_an_earlier_call(call);
            ensure!(done.is_none(), "I17: {row:?}, and yet it was done by call {done:?}");
        }
        ensure!(self.is_true(&row, number, call)?, "{row:?} is not true of {:?}", self.shown(call));
        Ok(())
    }

    /// The earlier call that carried the same command out, at any time, if it is to be remembered.
    fn done_by_an_earlier_call(&self, call: &Call) -> Option<usize> {
        let events = self.events(&call.sent.stream);
        let forgotten = self.moments(call, &call.sent.stream).end().saturating_sub(REMEMBERED);
        let calls = events.iter().skip(forgotten).map(|event| event.sending.call);
        let mut earlier = calls.filter(|number| self.calls[*number].ended < call.begun);
        earlier.find(|number| self.calls[*number].sent == call.sent)
    }

    fn is_true(&self, row: &Row, number: usize, call: &Call) -> anyhow::Result<bool> {
        let sent = &call.sent;
        let (stream, body) = (&sent.stream, &sent.body);
        let events = self.events(stream);
        let moments = || self.moments(call, stream);
        let told = self.teller.told(number);
        // Whether the command would be decided on so many events, and be no replay and not stale.
        let is_new = |n: usize| remembered(&events[..n], &sent.command_id).is_none();
        let is_due = |n: usize| is_new(n) && body.expected().is_none_or(|expected| same(expected, n));
        let is_other = |event: &Event| self.sent(event).body != *body;
        Ok(match row {
            // A replica may remember more than it must: its state may be old.
            Row::CommandIdReused => (0..=*moments().end()).any(|n| {
                let events = &events[..n];
                // How a creation was answered is remembered for ever.
                let earlier =
                    if body.creates() { events.first() } else { remembered(events, &sent.command_id) };
                earlier.is_some_and(is_other)
            }),
            Row::NotFound { resource_type, name } => {
                let named =
                    *resource_type == stream.aggregate_type.as_str() && *name == stream.id.to_string();
                named && !body.creates() && *moments().start() == 0
            }
            Row::EmailTaken => {
                let asked = body.email().is_some_and(|email| self.holds.may_be_taken(&email, call));
                asked && moments().any(|n| is_due(n) && body.creates() == (n == 0))
            }
            Row::VersionConflict { current } => {
                let is_stale = body.expected().is_some_and(|expected| expected != *current);
                let may_be_told = self.ran_out(number) || (is_stale && *current > 0);
                may_be_told && moments().any(|n| same(*current, n) && is_new(n))
            }
            Row::Precondition { kind, subject } => match (kind.as_str(), body) {
                ("USER_EXISTS", Body::CreateOrder(body)) => {
                    let user = self.user(stream, &body.user_id)?;
                    *subject == user.id.to_string() && *self.moments(call, &user).start() == 0
                }
                ("ORDER_STATUS", Body::SetStatus(body)) => {
                    let next = body.status();
                    let leads = |n: usize| {
                        next_status(&self.sent(&events[n - 1]).body).is_some_and(|from| leads_to(from, next))
                    };
                    *subject == stream.id.to_string() && moments().any(|n| n > 0 && is_due(n) && !leads(n))
                }
                (_, _) => false,
            },
            Row::Throttled => told.throttled > 0,
            // Other commands were in line before it, and did their work.
            Row::Overloaded => true,
            // After an unanswered append, a throttled look at the store leaves its outcome unknown.
            Row::Unreachable => told.unreachable > 0 || told.refused > 0 && told.throttled > 0,
        })
    }

    /// Whether a call met so many conflicts that it may have given up.
    fn ran_out(&self, number: usize) -> bool {
        self.teller.told(number).refused >= 5
    }

    /// The states of a call's stream meanwhile, for the message of a failure.
    fn shown(&self, call: &Call) -> Vec<String> {
        let moments = self.moments(call, &call.sent.stream);
        let from = moments.start().saturating_sub(3);
        let events = self.events(&call.sent.stream)[from..*moments.end()].iter();
        let shown = events.map(|event| {
            format!(
                "{} by call {}: {:?}",
                event.stored.envelope.version,
                event.sending.call,
                self.sent(event)
            )
        });
        std::iter::once(format!("{moments:?} events")).chain(shown).collect()
    }
}

fn same(version: u64, events: usize) -> bool {
    usize::try_from(version).is_ok_and(|version| version == events)
}

//! The bus on EventBridge.

use aws_sdk_eventbridge::{
    Client,
    error::ProvideErrorMetadata,
    primitives::DateTime,
    types::{PutEventsRequestEntry, PutEventsResultEntry},
};
use millrace_aws::AwsError;

use crate::bus::{Entry, EventBus, Rejection};

/// EventBridge's codes for refused content of an entry (EventBridge API Reference, `PutEvents`), and its front end's
/// code for a refused call.
const CONTENT_CODES: [&str; 5] = [
    "InvalidArgument",
    "MalformedDetail",
    "RequestEntityTooLargeException",
    "ValidationError",
    "ValidationException",
];

/// A bus of EventBridge.
#[derive(Debug, Clone)]
pub struct EventBridgeBus {
    client: Client,
    name: String,
}

impl EventBridgeBus {
    /// The bus called `name`.
    pub fn new(client: Client, name: impl Into<String>) -> Self {
        Self { client, name: name.into() }
    }

    fn request_entry(&self, entry: &Entry) -> PutEventsRequestEntry {
        let micros = i128::from(entry.time.unix_micros());
        PutEventsRequestEntry::builder()
            .event_bus_name(&self.name)
            .source(&entry.source)
            .detail_type(&entry.detail_type)
            .detail(&entry.detail)
            // A domain's time lies between the years 1970 and 9999; the SDK can hold their nanoseconds.
            .set_time(DateTime::from_nanos(micros * 1_000).ok())
            .build()
    }
}

impl EventBus for EventBridgeBus {
    async fn put(&self, entries: &[Entry]) -> Result<Vec<Result<(), Rejection>>, Rejection> {
        let entries = entries.iter().map(|entry| self.request_entry(entry)).collect();
        let reply = self.client.put_events().set_entries(Some(entries)).send().await.map_err(|error| {
            let is_content = error.code().is_some_and(|code| CONTENT_CODES.contains(&code));
            if is_content { Rejection::Content(error.into()) } else { Rejection::Failed(error.into()) }
        })?;
        Ok(reply.entries().iter().map(verdict).collect())
    }
}

fn verdict(entry: &PutEventsResultEntry) -> Result<(), Rejection> {
    let Some(code) = entry.error_code() else {
        return match entry.event_id() {
            Some(_) => Ok(()),
            None => Err(AwsError::InvalidResponse("EventBridge says neither yes nor no".to_owned()).into()),
        };
    };
    // The error's message can quote the entry, so only the code is kept.
    let code_only = code.to_owned();
    Err(match code {
        _ if CONTENT_CODES.contains(&code) => Rejection::Content(AwsError::Refused(code_only)),
        _ if AwsError::is_throttling(code) => Rejection::Failed(AwsError::Throttled(code_only)),
        _ => Rejection::Failed(AwsError::Refused(code_only)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_accepted_where_it_has_an_id_and_no_error() {
        let of = |id: Option<&str>, code: Option<&str>| {
            let entry = PutEventsResultEntry::builder().set_event_id(id.map(str::to_owned));
            verdict(&entry.set_error_code(code.map(str::to_owned)).build())
        };
        assert!(of(Some("1"), None).is_ok());
        assert!(matches!(of(None, None), Err(Rejection::Failed(AwsError::InvalidResponse(_)))));
        let throttled = of(None, Some("ThrottlingException"));
        assert!(matches!(throttled, Err(Rejection::Failed(AwsError::Throttled(_)))));
        assert!(matches!(of(None, Some("MalformedDetail")), Err(Rejection::Content(_))));
    }
}

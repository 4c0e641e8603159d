//! The one table of errors: each failure of a call, and its status for the caller.

use std::{borrow::Cow, time::Duration};

use millrace_aws::AwsError;
use millrace_core::Invalid;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::{TraceParent, identity::AuthError};

/// The domain of every `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "millrace";

/// How long the caller should wait before it repeats a call refused for lack of capacity.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The same after a read from a read model that was behind.
const RETRY_READ_AFTER: Duration = Duration::from_millis(200);

/// Why a call fails, by the action that its caller can take.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Fields are missing or break rules.
    #[error("{}", summary(.0))]
    InvalidArgument(Vec<Violation>),
    /// A command id was used before, with another body.
    #[error("the command_id was used before with another request")]
    CommandIdReused,
    /// An aggregate or a row does not exist.
    #[error("the {resource_type} does not exist")]
    NotFound {
        /// The type of the missing thing, such as `user`.
        resource_type: Cow<'static, str>,
        /// Its name. Empty where the name is personal data.
        name: String,
    },
    /// Another aggregate of the tenant holds a value that must be unique.
    #[error("the value of {scope} is taken")]
    KeyTaken {
        /// The kind of value, such as `user.email`.
        scope: &'static str,
    },
    /// The aggregate is not at the version that the command requires.
    #[error("the version is not the current one")]
    VersionConflict {
        /// The aggregate's version.
        current: u64,
    },
    /// A rule of the domain forbids the command in the present state.
    #[error("{description}")]
    Precondition {
        /// The kind of rule, such as `ORDER_STATUS`.
        kind: &'static str,
        /// The rule's subject, such as an order's id.
        subject: String,
        /// The reason, in words.
        description: String,
    },
    /// An event that the reply depends on is missing, or this release cannot read it.
    #[error("the event of version {version} cannot be read: {reason}")]
    UnreadableEvent {
        /// The event's version.
        version: u64,
        /// Why, in words. Never holds the event's data.
        reason: String,
    },
    /// A newer release wrote an event that the reply depends on. A replica of that release can answer.
    #[error("the event of version {version} needs a newer release: {reason}")]
    NewerRelease {
        /// The event's version.
        version: u64,
        /// Why, in words. Never holds the event's data.
        reason: String,
    },
    /// Millrace was deployed without something that the call needs.
    #[error("{what} was not deployed")]
    NotDeployed {
        /// The missing part.
        what: &'static str,
        /// The reason in the `ErrorInfo`, such as `EVENT_TYPE_INDEX_OFF`.
        reason: &'static str,
    },
    /// The caller is not authenticated, or lacks permission.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The caller's tenant is at its limit of concurrent calls or watches.
    #[error("this tenant has its part of what the server does at a time")]
    TenantBusy,
    /// The process is at its limit of concurrent work.
    #[error("the server is busy")]
    Overloaded,
    /// The read model has not caught up with the caller's read-after token.
    #[error("the read model is behind the version asked for")]
    ReadModelBehind,
    /// The caller's deadline passed.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// The process is ending, and streaming replies end with it.
    #[error("the server is ending")]
    Ending,
    /// A call to AWS failed.
    #[error(transparent)]
    Aws(#[from] AwsError),
    /// A defect. The text goes to the log only.
    #[error("{0}")]
    Internal(String),
}

/// A field that is missing or breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field's path, such as `items[2].quantity`.
    pub field: String,
    /// The rule, in words. Never holds the value.
    pub description: String,
}

/// The most bad fields in a reply. Details travel in a header, and clients take 8 KiB of headers by default.
pub const MAX_VIOLATIONS: usize = 50;

/// How many bad fields the status message names; the details name the others.
const SUMMARISED: usize = 3;

/// The first violations, in one line.
fn summary(violations: &[Violation]) -> String {
    let first = violations.iter().take(SUMMARISED);
    let said: Vec<_> = first.map(|v| format!("{} {}", v.field, v.description).trim().to_owned()).collect();
    match violations.len().saturating_sub(SUMMARISED) {
        0 => said.join("; "),
        more => format!("{}; and {more} more", said.join("; ")),
    }
}

/// Collects the faults of a request, so that its caller learns all at once: every bad field in the order of notes, up
/// to [`MAX_VIOLATIONS`].
#[derive(Debug, Default)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// Returns the value, or notes why there is none.
    pub fn field<T>(&mut self, field: impl Into<String>, value: Result<T, Invalid>) -> Option<T> {
        value.map_err(|invalid| self.add(field, invalid.0)).ok()
    }

    /// Notes that a field is bad. A field keeps its first reason.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        if self.is_full() {
            return;
        }
        let field = field.into();
        if self.0.iter().all(|violation| violation.field != field) {
            self.0.push(Violation { field, description: description.into() });
        }
    }

    /// Whether no further field would be named, so that checking more is useless.
    pub fn is_full(&self) -> bool {
        self.0.len() == MAX_VIOLATIONS
    }

    /// Returns the parsed value, or fails with all noted fields. `parsed` is `None` where a part is bad.
    pub fn finish<T>(self, parsed: Option<T>) -> Result<T, Failure> {
        match parsed {
            Some(parsed) if self.0.is_empty() => Ok(parsed),
            _ => Err(Failure::InvalidArgument(self.0)),
        }
    }
}

impl Failure {
    /// A failure for one bad field.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::InvalidArgument(vec![Violation { field: field.into(), description: description.into() }])
    }
}

/// The reason for a taken key: the last part of its scope, so that `user.email` is EMAIL_TAKEN.
fn taken(scope: &str) -> String {
    let value = scope.rsplit('.').next().unwrap_or(scope);
    format!("{}_TAKEN", value.to_ascii_uppercase().replace('-', "_"))
}

fn error_info(reason: &str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, ERROR_DOMAIN, [])
}

fn retry_later(reason: &str, after: Duration) -> ErrorDetails {
    let mut details = error_info(reason);
    details.set_retry_info(Some(after));
    details
}

/// The table. Only here does a failure become a status.
impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let message = failure.to_string();
        let (code, message, details) = match failure {
            Failure::InvalidArgument(violations) => {
                let fields: Vec<_> =
                    violations.into_iter().map(|v| FieldViolation::new(v.field, v.description)).collect();
                (Code::InvalidArgument, message, ErrorDetails::with_bad_request(fields))
            }
            Failure::CommandIdReused => (Code::InvalidArgument, message, error_info("COMMAND_ID_REUSED")),
            Failure::NotFound { resource_type, name } => {
                let mut details = ErrorDetails::new();
                details.set_resource_info(resource_type.as_ref(), name, "", message.as_str());
                (Code::NotFound, message, details)
            }
            Failure::KeyTaken { scope } => (Code::AlreadyExists, message, error_info(&taken(scope))),
            Failure::VersionConflict { current } => {
                let metadata = [("current_version".to_owned(), current.to_string())];
                let details = ErrorDetails::with_error_info("VERSION_CONFLICT", ERROR_DOMAIN, metadata);
                (Code::Aborted, message, details)
            }
            Failure::Precondition { kind, subject, description } => {
                let details = ErrorDetails::with_precondition_failure_violation(kind, subject, description);
                (Code::FailedPrecondition, message, details)
            }
            Failure::UnreadableEvent { version, .. } => {
                let metadata = [("version".to_owned(), version.to_string())];
                let details = ErrorDetails::with_error_info("EVENT_UNREADABLE", ERROR_DOMAIN, metadata);
                (Code::FailedPrecondition, message, details)
            }
            Failure::NewerRelease { version, .. } => {
                let metadata = [("version".to_owned(), version.to_string())];
                let mut details = ErrorDetails::with_error_info("NEWER_RELEASE", ERROR_DOMAIN, metadata);
                details.set_retry_info(Some(RETRY_AFTER));
                (Code::Unavailable, message, details)
            }
            Failure::NotDeployed { reason, .. } => (Code::Unimplemented, message, error_info(reason)),
            Failure::Auth(error) => {
                let (code, details) = turned_away(error);
                (code, message, details)
            }
            Failure::TenantBusy => {
                (Code::ResourceExhausted, message, retry_later("TENANT_BUSY", RETRY_AFTER))
            }
            Failure::Overloaded => (Code::ResourceExhausted, message, retry_later("OVERLOADED", RETRY_AFTER)),
            Failure::ReadModelBehind => {
                (Code::Unavailable, message, retry_later("READ_MODEL_BEHIND", RETRY_READ_AFTER))
            }
            Failure::Ending => (Code::Unavailable, message, retry_later("ENDING", RETRY_AFTER)),
            Failure::DeadlineExceeded => (Code::DeadlineExceeded, message, error_info("DEADLINE_EXCEEDED")),
            Failure::Aws(AwsError::Throttled(_)) => (
                Code::ResourceExhausted,
                "the server's storage is throttled".to_owned(),
                retry_later("THROTTLED", RETRY_AFTER),
            ),
            Failure::Aws(AwsError::Unreachable(_)) => (
                Code::Unavailable,
                "the server's storage cannot be reached".to_owned(),
                retry_later("STORAGE_UNREACHABLE", RETRY_AFTER),
            ),
            Failure::Aws(AwsError::Refused(_) | AwsError::InvalidResponse(_)) | Failure::Internal(_) => {
                let span = TraceParent::current();
                let trace_id = span.trace_id();
                tracing::error!(
                    trace_id,
                    span_id = span.span_id(),
                    error = message,
                    "a call failed for an internal reason"
                );
                let bland = format!("internal error; trace id {trace_id}");
                (Code::Internal, bland, error_info("INTERNAL"))
            }
        };
        Self::with_error_details(code, message, details)
    }
}

/// The part of the table about callers. Unauthenticated callers learn little; authenticated ones learn the missing
/// permission.
fn turned_away(error: AuthError) -> (Code, ErrorDetails) {
    let unknown = |reason| (Code::Unauthenticated, error_info(reason));
    let denied = |reason| (Code::PermissionDenied, error_info(reason));
    match error {
        AuthError::NoToken => unknown("TOKEN_MISSING"),
        AuthError::Malformed
        | AuthError::TooLarge
        | AuthError::Algorithm
        | AuthError::UnknownKey
        | AuthError::Signature => unknown("TOKEN_INVALID"),
        AuthError::Expired => unknown("TOKEN_EXPIRED"),
        AuthError::NotYetValid => unknown("TOKEN_NOT_YET_VALID"),
        AuthError::Issuer => unknown("TOKEN_ISSUER"),
        AuthError::Audience => unknown("TOKEN_AUDIENCE"),
        AuthError::NoScope(scope) => {
            let metadata = [("scope".to_owned(), scope.to_owned())];
            let details = ErrorDetails::with_error_info("SCOPE_MISSING", ERROR_DOMAIN, metadata);
            (Code::PermissionDenied, details)
        }
        AuthError::NoTenant => denied("TENANT_MISSING"),
        AuthError::OtherTenant => denied("TENANT_MISMATCH"),
        AuthError::NotOpen => denied("NOT_OPEN"),
        AuthError::NoKeys => (Code::Unavailable, retry_later("KEYS_UNAVAILABLE", RETRY_AFTER)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aws(text: &str) -> String {
        text.to_owned()
    }

    #[test]
    fn every_failure_has_its_code_and_its_details() {
        use Code::*;
        let not_found = Failure::NotFound { resource_type: "user".into(), name: "7".into() };
        let rule =
            Failure::Precondition { kind: "ORDER_STATUS", subject: "7".into(), description: "no".into() };
        let unreadable = Failure::UnreadableEvent { version: 7, reason: "no".into() };
        let newer = Failure::NewerRelease { version: 7, reason: "no".into() };
        let table = [
            (Failure::invalid("email", "bad"), InvalidArgument, None),
            (Failure::CommandIdReused, InvalidArgument, Some("COMMAND_ID_REUSED")),
            (not_found, NotFound, None),
            (Failure::KeyTaken { scope: "user.email" }, AlreadyExists, Some("EMAIL_TAKEN")),
            (Failure::KeyTaken { scope: "product.stock-unit" }, AlreadyExists, Some("STOCK_UNIT_TAKEN")),
            (Failure::VersionConflict { current: 3 }, Aborted, Some("VERSION_CONFLICT")),
            (rule, FailedPrecondition, None),
            (unreadable, FailedPrecondition, Some("EVENT_UNREADABLE")),
            (newer, Unavailable, Some("NEWER_RELEASE")),
            (
                Failure::NotDeployed { what: "an index", reason: "INDEX_OFF" },
                Unimplemented,
                Some("INDEX_OFF"),
            ),
            (AuthError::NoToken.into(), Unauthenticated, Some("TOKEN_MISSING")),
            (AuthError::Malformed.into(), Unauthenticated, Some("TOKEN_INVALID")),
            (AuthError::TooLarge.into(), Unauthenticated, Some("TOKEN_INVALID")),
            (AuthError::Algorithm.into(), Unauthenticated, Some("TOKEN_INVALID")),
            (AuthError::UnknownKey.into(), Unauthenticated, Some("TOKEN_INVALID")),
            (AuthError::Signature.into(), Unauthenticated, Some("TOKEN_INVALID")),
            (AuthError::Expired.into(), Unauthenticated, Some("TOKEN_EXPIRED")),
            (AuthError::NotYetValid.into(), Unauthenticated, Some("TOKEN_NOT_YET_VALID")),
            (AuthError::Issuer.into(), Unauthenticated, Some("TOKEN_ISSUER")),
            (AuthError::Audience.into(), Unauthenticated, Some("TOKEN_AUDIENCE")),
            (AuthError::NoScope("a:b").into(), PermissionDenied, Some("SCOPE_MISSING")),
            (AuthError::NoTenant.into(), PermissionDenied, Some("TENANT_MISSING")),
            (AuthError::OtherTenant.into(), PermissionDenied, Some("TENANT_MISMATCH")),
            (AuthError::NotOpen.into(), PermissionDenied, Some("NOT_OPEN")),
            (AuthError::NoKeys.into(), Unavailable, Some("KEYS_UNAVAILABLE")),
            (Failure::TenantBusy, ResourceExhausted, Some("TENANT_BUSY")),
            (Failure::Overloaded, ResourceExhausted, Some("OVERLOADED")),
            (Failure::ReadModelBehind, Unavailable, Some("READ_MODEL_BEHIND")),
            (Failure::DeadlineExceeded, DeadlineExceeded, Some("DEADLINE_EXCEEDED")),
            (Failure::Ending, Unavailable, Some("ENDING")),
            (Failure::Aws(AwsError::Throttled(aws("x"))), ResourceExhausted, Some("THROTTLED")),
            (Failure::Aws(AwsError::Unreachable(aws("x"))), Unavailable, Some("STORAGE_UNREACHABLE")),
            (Failure::Aws(AwsError::Refused(aws("x"))), Internal, Some("INTERNAL")),
            (Failure::Aws(AwsError::InvalidResponse(aws("x"))), Internal, Some("INTERNAL")),
            (Failure::Internal("x".into()), Internal, Some("INTERNAL")),
        ];
        for (failure, code, reason) in table {
            let shown = format!("{failure:?}");
            let status = Status::from(failure);
            let details = status.get_error_details();
            assert_eq!(status.code(), code, "{shown}");
            let info = details.error_info();
            assert_eq!(info.map(|i| i.reason.as_str()), reason, "{shown}");
            assert!(info.is_none_or(|i| i.domain == ERROR_DOMAIN), "{shown}");
            let retry = matches!(code, ResourceExhausted | Unavailable);
            assert_eq!(details.retry_info().is_some(), retry, "{shown}");
        }
    }

    #[test]
    fn what_is_internal_stays_inside() {
        let status = Status::from(Failure::Internal("the secret name of a table".into()));
        assert!(!status.message().contains("secret"));
        assert!(status.message().contains("trace id"));
    }

    #[test]
    fn an_unreadable_event_is_named_by_its_version() {
        let reason = || "it is damaged".to_owned();
        for failure in [
            Failure::UnreadableEvent { version: 7, reason: reason() },
            Failure::NewerRelease { version: 7, reason: reason() },
        ] {
            let status = Status::from(failure);
            assert!(status.message().contains("version 7") && status.message().contains("it is damaged"));
            assert_eq!(status.get_error_details().error_info().unwrap().metadata["version"], "7");
        }
    }

    #[test]
    fn a_conflict_names_the_current_version_and_a_missing_thing_its_name() {
        let conflict = Status::from(Failure::VersionConflict { current: 42 }).get_error_details();
        assert_eq!(conflict.error_info().unwrap().metadata["current_version"], "42");
        let missing = Failure::NotFound { resource_type: "order".into(), name: "7".into() };
        let details = Status::from(missing).get_error_details();
        let resource = details.resource_info().unwrap();
        assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), ("order", "7"));
    }

    #[test]
    fn all_bad_fields_are_named_each_once() {
        let mut violations = Violations::default();
        let email: Option<u8> = violations.field("email", Err(Invalid("is bad")));
        violations.add("email", "is worse");
        violations.add("items[2].quantity", "is zero");
        let Err(Failure::InvalidArgument(all)) = violations.finish(email) else { panic!("accepted") };
        let fields: Vec<_> = all.iter().map(|v| (v.field.as_str(), v.description.as_str())).collect();
        assert_eq!(fields, [("email", "is bad"), ("items[2].quantity", "is zero")]);
    }

    #[test]
    fn the_message_names_the_first_bad_fields_and_counts_the_others() {
        let message = |fields: &[&str]| {
            let mut violations = Violations::default();
            fields.iter().for_each(|field| violations.add(*field, "must be set"));
            Status::from(violations.finish(None::<()>).unwrap_err()).message().to_owned()
        };
        assert_eq!(message(&["email"]), "email must be set");
        assert_eq!(message(&[""]), "must be set");
        assert_eq!(message(&["a", "b", "c"]), "a must be set; b must be set; c must be set");
        let long = message(&["a", "b", "c", "d", "e"]);
        assert_eq!(long, "a must be set; b must be set; c must be set; and 2 more");
    }

    #[test]
    fn a_reply_never_names_more_fields_than_its_header_holds() {
        let mut violations = Violations::default();
        for n in 0..100_000 {
            violations.add(format!("items[{n}].quantity"), "must be 1 to 10,000, and this one is not");
        }
        let status = Status::from(violations.finish(None::<()>).unwrap_err());
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations.len(), MAX_VIOLATIONS);
        // Base64 makes the header a third longer.
        assert!(status.details().len() * 4 / 3 < 8 * 1024, "{}", status.details().len());
    }
}

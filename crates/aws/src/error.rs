//! The meaning of a failed call to AWS for its caller.

use std::error::Error;

use aws_smithy_runtime_api::{
    client::{orchestrator::HttpResponse, result::SdkError},
    http::StatusCode,
};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

/// A failed call to AWS, sorted by the caller's possible reactions.
///
/// Whether the call took effect is unknown in every case: a reply can be lost, and a call has several attempts, of
/// which this reports the last.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AwsError {
    /// AWS asks for fewer calls, or a quota is spent. The last attempt did nothing.
    #[error("AWS throttles: {0}")]
    Throttled(String),
    /// AWS could not be reached, did not answer in time, or answered that it is out of order.
    #[error("AWS cannot be reached: {0}")]
    Unreachable(String),
    /// AWS refused the call: permissions, a missing table, a bad parameter. Trying again will not help.
    #[error("AWS refused: {0}")]
    Refused(String),
    /// AWS answered something that makes no sense to this program, such as an item that cannot be read.
    #[error("AWS gave an invalid response: {0}")]
    InvalidResponse(String),
}

/// The result of a call to AWS.
pub type AwsResult<T> = Result<T, AwsError>;

/// Error codes by which AWS says that calls come too fast or that a quota is spent. From the lists of common errors in
/// the API references of DynamoDB, DynamoDB Streams, EventBridge and SQS, and the SDKs' own list of throttling errors.
///
/// SQS answers a receive with `OverLimit` while as many messages are in flight as a queue allows (API Reference,
/// `ReceiveMessage`), and passes `KMS.ThrottlingException` on from the keys that encrypt its queues.
const THROTTLING_CODES: [&str; 15] = [
    "BandwidthLimitExceeded",
    "KMS.ThrottlingException",
    "LimitExceededException",
    "OverLimit",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingError",
    "ThrottlingException",
    "TooManyRequestsException",
];

impl AwsError {
    /// Sorts an error by the code that AWS gave, wherever it was given: in a reply or within a cancelled transaction.
    pub fn is_throttling(code: &str) -> bool {
        THROTTLING_CODES.contains(&code)
    }
}

impl<E> From<SdkError<E, HttpResponse>> for AwsError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        let code = error.code().unwrap_or_default().to_owned();
        let status = error.raw_response().map(HttpResponse::status);
        let text = describe(&error, &code);
        match error {
            _ if Self::is_throttling(&code) => Self::Throttled(text),
            _ if status.is_some_and(|s| s.as_u16() == 429) => Self::Throttled(text),
            SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) => Self::Unreachable(text),
            _ if status.is_some_and(StatusCode::is_server_error) => Self::Unreachable(text),
            SdkError::ResponseError(_) => Self::Unreachable(text),
            SdkError::ConstructionFailure(_) | SdkError::ServiceError(_) | _ => Self::Refused(text),
        }
    }
}

/// The error as text for the log: AWS's code and message where it gave one, else the chain of causes.
///
/// Never by `Debug`: a failed condition returns the stored item, and an item holds personal data.
fn describe<E: ProvideErrorMetadata + Error + 'static>(
    error: &SdkError<E, HttpResponse>,
    code: &str,
) -> String {
    // An error with a message and no code is a cause that shows its message whole.
    if !code.is_empty() || error.message().is_some() {
        let code = if code.is_empty() { "no code" } else { code };
        return format!("{code}: {}", without_values(error.message().unwrap_or("no message")));
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A message of AWS without values quoted from the request. Three sources quote them: the checks that all services
/// share ("1 validation error detected: Value 'john' at 'name' failed to satisfy constraint: …"), SQS ("Value john for
/// parameter MessageGroupId is invalid"), DynamoDB of operands ("lower bound operand: AttributeValue: {S:john}") and of
/// invalid numbers ("The parameter cannot be converted to a numeric value: john"). Names of tables, roles and
/// parameters stay, because they help.
fn without_values(message: &str) -> String {
    const QUOTED: &str = "alue '";
    const OPERAND: &str = "AttributeValue: {";
    let mut left = message.to_owned();
    let is_quoted = drop_between(&mut left, QUOTED, "' at '");
    drop_between(&mut left, "Value ", " for parameter ");
    if !is_quoted {
        drop_after(&mut left, QUOTED);
    }
    if !drop_between(&mut left, OPERAND, "}") {
        drop_after(&mut left, OPERAND);
    }
    drop_after(&mut left, "to a numeric value:");
    left
}

/// Drops the text between the first `before` and the last `after`, since a value can contain anything: of several
/// complaints only the end of the last stays. Returns whether both were found.
fn drop_between(message: &mut String, before: &str, after: &str) -> bool {
    let Some(begin) = message.find(before).map(|at| at + before.len()) else { return false };
    let Some(length) = message[begin..].rfind(after) else { return false };
    message.replace_range(begin..begin + length, "…");
    true
}

/// Drops the text after the first `before`.
fn drop_after(message: &mut String, before: &str) {
    if let Some(at) = message.find(before) {
        message.replace_range(at + before.len().., "…");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use aws_sdk_dynamodb::{
        operation::put_item::PutItemError,
        types::{AttributeValue, error::ConditionalCheckFailedException},
    };
    use aws_smithy_runtime_api::client::result::ConnectorError;
    use aws_smithy_types::{body::SdkBody, error::ErrorMetadata};

    use super::*;

    fn answered(code: &str, status: u16) -> AwsError {
        let meta = ErrorMetadata::builder().code(code).message("too fast").build();
        let response = HttpResponse::new(status.try_into().unwrap(), SdkBody::empty());
        SdkError::service_error(PutItemError::generic(meta), response).into()
    }

    #[test]
    fn an_error_is_sorted_by_what_can_be_done_about_it() {
        assert!(matches!(answered("ThrottlingException", 400), AwsError::Throttled(_)));
        assert!(matches!(answered("ProvisionedThroughputExceededException", 400), AwsError::Throttled(_)));
        assert!(matches!(answered("OverLimit", 403), AwsError::Throttled(_)));
        assert!(matches!(answered("", 429), AwsError::Throttled(_)));
        assert!(matches!(answered("InternalServerError", 500), AwsError::Unreachable(_)));
        assert!(matches!(answered("AccessDeniedException", 400), AwsError::Refused(_)));
        let timeout: SdkError<PutItemError, HttpResponse> = SdkError::timeout_error("slow");
        assert!(matches!(AwsError::from(timeout), AwsError::Unreachable(_)));
        let refused: SdkError<PutItemError, HttpResponse> =
            SdkError::dispatch_failure(ConnectorError::io("connection refused".into()));
        let refused = AwsError::from(refused);
        assert!(
            matches!(&refused, AwsError::Unreachable(text) if text.contains("connection refused")),
            "{refused}"
        );
    }

    #[test]
    fn an_items_values_never_show() {
        let item = HashMap::from([("Email".to_owned(), AttributeValue::S("john@example.com".to_owned()))]);
        let meta = ErrorMetadata::builder().code("ConditionalCheckFailedException").build();
        let failed = ConditionalCheckFailedException::builder().set_item(Some(item)).meta(meta).build();
        let response = HttpResponse::new(400.try_into().unwrap(), SdkBody::empty());
        let error = SdkError::service_error(PutItemError::ConditionalCheckFailedException(failed), response);
        let shown = format!("{:?}", AwsError::from(error));
        assert!(shown.contains("ConditionalCheckFailedException") && !shown.contains("john"), "{shown}");
    }

    #[test]
    fn what_a_message_quotes_of_a_request_does_not_show() {
        for (message, left) in [
            (
                "1 validation error detected: Value 'john' at 'name' failed to satisfy constraint: Member must be shorter",
                "1 validation error detected: Value '…' at 'name' failed to satisfy constraint: Member must be shorter",
            ),
            (
                "2 validation errors detected: Value 'a' at 'b' failed: c; Value 'd' at 'e' at 'f' failed",
                "2 validation errors detected: Value '…' at 'f' failed",
            ),
            ("Value 'john@example.com' is too long", "Value '…"),
            ("Invalid value '' at 'a'", "Invalid value '…' at 'a'"),
            (
                "The parameter cannot be converted to a numeric value: john",
                "The parameter cannot be converted to a numeric value:…",
            ),
            (
                "Value john for parameter MessageGroupId is invalid. Reason: it must not be empty.",
                "Value … for parameter MessageGroupId is invalid. Reason: it must not be empty.",
            ),
            (
                "lower bound operand: AttributeValue: {S:jo}hn}, upper bound operand: AttributeValue: {N:4}",
                "lower bound operand: AttributeValue: {…}",
            ),
            (
                "Value 'john' for parameter MessageGroupId is invalid. Reason: x.",
                "Value … for parameter MessageGroupId is invalid. Reason: x.",
            ),
            ("Value john alue ' for parameter A is invalid", "Value … for parameter A is invalid"),
            ("Value 'john for parameter b' at 'c' failed", "Value '…' at 'c' failed"),
            ("operand: AttributeValue: {S:john", "operand: AttributeValue: {…"),
            ("Value is too long", "Value is too long"),
            (
                "User: arn:aws:iam::1:user/a is not authorized to perform: dynamodb:PutItem on resource: 'b' at 'c'",
                "User: arn:aws:iam::1:user/a is not authorized to perform: dynamodb:PutItem on resource: 'b' at 'c'",
            ),
        ] {
            assert_eq!(without_values(message), left);
        }
        for (code, told) in [(Some("ValidationException"), "ValidationException"), (None, "no code")] {
            let meta = ErrorMetadata::builder().message("Value 'john' at 'name'");
            let meta = code.into_iter().fold(meta, |meta, code| meta.code(code)).build();
            let response = HttpResponse::new(400.try_into().unwrap(), SdkBody::empty());
            let error = AwsError::from(SdkError::service_error(PutItemError::generic(meta), response));
            assert_eq!(error.to_string(), format!("AWS refused: {told}: Value '…' at 'name'"));
        }
    }
}

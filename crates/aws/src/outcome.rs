//! How a request to AWS ended.

use aws_smithy_runtime_api::client::{
    interceptors::context::FinalizerInterceptorContextRef, orchestrator::HttpResponse,
};
use serde::Deserialize;

use crate::AwsError;

/// How one attempt at a call to AWS ended: the label `outcome` of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was done.
    Ok,
    /// A condition did not hold, or another transaction was at the same item: the ordinary end of a race.
    Conflict,
    /// AWS asks for fewer requests.
    Throttled,
    /// AWS refused it for another reason: permissions, a missing table, a bad parameter, an iterator that has expired.
    Refused,
    /// AWS answered that it is out of order, or something that is no reply.
    Failed,
    /// There was no reply in time. Whether it took effect is unknown.
    TimedOut,
    /// There was no connection, or it broke. Whether it took effect is unknown.
    Unreachable,
    /// The caller dropped the call, or the time for the call with its retries was over. Whether it took effect is
    /// unknown.
    GivenUp,
}

impl Outcome {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::Ok,
        Self::Conflict,
        Self::Throttled,
        Self::Refused,
        Self::Failed,
        Self::TimedOut,
        Self::Unreachable,
        Self::GivenUp,
    ];

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Conflict => "conflict",
            Self::Throttled => "throttled",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::GivenUp => "given_up",
        }
    }

    /// Whether AWS reported its outcome. Without a report, the request may have taken effect, or may do so later.
    pub(crate) fn is_answer(self) -> bool {
        match self {
            Self::Ok | Self::Conflict | Self::Throttled | Self::Refused => true,
            Self::Failed | Self::TimedOut | Self::Unreachable | Self::GivenUp => false,
        }
    }

    /// How the attempt ended that has just been made.
    pub(crate) fn of(attempt: &FinalizerInterceptorContextRef<'_>) -> Self {
        match attempt.output_or_error() {
            Some(Ok(_)) => Self::Ok,
            Some(Err(error)) if error.is_timeout_error() => Self::TimedOut,
            Some(Err(error)) if error.as_connector_error().is_some_and(|error| error.is_timeout()) => {
                Self::TimedOut
            }
            Some(Err(error)) if error.is_connector_error() => Self::Unreachable,
            Some(Err(_)) | None => attempt.response().map_or(Self::Failed, Self::of_refusal),
        }
    }

    /// The outcome that an error response stands for.
    fn of_refusal(response: &HttpResponse) -> Self {
        let refusal = response.body().bytes().and_then(|body| serde_json::from_slice(body).ok());
        let refusal: Refusal = refusal.unwrap_or_default();
        let status = response.status().as_u16();
        match refusal.code() {
            "TransactionCanceledException" => Self::of_cancelled(&refusal.reasons),
            "ConditionalCheckFailedException"
            | "TransactionConflictException"
            | "TransactionInProgressException" => Self::Conflict,
            code if AwsError::is_throttling(code) => Self::Throttled,
            _ if status == 429 => Self::Throttled,
            _ if (400..500).contains(&status) => Self::Refused,
            _ => Self::Failed,
        }
    }

    /// The reasons of a cancelled transaction (DynamoDB API Reference, TransactionCanceledException).
    fn of_cancelled(reasons: &[Reason]) -> Self {
        let any = |is: fn(&str) -> bool| reasons.iter().any(|reason| is(&reason.code));
        if any(|code| matches!(code, "ConditionalCheckFailed" | "TransactionConflict")) {
            Self::Conflict
        } else if any(|code| code == "ProvisionedThroughputExceeded" || AwsError::is_throttling(code)) {
            Self::Throttled
        } else {
            Self::Refused
        }
    }
}

/// The fields read of an error response in AWS's JSON protocols. The rest stays unread: it may hold an item.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    #[serde(rename = "__type")]
    kind: String,
    #[serde(rename = "CancellationReasons")]
    reasons: Vec<Reason>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reason {
    #[serde(rename = "Code")]
    code: String,
}

impl Refusal {
    /// The error's code, without the namespace before it and the place after it that some services add (Smithy, "AWS
    /// JSON 1.0 protocol", "Operation error serialization").
    fn code(&self) -> &str {
        let code = self.kind.rsplit('#').next().unwrap_or_default();
        code.split(':').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use aws_smithy_types::body::SdkBody;

    use super::*;

    fn answered(status: u16, body: &str) -> Outcome {
        Outcome::of_refusal(&HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body)))
    }

    #[test]
    fn a_refusal_is_sorted_by_its_code_and_then_by_its_status() {
        let typed = |kind: &str| answered(400, &format!(r#"{{"__type":"{kind}","message":"x"}}"#));
        assert_eq!(
            typed("com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException"),
            Outcome::Conflict
        );
        assert_eq!(
            typed("com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"),
            Outcome::Throttled
        );
        assert_eq!(typed("com.amazonaws.sqs#OverLimit"), Outcome::Throttled);
        assert_eq!(typed("ThrottlingException:http://internal/"), Outcome::Throttled);
        assert_eq!(typed("AccessDeniedException"), Outcome::Refused);
        assert_eq!(answered(429, "slow down"), Outcome::Throttled);
        assert_eq!(answered(503, "<html>"), Outcome::Failed);
        assert_eq!(answered(403, ""), Outcome::Refused);
        assert_eq!(answered(200, "no json"), Outcome::Failed);
    }

    #[test]
    fn a_cancelled_transaction_is_sorted_by_its_reasons() {
        let cancelled = |codes: &str| {
            answered(
                400,
                &format!(r#"{{"__type":"TransactionCanceledException","CancellationReasons":[{codes}]}}"#),
            )
        };
        assert_eq!(
            cancelled(
                r#"{"Code":"None"},{"Code":"ConditionalCheckFailed","Item":{"Email":{"S":"a@b.example"}}}"#
            ),
            Outcome::Conflict
        );
        assert_eq!(cancelled(r#"{"Code":"ThrottlingError","Message":"x"}"#), Outcome::Throttled);
        assert_eq!(cancelled(r#"{"Code":"ValidationError"}"#), Outcome::Refused);
    }
}

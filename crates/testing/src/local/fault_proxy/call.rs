//! Requests of an SDK, and the errors that AWS answers to them.

use hyper::{
    HeaderMap, Response, StatusCode,
    body::Bytes,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
    http::request,
};

use super::faults::Throttling;

/// By this header SQS repeats the code of an error; SDKs believe it before the body.
const QUERY_ERROR: HeaderName = HeaderName::from_static("x-amzn-query-error");

/// A request of an SDK.
pub(super) struct Call {
    /// The service and the version of its protocol, as `DynamoDB_20120810`.
    pub(super) service: String,
    pub(super) operation: String,
    pub(super) head: request::Parts,
    pub(super) body: Bytes,
}

/// The services whose errors are known here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Service {
    DynamoDb,
    Streams,
    EventBridge,
    Sqs,
    Other,
}

impl Call {
    pub(super) fn new(head: request::Parts, body: Bytes) -> Self {
        let target = head.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
        let (service, operation) =
            target.and_then(|target| target.rsplit_once('.')).unwrap_or(("", "unknown"));
        Self { service: service.to_owned(), operation: operation.to_owned(), head, body }
    }

    /// The same call with another body.
    pub(super) fn with(&self, body: Bytes) -> Self {
        let (service, operation) = (self.service.clone(), self.operation.clone());
        Self { service, operation, head: self.head.clone(), body }
    }

    /// AWS asks for fewer calls. The codes are those of the API References: the operation's own error where there is
    /// one, else the common one.
    pub(super) fn throttled(&self, throttling: Throttling) -> Response<Bytes> {
        use Throttling::{ProvisionedThroughputExceeded, RequestLimitExceeded, Throttling as TooMany};

        let code = match (self.service(), throttling) {
            (Service::DynamoDb, ProvisionedThroughputExceeded) => "ProvisionedThroughputExceededException",
            (Service::DynamoDb, RequestLimitExceeded) => "RequestLimitExceeded",
            (Service::Streams, ProvisionedThroughputExceeded) => "LimitExceededException",
            (Service::Sqs, ProvisionedThroughputExceeded | RequestLimitExceeded) => "RequestThrottled",
            (Service::DynamoDb | Service::Sqs, TooMany)
            | (Service::Streams, TooMany | RequestLimitExceeded)
            | (Service::EventBridge | Service::Other, _) => "ThrottlingException",
        };
        self.error(StatusCode::BAD_REQUEST, code)
    }

    /// AWS is out of order.
    pub(super) fn server_error(&self) -> Response<Bytes> {
        let code = match self.service() {
            Service::DynamoDb | Service::Streams => "InternalServerError",
            Service::EventBridge => "InternalException",
            Service::Sqs | Service::Other => "InternalFailure",
        };
        self.error(StatusCode::INTERNAL_SERVER_ERROR, code)
    }

    /// An error as AWS words it in its JSON protocols.
    fn error(&self, status: StatusCode, code: &str) -> Response<Bytes> {
        let kind = match self.service() {
            // Both share a namespace.
            Service::DynamoDb | Service::Streams => format!("com.amazonaws.dynamodb.v20120810#{code}"),
            Service::Sqs => format!("com.amazonaws.sqs#{code}"),
            Service::EventBridge | Service::Other => code.to_owned(),
        };
        let body = serde_json::json!({ "__type": kind, "message": "injected by a test" }).to_string();
        let mut error = Response::new(Bytes::from(body));
        *error.status_mut() = status;
        error.headers_mut().insert(CONTENT_TYPE, self.content_type());
        if self.service() == Service::Sqs {
            let fault = if status.is_server_error() { "Receiver" } else { "Sender" };
            let value = HeaderValue::from_str(&format!("{code};{fault}"));
            error.headers_mut().extend(value.ok().map(|value| (QUERY_ERROR, value)));
        }
        error
    }

    /// The reply to a batch of which nothing was left to send.
    pub(super) fn empty_reply(&self) -> Response<Bytes> {
        let mut reply = Response::new(Bytes::from_static(b"{}"));
        *reply.headers_mut() = HeaderMap::from_iter([(CONTENT_TYPE, self.content_type())]);
        reply
    }

    fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static(match self.service() {
            Service::EventBridge => "application/x-amz-json-1.1",
            Service::DynamoDb | Service::Streams | Service::Sqs | Service::Other => {
                "application/x-amz-json-1.0"
            }
        })
    }

    fn service(&self) -> Service {
        match self.service.split('_').next().unwrap_or_default() {
            "DynamoDB" => Service::DynamoDb,
            "DynamoDBStreams" => Service::Streams,
            "AWSEvents" => Service::EventBridge,
            "AmazonSQS" => Service::Sqs,
            _ => Service::Other,
        }
    }
}

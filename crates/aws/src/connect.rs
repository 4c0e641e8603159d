//! Clients with time-outs and retries chosen on purpose.

use std::time::Duration;

use aws_config::{
    BehaviorVersion, SdkConfig, retry::RetryConfig, stalled_stream_protection::StalledStreamProtectionConfig,
    timeout::TimeoutConfig,
};

use crate::{Requests, traced::Traced};

/// Attempts of one call, the first among them.
const ATTEMPTS: u32 = 3;

/// The longest that one attempt of a bulk call may take, and that all of them may: a page of a megabyte over a slow line
/// is not lost yet. Less than the time a process has to end in, since the process waits for them.
const BULK_ATTEMPT: Duration = Duration::from_secs(10);
const BULK_OPERATION: Duration = Duration::from_secs(15);

/// The environment names no region.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("no AWS region is known: set AWS_REGION, or a region in the profile that AWS_PROFILE names")]
pub struct NoRegion;

/// Access to AWS: makes clients that share time-outs, retries and a count of requests.
///
/// Retries are the SDK's standard mode, three attempts in all: its token bucket stops retrying when most calls fail, so
/// an outage of AWS does not triple the load. The adaptive mode delays calls inside the client when AWS throttles; an
/// immediate error serves callers better.
#[derive(Debug, Clone)]
pub struct Aws {
    config: SdkConfig,
    attempt: Duration,
    requests: Requests,
}

impl Aws {
    /// The longest that one attempt of a call may take, unless a setting says otherwise. DynamoDB answers a small request
    /// within milliseconds, so an attempt of two seconds is lost.
    pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

    /// Access by the environment, read as every AWS SDK reads it. One attempt of a call may take `attempt`, a call with
    /// its retries three times as long, and a connection half of it.
    ///
    /// # Errors
    /// If no region is known: nothing could be called.
    pub async fn from_env(attempt: Duration) -> Result<Self, NoRegion> {
        let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
        config.region().filter(|region| !region.as_ref().is_empty()).ok_or(NoRegion)?;
        Ok(Self::new(config, attempt))
    }

    /// Access by a given configuration, whose time-outs and retries are replaced: see [`Aws::from_env`].
    pub fn new(config: SdkConfig, attempt: Duration) -> Self {
        let config = config
            .into_builder()
            // Every attempt ends in time, its reply's body included, and long before this watch over bodies would have
            // acted (after 20 s): it is only work for every request.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(timeouts(attempt, attempt, attempt * ATTEMPTS))
            .retry_config(
                RetryConfig::standard()
                    .with_max_attempts(ATTEMPTS)
                    .with_initial_backoff(Duration::from_millis(25)),
            )
            .build();
        Self { config, attempt, requests: Requests::default() }
    }

    /// The count of all requests that this access, its clones and their clients have sent.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// A client for DynamoDB.
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        let config = aws_sdk_dynamodb::config::Builder::from(&self.config)
            .interceptor(self.requests.clone())
            .interceptor(Traced)
            .build();
        aws_sdk_dynamodb::Client::from_conf(config)
    }

    /// A client for DynamoDB with longer time-outs: for scans of whole tables with no caller waiting.
    pub fn dynamodb_in_bulk(&self) -> aws_sdk_dynamodb::Client {
        let operation = (self.attempt * ATTEMPTS).max(BULK_OPERATION);
        let timeouts = timeouts(self.attempt, self.attempt.max(BULK_ATTEMPT), operation);
        let config = aws_sdk_dynamodb::config::Builder::from(&self.config)
            .timeout_config(timeouts)
            .interceptor(self.requests.clone())
            .interceptor(Traced)
            .build();
        aws_sdk_dynamodb::Client::from_conf(config)
    }

    /// A client for DynamoDB Streams.
    pub fn streams(&self) -> aws_sdk_dynamodbstreams::Client {
        let config = aws_sdk_dynamodbstreams::config::Builder::from(&self.config)
            .interceptor(self.requests.clone())
            .interceptor(Traced)
            .build();
        aws_sdk_dynamodbstreams::Client::from_conf(config)
    }

    /// A client for EventBridge.
    pub fn eventbridge(&self) -> aws_sdk_eventbridge::Client {
        let config = aws_sdk_eventbridge::config::Builder::from(&self.config)
            .interceptor(self.requests.clone())
            .interceptor(Traced)
            .build();
        aws_sdk_eventbridge::Client::from_conf(config)
    }

    /// A client for SQS whose receives may wait `long_poll` for messages, on top of the ordinary time-out.
    pub fn sqs(&self, long_poll: Duration) -> aws_sdk_sqs::Client {
        let timeouts = timeouts(self.attempt, self.attempt + long_poll, self.attempt * ATTEMPTS + long_poll);
        let config = aws_sdk_sqs::config::Builder::from(&self.config)
            .timeout_config(timeouts)
            .interceptor(self.requests.clone())
            .interceptor(Traced)
            .build();
        aws_sdk_sqs::Client::from_conf(config)
    }
}

/// Time-outs of an attempt and an operation. Connecting may take half of an ordinary attempt.
fn timeouts(ordinary: Duration, attempt: Duration, operation: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(ordinary / 2)
        .operation_attempt_timeout(attempt)
        .operation_timeout(operation)
        .build()
}

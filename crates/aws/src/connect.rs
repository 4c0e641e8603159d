//! Clients with time-outs and retries chosen on purpose.

use std::time::Duration;

use aws_config::{
    BehaviorVersion, SdkConfig, retry::RetryConfig, stalled_stream_protection::StalledStreamProtectionConfig,
    timeout::TimeoutConfig,
};

use crate::{Requests, traced::Traced};

/// The longest that one attempt of a call may take. DynamoDB answers a small request in some milliseconds, so an
/// attempt that took two seconds is lost.
const ATTEMPT: Duration = Duration::from_secs(2);

/// The longest that a call may take with its retries.
const OPERATION: Duration = Duration::from_secs(6);

/// The same for calls that read whole tables: a page of a megabyte over a slow line, or from a slow emulator, is not
/// lost yet.
const BULK_ATTEMPT: Duration = Duration::from_secs(10);

/// The same for such calls with their retries. Less than a process has to end in, which waits for them.
const BULK_OPERATION: Duration = Duration::from_secs(15);

/// The longest that setting up a connection may take.
const CONNECT: Duration = Duration::from_secs(1);

/// The environment names no region.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("no AWS region is known: set AWS_REGION, or a region in the profile that AWS_PROFILE names")]
pub struct NoRegion;

/// Access to AWS: makes clients that share time-outs, retries and a count of requests.
///
/// Retries are the SDK's standard mode, three attempts in all: its token bucket stops retrying when most calls fail, so
/// an outage of AWS does not triple the load. Not the adaptive mode: that holds calls back inside the client when AWS
/// throttles, where a caller is better told at once.
#[derive(Debug, Clone)]
pub struct Aws {
    config: SdkConfig,
    requests: Requests,
}

impl Aws {
    /// Access by the environment, read as every AWS SDK reads it.
    ///
    /// Fails where no region is known: nothing could be called.
    pub async fn from_env() -> Result<Self, NoRegion> {
        let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
        config.region().ok_or(NoRegion)?;
        Ok(Self::new(config))
    }

    /// Access by a given configuration, whose time-outs and retries are replaced.
    pub fn new(config: SdkConfig) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(ATTEMPT)
            .operation_timeout(OPERATION)
            .build();
        let config = config
            .into_builder()
            // Every attempt ends in time, its reply's body included, and long before this watch over bodies would have
            // acted (after 20 s): it is only work for every request.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(timeouts)
            .retry_config(
                RetryConfig::standard().with_max_attempts(3).with_initial_backoff(Duration::from_millis(25)),
            )
            .build();
        Self { config, requests: Requests::default() }
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

    /// A client for DynamoDB that reads it by the megabyte: for one who reads whole tables and has nobody waiting.
    pub fn dynamodb_in_bulk(&self) -> aws_sdk_dynamodb::Client {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(BULK_ATTEMPT)
            .operation_timeout(BULK_OPERATION)
            .build();
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

    /// A client for SQS whose receiving may wait `long_poll` for messages, on top of what any call may take.
    pub fn sqs(&self, long_poll: Duration) -> aws_sdk_sqs::Client {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(ATTEMPT + long_poll)
            .operation_timeout(OPERATION + long_poll)
            .build();
        let config = aws_sdk_sqs::config::Builder::from(&self.config)
            .timeout_config(timeouts)
            .interceptor(self.requests.clone())
            .interceptor(Traced)
            .build();
        aws_sdk_sqs::Client::from_conf(config)
    }
}

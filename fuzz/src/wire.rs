//! AWS as a target needs it: the target sets the reply to every request.
//!
//! Stored items come to Millrace in replies of AWS, so the hostile bytes are put there: behind the services' clients,
//! and no part of the services has to be opened for it.

use std::{
    collections::VecDeque,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_smithy_runtime_api::{
    client::{
        http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
        orchestrator::{HttpRequest, HttpResponse},
        runtime_components::RuntimeComponents,
    },
    http::StatusCode,
};
use aws_smithy_types::body::SdkBody;
use millrace_aws::Aws;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

/// One thread, on which time passes only where everybody waits: a call that waits for AWS to become better costs nothing.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime")
});

static PLAYED: LazyLock<Played> = LazyLock::new(|| {
    let wire = Wire::default();
    let loading = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new("fuzz", "fuzz", None, None, "fuzz"))
        .endpoint_url("http://localhost:1")
        .http_client(wire.clone())
        .load();
    let aws = Aws::new(run(loading), Aws::ATTEMPT_TIMEOUT);
    Played { wire, dynamodb: aws.dynamodb(), streams: aws.streams(), aws }
});

/// An AWS that is played, and the clients that are led to it.
pub(crate) struct Played {
    pub(crate) wire: Wire,
    pub(crate) aws: Aws,
    pub(crate) dynamodb: aws_sdk_dynamodb::Client,
    pub(crate) streams: aws_sdk_dynamodbstreams::Client,
}

/// Runs to its end.
pub(crate) fn run<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// The one that there is.
pub(crate) fn played() -> &'static Played {
    &PLAYED
}

/// The replies, and the last request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wire(Arc<Mutex<Said>>);

#[derive(Debug, Default)]
struct Said {
    /// One for each request; the last one for all that follow.
    answers: VecDeque<Vec<u8>>,
    asked: Vec<u8>,
}

impl Wire {
    /// Answers every request from now on with these bytes.
    pub(crate) fn answer(&self, answer: &Value) {
        self.answer_in_turn([answer]);
    }

    /// Answers a request with each of these, and all further ones with the last.
    pub(crate) fn answer_in_turn<'a>(&self, answers: impl IntoIterator<Item = &'a Value>) {
        self.said().answers = answers.into_iter().map(|answer| answer.to_string().into_bytes()).collect();
    }

    /// The body of the last request.
    pub(crate) fn asked(&self) -> Value {
        serde_json::from_slice(&self.said().asked).expect("the SDK's requests to DynamoDB and SQS are JSON")
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let mut said = self.said();
        said.asked = request.body().bytes().unwrap_or_default().to_vec();
        let answer = match said.answers.len() {
            0 | 1 => said.answers.front().cloned(),
            _ => said.answers.pop_front(),
        };
        let ok = StatusCode::try_from(200).expect("a status");
        HttpConnectorFuture::ready(Ok(HttpResponse::new(ok, SdkBody::from(answer.unwrap_or_default()))))
    }
}

impl HttpClient for Wire {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

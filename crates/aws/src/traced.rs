//! Calls to AWS as spans.

use std::sync::{Mutex, PoisonError};

use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{
            Intercept,
            context::{BeforeSerializationInterceptorContextRef, FinalizerInterceptorContextRef},
            dyn_dispatch_hint,
        },
        orchestrator::Metadata,
        retries::RequestAttempts,
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};
use millrace_telemetry::{Kind, Span, current};

/// Records each call within a span, with its attempts, as a child of that span: the name of the operation and its
/// outcome, and no data sent or received. Calls outside of any span, such as long polls and lease reads, belong to no
/// trace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traced;

/// The span of a call under way. Dropping the call drops it.
#[derive(Debug)]
struct UnderWay(Mutex<Span>);

impl Storable for UnderWay {
    type Storer = StoreReplace<Self>;
}

#[dyn_dispatch_hint]
impl Intercept for Traced {
    fn name(&self) -> &'static str {
        "Traced"
    }

    // Not before the execution: a client's interceptors are asked then before the operation has a name.
    fn read_before_serialization(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(parent) = current().filter(|parent| parent.is_sampled()) else { return Ok(()) };
        let (service, operation) =
            cfg.load::<Metadata>().map_or(("AWS", "unknown"), |call| (call.service(), call.name()));
        let mut span =
            Span::start(parent.child(), Some(parent), Kind::Client, || format!("{service}.{operation}"));
        if !span.is_recorded() {
            return Ok(());
        }
        span.describe(|span| {
            span.set("rpc.system.name", "aws-api");
            span.set("rpc.method", format!("{service}/{operation}"));
            if service == "DynamoDB" {
                span.set("db.system.name", "aws.dynamodb");
                span.set("db.operation.name", operation.to_owned());
            }
            // Remains if the caller drops the call before the answer.
            span.fail("cancelled");
        });
        cfg.interceptor_state().store_put(UnderWay(Mutex::new(span)));
        Ok(())
    }

    fn read_after_execution(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(UnderWay(span)) = cfg.load::<UnderWay>() else { return Ok(()) };
        let mut span = std::mem::take(&mut *span.lock().unwrap_or_else(PoisonError::into_inner));
        let attempts = cfg.load::<RequestAttempts>().map_or(0, RequestAttempts::attempts);
        let status = context.response().map(|response| response.status().as_u16());
        span.describe(|span| {
            if attempts > 1 {
                span.set("http.request.resend_count", i64::from(attempts - 1));
            }
            if let Some(status) = status {
                span.set("http.response.status_code", i64::from(status));
            }
            match context.output_or_error() {
                Some(Ok(_)) => span.succeed(),
                Some(Err(error)) if error.is_timeout_error() => span.fail("timeout"),
                Some(Err(error)) if error.is_connector_error() => span.fail("connection"),
                // The code is in the answer, beside the item that a condition failed on: not for a trace.
                Some(Err(_)) | None => span.fail(status.map_or("failed".to_owned(), |code| code.to_string())),
            }
        });
        Ok(())
    }
}

//! Deadlines of calls.

use std::time::Duration;

use http::{Request, Response};
use tokio::time::timeout_at;
use tonic::{Status, body::Body};

use super::{EdgeCall, Layer, Next};
use crate::{Failure, call::Deadline};

/// The longest that a call may take, whatever deadline its caller set: each call holds one of the slots that all
/// callers share. Streaming replies may go on.
const MAX_CALL: Duration = Duration::from_secs(30);

/// The longest time-out of a stream that is honoured: one of 99,999,999 hours counts as none.
const MAX_STREAM: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Ends a call at its deadline, and puts the deadline into the request's extensions.
pub(super) struct DeadlineLayer;

impl Layer for DeadlineLayer {
    async fn around<N: Next>(&self, mut call: EdgeCall, next: N) -> Response<Body> {
        let timeout = caller_timeout(&call.request);
        let end = call.arrived + timeout.unwrap_or(MAX_CALL).min(MAX_CALL);
        if let Some(timeout) = timeout {
            let of_caller = call.arrived + timeout.min(MAX_STREAM);
            call.request.extensions_mut().insert(Deadline { of_call: end, of_caller });
        }
        match timeout_at(end, next.run(call)).await {
            Ok(response) => response,
            Err(_) => Status::from(Failure::DeadlineExceeded).into_http(),
        }
    }
}

/// How long the caller waits: `grpc-timeout`, at most eight digits and a unit (gRPC over HTTP/2, "Requests").
pub(crate) fn caller_timeout<B>(request: &Request<B>) -> Option<Duration> {
    let text = request.headers().get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;
    use tonic::Code;

    use super::{
        super::testing::{WORK, call, request, status},
        *,
    };

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_at_its_deadline_and_no_later_than_any_call_may() {
        for (headers, end) in [
            (&[][..], MAX_CALL),
            (&[("grpc-timeout", "99999999H")], MAX_CALL),
            (&[("grpc-timeout", "50m")], Duration::from_millis(50)),
        ] {
            let (started, call) = (Instant::now(), call(request(WORK, headers)));
            // A call that is polled late has no more time for it.
            tokio::time::advance(Duration::from_millis(20)).await;
            let response = DeadlineLayer.around(call, async |_| std::future::pending().await);
            let status = status(&response.await);
            assert_eq!((status.code(), started.elapsed()), (Code::DeadlineExceeded, end));
        }
    }

    #[test]
    fn a_timeout_is_at_most_eight_digits_and_a_unit() {
        let timeout = |text| caller_timeout(&request(WORK, &[("grpc-timeout", text)]));
        assert_eq!(timeout("2S"), Some(Duration::from_secs(2)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for text in ["", "S", "2", "2x", "-2S", "123456789S", "2 S"] {
            assert_eq!(timeout(text), None, "{text}");
        }
    }
}

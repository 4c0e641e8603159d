//! The caller of a request.

use millrace_core::TenantId;
use tokio::time::Instant;
use tonic::Request;

pub use crate::identity::tenant::TENANT_KEY;
use crate::{
    Failure, TraceParent,
    identity::{AuthError, authenticator::Identity, tenant::named_tenant},
};

/// The caller, the trace, and the deadline of a request.
#[derive(Debug, Clone)]
pub struct Call {
    /// The caller's tenant.
    pub tenant: TenantId,
    /// The trace that the call belongs to, with the server's own span.
    pub trace: TraceParent,
    /// When the caller stops waiting, or the server ends the call if that is sooner; `None` if the caller set no
    /// deadline.
    pub deadline: Option<Instant>,
    /// When a streaming reply has to end; `None` where it need not.
    pub end_of_stream: Option<EndOfStream>,
}

/// The time and the reason of a streaming reply's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndOfStream {
    /// The caller's deadline, however late.
    Deadline(Instant),
    /// The expiry of the caller's token.
    Token(Instant),
}

impl EndOfStream {
    /// The time of the end.
    pub fn at(self) -> Instant {
        match self {
            Self::Deadline(at) | Self::Token(at) => at,
        }
    }

    /// The caller's error at that time.
    pub fn failure(self) -> Failure {
        match self {
            Self::Deadline(_) => Failure::DeadlineExceeded,
            Self::Token(_) => AuthError::Expired.into(),
        }
    }
}

/// The caller's deadline, put into the request's extensions at the edge.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    /// The server's deadline for the call.
    pub(crate) of_call: Instant,
    /// The deadline that the caller set.
    pub(crate) of_caller: Instant,
}

impl Call {
    /// Reads the caller from the edge's extensions and the request's metadata. Where callers are authenticated, the
    /// tenant is the token's; elsewhere it is the one that the request names, and a tenant that is not well-formed, or
    /// named twice, is refused.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Failure> {
        let identity = request.extensions().get::<Identity>();
        let tenant = match identity {
            Some(known) => known.tenant.clone().ok_or(AuthError::NotOpen)?,
            None => named_tenant(request.metadata().as_ref())?.unwrap_or_default(),
        };
        let deadline = request.extensions().get::<Deadline>();
        let of_caller = deadline.map(|deadline| EndOfStream::Deadline(deadline.of_caller));
        let of_token = identity.and_then(|known| known.expires).map(EndOfStream::Token);
        Ok(Self {
            tenant,
            trace: TraceParent::current(),
            deadline: deadline.map(|deadline| deadline.of_call),
            end_of_stream: of_caller.into_iter().chain(of_token).min_by_key(|end| end.at()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn with_tenants(tenants: &[&'static str]) -> Request<()> {
        let mut request = Request::new(());
        for tenant in tenants {
            request.metadata_mut().append(TENANT_KEY, tenant.parse().unwrap());
        }
        request
    }

    #[test]
    fn a_caller_without_a_tenant_is_the_default_tenant() {
        assert_eq!(Call::of(&with_tenants(&[])).unwrap().tenant.as_str(), "default");
        assert_eq!(Call::of(&with_tenants(&["acme"])).unwrap().tenant.as_str(), "acme");
    }

    #[test]
    fn a_bad_tenant_or_two_of_them_are_refused() {
        for tenants in [&["ACME"][..], &[""], &["a#b"], &["a", "b"], &["a", "a"]] {
            assert!(
                matches!(Call::of(&with_tenants(tenants)), Err(Failure::InvalidArgument(_))),
                "{tenants:?}"
            );
        }
    }

    fn known(tenant: Option<&str>, expires: Option<Instant>) -> Identity {
        Identity { tenant: tenant.map(|name| name.parse().unwrap()), expires }
    }

    #[test]
    fn a_known_callers_tenant_is_not_what_the_request_says() {
        let mut request = with_tenants(&["acme"]);
        request.extensions_mut().insert(known(Some("other"), None));
        assert_eq!(Call::of(&request).unwrap().tenant.as_str(), "other");
        request.extensions_mut().insert(known(None, None));
        assert!(matches!(Call::of(&request), Err(Failure::Auth(AuthError::NotOpen))));
    }

    #[tokio::test]
    async fn a_stream_ends_with_the_token_or_the_deadline() {
        let now = Instant::now();
        let (sooner, later) = (now + Duration::from_secs(1), now + Duration::from_secs(2));
        for (expires, of_caller, end) in [
            (Some(sooner), None, Some(EndOfStream::Token(sooner))),
            (Some(sooner), Some(later), Some(EndOfStream::Token(sooner))),
            (Some(later), Some(sooner), Some(EndOfStream::Deadline(sooner))),
            (None, Some(sooner), Some(EndOfStream::Deadline(sooner))),
            (None, None, None),
        ] {
            let mut request = Request::new(());
            request.extensions_mut().insert(known(Some("acme"), expires));
            if let Some(of_caller) = of_caller {
                request.extensions_mut().insert(Deadline { of_call: now, of_caller });
            }
            assert_eq!(Call::of(&request).unwrap().end_of_stream, end);
        }
    }
}

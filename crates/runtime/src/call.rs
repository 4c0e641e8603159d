//! What a request says of its caller.

use millrace_domain::TenantId;
use tokio::time::Instant;
use tonic::Request;

use crate::{Failure, TraceParent};

/// The metadata key that names the tenant.
pub const TENANT_KEY: &str = "x-tenant-id";

/// Who calls, in which trace, and until when an answer is of use.
#[derive(Debug, Clone)]
pub struct Call {
    /// The caller's tenant.
    pub tenant: TenantId,
    /// The trace that the call belongs to, with the server's own span.
    pub trace: TraceParent,
    /// When the caller stops waiting, or the edge ends the call if that is sooner; `None` where the caller did not say.
    pub deadline: Option<Instant>,
    /// When the caller stops waiting, however long that may be: the end of a reply that goes on.
    pub end_of_stream: Option<Instant>,
}

/// The caller's deadline, put into the request's extensions at the edge.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    /// As far as the edge lets the call go on.
    pub(crate) of_call: Instant,
    /// As the caller said it.
    pub(crate) of_caller: Instant,
}

impl Call {
    /// Reads a request's metadata. A tenant that is not well-formed, or named twice, is refused.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Failure> {
        let mut tenants = request.metadata().get_all(TENANT_KEY).iter();
        let tenant = match (tenants.next(), tenants.next()) {
            (None, _) => Ok(TenantId::default()),
            (Some(tenant), None) => {
                tenant.to_str().map_err(|_| ()).and_then(|text| text.parse().map_err(|_| ()))
            }
            (Some(_), Some(_)) => Err(()),
        };
        let deadline = request.extensions().get::<Deadline>();
        Ok(Self {
            tenant: tenant
                .map_err(|()| Failure::invalid(TENANT_KEY, "must be 1 to 64 of a-z, 0-9 and -, once"))?,
            trace: TraceParent::current(),
            deadline: deadline.map(|deadline| deadline.of_call),
            end_of_stream: deadline.map(|deadline| deadline.of_caller),
        })
    }
}

#[cfg(test)]
mod tests {
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
}

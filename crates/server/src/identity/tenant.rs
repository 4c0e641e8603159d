//! The tenant that a request names.

use http::HeaderMap;
use millrace_core::TenantId;

use crate::Failure;

/// The metadata key that names the tenant.
pub const TENANT_KEY: &str = "x-tenant-id";

/// The tenant that a request names, if it names one.
pub(crate) fn named_tenant(headers: &HeaderMap) -> Result<Option<TenantId>, Failure> {
    let mut tenants = headers.get_all(TENANT_KEY).iter();
    let tenant = match (tenants.next(), tenants.next()) {
        (None, _) => return Ok(None),
        (Some(tenant), None) => tenant.to_str().ok().and_then(|text| text.parse().ok()),
        (Some(_), Some(_)) => None,
    };
    match tenant {
        Some(tenant) => Ok(Some(tenant)),
        None => Err(Failure::invalid(TENANT_KEY, "must be 1 to 64 of a-z, 0-9 and -, once")),
    }
}

//! For the fuzz targets, which are outside of the crate: the readers of calls before any service, and of the files
//! about callers. Nobody else uses them by themselves. Compiled only with `cfg(fuzzing)`, which cargo-fuzz sets.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request};
use jsonwebtoken::Algorithm;
use millrace_core::TenantId;
use serde_json::{Map, Value};

use crate::{
    edge::caller_timeout,
    identity::{
        AuthError, COMMANDS_WRITE,
        keys::KeySet,
        rules::{Need, Rules},
        token::{Unverified, bearer},
    },
    tls,
};

/// The issuer, the audience, the tenant's claim and the scopes' claim in the rules of [`admit`].
pub const RULES: [&str; 4] = ["issuer", "audience", "tenant", "scope"];

/// The clock difference that [`admit`] allows.
pub const LEEWAY: Duration = Duration::from_secs(60);

/// How long a caller with this `grpc-timeout` waits.
pub fn timeout(timeout: &[u8]) -> Option<Duration> {
    let mut request = Request::new(());
    request.headers_mut().insert("grpc-timeout", HeaderValue::from_bytes(timeout).ok()?);
    caller_timeout(&request)
}

/// How many keys a set has, if it is valid. Panics if a key would verify a signature that anybody can make.
pub fn keys(set: &[u8]) -> Option<usize> {
    let set = KeySet::parse(set).ok()?;
    for symmetric in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        assert!(set.find(None, symmetric).is_none(), "a public key is no secret");
    }
    Some(set.len())
}

/// The claims of a token in these values of `authorization`, if it is signed with a key of the set.
pub fn claims(authorization: &[&[u8]], set: &[u8]) -> Result<Map<String, Value>, AuthError> {
    let mut headers = HeaderMap::new();
    for value in authorization {
        // A server rejects an invalid header value earlier.
        headers.append("authorization", HeaderValue::from_bytes(value).map_err(|_| AuthError::Malformed)?);
    }
    let keys = KeySet::parse(set).map_err(|_| AuthError::NoKeys)?;
    let token = Unverified::read(bearer(&headers)?, &[Algorithm::ES256, Algorithm::RS256, Algorithm::EdDSA])?;
    let key = keys.find(token.key_id(), token.algorithm()).ok_or(AuthError::UnknownKey)?;
    token.verify(key)
}

/// The tenant of a caller of commands with these claims, at a time since 1970.
pub fn admit(claims: &Map<String, Value>, now: Duration) -> Result<TenantId, AuthError> {
    let [issuer, audience, tenant, scope] = RULES.map(str::to_owned);
    let rules = Rules {
        issuer,
        audiences: vec![audience],
        leeway: LEEWAY,
        tenant_claim: tenant,
        scope_claim: scope,
        default_tenant: None,
    };
    let caller = rules.admit(claims, Need::Scope(COMMANDS_WRITE), now)?;
    caller.tenant.ok_or(AuthError::NoTenant)
}

/// Whether a server could use these files in PEM.
pub fn pem(chain: &[u8], key: &[u8], client_authorities: Option<&[u8]>) -> bool {
    tls::of_pem(chain, key, client_authorities).is_ok()
}

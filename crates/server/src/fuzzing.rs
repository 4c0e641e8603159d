//! What reads a call before any service sees it, and what reads the files that decide on callers, for the fuzz targets:
//! these stand outside of the crate, and nobody else has a use for the parts by themselves. Only there with
//! `cfg(fuzzing)`, which cargo-fuzz sets.

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

/// The issuer, the audience, the claim that names the tenant, and that with the scopes, by which [`admit`] decides.
pub const RULES: [&str; 4] = ["issuer", "audience", "tenant", "scope"];

/// By how much clocks may differ for [`admit`].
pub const LEEWAY: Duration = Duration::from_secs(60);

/// How long a caller waits, by what `grpc-timeout` says.
pub fn timeout(timeout: &[u8]) -> Option<Duration> {
    let mut request = Request::new(());
    request.headers_mut().insert("grpc-timeout", HeaderValue::from_bytes(timeout).ok()?);
    caller_timeout(&request)
}

/// How many keys a set has, if it is one. Panics where one of them would verify what anybody can sign.
pub fn keys(set: &[u8]) -> Option<usize> {
    let set = KeySet::parse(set).ok()?;
    for symmetric in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        assert!(set.find(None, symmetric).is_none(), "a public key is no secret");
    }
    Some(set.len())
}

/// What a token says, if it came by these values of `authorization` and is signed with a key of the set.
pub fn claims(authorization: &[&[u8]], set: &[u8]) -> Result<Map<String, Value>, AuthError> {
    let mut headers = HeaderMap::new();
    for value in authorization {
        // What is no value of a header comes through no server.
        headers.append("authorization", HeaderValue::from_bytes(value).map_err(|_| AuthError::Malformed)?);
    }
    let keys = KeySet::parse(set).map_err(|_| AuthError::NoKeys)?;
    let token = Unverified::read(bearer(&headers)?, &[Algorithm::ES256, Algorithm::RS256, Algorithm::EdDSA])?;
    let key = keys.find(token.key_id(), token.algorithm()).ok_or(AuthError::UnknownKey)?;
    token.verify(key)
}

/// The tenant of a caller of commands whose token says this, at a time since 1970.
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

/// Whether a server could be served with these files in PEM.
pub fn pem(chain: &[u8], key: &[u8], client_authorities: Option<&[u8]>) -> bool {
    tls::of_pem(chain, key, client_authorities).is_ok()
}

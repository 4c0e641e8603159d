//! The decision on a token's claims. Pure.

use std::time::Duration;

use millrace_core::TenantId;
use serde_json::{Map, Value};

use super::auth_error::AuthError;

/// The claims of a token.
pub(crate) type Claims = Map<String, Value>;

/// The permission that a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: the call is open to all.
    Nothing,
    /// A valid token.
    Token,
    /// A valid token of a tenant, with this scope.
    Scope(&'static str),
}

/// The requirements on a token's claims.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// The one issuer whose tokens count (`iss`).
    pub(crate) issuer: String,
    /// A token must be meant for one of these (`aud`).
    pub(crate) audiences: Vec<String>,
    /// By how much the issuer's clock and this one may differ.
    pub(crate) leeway: Duration,
    /// The claim that names the tenant.
    pub(crate) tenant_claim: String,
    /// The claim that lists the scopes.
    pub(crate) scope_claim: String,
    /// The tenant of tokens without that claim; if absent, such tokens are refused.
    pub(crate) default_tenant: Option<TenantId>,
}

/// A caller with a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The caller's tenant, if the call needs one.
    pub(crate) tenant: Option<TenantId>,
    /// How long the token remains valid.
    pub(crate) good_for: Duration,
}

impl Rules {
    /// Decides on the claims of a token with a valid signature. `now` is the time since 1970.
    ///
    /// First whether the token is valid, then whether its holder has the permission `need`: only a known caller learns
    /// about permissions.
    pub(crate) fn admit(&self, claims: &Claims, need: Need, now: Duration) -> Result<Caller, AuthError> {
        let good_for = self.good_for(claims, now)?;
        if claims.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(AuthError::Issuer);
        }
        if !texts(claims.get("aud")).any(|audience| self.audiences.iter().any(|ours| ours == audience)) {
            return Err(AuthError::Audience);
        }
        let tenant = match need {
            Need::Nothing | Need::Token => None,
            Need::Scope(scope) => {
                self.check_scope(claims, scope)?;
                Some(self.tenant(claims)?)
            }
        };
        Ok(Caller { tenant, good_for })
    }

    /// How long the token remains valid. A token without an expiry is invalid (RFC 9068, section 2.2), and a time is a
    /// number of seconds, which may have a fraction (RFC 7519, section 2).
    fn good_for(&self, claims: &Claims, now: Duration) -> Result<Duration, AuthError> {
        let seconds = |claim: &Value| claim.as_f64().ok_or(AuthError::Malformed);
        let end = claims.get("exp").map(seconds).ok_or(AuthError::Malformed)??;
        let start = claims.get("nbf").map(seconds).transpose()?;
        let (now, leeway) = (now.as_secs_f64(), self.leeway.as_secs_f64());
        if start.is_some_and(|start| now + leeway < start) {
            return Err(AuthError::NotYetValid);
        }
        let left = end + leeway - now;
        if left <= 0.0 {
            return Err(AuthError::Expired);
        }
        // A time too large for a duration is for ever.
        Ok(Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX))
    }

    /// Scopes are one text with spaces between them (RFC 8693, section 4.2), or a list, as some issuers write it.
    fn check_scope(&self, claims: &Claims, scope: &'static str) -> Result<(), AuthError> {
        let mut scopes = texts(claims.get(&self.scope_claim)).flat_map(|text| text.split(' '));
        if scopes.any(|held| held == scope) { Ok(()) } else { Err(AuthError::NoScope(scope)) }
    }

    /// A claim that is no valid tenant name is refused, whatever the default tenant.
    fn tenant(&self, claims: &Claims) -> Result<TenantId, AuthError> {
        match claims.get(&self.tenant_claim) {
            Some(claim) => claim.as_str().and_then(|name| name.parse().ok()).ok_or(AuthError::NoTenant),
            None => self.default_tenant.clone().ok_or(AuthError::NoTenant),
        }
    }
}

/// A text, or the texts of a list.
fn texts(claim: Option<&Value>) -> impl Iterator<Item = &str> {
    let (one, many) = match claim {
        Some(Value::String(text)) => (Some(text.as_str()), None),
        Some(Value::Array(list)) => (None, Some(list)),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => (None, None),
    };
    one.into_iter().chain(many.into_iter().flatten().filter_map(Value::as_str))
}

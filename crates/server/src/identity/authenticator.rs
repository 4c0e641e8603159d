//! Authenticates the caller of a call.

use std::sync::Arc;

use http::HeaderMap;
use jsonwebtoken::Algorithm;
use millrace_core::TenantId;
use tokio::time::Instant;

use super::{
    auth_error::AuthError,
    jwks_cache::JwksCache,
    rules::{Need, Rules},
    tenant::named_tenant,
    token::{Unverified, bearer},
};
use crate::{Failure, Permit, TenantLimiter, clock};

/// Authenticates callers by their tokens.
#[derive(Debug)]
pub(crate) struct Authenticator {
    /// The requirements on a token's claims.
    pub(crate) rules: Rules,
    /// The algorithms that tokens may be signed by.
    pub(crate) algorithms: Vec<Algorithm>,
    /// The issuer's keys.
    pub(crate) keys: Arc<JwksCache>,
    /// How many calls of one tenant run at a time.
    pub(crate) limiter: TenantLimiter,
}

/// The authenticated caller, put into the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The caller's tenant. A call that needs no tenant has none, and so can touch none.
    pub(crate) tenant: Option<TenantId>,
    /// When the token expires; `None` for a call that needs no token.
    pub(crate) expires: Option<Instant>,
}

/// A call that may pass.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// The caller.
    pub(crate) identity: Identity,
    /// The call's share of its tenant's limit, to be kept until it is answered.
    pub(crate) permit: Option<Permit>,
}

impl Authenticator {
    /// Lets a call pass, or returns why not.
    pub(crate) async fn admit(&self, need: Need, headers: &HeaderMap) -> Result<Admitted, Failure> {
        if need == Need::Nothing {
            return Ok(Admitted { identity: Identity { tenant: None, expires: None }, permit: None });
        }
        let checked = self.check(need, headers).await;
        let outcome = match &checked {
            Ok(_) => "admitted",
            Err(Failure::Auth(error)) => error.outcome(),
            Err(_) => "bad_tenant",
        };
        metrics::counter!("callers_total", "outcome" => outcome).increment(1);
        let identity = checked?;
        let permit = identity.tenant.as_ref().map(|tenant| self.limiter.acquire(tenant)).transpose()?;
        Ok(Admitted { identity, permit })
    }

    async fn check(&self, need: Need, headers: &HeaderMap) -> Result<Identity, Failure> {
        let token = Unverified::read(bearer(headers)?, &self.algorithms)?;
        let key = self.keys.key(token.key_id(), token.algorithm()).await?;
        let caller = self.rules.admit(&token.verify(&key)?, need, clock::since_epoch())?;
        if let Some(tenant) = &caller.tenant
            && named_tenant(headers)?.is_some_and(|named| named != *tenant)
        {
            return Err(AuthError::OtherTenant.into());
        }
        // An end beyond the clock's range counts as none.
        Ok(Identity { tenant: caller.tenant, expires: Instant::now().checked_add(caller.good_for) })
    }
}

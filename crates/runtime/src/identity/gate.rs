//! Who may pass: asked once for every call, before its service sees it.

use std::sync::Arc;

use http::HeaderMap;
use jsonwebtoken::Algorithm;
use millrace_domain::TenantId;
use tokio::time::Instant;

use super::{
    Need, Reflection, Refusal, Rules, need,
    ring::Ring,
    token::{Unverified, bearer},
};
use crate::{Failure, Place, Places, call, clock};

/// How callers are authenticated.
#[derive(Debug)]
pub(crate) struct Callers {
    /// What is asked of their tokens.
    pub(crate) rules: Rules,
    /// The algorithms that tokens may be signed by.
    pub(crate) algorithms: Vec<Algorithm>,
    /// The keys that they are signed with.
    pub(crate) ring: Arc<Ring>,
    /// Who sees the contracts.
    pub(crate) reflection: Reflection,
    /// How many calls of one tenant run at a time.
    pub(crate) places: Places,
}

/// The gate of a server. Where callers are not authenticated, it is open.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(pub(crate) Option<Arc<Callers>>);

/// What the gate knows of a caller, put into the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The caller's tenant. A call that does not need one has none, and so can touch none.
    pub(crate) tenant: Option<TenantId>,
    /// When what proves it is over; `None` where nothing was asked for.
    pub(crate) expires: Option<Instant>,
}

/// A call that may pass.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    /// Who makes it; `None` where callers are not authenticated.
    pub(crate) identity: Option<Identity>,
    /// Its place among its tenant's, to be kept until it is answered.
    pub(crate) place: Option<Place>,
}

impl Gate {
    /// Lets a call pass, or says why not. `method` is the path of a call that a contract has, or `unknown`.
    pub(crate) async fn admit(&self, method: &str, headers: &HeaderMap) -> Result<Admitted, Failure> {
        let Some(callers) = &self.0 else { return Ok(Admitted::default()) };
        let need = need(method, callers.reflection);
        if need == Need::Nothing {
            let nobody = Identity { tenant: None, expires: None };
            return Ok(Admitted { identity: Some(nobody), place: None });
        }
        let checked = callers.check(need, headers).await;
        let outcome = match &checked {
            Ok(_) => "admitted",
            Err(Failure::Refused(refusal)) => refusal.outcome(),
            Err(_) => "bad_tenant",
        };
        metrics::counter!("callers_total", "outcome" => outcome).increment(1);
        let identity = checked?;
        let place = match &identity.tenant {
            Some(tenant) => Some(callers.places.take(tenant)?),
            None => None,
        };
        Ok(Admitted { identity: Some(identity), place })
    }
}

impl Callers {
    async fn check(&self, need: Need, headers: &HeaderMap) -> Result<Identity, Failure> {
        let token = Unverified::read(bearer(headers)?, &self.algorithms)?;
        let key = self.ring.key(token.key_id(), token.algorithm()).await?;
        let caller = self.rules.admit(&token.verify(&key)?, need, clock::since_epoch())?;
        if let Some(tenant) = &caller.tenant
            && call::named_tenant(headers)?.is_some_and(|named| named != *tenant)
        {
            return Err(Refusal::OtherTenant.into());
        }
        // What is too far away for the clock is never.
        Ok(Identity { tenant: caller.tenant, expires: Instant::now().checked_add(caller.good_for) })
    }
}

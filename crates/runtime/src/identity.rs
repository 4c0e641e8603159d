//! Who calls, and what they may do: what a token's claims say, held against what is asked of them. Pure.
//!
//! [`token`] reads a token and verifies it with a key of [`keys`]; [`Rules::admit`] decides on its claims; [`ring`]
//! keeps the keys up to date; [`gate`] stands at the edge and asks the others, once a call.

pub(crate) mod fetch;
pub(crate) mod gate;
pub(crate) mod keys;
pub(crate) mod ring;
#[cfg(test)]
mod tests;
pub(crate) mod token;

use std::time::Duration;

use millrace_domain::TenantId;
use serde_json::{Map, Value};

/// The scope that a caller of commands must have.
pub const COMMANDS_WRITE: &str = "commands:write";

/// The scope that a caller of queries must have.
pub const QUERIES_READ: &str = "queries:read";

/// What a token says, by its own word.
pub(crate) type Claims = Map<String, Value>;

/// Why a caller is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no token.
    #[error("the call needs a bearer token in `authorization`")]
    NoToken,
    /// What should be a token is none.
    #[error("the token is not well-formed")]
    Malformed,
    /// It is larger than is looked at.
    #[error("the token is too large")]
    TooLarge,
    /// It is signed by an algorithm that is not on the list, such as `none`.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// It is signed by a key that the issuer does not show.
    #[error("the token's key is not known")]
    UnknownKey,
    /// The signature is not the key's.
    #[error("the token's signature is wrong")]
    Signature,
    /// It is over.
    #[error("the token has expired")]
    Expired,
    /// It does not hold yet.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Somebody else issued it.
    #[error("the token is another issuer's")]
    Issuer,
    /// It is meant for somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// The caller is known, and may not do this.
    #[error("the token lacks the scope {0}")]
    NoScope(&'static str),
    /// The caller is known, and of no tenant, or of one that cannot be.
    #[error("the token names no tenant")]
    NoTenant,
    /// The caller is known, and names a tenant that is not the token's.
    #[error("x-tenant-id is not the tenant of the token")]
    OtherTenant,
    /// No scope opens this call.
    #[error("nobody may make this call")]
    NotOpen,
    /// The keys that tokens are signed with are not known at present. That is not the caller's fault.
    #[error("the keys of the token's issuer cannot be had at present")]
    NoKeys,
}

impl Refusal {
    /// All names among the outcomes in the metrics.
    pub(crate) const OUTCOMES: [&str; 15] = [
        "no_token",
        "malformed",
        "too_large",
        "algorithm",
        "unknown_key",
        "signature",
        "expired",
        "not_yet_valid",
        "issuer",
        "audience",
        "no_scope",
        "no_tenant",
        "other_tenant",
        "not_open",
        "no_keys",
    ];

    /// Its name among the outcomes in the metrics.
    pub(crate) fn outcome(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::NoScope(_) => "no_scope",
            Self::NoTenant => "no_tenant",
            Self::OtherTenant => "other_tenant",
            Self::NotOpen => "not_open",
            Self::NoKeys => "no_keys",
        }
    }
}

/// What a call asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: the call is open to all.
    Nothing,
    /// A valid token.
    Token,
    /// A valid token of a tenant, with this scope.
    Scope(&'static str),
    /// What nobody has.
    Never,
}

/// Who sees the contracts by reflection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Reflection {
    /// Everybody.
    Open,
    /// Callers with a valid token, of whatever tenant and scope; everybody where callers are not authenticated.
    #[default]
    Token,
    /// Nobody: it is not served.
    Off,
}

/// What a call asks for, where callers are authenticated. `method` is the path of a call that a contract has, or
/// `unknown`.
///
/// What no line here names is closed: a new package has to say who may call it.
pub(crate) fn need(method: &str, reflection: Reflection) -> Need {
    let is_of = |package: &str| method.starts_with(package);
    if is_of("/grpc.health.") {
        Need::Nothing
    } else if is_of("/grpc.reflection.") {
        match reflection {
            Reflection::Open => Need::Nothing,
            Reflection::Token | Reflection::Off => Need::Token,
        }
    } else if is_of("/millrace.command.") {
        Need::Scope(COMMANDS_WRITE)
    } else if is_of("/millrace.query.") {
        Need::Scope(QUERIES_READ)
    } else if method == crate::edge::UNKNOWN {
        // So that only who is known learns what is served.
        Need::Token
    } else {
        Need::Never
    }
}

/// What is asked of a token's claims.
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
    /// The tenant of tokens that lack that claim; without it, they are refused.
    pub(crate) default_tenant: Option<TenantId>,
}

/// A caller whose token is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The caller's tenant, where the call is about one.
    pub(crate) tenant: Option<TenantId>,
    /// For how long the token is good from now on.
    pub(crate) good_for: Duration,
}

impl Rules {
    /// Decides on the claims of a token whose signature is right. `now` is the time since 1970.
    ///
    /// First whether the token is to be believed, then whether its holder may do what `need` says: a caller learns
    /// about rights only once it is known.
    pub(crate) fn admit(&self, claims: &Claims, need: Need, now: Duration) -> Result<Caller, Refusal> {
        let good_for = self.good_for(claims, now)?;
        if claims.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(Refusal::Issuer);
        }
        if !texts(claims.get("aud")).any(|audience| self.audiences.iter().any(|ours| ours == audience)) {
            return Err(Refusal::Audience);
        }
        let tenant = match need {
            Need::Nothing | Need::Token => None,
            Need::Scope(scope) => {
                self.check_scope(claims, scope)?;
                Some(self.tenant(claims)?)
            }
            Need::Never => return Err(Refusal::NotOpen),
        };
        Ok(Caller { tenant, good_for })
    }

    /// For how long the token is good. One that does not say when it ends is none (RFC 9068, section 2.2), and a time is
    /// a number of seconds, which may have a fraction (RFC 7519, section 2).
    fn good_for(&self, claims: &Claims, now: Duration) -> Result<Duration, Refusal> {
        let seconds = |claim: &Value| claim.as_f64().ok_or(Refusal::Malformed);
        let end = claims.get("exp").map(seconds).ok_or(Refusal::Malformed)??;
        let start = claims.get("nbf").map(seconds).transpose()?;
        let (now, leeway) = (now.as_secs_f64(), self.leeway.as_secs_f64());
        if start.is_some_and(|start| now + leeway < start) {
            return Err(Refusal::NotYetValid);
        }
        let left = end + leeway - now;
        if left <= 0.0 {
            return Err(Refusal::Expired);
        }
        // What is too large for a duration is for ever.
        Ok(Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX))
    }

    /// Scopes are one text with spaces between them (RFC 8693, section 4.2), or a list, as some issuers have it.
    fn check_scope(&self, claims: &Claims, scope: &'static str) -> Result<(), Refusal> {
        let mut scopes = texts(claims.get(&self.scope_claim)).flat_map(|text| text.split(' '));
        if scopes.any(|held| held == scope) { Ok(()) } else { Err(Refusal::NoScope(scope)) }
    }

    /// A claim that is there and no tenant's name is refused, whatever tenant those without one have.
    fn tenant(&self, claims: &Claims) -> Result<TenantId, Refusal> {
        match claims.get(&self.tenant_claim) {
            Some(claim) => claim.as_str().and_then(|name| name.parse().ok()).ok_or(Refusal::NoTenant),
            None => self.default_tenant.clone().ok_or(Refusal::NoTenant),
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

//! Why a caller is turned away.

/// Why a caller is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The call has no token.
    #[error("the call needs a bearer token in `authorization`")]
    NoToken,
    /// The token is not well-formed.
    #[error("the token is not well-formed")]
    Malformed,
    /// The token is larger than the server reads.
    #[error("the token is too large")]
    TooLarge,
    /// The token is signed by an algorithm that is not on the list, such as `none`.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// The issuer's key set lacks the token's key.
    #[error("the token's key is not known")]
    UnknownKey,
    /// The signature is not the key's.
    #[error("the token's signature is wrong")]
    Signature,
    /// The token has expired.
    #[error("the token has expired")]
    Expired,
    /// The token is not valid yet.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Another issuer signed the token.
    #[error("the token is another issuer's")]
    Issuer,
    /// The token is for another audience.
    #[error("the token is for another audience")]
    Audience,
    /// The caller is known and lacks the call's scope.
    #[error("the token lacks the scope {0}")]
    NoScope(&'static str),
    /// The caller is known, but its token names no tenant, or an invalid one.
    #[error("the token names no tenant")]
    NoTenant,
    /// The caller is known and names another tenant than its token.
    #[error("x-tenant-id is not the tenant of the token")]
    OtherTenant,
    /// The call needs a tenant but was let in without one.
    #[error("nobody may make this call")]
    NotOpen,
    /// The issuer's keys are not available at present. This is no fault of the caller.
    #[error("the keys of the token's issuer cannot be had at present")]
    NoKeys,
}

impl AuthError {
    /// All outcomes, for the metrics.
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

    /// The outcome in the metrics.
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

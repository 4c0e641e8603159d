//! A token, from the request's metadata to claims that are to be believed. Pure.

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};

use super::{
    auth_error::AuthError,
    keys::{Key, is_asymmetric},
    rules::Claims,
};

/// The largest token that is looked at, in bytes. Real ones have one or two thousand; all metadata together may have 16
/// KiB.
pub(crate) const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// What a token says of how to verify it, before any of it is to be believed.
#[derive(Debug)]
pub(crate) struct Unverified<'a> {
    token: &'a str,
    algorithm: Algorithm,
    key_id: Option<String>,
}

/// The token of a request: `authorization: Bearer …`, once (RFC 6750, section 2.1). The scheme may be in either case.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next().ok_or(AuthError::NoToken)?, values.next()) else {
        return Err(AuthError::Malformed);
    };
    let text = HeaderValue::to_str(value).map_err(|_| AuthError::Malformed)?;
    let Some((scheme, token)) = text.split_once(' ') else { return Err(AuthError::NoToken) };
    match scheme.eq_ignore_ascii_case("bearer") {
        false => Err(AuthError::NoToken),
        true if token.len() > MAX_TOKEN_BYTES => Err(AuthError::TooLarge),
        true => Ok(token.trim()),
    }
}

impl<'a> Unverified<'a> {
    /// Reads a token's head. Its algorithm must be one of `algorithms`, whatever else it says: `none` is never one, nor
    /// is one that would take a public key for a secret.
    pub(crate) fn read(token: &'a str, algorithms: &[Algorithm]) -> Result<Self, AuthError> {
        // A head whose algorithm has no name that is known is refused like one that is no head.
        let head = decode_header(token).map_err(|_| AuthError::Malformed)?;
        if !algorithms.contains(&head.alg) || !is_asymmetric(head.alg) {
            return Err(AuthError::Algorithm);
        }
        // What a token says is critical has to be understood (RFC 7515, section 4.1.11), and nothing is.
        if head.crit.is_some() {
            return Err(AuthError::Malformed);
        }
        Ok(Self { token, algorithm: head.alg, key_id: head.kid })
    }

    /// The algorithm that it is signed by.
    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The name of the key that it is signed with, if it has one.
    pub(crate) fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// What the token says, if it is signed with this key. Whether that is enough is not looked at here.
    pub(crate) fn verify(&self, key: &Key) -> Result<Claims, AuthError> {
        let mut only_the_signature = Validation::new(self.algorithm);
        only_the_signature.required_spec_claims.clear();
        only_the_signature.validate_exp = false;
        only_the_signature.validate_aud = false;
        // What was signed and is no object of claims, or holds text that is no text, is as bad as what was not signed.
        let decoded = decode::<Claims>(self.token, &key.decoding, &only_the_signature);
        decoded.map(|token| token.claims).map_err(|_| AuthError::Signature)
    }
}

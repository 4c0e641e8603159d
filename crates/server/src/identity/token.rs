//! A token, from the request's metadata to verified claims. Pure.

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};

use super::{
    auth_error::AuthError,
    keys::{Key, is_asymmetric},
    rules::Claims,
};

/// The largest token that is read, in bytes. Real ones have one or two thousand; all metadata together may have 16 KiB.
pub(crate) const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// A token's header, which says how to verify the token and is not yet trusted.
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
    /// Reads a token's header. Its algorithm must be one of `algorithms`, which never contain `none`, nor an algorithm
    /// that would take a public key for a secret.
    pub(crate) fn read(token: &'a str, algorithms: &[Algorithm]) -> Result<Self, AuthError> {
        // A header with an unknown algorithm name is refused like an invalid header.
        let head = decode_header(token).map_err(|_| AuthError::Malformed)?;
        if !algorithms.contains(&head.alg) || !is_asymmetric(head.alg) {
            return Err(AuthError::Algorithm);
        }
        // Every critical extension has to be understood (RFC 7515, section 4.1.11), and none is.
        if head.crit.is_some() {
            return Err(AuthError::Malformed);
        }
        Ok(Self { token, algorithm: head.alg, key_id: head.kid })
    }

    /// The algorithm of its signature.
    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The id of its signing key, if it names one.
    pub(crate) fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// The token's claims, if it is signed with this key. The claims are not checked here.
    pub(crate) fn verify(&self, key: &Key) -> Result<Claims, AuthError> {
        let mut only_the_signature = Validation::new(self.algorithm);
        only_the_signature.required_spec_claims.clear();
        only_the_signature.validate_exp = false;
        only_the_signature.validate_aud = false;
        // Signed content that is no object of claims, or holds invalid text, is as bad as unsigned content.
        let decoded = decode::<Claims>(self.token, &key.decoding, &only_the_signature);
        decoded.map(|token| token.claims).map_err(|_| AuthError::Signature)
    }
}

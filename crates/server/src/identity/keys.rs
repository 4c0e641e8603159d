//! The keys of tokens. Pure.

use std::sync::Arc;

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

/// The most keys of a set that are kept. Issuers show a few: the signing key and the keys before and after it.
const MAX_KEYS: usize = 100;

/// Whether an algorithm signs with a key that only the issuer has. The others (HMAC) sign with the verifying key: every
/// verifier could issue tokens, and a public key would pass for the secret.
pub(crate) fn is_asymmetric(algorithm: Algorithm) -> bool {
    algorithm.family() != AlgorithmFamily::Hmac
}

/// Why a set of keys is invalid.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadKeys {
    /// It is not as RFC 7517 requires.
    #[error("it is no JSON Web Key Set")]
    NotASet,
    /// None of its keys verifies a signature.
    #[error("none of its keys can verify a token")]
    NoneOfUse,
}

/// A set of public keys (RFC 7517).
#[derive(Debug)]
pub(crate) struct KeySet(Vec<Arc<Key>>);

/// A public key.
#[derive(Debug)]
pub(crate) struct Key {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    /// The key that verifies.
    pub(crate) decoding: DecodingKey,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a set. Keys of another kind, for another use, or not readable are left out.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BadKeys> {
        let set: Set = serde_json::from_slice(bytes).map_err(|_| BadKeys::NotASet)?;
        let keys: Vec<_> = set.keys.into_iter().filter_map(Key::of).take(MAX_KEYS).map(Arc::new).collect();
        if keys.is_empty() { Err(BadKeys::NoneOfUse) } else { Ok(Self(keys)) }
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The key with this id, for this algorithm. A token without a key id is verified by the only key, if there is just
    /// one.
    pub(crate) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&Arc<Key>> {
        let mut fit = self.0.iter().filter(|key| {
            (id.is_none() || key.id.as_deref() == id)
                && key.decoding.family() == algorithm.family()
                && key.algorithm.is_none_or(|only| only == algorithm)
        });
        match (fit.next(), fit.next(), id) {
            (Some(_), Some(_), None) => None,
            (first, _, _) => first,
        }
    }
}

impl Key {
    /// The key, if it verifies signatures and is public.
    fn of(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let common = &jwk.common;
        let is_to_sign = common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
        let operations = common.key_operations.as_ref();
        let verifies = operations.is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        let algorithm = match common.key_algorithm {
            // An algorithm unknown here, such as one for encryption, is of no use.
            Some(named) => Some(Algorithm::try_from(named).ok()?),
            None => None,
        };
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        let is_public = decoding.family() != AlgorithmFamily::Hmac;
        (is_to_sign && verifies && is_public).then(|| Self {
            id: jwk.common.key_id.clone(),
            algorithm,
            decoding,
        })
    }
}

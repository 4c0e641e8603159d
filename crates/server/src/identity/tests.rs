//! Rules without a network, and hostile bytes.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue};
use jsonwebtoken::Algorithm;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    AuthError, COMMANDS_WRITE,
    keys::{Key, KeySet},
    rules::{Claims, Need, Rules},
    token::{MAX_TOKEN_BYTES, Unverified, bearer},
};

const NOW: u64 = 1_800_000_000;

const ALGORITHMS: [Algorithm; 2] = [Algorithm::RS256, Algorithm::ES256];

fn rules() -> Rules {
    Rules {
        issuer: "issuer".to_owned(),
        audiences: vec!["millrace".to_owned()],
        leeway: Duration::from_secs(30),
        tenant_claim: "tenant_id".to_owned(),
        scope_claim: "scope".to_owned(),
        default_tenant: None,
    }
}

fn claims(changes: Value) -> Claims {
    let mut claims = json!({ "iss": "issuer", "aud": "millrace", "exp": NOW + 100, "tenant_id": "acme" });
    claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    claims.as_object().unwrap().clone()
}

/// The result for a token with these changes.
fn believed(changes: Value) -> Result<Duration, AuthError> {
    let caller = rules().admit(&claims(changes), Need::Token, Duration::from_secs(NOW))?;
    Ok(caller.good_for)
}

#[test]
fn a_token_is_good_from_its_start_to_its_end_and_the_leeway_around_them() {
    let seconds = Duration::from_secs;
    assert_eq!(believed(json!({})), Ok(seconds(130)));
    assert_eq!(believed(json!({ "exp": NOW - 29 })), Ok(seconds(1)));
    assert_eq!(believed(json!({ "exp": NOW - 30 })), Err(AuthError::Expired));
    assert_eq!(believed(json!({ "exp": NOW as f64 - 29.5 })), Ok(Duration::from_millis(500)));
    assert_eq!(believed(json!({ "exp": 1e300 })), Ok(Duration::MAX));
    assert_eq!(believed(json!({ "nbf": NOW + 30 })), Ok(seconds(130)));
    assert_eq!(believed(json!({ "nbf": NOW + 31 })), Err(AuthError::NotYetValid));
    for bad in [json!(null), json!("1"), json!([NOW + 100]), json!({}), json!(true)] {
        assert_eq!(believed(json!({ "exp": bad.clone() })), Err(AuthError::Malformed), "{bad}");
        assert_eq!(believed(json!({ "nbf": bad.clone() })), Err(AuthError::Malformed), "{bad}");
    }
    for past in [json!(0), json!(-1), json!(-1e300)] {
        assert_eq!(believed(json!({ "exp": past })), Err(AuthError::Expired));
    }
}

#[test]
fn a_token_is_one_issuers_for_us() {
    for bad in [json!(null), json!(""), json!("Issuer"), json!("issuer "), json!(["issuer"]), json!(7)] {
        assert_eq!(believed(json!({ "iss": bad.clone() })), Err(AuthError::Issuer), "{bad}");
    }
    assert!(believed(json!({ "aud": ["others", "millrace"] })).is_ok());
    for bad in
        [json!(null), json!(""), json!([]), json!("mill"), json!([["millrace"]]), json!({ "millrace": 1 })]
    {
        assert_eq!(believed(json!({ "aud": bad.clone() })), Err(AuthError::Audience), "{bad}");
    }
}

#[test]
fn a_bearer_is_one_text_of_a_bounded_size() {
    let with = |values: &[&[u8]]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("authorization", HeaderValue::from_bytes(value).unwrap());
        }
        bearer(&headers).map(str::to_owned)
    };
    assert_eq!(with(&[b"Bearer abc"]), Ok("abc".to_owned()));
    assert_eq!(with(&[b"bEARER  abc"]), Ok("abc".to_owned()));
    assert_eq!(with(&[]), Err(AuthError::NoToken));
    for none in ["", "Bearer", "abc", "Basic abc", " Bearer abc"] {
        assert_eq!(with(&[none.as_bytes()]), Err(AuthError::NoToken));
    }
    assert_eq!(with(&[b"Bearer a", b"Bearer a"]), Err(AuthError::Malformed));
    assert_eq!(with(&[b"Bearer \xff"]), Err(AuthError::Malformed));
    let large = |length| format!("Bearer {}", "a".repeat(length));
    assert!(with(&[large(MAX_TOKEN_BYTES).as_bytes()]).is_ok());
    assert_eq!(with(&[large(MAX_TOKEN_BYTES + 1).as_bytes()]), Err(AuthError::TooLarge));
}

/// A key on the curve that signed nothing here (RFC 7515, appendix A.3).
fn key() -> KeySet {
    let jwk = json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "kid": "one",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }]});
    KeySet::parse(jwk.to_string().as_bytes()).unwrap()
}

/// The error for a token, which must not be accepted.
fn try_token(token: &str, key: &Key) -> AuthError {
    let read = Unverified::read(token, &ALGORITHMS).and_then(|unverified| unverified.verify(key));
    read.expect_err("a token that nobody signed was believed")
}

/// Almost valid headers.
fn heads() -> impl Strategy<Value = String> {
    let algorithm = prop_oneof![
        Just("ES256"),
        Just("RS256"),
        Just("none"),
        Just("NONE"),
        Just("HS256"),
        Just("ES384"),
        Just("EdDSA"),
        Just(""),
    ];
    let more = prop_oneof![
        Just(""),
        Just(r#","kid":"one""#),
        Just(r#","kid":7"#),
        Just(r#","kid":null"#),
        Just(r#","crit":["exp"]"#),
        Just(r#","alg":"none""#),
        Just(r#","jwk":{"kty":"oct","k":"AA"}"#),
        Just(r#","jku":"https://evil.example""#),
        Just(r#","x5c":["AA=="]"#),
        Just(r#","zip":"DEF""#),
        Just(r#","b64":false"#),
    ];
    (algorithm, more).prop_map(|(algorithm, more)| format!(r#"{{"alg":"{algorithm}"{more}}}"#))
}

proptest! {
    #[test]
    fn hostile_bytes_are_no_token(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let keys = key();
        let key = keys.find(None, Algorithm::ES256).unwrap();
        try_token(&String::from_utf8_lossy(&bytes), key);
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            headers.append("authorization", value);
            let _ = bearer(&headers);
        }
    }

    #[test]
    fn what_looks_like_a_token_is_none_without_its_signature(
        head in heads(),
        body in prop_oneof![".*", Just(r#"{"exp":9999999999}"#.to_owned()), Just("[".repeat(3_000))],
        signature in prop::collection::vec(any::<u8>(), 0..100),
        dots in 0_usize..4,
    ) {
        let keys = key();
        let key = keys.find(None, Algorithm::ES256).unwrap();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let token = [part(head.as_bytes()), part(body.as_bytes()), part(&signature)].join(".");
        try_token(&format!("{token}{}", ".".repeat(dots)), key);
        try_token(&token[..token.len().min(dots * 20)], key);
    }

    #[test]
    fn a_set_of_keys_may_be_anything(bytes in prop::collection::vec(any::<u8>(), 0..500), text in ".*") {
        let _ = KeySet::parse(&bytes);
        let _ = KeySet::parse(text.as_bytes());
        let wild = json!({ "keys": [{ "kty": text, "x": text }, { "kty": "EC", "crv": "P-256", "x": text, "y": text },
            { "kty": "RSA", "n": text, "e": text }, { "kty": "OKP", "crv": "Ed25519", "x": text }] });
        if let Ok(keys) = KeySet::parse(wild.to_string().as_bytes()) {
            for algorithm in ALGORITHMS {
                if let Some(key) = keys.find(None, algorithm) {
                    let head = format!(r#"{{"alg":"{algorithm:?}"}}"#);
                    try_token(&format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode(head)), key);
                }
            }
        }
    }

    #[test]
    fn hostile_claims_open_nothing_for_another_tenant(
        tenant in ".{0,70}",
        scope in ".{0,30}",
        exp in any::<f64>(),
        nbf in prop::option::of(any::<f64>()),
    ) {
        let mut changes = json!({ "tenant_id": tenant, "scope": scope, "exp": exp });
        if let Some(nbf) = nbf {
            changes["nbf"] = nbf.into();
        }
        let need = Need::Scope(COMMANDS_WRITE);
        if let Ok(caller) = rules().admit(&claims(changes), need, Duration::from_secs(NOW)) {
            prop_assert_eq!(caller.tenant, tenant.parse().ok());
            prop_assert!(scope.split(' ').any(|held| held == COMMANDS_WRITE));
        }
    }
}

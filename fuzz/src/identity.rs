//! Tokens of callers, the keys that verify them, and the files of TLS.

use std::{sync::LazyLock, time::Duration};

use arbitrary::{Arbitrary as _, Result, Unstructured};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use millrace_server::{
    COMMANDS_WRITE,
    fuzzing::{self, LEEWAY, RULES},
};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Map, Value, json};

use crate::calls::text;

const NOW: u64 = 1_800_000_000;

/// A key of the issuer's, the set that shows it, and a certificate with it.
struct Issuer {
    signing: EncodingKey,
    set: Vec<u8>,
    key_pem: String,
    certificate_pem: String,
}

static ISSUER: LazyLock<Issuer> = LazyLock::new(|| {
    let pair = KeyPair::generate().expect("a key");
    let signing = EncodingKey::from_ec_der(&pair.serialize_der());
    let mut jwk = Jwk::from_encoding_key(&signing, Algorithm::ES256).expect("a public key");
    jwk.common.key_id = Some("k".to_owned());
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).expect("a certificate");
    let certificate = certificate.self_signed(&pair).expect("a certificate");
    Issuer {
        signing,
        set: json!({ "keys": [jwk] }).to_string().into_bytes(),
        key_pem: pair.serialize_pem(),
        certificate_pem: certificate.pem(),
    }
});

fn good() -> Map<String, Value> {
    let claims = json!({ "iss": RULES[0], "aud": RULES[1], "tenant": "acme", "scope": COMMANDS_WRITE, "exp": NOW + 60 });
    claims.as_object().expect("an object").clone()
}

/// A token as it was issued, changed, or made up. It is believed in the one case where nothing was changed.
pub(crate) fn tokens(data: &[u8]) -> Result<()> {
    let u = &mut Unstructured::new(data);
    let issuer = &*ISSUER;
    let kid = if bool::arbitrary(u)? { Some("k".to_owned()) } else { None };
    let token =
        encode(&Header { kid, ..Header::new(Algorithm::ES256) }, &good(), &issuer.signing).expect("a token");
    let mut brought = format!("Bearer {token}").into_bytes();
    match u.int_in_range(0..=5)? {
        0 => {}
        1 => {
            let at = u.choose_index(brought.len())?;
            brought[at] = *u.choose(b"ABCDwxyz0189-_=+/. ")?;
        }
        2 => brought.truncate(u.choose_index(brought.len())?),
        3 => brought.extend_from_slice(u.choose(&[&b"."[..], b"=", b"A", b" A", b".A"])?),
        4 => {
            // A head of one's own before the issuer's word.
            let head = text(
                u,
                &[r#"{"alg":"none"}"#, r#"{"alg":"HS256"}"#, r#"{"alg":"ES256","crit":["x"]}"#, "{}"],
            )?;
            let rest = token.split_once('.').map_or("", |(_, rest)| rest);
            brought = format!("Bearer {}.{rest}", url_safe(head.as_bytes())).into_bytes();
        }
        _ => brought = u.bytes(u.len().min(300))?.to_vec(),
    }
    let values = if u.ratio(1, 8)? { vec![&brought[..], &brought] } else { vec![&brought[..]] };
    let said = fuzzing::claims(&values, &issuer.set);
    let is_own = values.len() == 1
        && std::str::from_utf8(&brought).is_ok_and(|text| {
            text.split_once(' ')
                .is_some_and(|(scheme, rest)| scheme.eq_ignore_ascii_case("bearer") && rest.trim() == token)
        });
    assert_eq!(said.is_ok(), is_own, "{said:?} of {:?}", String::from_utf8_lossy(&brought));
    Ok(())
}

/// Unpadded base64url (RFC 7515, section 2).
fn url_safe(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digit = |chunk: u32, place: usize| char::from(DIGITS[(chunk >> (18 - 6 * place)) as usize & 63]);
    let chunk = |bytes: &[u8]| {
        let chunk = bytes.iter().chain([&0, &0]).take(3).fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        (0..=bytes.len()).map(move |place| digit(chunk, place)).collect::<String>()
    };
    bytes.chunks(3).map(chunk).collect()
}

/// A token of the issuer's, with any claims. An admitted caller meets every rule.
pub(crate) fn claims(data: &[u8]) -> Result<()> {
    let u = &mut Unstructured::new(data);
    let mut claims = good();
    for _ in 0..u.int_in_range(0..=3)? {
        let name = *u.choose(&["iss", "aud", "tenant", "scope", "exp", "nbf"])?;
        match u.int_in_range(0..=4)? {
            0 => drop(claims.remove(name)),
            1 => drop(claims.insert(
                name.into(),
                json!(text(u, &["issuer", "audience", "acme", COMMANDS_WRITE, "a#b"])?),
            )),
            2 => drop(claims.insert(
                name.into(),
                json!([text(u, &["audience", COMMANDS_WRITE, "x"])?, u64::arbitrary(u)?]),
            )),
            3 => drop(claims.insert(name.into(), json!(f64::arbitrary(u)?))),
            _ => drop(claims.insert(name.into(), json!(NOW.wrapping_add_signed(i64::arbitrary(u)?)))),
        }
    }
    let Ok(tenant) = fuzzing::admit(&claims, Duration::from_secs(NOW)) else { return Ok(()) };
    let texts = |name: &str| match &claims[name] {
        Value::String(text) => vec![text.clone()],
        Value::Array(texts) => texts.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    assert_eq!(claims["iss"], json!("issuer"), "the one issuer");
    assert!(texts("aud").iter().any(|text| text == "audience"), "the one audience");
    assert!(
        texts("scope").iter().flat_map(|text| text.split(' ')).any(|scope| scope == COMMANDS_WRITE),
        "the scope"
    );
    assert_eq!(claims["tenant"], json!(tenant.as_str()), "the token's tenant");
    let seconds = |name: &str| claims.get(name).and_then(Value::as_f64);
    let now = Duration::from_secs(NOW).as_secs_f64();
    assert!(seconds("exp").is_some_and(|end| end + LEEWAY.as_secs_f64() > now), "not expired");
    assert!(seconds("nbf").is_none_or(|start| start <= now + LEEWAY.as_secs_f64()), "valid already");
    assert!(claims.get("nbf").is_none_or(Value::is_number), "a time is a number");
    Ok(())
}

/// A set of keys, of any bytes. It has a bounded number of keys, and none that anybody could sign with.
pub(crate) fn key_sets(data: &[u8]) {
    assert!(fuzzing::keys(data).is_none_or(|keys| (1..=100).contains(&keys)));
}

/// Files of TLS. A file with the right contents is of use under any surrounding bytes.
pub(crate) fn pem_files(data: &[u8]) -> Result<()> {
    let u = &mut Unstructured::new(data);
    let issuer = &*ISSUER;
    let (chain, is_chain) = file(u, &issuer.certificate_pem)?;
    let (key, is_key) = file(u, &issuer.key_pem)?;
    let authorities = if bool::arbitrary(u)? { Some(file(u, &issuer.certificate_pem)?) } else { None };
    let is_usable = fuzzing::pem(&chain, &key, authorities.as_ref().map(|(file, _)| &file[..]));
    if is_chain && is_key && authorities.is_none_or(|(_, is_whole)| is_whole) {
        assert!(is_usable, "good files are of use");
    }
    Ok(())
}

/// A file that holds this, and whether nothing of it was changed.
fn file(u: &mut Unstructured<'_>, pem: &str) -> Result<(Vec<u8>, bool)> {
    let mut bytes = pem.as_bytes().to_vec();
    Ok(match u.int_in_range(0..=4)? {
        0 | 1 => (bytes, true),
        2 => {
            let at = u.choose_index(bytes.len())?;
            bytes[at] = u8::arbitrary(u)?;
            let is_whole = bytes == pem.as_bytes();
            (bytes, is_whole)
        }
        3 => (bytes[..u.choose_index(bytes.len())?].to_vec(), false),
        _ => (u.bytes(u.len().min(300))?.to_vec(), false),
    })
}

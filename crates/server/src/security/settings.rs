//! Settings of TLS and of authentication.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, builder::RangedU64ValueParser};
use http::Uri;
use jsonwebtoken::Algorithm;
use millrace_core::TenantId;

use crate::{
    identity::{
        fetch::{Source, keys_url},
        jwks_cache::Pace,
        keys::is_asymmetric,
        rules::Rules,
    },
    reflection::Reflection,
    tls,
    values::non_empty,
};

/// How often a file of keys is read.
const FILE_PACE: Pace = Pace { interval: Duration::from_secs(10), min_interval: Duration::from_secs(1) };

/// The shortest interval between reads of a URL for tokens with unknown keys.
const URL_MIN_INTERVAL: Duration = Duration::from_secs(10);

/// Settings of TLS and of authentication.
#[derive(Debug, Clone, Args)]
pub struct SecuritySettings {
    /// The server's certificate and those that lead from it to an authority, in PEM. With it and its key, gRPC is served
    /// over TLS only. The files are read again when they change.
    #[arg(long, env = "TLS_CERT_FILE")]
    pub tls_cert_file: Option<PathBuf>,

    /// The private key of the certificate, in PEM.
    #[arg(long, env = "TLS_KEY_FILE")]
    pub tls_key_file: Option<PathBuf>,

    /// Certificates of authorities, in PEM. With them, only clients with a certificate of theirs can connect.
    #[arg(long, env = "TLS_CLIENT_CA_FILE")]
    pub tls_client_ca_file: Option<PathBuf>,

    /// Where health alone is served as well, in plain text: for Kubernetes, whose probes speak no TLS.
    #[arg(long, env = "HEALTH_ADDR")]
    pub health_addr: Option<SocketAddr>,

    /// The issuer of callers' tokens (`iss`). With it, only callers with a token can call.
    #[arg(long, env = "JWT_ISSUER", value_parser = non_empty)]
    pub jwt_issuer: Option<String>,

    /// The audience of tokens (`aud`): one or more names, with commas between them.
    #[arg(long, env = "JWT_AUDIENCE", value_delimiter = ',', value_parser = non_empty)]
    pub jwt_audience: Vec<String>,

    /// The file of the issuer's public keys (JSON Web Key Set). It is read again when it changes.
    #[arg(long, env = "JWT_JWKS_FILE")]
    pub jwt_jwks_file: Option<PathBuf>,

    /// The URL of the issuer's public keys: https, or http on this machine.
    #[arg(long, env = "JWT_JWKS_URL", value_parser = keys_url)]
    pub jwt_jwks_url: Option<Uri>,

    /// Certificates of the authorities that are trusted for that URL, in PEM [default: the machine's].
    #[arg(long, env = "JWT_JWKS_CA_FILE")]
    pub jwt_jwks_ca_file: Option<PathBuf>,

    /// How often the URL is asked for the keys, in seconds.
    #[arg(long, env = "JWT_JWKS_REFRESH_SECONDS", default_value_t = 300, value_parser = RangedU64ValueParser::<u64>::new().range(10..=86_400))]
    pub jwt_jwks_refresh_seconds: u64,

    /// The algorithms that tokens may be signed by, with commas between them: of RS256, RS384, RS512, PS256, PS384,
    /// PS512, ES256, ES384, EdDSA.
    #[arg(long, env = "JWT_ALGORITHMS", value_delimiter = ',', default_value = "RS256,ES256", value_parser = algorithm)]
    pub jwt_algorithms: Vec<Algorithm>,

    /// By how much the issuer's clock and this one may differ, in seconds.
    #[arg(long, env = "JWT_LEEWAY_SECONDS", default_value_t = 30, value_parser = RangedU64ValueParser::<u64>::new().range(0..=300))]
    pub jwt_leeway_seconds: u64,

    /// The claim that names the caller's tenant.
    #[arg(long, env = "JWT_TENANT_CLAIM", default_value = "tenant_id", value_parser = non_empty)]
    pub jwt_tenant_claim: String,

    /// The tenant of callers whose token lacks that claim [default: they are refused].
    #[arg(long, env = "JWT_DEFAULT_TENANT", value_parser = tenant)]
    pub jwt_default_tenant: Option<TenantId>,

    /// The claim that lists the caller's permissions: `commands:write`, `queries:read`.
    #[arg(long, env = "JWT_SCOPE_CLAIM", default_value = "scope", value_parser = non_empty)]
    pub jwt_scope_claim: String,

    /// The callers that see reflection. `token`: those with a valid token, or everybody where callers need none.
    #[arg(long, env = "REFLECTION", value_enum, default_value_t)]
    pub reflection: Reflection,

    /// How many calls of one tenant run at a time, where callers are authenticated [default: half of all].
    #[arg(long, env = "MAX_CONCURRENT_CALLS_PER_TENANT", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_concurrent_calls_per_tenant: Option<u32>,
}

/// Reads the name of an algorithm that may be allowed.
fn algorithm(text: &str) -> Result<Algorithm, String> {
    const BAD: &str = "must be of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA";
    let known = text.trim().parse().ok().filter(|algorithm| is_asymmetric(*algorithm));
    known.ok_or_else(|| BAD.to_owned())
}

fn tenant(text: &str) -> Result<TenantId, String> {
    text.parse().map_err(|invalid: millrace_core::Invalid| invalid.0.to_owned())
}

/// How callers are authenticated.
pub(super) struct JwtSettings {
    pub(super) rules: Rules,
    pub(super) source: Source,
    pub(super) pace: Pace,
}

impl SecuritySettings {
    /// Values that contradict each other, each in words.
    pub(crate) fn problems(&self) -> Vec<String> {
        let tls = self.tls();
        let jwt = self.jwt();
        tls.err().into_iter().chain(jwt.err().into_iter().flatten()).collect()
    }

    pub(super) fn tls(&self) -> Result<Option<tls::Files>, String> {
        let client_authorities = self.tls_client_ca_file.clone();
        match (&self.tls_cert_file, &self.tls_key_file, &client_authorities) {
            (Some(chain), Some(key), _) => {
                Ok(Some(tls::Files { chain: chain.clone(), key: key.clone(), client_authorities }))
            }
            (None, None, None) => Ok(None),
            _ => Err("TLS_CERT_FILE and TLS_KEY_FILE belong together, and TLS_CLIENT_CA_FILE needs both"
                .to_owned()),
        }
    }

    /// Whether callers are authenticated, so that a call's tenant is proven.
    pub fn authenticates(&self) -> bool {
        self.jwt_issuer.is_some()
    }

    pub(super) fn jwt(&self) -> Result<Option<JwtSettings>, Vec<String>> {
        let Some(issuer) = self.jwt_issuer.clone() else {
            let is_intended = !self.jwt_audience.is_empty()
                || self.jwt_jwks_file.is_some()
                || self.jwt_jwks_url.is_some()
                || self.jwt_jwks_ca_file.is_some()
                || self.jwt_default_tenant.is_some();
            return match is_intended {
                true => Err(vec!["callers are authenticated only with a JWT_ISSUER".to_owned()]),
                false => Ok(None),
            };
        };
        let mut problems = Vec::new();
        if self.jwt_audience.is_empty() {
            problems.push("JWT_ISSUER needs a JWT_AUDIENCE: tokens for others would be taken".to_owned());
        }
        if self.jwt_jwks_ca_file.is_some() && self.jwt_jwks_url.is_none() {
            problems.push("JWT_JWKS_CA_FILE is for a JWT_JWKS_URL".to_owned());
        }
        let of_url = Pace {
            interval: Duration::from_secs(self.jwt_jwks_refresh_seconds),
            min_interval: URL_MIN_INTERVAL,
        };
        let source = match (self.jwt_jwks_file.clone(), self.jwt_jwks_url.clone()) {
            (Some(file), None) => Some((Source::File(file), FILE_PACE)),
            (None, Some(url)) => {
                Some((Source::Url { url, authorities: self.jwt_jwks_ca_file.clone() }, of_url))
            }
            (None, None) | (Some(_), Some(_)) => {
                problems.push("JWT_ISSUER needs either JWT_JWKS_FILE or JWT_JWKS_URL".to_owned());
                None
            }
        };
        match source {
            Some((source, pace)) if problems.is_empty() => {
                Ok(Some(JwtSettings { rules: self.rules(issuer), source, pace }))
            }
            _ => Err(problems),
        }
    }

    fn rules(&self, issuer: String) -> Rules {
        Rules {
            issuer,
            audiences: self.jwt_audience.clone(),
            leeway: Duration::from_secs(self.jwt_leeway_seconds),
            tenant_claim: self.jwt_tenant_claim.clone(),
            scope_claim: self.jwt_scope_claim.clone(),
            default_tenant: self.jwt_default_tenant.clone(),
        }
    }
}

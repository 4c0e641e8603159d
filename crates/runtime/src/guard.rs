//! What guards a deployable's gRPC port: TLS, and who may call. Configured here; without any of it the port is open, which
//! is for one's own machine.

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Args, builder::RangedU64ValueParser};
use http::Uri;
use jsonwebtoken::Algorithm;
use metrics::{describe_counter, describe_gauge};
use millrace_domain::TenantId;
use tokio_util::sync::CancellationToken;

use crate::{
    config::non_empty,
    identity::{
        Reflection, Refusal, Rules,
        fetch::{Source, keys_url},
        gate::{Callers, Gate},
        keys::is_asymmetric,
        ring::{Pace, Ring},
    },
    places::Places,
    tls::{self, Tls},
};

/// How often a file of keys is looked at, and how soon again for a token whose key is not in it.
const OF_FILE: Pace = Pace { interval: Duration::from_secs(10), least: Duration::from_secs(1) };

/// How soon a URL of keys is asked again for a token whose key is not there.
const LEAST_OF_URL: Duration = Duration::from_secs(10);

/// What can be told about TLS and callers.
#[derive(Debug, Clone, Args)]
pub struct Security {
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

    /// Where health is served as well, in plain text and alone: for Kubernetes, whose probes speak no TLS.
    #[arg(long, env = "HEALTH_ADDR")]
    pub health_addr: Option<SocketAddr>,

    /// Who issues the tokens of callers (`iss`). With it, only callers with a token can call.
    #[arg(long, env = "JWT_ISSUER", value_parser = non_empty)]
    pub jwt_issuer: Option<String>,

    /// Whom tokens must be meant for (`aud`): one or more names, with commas between them.
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

    /// The claim that lists what the caller may do: `commands:write`, `queries:read`.
    #[arg(long, env = "JWT_SCOPE_CLAIM", default_value = "scope", value_parser = non_empty)]
    pub jwt_scope_claim: String,

    /// Who sees the contracts by reflection. `token`: callers with a valid token, or everybody where callers need none.
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
    text.parse().map_err(|invalid: millrace_domain::Invalid| invalid.0.to_owned())
}

/// How callers are to be authenticated.
struct Jwt {
    rules: Rules,
    source: Source,
    pace: Pace,
}

impl Security {
    /// What does not go together, each in words: single values were read before.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let tls = self.tls();
        let jwt = self.jwt();
        tls.err().into_iter().chain(jwt.err().into_iter().flatten()).collect()
    }

    fn tls(&self) -> Result<Option<tls::Files>, String> {
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

    /// Whether callers have to say who they are, so that their tenants are theirs.
    pub fn authenticates(&self) -> bool {
        self.jwt_issuer.is_some()
    }

    fn jwt(&self) -> Result<Option<Jwt>, Vec<String>> {
        let Some(issuer) = self.jwt_issuer.clone() else {
            let is_meant = !self.jwt_audience.is_empty()
                || self.jwt_jwks_file.is_some()
                || self.jwt_jwks_url.is_some()
                || self.jwt_jwks_ca_file.is_some()
                || self.jwt_default_tenant.is_some();
            return match is_meant {
                true => Err(vec!["callers are authenticated only with a JWT_ISSUER".to_owned()]),
                false => Ok(None),
            };
        };
        let mut wrong = Vec::new();
        if self.jwt_audience.is_empty() {
            wrong.push("JWT_ISSUER needs a JWT_AUDIENCE: tokens for others would be taken".to_owned());
        }
        if self.jwt_jwks_ca_file.is_some() && self.jwt_jwks_url.is_none() {
            wrong.push("JWT_JWKS_CA_FILE is for a JWT_JWKS_URL".to_owned());
        }
        let of_url =
            Pace { interval: Duration::from_secs(self.jwt_jwks_refresh_seconds), least: LEAST_OF_URL };
        let source = match (self.jwt_jwks_file.clone(), self.jwt_jwks_url.clone()) {
            (Some(file), None) => Some((Source::File(file), OF_FILE)),
            (None, Some(url)) => {
                Some((Source::Url { url, authorities: self.jwt_jwks_ca_file.clone() }, of_url))
            }
            (None, None) | (Some(_), Some(_)) => {
                wrong.push("JWT_ISSUER needs either JWT_JWKS_FILE or JWT_JWKS_URL".to_owned());
                None
            }
        };
        match source {
            Some((source, pace)) if wrong.is_empty() => {
                Ok(Some(Jwt { rules: self.rules(issuer), source, pace }))
            }
            _ => Err(wrong),
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

/// What guards the gRPC port.
#[derive(Default)]
pub struct Guard {
    pub(crate) tls: Option<Tls>,
    pub(crate) gate: Gate,
    pub(crate) reflection: Reflection,
}

impl Guard {
    /// Reads the files that the configuration names. A file that cannot be used is an error; a URL that cannot be reached
    /// is not, since it may be in a moment: until it was, the process is not ready.
    pub async fn load(security: &Security, max_concurrent_calls: u32) -> anyhow::Result<Self> {
        let tls = security.tls().map_err(anyhow::Error::msg)?;
        let tls = tls.map(|files| Tls::load(files, tls::LOOK_INTERVAL)).transpose().context("TLS")?;
        let jwt = security.jwt().map_err(|wrong| anyhow::Error::msg(wrong.join("; ")))?;
        let callers = match jwt {
            None => None,
            Some(jwt) => {
                let is_file = matches!(jwt.source, Source::File(_));
                let ring = Ring::new(jwt.source, jwt.pace);
                if is_file {
                    ring.look().await.context("the keys of the tokens' issuer")?;
                }
                // The edge sees to the calls of all together.
                let most_of_tenant =
                    security.max_concurrent_calls_per_tenant.unwrap_or((max_concurrent_calls / 2).max(1));
                Some(Arc::new(Callers {
                    rules: jwt.rules,
                    algorithms: security.jwt_algorithms.clone(),
                    ring,
                    reflection: security.reflection,
                    places: Places::new(u32::MAX, most_of_tenant),
                }))
            }
        };
        Ok(Self { tls, gate: Gate(callers), reflection: security.reflection })
    }

    /// Whether there is all that the guard needs to let anybody pass.
    pub(crate) fn is_ready(&self) -> Result<(), String> {
        match &self.gate.0 {
            Some(callers) if !callers.ring.has_keys() => {
                Err("the issuer's keys were not read yet".to_owned())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Keeps certificates and keys up to date until the shutdown.
    pub(crate) async fn keep(&self, shutdown: CancellationToken) {
        self.begin_counting();
        let tls = async {
            if let Some(tls) = &self.tls {
                tls.keep(shutdown.clone()).await;
            }
        };
        let keys = async {
            if let Some(callers) = &self.gate.0 {
                callers.ring.keep(shutdown.clone()).await;
            }
        };
        tokio::join!(tls, keys);
    }

    /// Lets the counters of what is configured begin: Prometheus sees no increase of one that comes into being with its
    /// first count.
    fn begin_counting(&self) {
        let begin = |metric: &'static str, outcomes: &[&'static str]| {
            for outcome in outcomes {
                metrics::counter!(metric, "outcome" => *outcome).absolute(0);
            }
        };
        describe_counter!("callers_total", "Calls whose caller was asked for a token, by what came of it.");
        describe_counter!("tls_handshakes_total", "Handshakes of TLS, by what came of them.");
        describe_counter!("tls_reloads_total", "Changes of the files of TLS, by what came of them.");
        describe_gauge!(
            "tls_files_refused",
            "1 while the newest files of TLS cannot be used. Alarm on this."
        );
        describe_counter!("jwks_reads_total", "Looks at the issuer's keys, by what came of them.");
        describe_gauge!("jwks_keys", "Keys of the issuer that are known.");
        if self.tls.is_some() {
            begin("tls_handshakes_total", &["done", "failed", "too_slow"]);
            begin("tls_reloads_total", &["taken_up", "refused"]);
        }
        if self.gate.0.is_some() {
            begin("jwks_reads_total", &["read", "failed"]);
            begin("callers_total", &["admitted", "bad_tenant"]);
            begin("callers_total", &Refusal::OUTCOMES);
        }
    }

    /// Says loudly what is open that others can reach.
    pub(crate) fn warn(&self, grpc: SocketAddr) {
        for warning in self.warnings(grpc) {
            tracing::warn!(grpc_addr = %grpc, "{warning}");
        }
    }

    fn warnings(&self, grpc: SocketAddr) -> Vec<&'static str> {
        if grpc.ip().is_loopback() {
            return Vec::new();
        }
        let is_mutual = self.tls.as_ref().is_some_and(Tls::is_mutual);
        let plain = self.tls.is_none().then_some(
            "gRPC is served in plain text: whoever is on the way can read and change it. TLS_CERT_FILE and TLS_KEY_FILE change that",
        );
        let open = (self.gate.0.is_none() && !is_mutual).then_some(
            "callers are not authenticated: whoever can connect acts for any tenant. JWT_ISSUER or TLS_CLIENT_CA_FILE changes that",
        );
        plain.into_iter().chain(open).collect()
    }
}

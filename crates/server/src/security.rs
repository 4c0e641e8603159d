//! The security of a deployable's gRPC port: TLS, and authentication. Without any settings the port is open: for
//! development on one machine only.

mod settings;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use metrics::{describe_counter, describe_gauge};
pub use settings::SecuritySettings;
use tokio_util::sync::CancellationToken;

use crate::{
    TenantLimiter,
    identity::{AuthError, authenticator::Authenticator, fetch::Source, jwks_cache::JwksCache},
    reflection::Reflection,
    tls::{self, Tls},
};

/// TLS and authentication of a gRPC port.
#[derive(Default)]
pub struct Security {
    pub(crate) tls: Option<Tls>,
    /// Authenticates callers; `None` if anybody may call.
    pub(crate) authenticator: Option<Arc<Authenticator>>,
    pub(crate) reflection: Reflection,
}

impl Security {
    /// Reads the files in the settings. A file that cannot be used is an error. An unreachable URL is not, since it may
    /// be reachable in a moment; until its keys are read, the process is not ready.
    pub async fn load(settings: &SecuritySettings, max_concurrent_calls: u32) -> anyhow::Result<Self> {
        let tls = settings.tls().map_err(anyhow::Error::msg)?;
        let tls = tls.map(|files| Tls::load(files, tls::LOOK_INTERVAL)).transpose().context("TLS")?;
        let jwt = settings.jwt().map_err(|problems| anyhow::Error::msg(problems.join("; ")))?;
        let authenticator = match jwt {
            None => None,
            Some(jwt) => {
                let is_file = matches!(jwt.source, Source::File(_));
                let keys = JwksCache::new(jwt.source, jwt.pace);
                if is_file {
                    keys.read().await.context("the keys of the tokens' issuer")?;
                }
                let half = (max_concurrent_calls / 2).max(1);
                let max_per_tenant = settings.max_concurrent_calls_per_tenant.unwrap_or(half);
                Some(Arc::new(Authenticator {
                    rules: jwt.rules,
                    algorithms: settings.jwt_algorithms.clone(),
                    keys,
                    // The edge bounds the calls of all tenants together.
                    limiter: TenantLimiter::new(u32::MAX, max_per_tenant),
                }))
            }
        };
        Ok(Self { tls, authenticator, reflection: settings.reflection })
    }

    /// Whether callers can be authenticated.
    pub(crate) fn is_ready(&self) -> Result<(), String> {
        match &self.authenticator {
            Some(authenticator) if !authenticator.keys.has_keys() => {
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
            if let Some(authenticator) = &self.authenticator {
                authenticator.keys.keep(shutdown.clone()).await;
            }
        };
        tokio::join!(tls, keys);
    }

    /// Starts the counters at zero: Prometheus sees no increase of a counter that begins with its first count.
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
        if self.authenticator.is_some() {
            begin("jwks_reads_total", &["read", "failed"]);
            begin("callers_total", &["admitted", "bad_tenant"]);
            begin("callers_total", &AuthError::OUTCOMES);
        }
    }

    /// Warns of an unsecured port that other machines can reach.
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
        let open = (self.authenticator.is_none() && !is_mutual).then_some(
            "callers are not authenticated: whoever can connect acts for any tenant. JWT_ISSUER or TLS_CLIENT_CA_FILE changes that",
        );
        plain.into_iter().chain(open).collect()
    }
}

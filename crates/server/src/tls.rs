//! Server TLS from mounted files, read again when they change.
//!
//! The whole configuration is swapped, not only the certificate: new connections get the latest certificate, key and
//! client authorities, and cannot resume a session from older ones. Open connections keep their configuration.

pub(crate) mod incoming;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{VerifierBuilderError, WebPkiClientVerifier},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::files;

/// How often the files are read. Kubernetes itself takes about a minute to bring a changed secret to a pod.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The paths of the files, in PEM.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// The server's certificate and its chain to an authority.
    pub(crate) chain: PathBuf,
    /// Its private key.
    pub(crate) key: PathBuf,
    /// The authorities of clients. With them, a client needs a certificate of theirs.
    pub(crate) client_authorities: Option<PathBuf>,
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {0}")]
    File(#[from] io::Error),
    /// A file does not hold the expected content.
    #[error("{} holds no {what} in PEM", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// The expected content.
        what: &'static str,
    },
    /// The certificate and the key do not match, or are of an unknown kind.
    #[error("the certificate and the key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// The authorities cannot verify any client.
    #[error("the authorities of clients cannot be used: {0}")]
    Authorities(#[from] VerifierBuilderError),
}

/// The content of the files.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    chain: Vec<u8>,
    key: Vec<u8>,
    client_authorities: Option<Vec<u8>>,
}

impl Files {
    fn read(&self) -> io::Result<Contents> {
        let client_authorities =
            self.client_authorities.as_ref().map(|path| files::read(path)).transpose()?;
        Ok(Contents { chain: files::read(&self.chain)?, key: files::read(&self.key)?, client_authorities })
    }

    /// The configuration for these contents: TLS 1.2 and 1.3, and HTTP/2 only.
    fn configuration(&self, contents: &Contents) -> Result<ServerConfig, TlsError> {
        // The same cryptography library as the AWS SDK's.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let config = match (&self.client_authorities, &contents.client_authorities) {
            (Some(path), Some(pem)) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(path, pem)? {
                    roots.add(authority)?;
                }
                let clients =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
                config.with_client_cert_verifier(clients)
            }
            _ => config.with_no_client_auth(),
        };
        let chain = certificates(&self.chain, &contents.chain)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|_| TlsError::Empty { path: self.key.clone(), what: "private key" })?;
        let mut config = config.with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

/// A configuration of files with these contents.
#[cfg(fuzzing)]
pub(crate) fn of_pem(
    chain: &[u8],
    key: &[u8],
    client_authorities: Option<&[u8]>,
) -> Result<ServerConfig, TlsError> {
    let path = || PathBuf::from("fuzz");
    let client_authorities = client_authorities.map(<[u8]>::to_vec);
    let files =
        Files { chain: path(), key: path(), client_authorities: client_authorities.is_some().then(path) };
    files.configuration(&Contents { chain: chain.to_vec(), key: key.to_vec(), client_authorities })
}

fn certificates(path: &std::path::Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) | Err(_) => Err(TlsError::Empty { path: path.to_owned(), what: "certificate" }),
    }
}

/// TLS by the last usable contents of the files.
pub(crate) struct Tls {
    files: Files,
    interval: Duration,
    began_with: Contents,
    config: watch::Sender<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files for the first time; here a fault in them is an error.
    pub(crate) fn load(files: Files, interval: Duration) -> Result<Self, TlsError> {
        let began_with = files.read()?;
        let config = watch::Sender::new(Arc::new(files.configuration(&began_with)?));
        Ok(Self { files, interval, began_with, config })
    }

    /// Whether clients have to show a certificate.
    pub(crate) fn is_mutual(&self) -> bool {
        self.files.client_authorities.is_some()
    }

    /// The configuration for each new connection.
    pub(crate) fn current(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.config.subscribe()
    }

    /// Reads the files repeatedly, until the shutdown. Unusable files are logged once, and change nothing.
    pub(crate) async fn keep(&self, shutdown: CancellationToken) {
        let mut last = Ok(self.began_with.clone());
        metrics::gauge!("tls_files_refused").set(0.0);
        let keep = async {
            loop {
                tokio::time::sleep(self.interval).await;
                let seen = self.look().await;
                // Files read during a change do not belong together: they are read until they are stable.
                if seen != last && seen == self.look().await {
                    self.take_up(&seen);
                    last = seen;
                }
            }
        };
        shutdown.run_until_cancelled(keep).await;
    }

    /// The present content of the files, or why they cannot be read.
    async fn look(&self) -> Result<Contents, String> {
        let files = self.files.clone();
        let read = tokio::task::spawn_blocking(move || files.read()).await;
        read.map_err(|error| error.to_string())?.map_err(|error| TlsError::from(error).to_string())
    }

    fn take_up(&self, seen: &Result<Contents, String>) {
        let made = seen
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|contents| self.files.configuration(contents).map_err(|error| error.to_string()));
        let outcome = match made {
            Ok(config) => {
                self.config.send_replace(Arc::new(config));
                tracing::info!("the files of TLS have changed, and are in use for new connections");
                metrics::gauge!("tls_files_refused").set(0.0);
                "taken_up"
            }
            Err(error) => {
                tracing::warn!(
                    error,
                    "the files of TLS have changed and cannot be used; the old ones stay in use"
                );
                metrics::gauge!("tls_files_refused").set(1.0);
                "refused"
            }
        };
        metrics::counter!("tls_reloads_total", "outcome" => outcome).increment(1);
    }
}

//! The source of an issuer's keys: a file, or HTTP.

use std::{io, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use http::{Request, StatusCode, Uri, header::ACCEPT};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use prost::bytes::Bytes;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::keys::{BadKeys, KeySet};
use crate::files;

/// The largest set of keys that is read, in bytes.
const MAX_SET_BYTES: usize = 256 * 1024;

/// The longest time of a read of the keys. Calls wait for it.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// Where the keys are.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// In a file.
    File(PathBuf),
    /// Behind a URL.
    Url {
        /// `https`, or `http` on this machine.
        url: Uri,
        /// Certificates of the authorities to trust there; the machine's own if absent.
        authorities: Option<PathBuf>,
    },
}

/// Why the keys could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// A file cannot be read.
    #[error("cannot read {0}")]
    File(#[from] io::Error),
    /// The server cannot be reached, or its certificate is not trusted.
    #[error("cannot reach the server of the keys: {0}")]
    Unreachable(String),
    /// The server answers with another status. Redirects are not followed: their target was not configured.
    #[error("the server of the keys answers {0}")]
    Status(StatusCode),
    /// The answer is too large.
    #[error("the keys are larger than {MAX_SET_BYTES} bytes")]
    TooLarge,
    /// No answer within [`TIMEOUT`].
    #[error("the keys did not come in time")]
    TooLate,
    /// The answer is no set of keys.
    #[error(transparent)]
    Bad(#[from] BadKeys),
    /// TLS cannot be set up.
    #[error("cannot speak TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Reads the URL of a set of keys. An attacker who can change the reply can be any caller, so it is `https`; traffic
/// within this machine may be `http`.
pub(crate) fn keys_url(text: &str) -> Result<Uri, String> {
    let url: Uri = text.parse().map_err(|_| "must be a URL".to_owned())?;
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let is_local = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    let has_user = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
    match url.scheme_str() {
        _ if host.is_empty() || has_user => Err("must be a URL with a host and without a user".to_owned()),
        Some("https") => Ok(url),
        Some("http") if is_local => Ok(url),
        _ => Err("must be an https URL (http only on this machine)".to_owned()),
    }
}

impl Source {
    /// Reads the current keys.
    pub(crate) async fn read(&self) -> Result<KeySet, FetchError> {
        let read = async {
            match self {
                Self::File(path) => {
                    let path = path.clone();
                    Ok(KeySet::parse(&in_background(move || files::read(&path)).await?)?)
                }
                Self::Url { url, authorities } => {
                    Ok(KeySet::parse(&get(url, client(authorities.clone()).await?).await?)?)
                }
            }
        };
        tokio::time::timeout(TIMEOUT, read).await.unwrap_or(Err(FetchError::TooLate))
    }
}

/// Reads files on a blocking thread.
async fn in_background<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// A client for one request: such requests are minutes apart, and authorities may change in between.
async fn client(authorities: Option<PathBuf>) -> Result<HttpClient, FetchError> {
    let roots = in_background(move || roots(authorities)).await?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

fn roots(authorities: Option<PathBuf>) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let certificates = match authorities {
        None => rustls_native_certs::load_native_certs().certs,
        Some(path) => CertificateDer::pem_slice_iter(&files::read(&path)?)
            .collect::<Result<_, _>>()
            .map_err(|_| io::Error::other(format!("{}: holds no certificates", path.display())))?,
    };
    roots.add_parsable_certificates(certificates);
    Ok(roots)
}

async fn get(url: &Uri, client: HttpClient) -> Result<Bytes, FetchError> {
    let request = Request::get(url).header(ACCEPT, "application/json, application/jwk-set+json");
    let request = request.body(Empty::new()).map_err(|error| FetchError::Unreachable(error.to_string()))?;
    let reply = client.request(request).await.map_err(|error| FetchError::Unreachable(told(&error)))?;
    if reply.status() != StatusCode::OK {
        return Err(FetchError::Status(reply.status()));
    }
    let body = Limited::new(reply.into_body(), MAX_SET_BYTES).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| match error.downcast::<LengthLimitError>() {
        Ok(_) => FetchError::TooLarge,
        Err(other) => FetchError::Unreachable(other.to_string()),
    })
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |said, cause| format!("{said}: {cause}"))
}

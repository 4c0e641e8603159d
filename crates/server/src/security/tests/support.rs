//! Authorities, issuers, a server that names its caller, and clients.

use std::{
    convert::Infallible,
    fs,
    future::{Ready, ready},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::{StreamExt as _, future::BoxFuture, stream, stream::BoxStream};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use millrace_proto::query::{
    GetHistoryRequest, GetHistoryResponse, SearchEventsRequest, SearchEventsResponse,
    history_service_client::HistoryServiceClient,
    history_service_server::{HistoryService, HistoryServiceServer},
};
use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
    time::sleep_until,
};
use tokio_rustls::TlsConnector;
use tokio_util::{either::Either, sync::CancellationToken};
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, ServerStreamingService},
    transport::{Channel, Endpoint, Uri},
};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt as _;
use tower::Service;

use crate::{
    COMMANDS_WRITE, Call, Reflection, TenantLimiter, clock,
    identity::{
        authenticator::Authenticator,
        fetch::Source,
        jwks_cache::{JwksCache, Pace},
        rules::Rules,
    },
    security::Security,
    serve::{Listeners, Served, serve},
    tls::{Files, Tls},
};

/// The issuer of these tests' tokens.
pub(super) const ISSUER: &str = "https://issuer.example";

/// The audience of the tokens.
pub(super) const AUDIENCE: &str = "millrace";

/// A certificate with its key, in PEM.
pub(super) struct Certified {
    pub(super) chain: String,
    pub(super) key: String,
}

/// An authority that issues certificates.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate of a server at `localhost`.
    pub(super) fn server(&self) -> Certified {
        self.issue(ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's certificate.
    pub(super) fn client(&self) -> Certified {
        self.issue(ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(&self, usage: ExtendedKeyUsagePurpose) -> Certified {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Certified { chain: certificate.pem(), key: key.serialize_pem() }
    }
}

/// A directory like Kubernetes' mount of a secret: files are links into `..data`, which is a link to a directory that
/// is replaced as a whole.
pub(super) struct Mount {
    dir: TempDir,
    version: AtomicU32,
}

impl Mount {
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let mount = Self { dir: tempfile::tempdir().unwrap(), version: AtomicU32::new(0) };
        mount.swap(files);
        for (name, _) in files {
            std::os::unix::fs::symlink(Path::new("..data").join(name), mount.path(name)).unwrap();
        }
        mount
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces all files at once.
    pub(super) fn swap(&self, files: &[(&str, &str)]) {
        let version = format!("..{}", self.version.fetch_add(1, Ordering::SeqCst));
        fs::create_dir(self.path(&version)).unwrap();
        for (name, text) in files {
            fs::write(self.path(&version).join(name), text).unwrap();
        }
        std::os::unix::fs::symlink(&version, self.path("..next")).unwrap();
        fs::rename(self.path("..next"), self.path("..data")).unwrap();
    }
}

/// The files of a server's TLS.
pub(super) fn tls_files<'a>(
    certified: &'a Certified,
    authorities: Option<&'a str>,
) -> Vec<(&'static str, &'a str)> {
    let mut files = vec![("tls.crt", certified.chain.as_str()), ("tls.key", certified.key.as_str())];
    files.extend(authorities.map(|pem| ("ca.crt", pem)));
    files
}

/// TLS from a mount, which is read fifty times a second.
pub(super) fn tls(mount: &Mount, mutual: bool) -> Tls {
    let files = Files {
        chain: mount.path("tls.crt"),
        key: mount.path("tls.key"),
        client_authorities: mutual.then(|| mount.path("ca.crt")),
    };
    Tls::load(files, Duration::from_millis(20)).unwrap()
}

/// A key of an issuer.
pub(super) struct Signer {
    id: &'static str,
    key: KeyPair,
}

impl Signer {
    pub(super) fn new(id: &'static str) -> Self {
        Self { id, key: KeyPair::generate().unwrap() }
    }

    pub(super) fn key(&self) -> &KeyPair {
        &self.key
    }

    /// The public half, in the form of an issuer's set.
    pub(super) fn jwk(&self) -> Value {
        let key = EncodingKey::from_ec_der(&self.key.serialize_der());
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap()).unwrap();
        jwk["kid"] = self.id.into();
        jwk["use"] = "sig".into();
        jwk
    }

    /// A token with these claims, and with this key's name.
    pub(super) fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.to_owned());
        encode(&header, claims, &EncodingKey::from_ec_der(&self.key.serialize_der())).unwrap()
    }
}

/// A set of keys as a text.
pub(super) fn jwks(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    clock::since_epoch().as_secs()
}

/// Claims that may do everything as tenant `acme`.
pub(super) fn claims() -> Value {
    json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "john.doe",
        "email": "john.doe@example.com",
        "exp": now() + 600,
        "nbf": now() - 600,
        "tenant_id": "acme",
        "scope": "openid commands:write queries:read",
    })
}

/// Claims with one of them changed; `null` removes it.
pub(super) fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    claims
}

/// A token of these parts; the last is a signature.
pub(super) fn token(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(header), part(claims), URL_SAFE_NO_PAD.encode(signature))
}

/// Rules for the issuer of these tests.
pub(super) fn rules() -> Rules {
    Rules {
        issuer: ISSUER.to_owned(),
        audiences: vec![AUDIENCE.to_owned()],
        leeway: Duration::from_secs(30),
        tenant_claim: "tenant_id".to_owned(),
        scope_claim: "scope".to_owned(),
        default_tenant: None,
    }
}

/// An authenticator of tokens by the keys of a source.
pub(super) async fn authenticator(source: Source, pace: Pace) -> Authenticator {
    let keys = JwksCache::new(source, pace);
    let _ = keys.read().await;
    Authenticator {
        rules: rules(),
        algorithms: vec![Algorithm::RS256, Algorithm::ES256],
        keys,
        limiter: TenantLimiter::new(100, 100),
    }
}

/// A pace that leaves the reads to the test.
pub(super) const SELDOM: Pace = Pace { interval: Duration::from_secs(3_600), min_interval: Duration::ZERO };

/// A port's security of these parts.
pub(super) fn security(tls: Option<Tls>, authenticator: Option<Authenticator>) -> Security {
    Security { tls, authenticator: authenticator.map(Arc::new), reflection: Reflection::Token }
}

/// A secured server that answers with the caller's tenant.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) health: SocketAddr,
    /// How many calls reached a service.
    pub(super) calls: Arc<AtomicU32>,
    /// Ends the searches that wait for it.
    pub(super) release: Arc<Notify>,
    pub(super) shutdown: CancellationToken,
    pub(super) task: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    /// A server that requires the scope of commands.
    pub(super) async fn start(security: Security) -> Self {
        Self::with_scope(security, COMMANDS_WRITE).await
    }

    pub(super) async fn with_scope(security: Security, scope: &'static str) -> Self {
        Self::with(security, scope, None).await
    }

    pub(super) async fn with(
        security: Security,
        scope: &'static str,
        max_connection_age: Option<Duration>,
    ) -> Self {
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let health = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, health_address) = (grpc.local_addr().unwrap(), health.local_addr().unwrap());
        let service = Echo::default();
        let (calls, release) = (service.calls.clone(), service.release.clone());
        let served = Served {
            services: crate::services![HistoryServiceServer::new(service)].and(Watch),
            scope,
            contracts: watch_contract(),
            package_part: "command",
            probe: Box::new(|| Box::pin(async { Ok(()) })),
            max_concurrent_calls: 100,
            metrics: None,
        };
        let shutdown = CancellationToken::new();
        let listeners = Listeners { grpc, metrics: None, health: Some(health), security, max_connection_age };
        let task = tokio::spawn(serve(listeners, served, shutdown.clone()));
        Self { address, health: health_address, calls, release, shutdown, task }
    }

    /// A client, by TLS or in plain text.
    pub(super) fn history(&self, tls: Option<&ClientConfig>) -> HistoryServiceClient<Channel> {
        HistoryServiceClient::new(channel(self.address, tls))
    }

    pub(super) fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Ends the server, and fails if it did not end well.
    pub(super) async fn end(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(20), self.task).await.unwrap().unwrap().unwrap();
    }
}

/// A connection that is made on first use.
pub(super) fn channel(address: SocketAddr, tls: Option<&ClientConfig>) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let tls = tls.map(|config| TlsConnector::from(Arc::new(config.clone())));
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let Some(tls) = tls else { return Ok(TokioIo::new(Either::Left(stream))) };
            let stream = tls.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(Either::Right(stream)))
        }
    }))
}

/// A client that trusts an authority, and has a certificate if one is given.
pub(super) fn client(authority: &Authority, certified: Option<&Certified>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match certified {
        None => config.with_no_client_auth(),
        Some(certified) => {
            let chain = vec![CertificateDer::from_pem_slice(certified.chain.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(certified.key.as_bytes()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// A request with these metadata.
pub(super) fn with<T>(message: T, metadata: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in metadata {
        request.metadata_mut().append(*name, value.parse().unwrap());
    }
    request
}

/// Calls with this token; returns the tenant in the reply.
pub(super) async fn ask(client: &mut HistoryServiceClient<Channel>, token: &str) -> Result<String, Status> {
    let bearer = format!("Bearer {token}");
    let request = with(GetHistoryRequest::default(), &[("authorization", &bearer)]);
    client.get_history(request).await.map(|reply| reply.into_inner().next_page_token)
}

/// The code of a refusal, and its reason.
pub(super) fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("a refusal");
    let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
    (status.code(), reason.unwrap_or_default())
}

/// Asks again until the answer is yes, for a minute at most.
pub(super) async fn eventually(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    for _ in 0..3_000 {
        if ask().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within a minute: {what}");
}

/// A service that answers with the caller's tenant.
#[derive(Debug, Clone, Default)]
struct Echo {
    calls: Arc<AtomicU32>,
    release: Arc<Notify>,
}

impl Echo {
    fn tenant<T>(&self, request: &Request<T>) -> Result<String, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Ok(Call::of(request)?.tenant.as_str().to_owned())
    }
}

#[tonic::async_trait]
impl HistoryService for Echo {
    async fn get_history(
        &self,
        request: Request<GetHistoryRequest>,
    ) -> Result<Response<GetHistoryResponse>, Status> {
        let next_page_token = self.tenant(&request)?;
        Ok(Response::new(GetHistoryResponse { next_page_token, ..Default::default() }))
    }

    async fn search_events(
        &self,
        request: Request<SearchEventsRequest>,
    ) -> Result<Response<SearchEventsResponse>, Status> {
        let next_page_token = self.tenant(&request)?;
        self.release.notified().await;
        Ok(Response::new(SearchEventsResponse { next_page_token, ..Default::default() }))
    }
}

/// A service with one call, `test.v1.Watch/Watch`. Its reply is a stream that ends with the caller's token.
#[derive(Debug, Clone)]
struct Watch;

/// The path of its call.
pub(super) const WATCH: &str = "/test.v1.Watch/Watch";

impl NamedService for Watch {
    const NAME: &'static str = "test.v1.Watch";
}

impl Service<http::Request<Body>> for Watch {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let codec = ProstCodec::<GetHistoryResponse, GetHistoryRequest>::default();
        Box::pin(async move { Ok(Grpc::new(codec).server_streaming(Self, request).await) })
    }
}

impl ServerStreamingService<GetHistoryRequest> for Watch {
    type Response = GetHistoryResponse;
    type ResponseStream = BoxStream<'static, Result<GetHistoryResponse, Status>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<GetHistoryRequest>) -> Self::Future {
        let end = Call::of(&request).unwrap().end_of_stream.expect("a token");
        let ends = stream::once(async move {
            sleep_until(end.at()).await;
            Err(end.failure().into())
        });
        ready(Ok(Response::new(stream::iter([Ok(GetHistoryResponse::default())]).chain(ends).boxed())))
    }
}

/// The contract of [`Watch`].
fn watch_contract() -> &'static [u8] {
    let method = MethodDescriptorProto {
        name: Some("Watch".to_owned()),
        input_type: Some(".millrace.query.v1.GetHistoryRequest".to_owned()),
        output_type: Some(".millrace.query.v1.GetHistoryResponse".to_owned()),
        server_streaming: Some(true),
        ..Default::default()
    };
    let service =
        ServiceDescriptorProto { name: Some("Watch".to_owned()), method: vec![method], options: None };
    let file = FileDescriptorProto {
        name: Some("test/v1/watch.proto".to_owned()),
        package: Some("test.v1".to_owned()),
        dependency: vec!["millrace/query/v1/history_service.proto".to_owned()],
        service: vec![service],
        ..Default::default()
    };
    FileDescriptorSet { file: vec![file] }.encode_to_vec().leak()
}

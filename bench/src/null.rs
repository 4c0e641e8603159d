//! The null endpoint: a DynamoDB that answers at once and does nothing, so that only our own code's work is left.
//!
//! It runs as a process of its own, which is this program under another name, so that its work is nobody else's.

use std::{
    convert::Infallible,
    env,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use uuid::Uuid;

/// The name by which this program is the null endpoint.
pub(crate) const ROLE: &str = "null-endpoint";

/// Whose row it has.
const ROW_ID: &str = "0b5e8c0e-5a0b-4c0a-9b0a-3a3c1f0e7d11";

/// The same.
pub(crate) const ROW_OF: Uuid = Uuid::from_u128(0x0b5e_8c0e_5a0b_4c0a_9b0a_3a3c_1f0e_7d11);

/// The row of the table of user profiles in every reply.
const ROW: &str = r#"{"Item":{"Key":{"S":"default#0b5e8c0e-5a0b-4c0a-9b0a-3a3c1f0e7d11"},
"Email":{"S":"john.doe@example.com"},"ByEmailKey":{"S":"default#john.doe@example.com"},"Name":{"S":"John Doe"},
"CreatedAt":{"S":"2026-01-01T00:00:00Z"},"UpdatedAt":{"S":"2026-01-01T00:00:00Z"},"Version":{"N":"2"}}}"#;

/// The null endpoint, running. Killed when this is dropped.
pub(crate) struct Null {
    child: Child,
    url: String,
}

impl Null {
    /// Starts one.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .arg(ROLE)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the null endpoint")?;
        let mut url = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut url)?;
        }
        Ok(Self { child, url: url.trim().to_owned() })
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Null {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves, until it is killed.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    loop {
        let (client, _) = listener.accept().await?;
        client.set_nodelay(true)?;
        tokio::spawn(async move {
            // It ends with an error where the client goes.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(client), service_fn(answer)).await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
    let operation = target.and_then(|target| target.rsplit_once('.')).map_or("", |(_, operation)| operation);
    let operation = operation.to_owned();
    // A request that is not read to its end would cost its client the connection.
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let of_row = || body.windows(36).any(|text| text == ROW_ID.as_bytes());
    let reply = match operation.as_str() {
        "Query" => r#"{"Items":[],"Count":0,"ScannedCount":0}"#,
        "GetItem" if of_row() => ROW,
        _ => "{}",
    };
    let mut response = Response::new(Full::new(Bytes::from_static(reply.as_bytes())));
    let kind = hyper::header::HeaderValue::from_static("application/x-amz-json-1.0");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

//! Incoming connections.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::{Connected, TcpConnectInfo, TcpIncoming};

/// How many handshakes are under way at a time. Further connections wait for the system to hand them over.
const MAX_HANDSHAKES: usize = 256;

/// The longest time that a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause after a listener's failure, such as a lack of file descriptors.
const AFTER_FAILURE: Duration = Duration::from_millis(20);

/// A connection, in plain text or not.
#[derive(Debug)]
pub(crate) enum Connection {
    /// In plain text.
    Plain(TcpStream),
    /// Within TLS, after the handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

/// The connections of a listener. With TLS, each begins with a handshake under the configuration current at that time;
/// handshakes run concurrently, and failed ones are only counted.
pub(crate) fn incoming(
    listener: TcpListener,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
) -> impl Stream<Item = io::Result<Connection>> {
    TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .map(move |accepted| begin(accepted, tls.as_ref().map(|tls| tls.borrow().clone())))
        .buffer_unordered(MAX_HANDSHAKES)
        .filter_map(|begun| std::future::ready(begun.map(Ok)))
}

async fn begin(accepted: io::Result<TcpStream>, tls: Option<Arc<ServerConfig>>) -> Option<Connection> {
    let Ok(stream) = accepted else {
        tokio::time::sleep(AFTER_FAILURE).await;
        return None;
    };
    let Some(tls) = tls else { return Some(Connection::Plain(stream)) };
    // A task of its own, since its cryptography takes a while; it ends when the caller stops waiting.
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(tls).accept(stream));
    let (outcome, stream) = match AbortOnDropHandle::new(tokio::spawn(handshake)).await {
        Ok(Ok(Ok(stream))) => ("done", Some(Connection::Tls(Box::new(stream)))),
        Ok(Ok(Err(_))) | Err(_) => ("failed", None),
        Ok(Err(_)) => ("too_slow", None),
    };
    metrics::counter!("tls_handshakes_total", "outcome" => outcome).increment(1);
    stream
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        match self {
            Self::Plain(stream) => stream.connect_info(),
            Self::Tls(stream) => stream.get_ref().0.connect_info(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

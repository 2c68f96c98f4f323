//! HTTP/2 with its frames in the test's hands: streams are reset with any code, and codes are seen.
//!
//! Invariant: nothing is retried, and a reset is never turned into something else.
//! Non-goal: flow control by hand; bodies are small.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Request;
use tokio::net::TcpStream;
use tonic::transport::server::{Router, TcpIncoming};

use crate::client::tcp;
use crate::netns::Host;

/// Opens an HTTP/2 connection with prior knowledge; its driver runs as a task of the current runtime.
///
/// # Errors
/// When the address cannot be reached, or does not speak HTTP/2.
pub async fn connect(addr: SocketAddr) -> io::Result<SendRequest<Bytes>> {
    let (sender, connection) = h2::client::handshake(tcp::connect(addr).await?).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    sender.ready().await.map_err(io::Error::other)
}

/// Serves HTTP/2 on `port` of all addresses of `host`; each stream is `serve`'s. Ends with the process.
///
/// # Panics
/// When the port is taken.
pub fn serve<F>(
    host: &Host,
    port: u16,
    serve: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    serve_with(h2::server::Builder::new(), host, port, serve);
}

/// As [`serve`], with settings of the server's own.
///
/// # Panics
/// When the port is taken.
pub fn serve_with<F>(
    settings: h2::server::Builder,
    host: &Host,
    port: u16,
    serve: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let serve = Arc::new(serve);
    accept(host, port, move |stream| {
        let (settings, serve) = (settings.clone(), Arc::clone(&serve));
        async move {
            let Ok(mut connection) = settings.handshake::<_, Bytes>(stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(serve(request, respond));
            }
        }
    });
}

/// Takes connections on `port` of all addresses of `host`; each is `serve`'s. Ends with the process.
///
/// # Panics
/// When the port is taken.
pub fn accept<F>(host: &Host, port: u16, serve: impl Fn(TcpStream) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    listen(host, port, async move |listener| {
        loop {
            tokio::spawn(serve(listener.accept().await?.0));
        }
    });
}

/// Serves calls of gRPC on `port` of all addresses of `host`, as `router` has them. Ends with the process.
///
/// # Panics
/// When the port is taken.
pub fn serve_calls(host: &Host, port: u16, router: Router) {
    listen(host, port, async move |listener| {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        router.serve_with_incoming(incoming).await.map_err(io::Error::other)
    });
}

/// Listens before it returns; `serve` has a runtime and a thread of its own.
fn listen(host: &Host, port: u16, serve: impl AsyncFnOnce(tokio::net::TcpListener) -> io::Result<()> + Send + 'static) {
    let listener = host.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)));
    let listener = listener.unwrap_or_else(|error| panic!("port {port}: {error}"));
    host.run_in_thread(move || -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        listener.set_nonblocking(true)?;
        runtime.block_on(async move { serve(tokio::net::TcpListener::from_std(listener)?).await })
    });
}

/// Reads a body to its end: all of it, or the code that it was reset with.
///
/// # Errors
/// The code; `INTERNAL_ERROR` stands for a connection that broke.
pub async fn body(mut stream: RecvStream) -> Result<Vec<u8>, Reason> {
    let mut all = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk.map_err(|error| code(&error))?;
        let _ = stream.flow_control().release_capacity(chunk.len());
        all.extend_from_slice(&chunk);
    }
    stream.trailers().await.map_err(|error| code(&error))?;
    Ok(all)
}

/// Waits until the peer resets the stream before it is answered.
pub async fn reset(respond: &mut SendResponse<Bytes>) -> Reason {
    poll_fn(|cx| respond.poll_reset(cx)).await.unwrap_or_else(|error| code(&error))
}

/// The code of an error.
#[must_use]
pub fn code(error: &h2::Error) -> Reason {
    error.reason().unwrap_or(Reason::INTERNAL_ERROR)
}

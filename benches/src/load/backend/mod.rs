//! The back end: HTTP/1.1 and h2c on one port, echo on another, gRPC on a third; one thread, no work to speak of.
//!
//! Invariant: what it sends carries [`message::MARKER`](super::message::MARKER); it closes in order on SIGTERM.
//! Non-goal: counting; who loads it counts.

mod echo;
mod grpc;
mod site;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Enough for the 9,000 connections that a bench opens at its fastest; the system's limit may be lower.
const BACKLOG: i32 = 16_384;
/// For requests that run when the end comes.
const GRACE: Duration = Duration::from_secs(1);

/// What is served, and where; each is optional.
#[derive(Debug, Default)]
pub struct Backend {
    /// HTTP/1.1 and h2c.
    pub http: Option<TcpListener>,
    /// Echo.
    pub echo: Option<TcpListener>,
    /// gRPC.
    pub grpc: Option<TcpListener>,
}

/// Binds an address; not yet listening for long, so a backlog of its own.
///
/// # Errors
/// When the address is taken, or none of this machine. Outside of a runtime.
pub fn bind(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    listener().with_context(|| format!("listening on {addr}"))
}

impl Backend {
    /// Serves until `stop` is set.
    ///
    /// # Errors
    /// When the gRPC server fails.
    pub async fn serve(self, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let grpc = async {
            match self.grpc {
                Some(listener) => grpc::serve(listener, stopped(stop.clone())).await.context("gRPC"),
                None => Ok(()),
            }
        };
        let (_, _, served) =
            tokio::join!(serve_http(self.http, stop.clone()), serve_echo(self.echo, stop.clone()), grpc);
        served
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error: who could have set it is gone, which is the end as well.
    drop(stop.wait_for(|stop| *stop).await);
}

async fn serve_http(listener: Option<TcpListener>, stop: watch::Receiver<bool>) {
    let Some(listener) = listener else { return };
    let site = site::Site::default();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().pipeline_flush(true);
    builder.http2().max_concurrent_streams(1000);
    let graceful = GracefulShutdown::new();
    while let Some(stream) = accept(&listener, &stop).await {
        let connection = builder.serve_connection(TokioIo::new(stream), site.clone()).into_owned();
        let connection = graceful.watch(connection);
        // A client that leaves is no news.
        tokio::spawn(async { drop(connection.await) });
    }
    // Those that have not ended by then are cut with the process.
    drop(timeout(GRACE, graceful.shutdown()).await);
}

async fn serve_echo(listener: Option<TcpListener>, stop: watch::Receiver<bool>) {
    let Some(listener) = listener else { return };
    while let Some(stream) = accept(&listener, &stop).await {
        tokio::spawn(async { drop(echo::serve(stream).await) });
    }
}

/// The next connection; none when it is time to stop.
async fn accept(listener: &TcpListener, stop: &watch::Receiver<bool>) -> Option<TcpStream> {
    loop {
        let accepted = tokio::select! {
            () = stopped(stop.clone()) => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                // Fails for a peer that is gone already, which reading finds as well.
                drop(stream.set_nodelay(true));
                return Some(stream);
            }
            // Out of descriptors, or the peer was gone already: neither is a reason to stop serving.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

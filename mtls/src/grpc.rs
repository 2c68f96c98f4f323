//! gRPC over our TLS, for the control plane: [`channel`] to a service, [`incoming()`] and [`server`] for one.
//!
//! Invariant: no plaintext; the server proves the id that the caller expects, on each connection. A channel resolves
//! its name anew for each connection, and finds a dead peer: a host by the kernel's probes, a process by HTTP/2 pings.
//! Non-goal: traffic of applications.

mod incoming;
mod places;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tonic::transport::{Channel, Endpoint, Server, Uri};

pub use incoming::{Connection, DESCRIPTORS, Incoming, Peer, incoming};
pub use places::Source;

use crate::spiffe::Id;
use crate::tls::{self, Connector};

/// The application protocol of gRPC.
pub const ALPN: &[&[u8]] = &[b"h2"];

/// For name resolution, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between pings, while streams are open and while idle: for peers that live and do not answer. Seldom, for each wakes a process
/// that may have nothing else to do.
pub const PING_INTERVAL: Duration = Duration::from_secs(30);
/// The time that a ping may take.
pub const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// For hosts that are gone: probes after so much silence, which wake nobody, and the time that anything may stay unanswered.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const UNANSWERED: Duration = Duration::from_secs(20);
/// Of one client; a proxy needs a handful.
const MAX_STREAMS: u32 = 128;

/// Why a channel has no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is unknown, or malformed.
    #[error("resolve {addr}: {source}")]
    Resolve {
        /// As configured.
        addr: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// TCP failed.
    #[error("connect to {addr}: {source}")]
    Connect {
        /// The last address tried.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// TLS failed.
    #[error("TLS with {addr}: {source}")]
    Tls {
        /// The last address tried.
        addr: SocketAddr,
        /// What the handshake says.
        source: tls::Error,
    },
}

/// A channel to `addr` (`host:port`) that connects when first used and again after each failure. The server must prove
/// to be `expected`. Must be called within a tokio runtime.
pub fn channel(addr: &str, expected: Id, connector: Connector) -> Channel {
    let connector = connector.with_alpn(ALPN);
    let addr = addr.to_owned();
    channel_over(move || {
        let (addr, expected, connector) = (addr.clone(), expected.clone(), connector.clone());
        async move { dial(&addr, &expected, &connector).await }
    })
}

/// A channel over connections that `dial` makes, with the same limits.
pub fn channel_over<D, F, IO, E>(dial: D) -> Channel
where
    D: Fn() -> F + Clone + Send + 'static,
    F: Future<Output = Result<IO, E>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    let dialer = tower::service_fn(move |_: Uri| {
        let dialed = dial();
        async move { dialed.await.map(TokioIo::new) }
    });
    // The URI only makes the requests' authority; the dialer knows the address. Of the form `http` because tonic
    // itself must not add a TLS of its own.
    Endpoint::from_static("http://control.mesh.internal")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(dialer)
}

/// A server with limits that suit the control plane, to be used with [`incoming()`].
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .max_concurrent_streams(MAX_STREAMS)
}

/// Tries all addresses of the name in random order, each with its share of the time, so that replicas share the load
/// and a dead one does not hide the others.
async fn dial(addr: &str, expected: &Id, connector: &Connector) -> Result<tls::Stream<TcpStream>, Error> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let resolve = |source| Error::Resolve { addr: addr.to_owned(), source };
    let mut targets: Vec<SocketAddr> = lookup_host(addr).await.map_err(resolve)?.collect();
    fastrand::shuffle(&mut targets);
    let mut last = resolve(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    let mut left = targets.len();
    for target in targets {
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / u32::try_from(left).unwrap_or(u32::MAX);
        left -= 1;
        match timeout_at(now + share, open(target, expected, connector)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = Error::Connect { addr: target, source: io::ErrorKind::TimedOut.into() },
        }
    }
    Err(last)
}

async fn open(addr: SocketAddr, expected: &Id, connector: &Connector) -> Result<tls::Stream<TcpStream>, Error> {
    let connect = |source| Error::Connect { addr, source };
    let tcp = TcpStream::connect(addr).await.map_err(connect)?;
    prepare(&tcp).map_err(connect)?;
    connector.connect(tcp, expected).await.map_err(|source| Error::Tls { addr, source })
}

/// Small messages leave at once, and a peer whose host is gone is noticed.
fn prepare(tcp: &TcpStream) -> io::Result<()> {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    tcp.set_nodelay(true)?;
    setsockopt(tcp, sockopt::KeepAlive, &true)?;
    setsockopt(tcp, sockopt::TcpKeepIdle, &seconds(PROBE_AFTER))?;
    setsockopt(tcp, sockopt::TcpKeepInterval, &seconds(PROBE_AFTER / 3))?;
    setsockopt(tcp, sockopt::TcpUserTimeout, &(seconds(UNANSWERED) * 1000))?;
    Ok(())
}

#[cfg(test)]
mod tests;

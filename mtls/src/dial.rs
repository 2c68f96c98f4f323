//! The way to a service of the control plane: its name to addresses, one of them to TCP, that to mutual TLS.
//!
//! Invariant: no plaintext; the server proves the id that the caller expects, on each connection. The name is resolved anew for
//! each. A dead host is found by the kernel's probes; a dead process is for who speaks on the connection, by [`PING_INTERVAL`].

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use crate::spiffe::Id;
use crate::tls::{self, Connector};

/// For name resolution, TCP and TLS together.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between pings, while streams are open and while idle: for peers that live and do not answer. Seldom, for each wakes a process
/// that may have nothing else to do.
pub const PING_INTERVAL: Duration = Duration::from_secs(30);
/// The time that a ping may take.
pub const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// For hosts that are gone: probes after so much silence, which wake nobody, and the time that anything may stay unanswered.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const UNANSWERED: Duration = Duration::from_secs(20);
/// Bytes that are not sent and wait in the kernel for a peer to make room: what waits here can still be exchanged for something newer.
const MOST_WAITING: u32 = 16 * 1024;
/// Of what a client has not read; the kernel makes it twice as much. So what it gets is no older than that, and pings are answered in time.
const MOST_UNREAD: u32 = 128 * 1024;

/// Why there is no connection.
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

/// Tries all addresses of the name in random order, each with its share of the time, so that replicas share the load
/// and a dead one does not hide the others.
///
/// # Errors
/// Of the last address that was tried; the server must prove to be `expected`.
pub async fn dial(addr: &str, expected: &Id, connector: &Connector) -> Result<tls::Stream<TcpStream>, Error> {
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
    let tcp = dial_tcp(addr).await.map_err(connect)?;
    prepare(&tcp).map_err(connect)?;
    connector.connect(tcp, expected).await.map_err(|source| Error::Tls { addr, source })
}

async fn dial_tcp(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_recv_buffer_size(MOST_UNREAD)?;
    socket.connect(addr).await
}

/// Small messages leave at once, large ones as fast as they are taken, and a peer whose host is gone is noticed.
pub(crate) fn prepare(tcp: &TcpStream) -> io::Result<()> {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    tcp.set_nodelay(true)?;
    SockRef::from(tcp).set_tcp_notsent_lowat(MOST_WAITING)?;
    setsockopt(tcp, sockopt::KeepAlive, &true)?;
    setsockopt(tcp, sockopt::TcpKeepIdle, &seconds(PROBE_AFTER))?;
    setsockopt(tcp, sockopt::TcpKeepInterval, &seconds(PROBE_AFTER / 3))?;
    setsockopt(tcp, sockopt::TcpUserTimeout, &(seconds(UNANSWERED) * 1000))?;
    Ok(())
}

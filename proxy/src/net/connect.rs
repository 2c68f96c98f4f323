//! Connecting to applications and other sidecars.
//!
//! Invariant: a connect has a deadline, and a connection that died silently is noticed by the kernel: unacknowledged data
//! after `user_timeout`, silence by keep-alive probes. Who lives and takes nothing is cut off only where a host could be gone
//! without a word, see [`LivenessSettings::user_timeout`].

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mesh_kit::limits;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Limits of a connection that the proxy opens.
#[derive(Clone, Debug)]
pub struct Settings {
    /// To the end of the TCP handshake.
    pub timeout: Duration,
    /// When a silent or dead peer is given up.
    pub liveness: LivenessSettings,
}

/// When the kernel gives up a peer that says nothing.
#[derive(Clone, Copy, Debug)]
pub struct LivenessSettings {
    /// Silence before the first keep-alive probe; three more probes follow at a third of it.
    pub keepalive: Duration,
    /// How long sent data may stay unacknowledged (TCP_USER_TIMEOUT). Since Linux 5.11 it also ends a connection whose peer has
    /// shut its window for so long, however often it says so. So there is none where an application may pause for as long as
    /// it likes, and where nobody needs to hear of a lost host within seconds.
    pub user_timeout: Option<Duration>,
}

/// Opens TCP connections under `Settings`.
#[derive(Clone, Debug)]
pub struct Connector {
    settings: Settings,
}

/// A TCP connection that could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
#[error("connect to {addr}: {cause}")]
pub struct ConnectError {
    /// Where to.
    pub addr: SocketAddr,
    /// Why not, in the kernel's words.
    pub cause: String,
    /// The fault is ours: this process may not have another descriptor. It says nothing of who was to be connected.
    pub is_ours: bool,
}

impl Connector {
    /// A connector under `settings`.
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// Connects to `addr` within the time limit.
    pub async fn connect(&self, addr: SocketAddr) -> Result<TcpStream, ConnectError> {
        self.connect_within(addr, None).await
    }

    /// The same within a limit that somebody has set for this one.
    pub async fn connect_within(&self, addr: SocketAddr, limit: Option<Duration>) -> Result<TcpStream, ConnectError> {
        let limit = limit.unwrap_or(self.settings.timeout);
        let failed = |cause: String| ConnectError { addr, cause, is_ours: false };
        let without_files = |cause: &str| ConnectError { addr, cause: cause.into(), is_ours: true };
        match tokio::time::timeout(limit, TcpStream::connect(addr)).await {
            // These are for the admin port and the control plane.
            Ok(Ok(tcp)) if limits::is_among_last(&tcp, 1) => Err(without_files("too few file descriptors are left")),
            Ok(Ok(tcp)) => {
                let set = tcp.set_nodelay(true).and_then(|()| self.settings.liveness.put_on(&SockRef::from(&tcp)));
                set.map_err(|error| failed(error.to_string()))?;
                Ok(tcp)
            }
            Ok(Err(error)) if limits::are_files_used_up(&error) => Err(without_files(&error.to_string())),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {limit:?}"))),
        }
    }
}

impl LivenessSettings {
    /// Puts the options on a socket; those of a listener are inherited by what it accepts.
    pub fn put_on(&self, socket: &SockRef<'_>) -> io::Result<()> {
        let interval = (self.keepalive / 3).max(Duration::from_secs(1));
        let keepalive = TcpKeepalive::new().with_time(self.keepalive).with_interval(interval).with_retries(3);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(self.user_timeout)
    }
}

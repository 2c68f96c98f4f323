//! Listening sockets and the accept loop.
//!
//! Invariant: an accept error never spins; running out of file descriptors pauses the loop. With several workers there is one
//! listener per worker and address, with SO_REUSEPORT, so that they share nothing.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::FutureExt;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::connect::LivenessSettings;

/// How listeners are made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Addresses to listen on; an IPv6 one is skipped where the kernel has no IPv6.
    pub addrs: Vec<SocketAddr>,
    /// Length of the kernel's accept queue.
    pub backlog: i32,
    /// How many listeners each address gets; more than one share it by SO_REUSEPORT.
    pub workers: usize,
    /// When a silent or dead client is given up.
    pub liveness: LivenessSettings,
}

const PAUSE_WHEN_EXHAUSTED: Duration = Duration::from_millis(100);

/// An error if anybody listens on one of the addresses already: with SO_REUSEPORT the kernel would not say so.
pub fn probe(settings: &Settings) -> io::Result<()> {
    bind_all(&Settings { workers: 1, ..settings.clone() }).map(drop)
}

/// Binds all addresses of `settings`.
pub fn bind_all(settings: &Settings) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::with_capacity(settings.addrs.len());
    for addr in &settings.addrs {
        match bind(*addr, settings) {
            Ok(listener) => listeners.push(listener),
            Err(error) if addr.is_ipv6() && no_ipv6(&error) => {
                tracing::info!(%addr, "no IPv6 on this host, not listening");
            }
            Err(error) => {
                let message = format!("listen on {addr}: {error}");
                return Err(io::Error::new(error.kind(), message));
            }
        }
    }
    Ok(listeners)
}

fn bind(addr: SocketAddr, settings: &Settings) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(settings.workers > 1)?;
    // Accepted connections inherit these.
    socket.set_tcp_nodelay(true)?;
    settings.liveness.put_on(&SockRef::from(&socket))?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(settings.backlog)?;
    TcpListener::from_std(socket.into())
}

fn no_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// The next connection. Errors that concern one connection
/// are passed over; `on_error` hears of the others.
pub async fn accept(listener: &TcpListener, mut on_error: impl FnMut(&io::Error)) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if of_one_connection(&error) => on_error(&error),
            Err(error) => {
                on_error(&error);
                tokio::time::sleep(PAUSE_WHEN_EXHAUSTED).await;
            }
        }
    }
}

fn of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// A connection that waits in the kernel already, if there is one.
pub fn accept_waiting(listener: &TcpListener) -> Option<TcpStream> {
    let (tcp, _) = listener.accept().now_or_never()?.ok()?;
    Some(tcp)
}

/// Where the client dialed before the redirect; `None` for a connection that was not redirected.
pub fn original_destination(tcp: &TcpStream) -> Option<SocketAddr> {
    let socket = SockRef::from(tcp);
    let local = tcp.local_addr().ok()?;
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    original.ok()?.as_socket().map(canonical)
}

/// An IPv4-mapped IPv6 address as the IPv4 address that it is.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVENESS: LivenessSettings = LivenessSettings { keepalive: Duration::from_secs(10), user_timeout: None };

    #[tokio::test]
    async fn a_connection_without_redirect_has_no_other_original_destination() {
        let settings = Settings { addrs: vec![([127, 0, 0, 1], 0).into()], backlog: 8, workers: 1, liveness: LIVENESS };
        let listeners = bind_all(&settings).expect("loopback can be bound");
        let addr = listeners[0].local_addr().expect("bound");
        let client = TcpStream::connect(addr).await.expect("connects");
        let (accepted, peer) = accept(&listeners[0], |error| panic!("accept: {error}")).await;
        assert_eq!(peer, client.local_addr().expect("connected"));
        let original = original_destination(&accepted);
        assert!(original.is_none() || original == Some(addr), "saw {original:?}");
    }

    #[tokio::test]
    async fn a_second_listener_is_noticed() {
        let any = Settings { addrs: vec![([127, 0, 0, 1], 0).into()], backlog: 8, workers: 2, liveness: LIVENESS };
        let first = bind_all(&any).expect("loopback can be bound");
        let same = Settings { addrs: vec![first[0].local_addr().expect("bound")], ..any };
        assert!(probe(&same).is_err(), "two processes would share the port without a word");
        bind_all(&same).expect("a worker of the same process may");
    }

    #[test]
    fn mapped_addresses_become_ipv4() {
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().expect("valid");
        assert_eq!(canonical(mapped), "10.0.0.1:80".parse().expect("valid"));
    }
}

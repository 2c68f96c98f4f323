//! Test connections: made and found again by the address of their client, each wait ended by [`PATIENCE`].

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};

/// For one connection to be made, and for it to turn up at the other end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);

/// Listens at `address`, without blocking.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    // A route of a device that has just come up may take a moment.
    let listener = poll(|| match TcpListener::bind(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(None),
        result => result.map(Some),
    })?;
    let listener = listener.ok_or(io::ErrorKind::AddrNotAvailable)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connects, giving a new route its moment.
pub(crate) fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(POLL);
        match TcpStream::connect_timeout(&target, left) {
            Err(error) if route_pending(&error) && Instant::now() < deadline => std::thread::sleep(POLL),
            result => return result,
        }
    }
}

fn route_pending(error: &io::Error) -> bool {
    let pending = [Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| pending.contains(&Errno::from_raw(code)))
}

/// Waits for the connection from `client`.
pub(crate) fn accept(listener: &TcpListener, client: SocketAddr) -> io::Result<Option<TcpStream>> {
    poll(|| accepted(listener, client))
}

/// Takes what waits at `listener` until it is the connection from `client`.
pub(crate) fn accepted(listener: &TcpListener, client: SocketAddr) -> io::Result<Option<TcpStream>> {
    loop {
        match listener.accept() {
            Ok((stream, from)) if from == client => return Ok(Some(stream)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Asks until there is an answer or [`PATIENCE`] is over.
pub(crate) fn poll<T>(mut ask: impl FnMut() -> io::Result<Option<T>>) -> io::Result<Option<T>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask()? {
            None if Instant::now() < deadline => std::thread::sleep(POLL),
            answer => return Ok(answer),
        }
    }
}

/// Where the connection was meant to go before a rule redirected it.
pub(crate) fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    if stream.local_addr()?.is_ipv6() {
        let raw = getsockopt(stream, sockopt::Ip6tOriginalDst)?;
        let address = Ipv6Addr::from(raw.sin6_addr.s6_addr);
        return Ok(SocketAddr::new(address.into(), u16::from_be(raw.sin6_port)));
    }
    let raw = getsockopt(stream, sockopt::OriginalDst)?;
    let address = Ipv4Addr::from_bits(u32::from_be(raw.sin_addr.s_addr));
    Ok(SocketAddr::new(address.into(), u16::from_be(raw.sin_port)))
}

/// Whether a socket at local `port` is connected to `client`, by the kernel's tables. A proxy that listens on both
/// families with one socket has IPv4 clients in the IPv6 table.
pub(crate) fn established(port: u16, client: SocketAddr) -> io::Result<bool> {
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let sockets = match fs::read_to_string(table) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            sockets => sockets?,
        };
        if sockets.lines().filter_map(socket).any(|(local, remote)| local.port() == port && remote == client) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Local and remote address of a line of proc_net_tcp(5).
fn socket(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let mut fields = line.split_whitespace().skip(1);
    Some((proc_address(fields.next()?)?, proc_address(fields.next()?)?))
}

/// An address as 32-bit words in host order, in hex, and a port in hex.
fn proc_address(field: &str) -> Option<SocketAddr> {
    let (words, port) = field.split_once(':')?;
    let word = |index: usize| u32::from_str_radix(words.get(8 * index..8 * index + 8)?, 16).ok();
    let address = match words.len() {
        8 => IpAddr::from(word(0)?.to_ne_bytes()),
        32 => {
            let mut bytes = [0; 16];
            for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?.to_ne_bytes());
            }
            IpAddr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_socket_table_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (port, from) = (listener.local_addr().unwrap().port(), client.local_addr().unwrap());
        assert!(established(port, from).unwrap());
        assert!(!established(port ^ 1, from).unwrap());
    }
}

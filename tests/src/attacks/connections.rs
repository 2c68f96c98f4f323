//! Many connections that are held.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Host;

/// Held connections; they end with the value.
#[derive(Default)]
pub struct Held {
    /// All that came about, and did not end at once.
    pub open: Vec<TcpStream>,
    /// How many were refused, at the handshake or by a reset after it.
    pub refused: usize,
}

/// Opens `count` connections from `host`, says `hello` on each, and holds them.
///
/// # Panics
/// When this process may not have so many files.
#[must_use]
pub fn hold(host: &Host, addr: SocketAddr, count: usize, hello: &[u8]) -> Held {
    host.enter(|| {
        let mut held = Held::default();
        for _ in 0..count {
            match connect(addr) {
                Ok(mut stream) => match stream.write_all(hello) {
                    Ok(()) => held.open.push(stream),
                    Err(_) => held.refused += 1,
                },
                Err(error) if error.raw_os_error() == Some(24) => panic!("this test needs more files: {error}"),
                Err(_) => held.refused += 1,
            }
        }
        held
    })
}

fn connect(addr: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // So many ends in TIME_WAIT would use up the ports.
    socket.set_linger(Some(Duration::ZERO))?;
    // What is not read stays with the far end.
    socket.set_recv_buffer_size(4096)?;
    socket.connect_timeout(&addr.into(), Duration::from_secs(10))?;
    Ok(socket.into())
}

impl Held {
    /// Lets go of those that the far end has closed meanwhile, and counts them as refused. What comes to the others is read
    /// and dropped.
    pub fn look(&mut self) -> usize {
        let before = self.open.len();
        self.open.retain_mut(|stream| !has_ended(stream));
        self.refused += before - self.open.len();
        self.refused
    }
}

fn has_ended(stream: &mut TcpStream) -> bool {
    let mut chunk = [0; 4096];
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}

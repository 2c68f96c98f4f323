//! TCP at its plainest: a server that records what it gets and does what a test says, and a client of plain bytes.
//!
//! Invariant: what a [`Conversation`] reads is recorded before anybody acts on it; a server ends with its value.
//! Non-goal: knowing a protocol; [`Conversation::head`] finds an empty line and no more.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::client::PATIENCE;
use crate::netns::Host;

/// A server; each connection has a thread of its own, which ends with the connection.
pub struct Server {
    listener: Arc<TcpListener>,
    connections: Arc<Connections>,
}

/// What came on each connection, in the order of their arrival.
#[derive(Default)]
struct Connections(Mutex<Vec<Vec<u8>>>);

/// The server's side of one connection.
pub struct Conversation {
    /// The socket. What is read from it directly is not recorded.
    pub stream: TcpStream,
    /// Which one it is, counted from 0.
    pub number: usize,
    connections: Arc<Connections>,
    /// Bytes read after the last head.
    rest: Vec<u8>,
}

impl Server {
    /// Listens on `port` of all addresses of `host`, both families, and has `serve` hold each conversation.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn start<F>(host: &Host, port: u16, serve: F) -> Self
    where
        F: Fn(Conversation) -> io::Result<()> + Send + Sync + 'static,
    {
        let listener = host.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)));
        let listener = Arc::new(listener.unwrap_or_else(|error| panic!("port {port}: {error}")));
        let connections = Arc::new(Connections::default());
        let (accepting, recorded, serve) = (Arc::clone(&listener), Arc::clone(&connections), Arc::new(serve));
        thread::spawn(move || {
            // Fails when `drop` shuts the listener down.
            while let Ok((stream, _)) = accepting.accept() {
                let Ok(conversation) = Conversation::new(stream, Arc::clone(&recorded)) else { continue };
                let serve = Arc::clone(&serve);
                // A peer that breaks off is for the test to see at the other end.
                thread::spawn(move || drop(serve(conversation)));
            }
        });
        Self { listener, connections }
    }

    /// A server that answers each connection's first head with 200 and `ok`, and closes.
    #[must_use]
    pub fn ok(host: &Host, port: u16) -> Self {
        Self::start(host, port, |mut conversation| {
            conversation.head()?;
            conversation.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
        })
    }

    /// How many connections have come.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.connections.all().len()
    }

    /// What has been read so far, by connection.
    #[must_use]
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.connections.all().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes the thread that accepts.
        let _ = nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

impl Connections {
    fn all(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Conversation {
    fn new(stream: TcpStream, connections: Arc<Connections>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(3 * PATIENCE))?;
        let mut all = connections.all();
        let number = all.len();
        all.push(Vec::new());
        drop(all);
        Ok(Self { stream, number, connections, rest: Vec::new() })
    }

    /// Reads what comes next; nothing at the end.
    ///
    /// # Errors
    /// When the connection breaks or is silent for too long.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        if !self.rest.is_empty() {
            return Ok(std::mem::take(&mut self.rest));
        }
        let mut chunk = vec![0; 16 << 10];
        let n = self.stream.read(&mut chunk)?;
        chunk.truncate(n);
        self.connections.all()[self.number].extend_from_slice(&chunk);
        Ok(chunk)
    }

    /// Reads exactly `n` bytes.
    ///
    /// # Errors
    /// As [`Conversation::read`], and when the end comes before.
    pub fn take(&mut self, n: usize) -> io::Result<Vec<u8>> {
        let mut taken = std::mem::take(&mut self.rest);
        while taken.len() < n {
            let chunk = self.read()?;
            if chunk.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            taken.extend_from_slice(&chunk);
        }
        self.rest = taken.split_off(n);
        Ok(taken)
    }

    /// Reads to the first empty line, which is part of what is returned.
    ///
    /// # Errors
    /// As [`Conversation::take`].
    pub fn head(&mut self) -> io::Result<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.take(1)?);
        }
        Ok(String::from_utf8_lossy(&head).into_owned())
    }

    /// How many bytes have been read after the last head and not been taken.
    #[must_use]
    pub fn buffered(&self) -> u64 {
        self.rest.len() as u64
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Has the connection end with RST in place of FIN when it is dropped.
    ///
    /// # Errors
    /// When the connection is broken already.
    pub fn reset(self) -> io::Result<()> {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))
    }
}

/// Sends `bytes` from `host` as they are, and returns what comes back until the end.
///
/// # Errors
/// When the address cannot be reached, the connection is reset before a byte of an answer, or nothing comes in time.
pub fn send(host: &Host, addr: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    host.enter(|| {
        let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(bytes)?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if answer.is_empty() => Err(error),
            // A server that refuses need not read all that was sent: then its answer is followed by a reset.
            _ => Ok(answer),
        }
    })
}

/// The status code of an answer in HTTP/1.
#[must_use]
pub fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.strip_prefix(b"HTTP/1.")?;
    std::str::from_utf8(line.get(2..5)?).ok()?.parse().ok()
}

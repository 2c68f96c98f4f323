//! A side door to the socket under hyper: for what a well-behaved HTTP library never writes.
//!
//! Invariant: used only while hyper has nothing to write on an HTTP/1 connection (it answers one request at a time).
//! Non-goal: HTTP/2; there the stream is reset through the body instead.

use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use crate::query::Query;

/// A second descriptor of a connection's socket.
#[derive(Clone)]
pub(crate) struct SideDoor(Arc<TcpStream>);

impl SideDoor {
    pub(crate) fn new(stream: &tokio::net::TcpStream) -> io::Result<Self> {
        Ok(Self(Arc::new(TcpStream::from(stream.as_fd().try_clone_to_owned()?))))
    }

    /// An interim answer before the final one.
    pub(crate) fn early_hints(&self) -> io::Result<()> {
        self.write(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n")
    }

    /// An answer that breaks off: `kind` of framing (cl, chunked, close), `after` bytes of `n` promised, and `how` it
    /// ends: `fin` (a clean end of the stream, which only framing can tell from a whole answer) or `rst`.
    pub(crate) async fn truncate(&self, query: &Query<'_>) -> io::Error {
        let (after, n): (usize, usize) = (query.number("after", 10), query.number("n", 1000));
        let head = match query.text("kind") {
            "chunked" => format!("transfer-encoding: chunked\r\n\r\n{n:x}"),
            "close" => "connection: close\r\n".to_owned(),
            _ => format!("content-length: {n}\r\n"),
        };
        let text = format!("HTTP/1.1 200 OK\r\n{head}\r\n{}", "x".repeat(after));
        if let Err(error) = self.write(text.as_bytes()) {
            return error;
        }
        if query.text("how") == "rst" {
            // A reset discards what the peer has not read: give it the time to read the beginning.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let _ = socket2::SockRef::from(&*self.0).set_linger(Some(Duration::ZERO));
        }
        io::Error::other("broken off on purpose")
    }

    /// Small writes to an empty send buffer go through whole, although the socket is non-blocking.
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        (&*self.0).write_all(bytes)
    }
}

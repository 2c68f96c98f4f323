//! Clients that run in a host's namespace.
//!
//! Invariant: every call has a deadline.
//! Non-goal: knowing that there is a mesh; they dial addresses as any app does.

pub mod http;
pub mod load;
pub mod rpc;
pub mod tcp;
pub mod websocket;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::netns::Host;

/// How long a call may take before it counts as failed.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a future on a thread in the namespace of `host`.
///
/// # Panics
/// When the future does, or takes longer than three times [`PATIENCE`].
pub fn within<T: Send>(host: &Host, future: impl Future<Output = T> + Send) -> T {
    host.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime in a test");
        let timed = runtime.block_on(async { tokio::time::timeout(3 * PATIENCE, future).await });
        timed.expect("a client that ends")
    })
}

/// A status code and a body, by a request that needs no runtime. Calls the admin servers.
///
/// # Errors
/// When there is no answer in HTTP.
pub fn request(method: &str, addr: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((code.ok_or(io::ErrorKind::InvalidData)?, dechunked(head, body)))
}

fn dechunked(head: &str, body: &str) -> String {
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let (mut text, mut rest) = (String::new(), body);
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or_default();
        let Some(chunk) = after.get(..size).filter(|chunk| !chunk.is_empty()) else { break };
        text += chunk;
        rest = after.get(size + 2..).unwrap_or_default();
    }
    text
}

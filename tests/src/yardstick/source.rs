//! A back end for attacks: HTTP/1.1 and HTTP/2, endless or deaf as a path says, with counts of all that it did.
//!
//! Invariant: it holds next to nothing, however many connections there are; it ends with its value.
//! Non-goal: what HTTP allows beyond what the mesh's own client sends.

use std::future::poll_fn;
use std::io;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::netns::Host;

const PIECE: usize = 16 << 10;
static BYTES: [u8; PIECE] = [b'x'; PIECE];

/// What it did so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Requests whose head has come.
    pub begun: AtomicU64,
    /// Requests that were given up by the other side before they were answered in full.
    pub cancelled: AtomicU64,
    /// Bytes of answers that the kernel has taken.
    pub pushed: AtomicU64,
    /// Bytes of requests after their heads that were read.
    pub taken: AtomicU64,
}

/// The running back end. Paths: `/endless` and `/bytes/N` answer with so many bytes; `/hold` never answers; `/sink` takes a
/// body at 10 KiB a second, `/deaf` not at all; any other path is answered with `ok`, once its body has been read.
pub struct Source {
    /// What it did so far.
    pub counts: Arc<Counts>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Source {
    /// Listens on `port` of all addresses of `host`.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn start(host: &Host, port: u16) -> Self {
        let counts = Arc::new(Counts::default());
        let (end, ended) = oneshot::channel();
        let (listening, listens) = std::sync::mpsc::sync_channel(1);
        let thread = host.run_in_thread({
            let counts = Arc::clone(&counts);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime in a test").block_on(async {
                    let listener = listen(port).unwrap_or_else(|error| panic!("port {port}: {error}"));
                    let _ = listening.send(());
                    tokio::select! {
                        () = accept(listener, counts) => {}
                        _ = ended => {}
                    }
                });
            }
        });
        listens.recv().expect("a back end that listens");
        Self { counts, end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_only_v6(false)?;
    socket.bind(&std::net::SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    // What nobody reads shall not fill the kernel's memory, which all connections of the machine share.
    socket.set_send_buffer_size(64 << 10)?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

async fn accept(listener: TcpListener, counts: Arc<Counts>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        counts.connections.fetch_add(1, Relaxed);
        let counts = Arc::clone(&counts);
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            // Who breaks off is for the other end to see.
            let mut first = [0; 3];
            let _ = match stream.peek(&mut first).await {
                Ok(3) if first == *b"PRI" => serve_h2(stream, counts).await.map_err(io::Error::other),
                _ => serve(stream, &counts).await,
            };
        });
    }
}

async fn serve(mut stream: TcpStream, counts: &Counts) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let Some(end) = head(&mut stream, &mut buffer).await? else { return Ok(()) };
        let text = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        buffer.drain(..end);
        counts.begun.fetch_add(1, Relaxed);
        let answered = answer(&mut stream, &text, &mut buffer, counts).await;
        if answered.is_err() {
            counts.cancelled.fetch_add(1, Relaxed);
        }
        answered?;
    }
}

async fn serve_h2(stream: TcpStream, counts: Arc<Counts>) -> Result<(), h2::Error> {
    let mut connection = h2::server::Builder::new().max_concurrent_streams(1000).handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let counts = Arc::clone(&counts);
        tokio::spawn(async move {
            counts.begun.fetch_add(1, Relaxed);
            if stream_of(request, respond, &counts).await.is_err() {
                counts.cancelled.fetch_add(1, Relaxed);
            }
        });
    }
    Ok(())
}

async fn stream_of(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    counts: &Counts,
) -> Result<(), h2::Error> {
    let path = request.uri().path();
    let mut left = match path.strip_prefix("/bytes/") {
        Some(size) => size.parse().unwrap_or(0),
        None if path == "/endless" => u64::MAX >> 1,
        None => 2,
    };
    if matches!(path, "/hold" | "/deaf") {
        let code = poll_fn(|cx| respond.poll_reset(cx)).await?;
        return Err(code.into());
    }
    let mut send = respond.send_response(Response::new(()), false)?;
    while left > 0 {
        send.reserve_capacity(PIECE);
        let Some(room) = poll_fn(|cx| send.poll_capacity(cx)).await else { return Err(Reason::CANCEL.into()) };
        let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE).min(room?);
        counts.pushed.fetch_add(most as u64, Relaxed);
        left -= most as u64;
        send.send_data(Bytes::from_static(&BYTES[..most]), left == 0)?;
    }
    Ok(())
}

/// Where the next head in `buffer` ends; none when the connection does.
async fn head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
    loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            return Ok(Some(at + 4));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

async fn answer(stream: &mut TcpStream, head: &str, rest: &mut Vec<u8>, counts: &Counts) -> io::Result<()> {
    let path = head.split(' ').nth(1).unwrap_or_default();
    let size = path.strip_prefix("/bytes/").map(|size| size.parse().unwrap_or(0));
    match path {
        "/endless" => push(stream, u64::MAX >> 1, counts).await,
        "/hold" | "/deaf" if head.starts_with("get ") => gone(stream).await,
        "/deaf" => std::future::pending().await,
        "/sink" => sink(stream, counts).await,
        _ => {
            body(stream, head, rest, counts).await?;
            push(stream, size.unwrap_or(2), counts).await
        }
    }
}

/// Answers with so many bytes.
async fn push(stream: &mut TcpStream, size: u64, counts: &Counts) -> io::Result<()> {
    stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").as_bytes()).await?;
    let mut left = size;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let n = stream.write(&BYTES[..most]).await? as u64;
        counts.pushed.fetch_add(n, Relaxed);
        left -= n;
        // The bystander's request must not wait behind endless answers here: what is judged is the proxy.
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Reads nothing but the end.
async fn gone(stream: &mut TcpStream) -> io::Result<()> {
    while stream.read(&mut [0; 64]).await? > 0 {}
    Err(io::ErrorKind::UnexpectedEof.into())
}

async fn sink(stream: &mut TcpStream, counts: &Counts) -> io::Result<()> {
    let mut piece = [0; 1024];
    loop {
        let n = stream.read(&mut piece).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        counts.taken.fetch_add(n as u64, Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Reads a body of known length, or a chunked one to its last chunk.
async fn body(stream: &mut TcpStream, head: &str, rest: &mut Vec<u8>, counts: &Counts) -> io::Result<()> {
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<u64>().ok());
    if length.is_none() && !head.contains("transfer-encoding: chunked") {
        return Ok(());
    }
    let (mut seen, mut tail) = (0, Vec::new());
    loop {
        seen += rest.len() as u64;
        counts.taken.fetch_add(rest.len() as u64, Relaxed);
        tail.extend_from_slice(rest);
        tail.drain(..tail.len().saturating_sub(5));
        rest.clear();
        if length.map_or(tail == *b"0\r\n\r\n", |length| seen >= length) {
            return Ok(());
        }
        if stream.read_buf(rest).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

//! A connection's bytes, whatever carries them: a TCP socket or a tunnel stream, with what detection has read of it.
//!
//! Invariant: while nothing arrives, nothing is held: `fill` and `Reader::chunk` wait for readiness first and read into a
//! buffer that all connections of a worker share.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::h2io::{H2Io, H2Reader, H2Writer};

/// What is read at a time, and so passed on at a time. It is less than 64 KiB so that the kernel makes one segment of it, not a
/// full one and the rest, also once it is framed and encrypted.
pub const MOST_READ: usize = 60 * 1024;
const SMALLEST_READ: usize = 16 * 1024;

thread_local! {
    static SHARED: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// A connection.
#[derive(Debug)]
pub struct Stream {
    seen: BytesMut,
    io: Io,
}

#[derive(Debug)]
enum Io {
    Tcp(TcpStream),
    // Boxed: tunnel streams that are served as connections are the rarer kind, and larger.
    H2(Box<H2Io>),
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self { seen: BytesMut::new(), io: Io::Tcp(tcp) }
    }
}

impl From<H2Io> for Stream {
    fn from(h2: H2Io) -> Self {
        Self { seen: BytesMut::new(), io: Io::H2(Box::new(h2)) }
    }
}

impl Stream {
    /// What was read of the stream and not yet consumed.
    pub fn seen(&self) -> &[u8] {
        &self.seen
    }

    /// Puts bytes that somebody has read too far back in front.
    #[must_use]
    pub fn unread(mut self, bytes: &[u8]) -> Self {
        if let Io::H2(h2) = &mut self.io {
            // What a small buffer has left of a frame comes after all that was read.
            self.seen.extend_from_slice(&h2.take_unread());
        }
        if !bytes.is_empty() {
            self.seen = [bytes, &self.seen].concat().as_slice().into();
        }
        self
    }

    /// The same for bytes that were read last, by whoever still reads.
    pub fn put_back(&mut self, bytes: &[u8]) {
        self.seen = [bytes, &self.seen].concat().as_slice().into();
    }

    /// Whether a read would bring bytes at once. Of a tunnel stream only what was read of it counts.
    pub fn has_bytes(&self) -> bool {
        let waits = |tcp: &TcpStream| {
            let mut byte = [MaybeUninit::uninit()];
            SockRef::from(tcp).peek(&mut byte).is_ok_and(|n| n > 0)
        };
        !self.seen.is_empty() || matches!(&self.io, Io::Tcp(tcp) if waits(tcp))
    }

    /// Waits for bytes and appends them to `seen`; 0 is the end of the stream. Cancel safe.
    pub async fn fill(&mut self) -> io::Result<usize> {
        let chunk = match &mut self.io {
            Io::Tcp(tcp) => poll_fn(|cx| poll_tcp_chunk(tcp, cx)).await?,
            Io::H2(h2) => poll_fn(|cx| h2.reader.poll_chunk(cx)).await?,
        };
        let Some(chunk) = chunk else { return Ok(0) };
        self.seen.extend_from_slice(&chunk);
        Ok(chunk.len())
    }

    /// Ends the connection so that the far end sees a failure, not an end: RST or RST_STREAM.
    pub fn abort(mut self) {
        self.set_abort();
    }

    /// Like `abort`, to take effect when the stream is dropped.
    pub fn set_abort(&mut self) {
        match &mut self.io {
            Io::Tcp(tcp) => abort_on_close(tcp),
            Io::H2(h2) => h2.writer.reset(),
        }
    }

    /// Both directions, to be used at the same time.
    pub fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        match &mut self.io {
            Io::Tcp(tcp) => (Reader::Tcp(&mut self.seen, tcp), Writer::Tcp(tcp)),
            Io::H2(h2) => {
                let H2Io { reader, writer, .. } = &mut **h2;
                (Reader::H2(&mut self.seen, reader), Writer::H2(writer))
            }
        }
    }
}

/// Makes the kernel send RST instead of FIN when `tcp` is closed.
pub fn abort_on_close(tcp: &TcpStream) {
    // Fails only on a socket that is dead already.
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

/// After a short read, the kernel is asked once more: a read ends before urgent data, and of what lies behind that it does not tell
/// again.
fn poll_tcp_chunk(tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
    loop {
        ready!(tcp.poll_read_ready(cx))?;
        match SHARED.with_borrow_mut(|scratch| read_chunk(tcp, scratch)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(chunk) if chunk.is_empty() => return Poll::Ready(Ok(None)),
            other => return Poll::Ready(other.map(Some)),
        }
    }
}

fn read_chunk(tcp: &TcpStream, scratch: &mut BytesMut) -> io::Result<Bytes> {
    if scratch.capacity() < SMALLEST_READ {
        scratch.reserve(MOST_READ);
    }
    tcp.try_read_buf(scratch)?;
    Ok(scratch.split().freeze())
}

/// The receiving direction of a `Stream`.
#[derive(Debug)]
pub enum Reader<'a> {
    /// A socket, with the bytes read before.
    Tcp(&'a mut BytesMut, &'a TcpStream),
    /// A tunnel stream, with the bytes read before.
    H2(&'a mut BytesMut, &'a mut H2Reader),
}

impl Reader<'_> {
    /// The next bytes, and what follows them without a wait or a system call; `None` at the clean end. Cancel safe.
    pub(super) async fn chunks(&mut self) -> io::Result<Option<[Bytes; CHUNKS]>> {
        poll_fn(|cx| self.poll_chunks(cx)).await
    }

    fn poll_chunks(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<[Bytes; CHUNKS]>>> {
        let Some(first) = ready!(self.poll_chunk(cx))? else { return Poll::Ready(Ok(None)) };
        let mut chunks = [first, Bytes::new(), Bytes::new(), Bytes::new()];
        if let Reader::H2(_, h2) = self {
            chunks.iter_mut().skip(1).for_each(|chunk| *chunk = h2.at_hand(cx));
        }
        Poll::Ready(Ok(Some(chunks)))
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let (Reader::Tcp(seen, _) | Reader::H2(seen, _)) = self;
        if !seen.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(*seen).freeze())));
        }
        match self {
            Reader::Tcp(_, tcp) => poll_tcp_chunk(tcp, cx),
            Reader::H2(_, h2) => h2.poll_chunk(cx),
        }
    }
}

/// How many chunks go out in one system call. A tunnel's stream has credit for one more, so its sender need not wait meanwhile.
pub(super) const CHUNKS: usize = 4;

/// The sending direction of a `Stream`.
#[derive(Debug)]
pub enum Writer<'a> {
    /// A socket.
    Tcp(&'a TcpStream),
    /// A tunnel stream.
    H2(&'a mut H2Writer),
}

impl Writer<'_> {
    /// Sends all of `chunks`.
    pub(super) async fn write_all(&mut self, chunks: &mut [Bytes; CHUNKS]) -> io::Result<()> {
        // In bulk the connection has its turn first: what it has not sent would leave room for a part of the next chunk only, and
        // each part costs a frame, a record and a packet.
        let is_bulk = chunks.iter().map(Bytes::len).sum::<usize>() >= SMALLEST_READ;
        let mut sent = false;
        poll_fn(|cx| match self {
            Writer::Tcp(tcp) => poll_write_tcp(tcp, chunks, cx),
            Writer::H2(_) if sent => Poll::Ready(Ok(())),
            Writer::H2(h2) => {
                for chunk in chunks.iter_mut() {
                    ready!(h2.poll_write_all(chunk, cx))?;
                }
                if !is_bulk {
                    return Poll::Ready(Ok(()));
                }
                sent = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        })
        .await
    }

    /// Ends this direction; the other one goes on.
    pub fn finish(&mut self) -> io::Result<()> {
        match self {
            Writer::Tcp(tcp) => SockRef::from(*tcp).shutdown(Shutdown::Write),
            Writer::H2(h2) => h2.finish(),
        }
    }

    /// Returns when the far end has broken the connection; it may do so while we have nothing to send.
    pub async fn broken(&mut self) -> io::Error {
        match self {
            Writer::Tcp(tcp) => match tcp.ready(Interest::ERROR).await {
                Ok(_) => tcp.take_error().ok().flatten().unwrap_or(io::ErrorKind::ConnectionReset.into()),
                Err(error) => error,
            },
            Writer::H2(h2) => h2.broken().await,
        }
    }
}

fn poll_write_tcp(tcp: &TcpStream, chunks: &mut [Bytes; CHUNKS], cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    while chunks.iter().any(|chunk| !chunk.is_empty()) {
        let slices = chunks.each_ref().map(|chunk| IoSlice::new(chunk));
        match tcp.try_write_vectored(&slices) {
            Ok(n) => advance(chunks, n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(tcp.poll_write_ready(cx))?,
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
    Poll::Ready(Ok(()))
}

fn advance(chunks: &mut [Bytes; CHUNKS], mut n: usize) {
    for chunk in chunks {
        let part = n.min(chunk.len());
        chunk.advance(part);
        n -= part;
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.seen.is_empty() {
            let n = buf.remaining().min(self.seen.len());
            buf.put_slice(&self.seen[..n]);
            self.seen.advance(n);
            if self.seen.is_empty() {
                self.seen = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        match &mut self.io {
            Io::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Io::H2(h2) => Pin::new(&mut **h2).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Io::H2(h2) => Pin::new(&mut **h2).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Io::H2(h2) => Pin::new(&mut **h2).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self.io, Io::Tcp(_))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Io::H2(h2) => Pin::new(&mut **h2).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Io::H2(h2) => Pin::new(&mut **h2).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn what_lies_behind_urgent_data_is_read_without_more_to_come() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("a listener");
        client.set_nodelay(true).expect("a socket");
        let (tcp, _) = listener.accept().await.expect("a client");
        let mut stream = Stream::from(tcp);
        // The kernel has told all that there was to tell of the new connection.
        let told = tokio::time::timeout(Duration::from_millis(50), stream.fill()).await;
        assert!(told.is_err(), "{told:?}");
        // As FTP and Telnet interrupt what goes on.
        client.write_all(b"before").expect("sent");
        SockRef::from(&client).send_out_of_band(b"!").expect("sent");
        client.write_all(b"behind").expect("sent");
        let all = async {
            while stream.seen().len() < b"beforebehind".len() {
                assert_ne!(stream.fill().await.expect("a whole connection"), 0, "{:?}", stream.seen());
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all).await.expect("what has come is read");
        assert_eq!(stream.seen(), b"beforebehind");
    }
}

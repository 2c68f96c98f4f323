//! A connection whose incoming bytes are judged before hyper reads them (`framing`).
//!
//! Invariant: bytes in front of a bad one pass; then each read fails with the reason. Bytes that came too early for an upgrade
//! stay in the stream, for whoever gets it when the upgrade is agreed to.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use http::Method;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::framing::{Bad, Framing};
use super::replay;
use crate::net::{MOST_READ, Stream};

/// The connection.
#[derive(Debug)]
pub struct Judged {
    stream: Stream,
    framing: Framing,
    bad: Option<Bad>,
    asked: Option<Arc<Asked>>,
}

/// What the user of a connection to a server shares with its reader.
#[derive(Debug, Default)]
pub struct Asked {
    /// The kind of the request that went out last, until the reader has learned of it.
    method: AtomicU8,
    heard: AtomicBool,
    /// The request's body has not come to its end.
    sending: AtomicBool,
}

/// Kept by the body of a request until its end.
#[derive(Debug)]
pub struct Sending(Arc<Asked>);

impl Sending {
    /// A body that is about to be sent to whom is `asked`.
    pub fn begin(asked: &Arc<Asked>) -> Self {
        asked.sending.store(true, Ordering::Relaxed);
        Self(Arc::clone(asked))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.sending.store(false, Ordering::Relaxed);
    }
}

/// Most bytes that are read at a time of a request that may be kept for a second try: a buffer of hyper's is kept as a whole, so this is
/// one of 16 KiB nearly full. A full one would have it take a larger one for the next read.
const PIECE_TO_KEEP: usize = 16_000;

const NONE: u8 = 0;
const HEAD: u8 = 1;
const CONNECT: u8 = 2;
const OTHER: u8 = 3;

impl Asked {
    /// A request with this method goes out.
    pub fn ask(&self, method: &Method) {
        let kind = match *method {
            Method::HEAD => HEAD,
            Method::CONNECT => CONNECT,
            _ => OTHER,
        };
        self.heard.store(false, Ordering::Relaxed);
        self.method.store(kind, Ordering::Relaxed);
    }

    /// Whether a part of the request's body is still to be sent.
    pub fn is_sending(&self) -> bool {
        self.sending.load(Ordering::Relaxed)
    }

    /// Whether a byte has come since.
    pub fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }
}

impl Judged {
    /// A client, who sends requests.
    pub fn client(stream: Stream) -> Self {
        Self { stream, framing: Framing::requests(), bad: None, asked: None }
    }

    /// A server, which sends responses to what it is `asked`.
    pub fn server(stream: Stream, asked: Arc<Asked>) -> Self {
        Self { stream, framing: Framing::responses(), bad: None, asked: Some(asked) }
    }

    /// The connection by itself.
    pub fn into_inner(self) -> Stream {
        self.stream
    }

    /// Whether what comes next belongs to a body.
    pub fn is_in_body(&self) -> bool {
        self.framing.is_in_body()
    }

    /// What is wrong with what comes next.
    pub fn bad(&self) -> Option<Bad> {
        self.bad
    }

    /// A request that wanted to leave HTTP is about to be declined. What has come behind it was sent without knowing that.
    pub fn decline(&mut self) {
        if self.bad.is_none() && self.stream.has_bytes() {
            self.bad = Some(Bad::Early);
        }
        self.framing.declined();
    }

    /// Judges what a read has brought since `before`; only what is good stays in `buf`.
    fn judge(&mut self, before: usize, buf: &mut ReadBuf<'_>) -> Result<(), Bad> {
        let read = &buf.filled()[before..];
        if read.is_empty() {
            if self.framing.is_in_body() && buf.remaining() > 0 {
                self.bad = Some(Bad::Cut);
            }
            return Ok(());
        }
        let Err((good, bad)) = self.framing.read(read) else { return Ok(()) };
        self.bad = Some(bad);
        if bad == Bad::Early {
            self.stream.put_back(&read[good..]);
        }
        buf.set_filled(before + good);
        // A read without bytes would be the end of the stream.
        if good == 0 { Err(bad) } else { Ok(()) }
    }
}

fn error(bad: Bad) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, bad)
}

impl AsyncRead for Judged {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(asked) = &self.asked {
            let method = match asked.method.swap(NONE, Ordering::Relaxed) {
                NONE => None,
                HEAD => Some(Method::HEAD),
                CONNECT => Some(Method::CONNECT),
                _ => Some(Method::GET),
            };
            if let Some(method) = method {
                self.framing.expect(&method);
            }
        }
        if let Some(bad) = self.bad.filter(|bad| *bad != Bad::Cut) {
            return Poll::Ready(Err(error(bad)));
        }
        let before = buf.filled().len();
        // hyper's buffers have room for more, but what is passed on shall leave as one segment.
        let is_kept = self.asked.is_none() && self.framing.body_length() <= replay::LIMIT as u64;
        let most = if is_kept { PIECE_TO_KEEP } else { MOST_READ };
        ready!(Pin::new(&mut (&mut self.stream).take(most as u64)).poll_read(cx, buf))?;
        if let Some(asked) = &self.asked
            && buf.filled().len() > before
        {
            asked.heard.store(true, Ordering::Relaxed);
        }
        Poll::Ready(self.judge(before, buf).map_err(error))
    }
}

impl AsyncWrite for Judged {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

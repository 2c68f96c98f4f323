//! Several frames in one TLS record and one system call: a stream whose flushes wait until its HTTP/2 connection has
//! nothing more to say.
//!
//! The h2 crate flushes after each large frame. Behind a cork these flushes do nothing; whoever drives the connection
//! flushes when it comes to rest. Invariant: whoever polls a corked connection does so through [`Uncork::rest`], or calls
//! [`Uncork::flush`] before it waits, so nothing stays behind.
//! Whether the far end has said anything lately is noted on the way.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The stream, for the connection.
#[derive(Debug)]
pub struct Corked<IO>(Arc<Mutex<Inner<IO>>>);

/// The hold on it, for the connection's driver.
#[derive(Debug)]
pub struct Uncork<IO>(Arc<Mutex<Inner<IO>>>);

#[derive(Debug)]
struct Inner<IO> {
    io: IO,
    /// Bytes have come since this was asked before.
    heard: bool,
}

/// Puts the cork in.
pub fn cork<IO>(io: IO) -> (Corked<IO>, Uncork<IO>) {
    let io = Arc::new(Mutex::new(Inner { io, heard: false }));
    (Corked(Arc::clone(&io)), Uncork(io))
}

impl<IO: AsyncWrite + Unpin> Uncork<IO> {
    /// Passes on what a look at the connection came to, and flushes if it is at rest.
    pub fn rest<T>(&self, polled: Poll<T>, cx: &mut Context<'_>) -> Poll<T> {
        if polled.is_pending() {
            self.flush(cx);
        }
        polled
    }

    /// Sends what was written, as far as the stream takes it now.
    pub fn flush(&self, cx: &mut Context<'_>) {
        // The connection meets a broken stream itself, with its next read.
        let _ = Pin::new(&mut lock(&self.0).io).poll_flush(cx);
    }

    /// Whether the far end has said anything since this was asked before.
    #[must_use]
    pub fn heard(&self) -> bool {
        std::mem::take(&mut lock(&self.0).heard)
    }
}

fn lock<IO>(inner: &Mutex<Inner<IO>>) -> MutexGuard<'_, Inner<IO>> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<IO: AsyncRead + Unpin> AsyncRead for Corked<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (mut inner, before) = (lock(&self.0), buf.filled().len());
        let polled = Pin::new(&mut inner.io).poll_read(cx, buf);
        inner.heard |= buf.filled().len() > before;
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Corked<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut lock(&self.0).io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut lock(&self.0).io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        lock(&self.0).io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).io).poll_shutdown(cx)
    }
}

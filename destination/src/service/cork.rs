//! Several frames in one TLS record and one system call: a stream whose flushes wait until its connection is at rest.
//!
//! The h2 crate flushes after each large frame. Behind a cork these flushes do nothing; whoever drives the connection
//! flushes when nothing is left to do. Invariant: whoever polls the corked side calls [`Cork::poll_flush`] before it waits.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The hold on a stream that another reads and writes.
#[derive(Debug)]
pub(super) struct Cork<IO>(Arc<Mutex<IO>>);

impl<IO: AsyncWrite + Unpin> Cork<IO> {
    pub(super) fn new(io: IO) -> Self {
        Self(Arc::new(Mutex::new(io)))
    }

    /// The stream, for the connection.
    pub(super) fn stream(&self) -> Corked<IO> {
        Corked(Arc::clone(&self.0))
    }

    /// Sends what was written.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_flush(cx)
    }
}

/// The stream, for the connection.
#[derive(Debug)]
pub(super) struct Corked<IO>(Arc<Mutex<IO>>);

fn lock<IO>(io: &Mutex<IO>) -> MutexGuard<'_, IO> {
    io.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<IO: AsyncRead + Unpin> AsyncRead for Corked<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Corked<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.0)).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.0)).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        lock(&self.0).is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_shutdown(cx)
    }
}

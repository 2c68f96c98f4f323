//! Several frames in one TLS record and one system call: a stream whose flushes wait until its HTTP/2 connection has
//! nothing more to say. And neither more of what has come nor of what shall go is held at a time than a turn moves: what is more
//! stays with the kernel, and with those who send it.
//!
//! The h2 crate flushes after each large frame. Behind a cork these flushes do nothing; whoever drives the connection
//! flushes when it comes to rest. Invariant: whoever polls a corked connection does so through [`Uncork::rest`], or calls
//! [`Uncork::flush`] before it waits, so nothing stays behind.
//! Whether the far end has said anything lately is noted on the way.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes that a connection reads before others have their turn. Else it would take all that the kernel has of it, which is
/// megabytes, before those who read its streams come to take any of it.
const MOST_READ: usize = 256 * 1024;
/// With so many bytes on their way to the stream, who has more waits until they have left.
const MOST_QUEUED: usize = 256 * 1024;

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
    /// Bytes that were read in this turn.
    read: usize,
    /// The stream takes no more for now.
    blocked: bool,
    queue: Queue,
}

/// What those who send on a connection know of each other: how much is on its way since the connection had nothing left to send.
///
/// It is a measure for fairness and memory, and no flow control: who does not ask is not held up.
#[derive(Clone, Debug, Default)]
pub struct Queue(Arc<Queued>);

#[derive(Debug, Default)]
struct Queued {
    bytes: AtomicUsize,
    waiting: Mutex<Vec<Waker>>,
}

impl Queue {
    /// Ready when there is room for more.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.0.bytes.load(Ordering::Relaxed) < MOST_QUEUED {
            return Poll::Ready(());
        }
        let mut waiting = lock(&self.0.waiting);
        // What has left meanwhile has woken nobody who was not yet here.
        if self.0.bytes.load(Ordering::Relaxed) < MOST_QUEUED {
            return Poll::Ready(());
        }
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// `n` bytes more are on their way: the connection has them, and will be driven for them.
    pub fn add(&self, n: usize) {
        self.0.bytes.fetch_add(n, Ordering::Relaxed);
    }

    /// All has left.
    fn drained(&self) {
        if self.0.bytes.swap(0, Ordering::Relaxed) >= MOST_QUEUED {
            let waiting = std::mem::take(&mut *lock(&self.0.waiting));
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

/// Puts the cork in.
pub fn cork<IO>(io: IO) -> (Corked<IO>, Uncork<IO>) {
    let inner = Inner { io, heard: false, read: 0, blocked: false, queue: Queue::default() };
    let io = Arc::new(Mutex::new(inner));
    (Corked(Arc::clone(&io)), Uncork(io))
}

impl<IO: AsyncWrite + Unpin> Uncork<IO> {
    /// Passes on what a look at the connection came to, and flushes if it is at rest.
    pub fn rest<T>(&self, polled: Poll<T>, cx: &mut Context<'_>) -> Poll<T> {
        if polled.is_pending() {
            self.flush(cx);
            let inner = lock(&self.0);
            if !inner.blocked {
                inner.queue.drained();
            }
        }
        polled
    }

    /// For those who send on the connection.
    #[must_use]
    pub fn queue(&self) -> Queue {
        lock(&self.0).queue.clone()
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

fn lock<T>(inner: &Mutex<T>) -> MutexGuard<'_, T> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<IO: AsyncRead + Unpin> AsyncRead for Corked<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (mut inner, before) = (lock(&self.0), buf.filled().len());
        if inner.read >= MOST_READ {
            inner.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = Pin::new(&mut inner.io).poll_read(cx, buf);
        let n = buf.filled().len() - before;
        inner.heard |= n > 0;
        inner.read = if polled.is_ready() { inner.read + n } else { 0 };
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Corked<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = lock(&self.0);
        let polled = Pin::new(&mut inner.io).poll_write(cx, buf);
        inner.blocked = polled.is_pending();
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = lock(&self.0);
        let polled = Pin::new(&mut inner.io).poll_write_vectored(cx, bufs);
        inner.blocked = polled.is_pending();
        polled
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

#[cfg(test)]
mod tests;

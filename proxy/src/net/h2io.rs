//! A tunnel stream (an HTTP/2 CONNECT stream) as a byte stream.
//!
//! Invariant: flow-control credit goes back only for bytes that were handed on, so a slow reader slows the far end.

use std::any::Any;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Both halves of a tunnel stream.
#[derive(Debug)]
pub struct H2Io {
    pub(super) reader: H2Reader,
    pub(super) writer: H2Writer,
    unread: Bytes,
    held: Option<Arc<dyn Any + Send + Sync>>,
}

/// The receiving half.
#[derive(Debug)]
pub struct H2Reader {
    recv: RecvStream,
    owed: usize,
}

/// The sending half.
#[derive(Debug)]
pub struct H2Writer {
    send: SendStream<Bytes>,
}

impl H2Io {
    /// A byte stream over the two halves.
    pub fn new(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        Self { reader: H2Reader { recv, owed: 0 }, writer: H2Writer { send }, unread: Bytes::new(), held: None }
    }

    /// The rest of a frame of which `AsyncRead` has handed out a part.
    pub(super) fn take_unread(&mut self) -> Bytes {
        std::mem::take(&mut self.unread)
    }

    /// Keeps `guard` until the stream is dropped.
    #[must_use]
    pub fn holding(mut self, guard: Arc<impl Any + Send + Sync>) -> Self {
        self.held = Some(guard);
        self
    }
}

impl Drop for H2Io {
    /// As with a socket: who lets go of it has said all that there was to say, unless it was reset before.
    fn drop(&mut self) {
        let _ = self.writer.finish();
    }
}

impl H2Reader {
    /// Further bytes that are here already, as long as the stream is whole; empty when there are none.
    pub(super) fn at_hand(&mut self, cx: &mut Context<'_>) -> Bytes {
        if self.recv.is_end_stream() {
            return Bytes::new();
        }
        match self.poll_data(cx) {
            Poll::Ready(Ok(data)) => data.unwrap_or_default(),
            // A break comes again with the next read.
            Poll::Ready(Err(_)) | Poll::Pending => Bytes::new(),
        }
    }

    /// The next bytes; `None` at the clean end of the stream.
    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let owed = std::mem::take(&mut self.owed);
        if owed > 0 {
            // Fails only for streams that are closed, where credit is of no use.
            let _ = self.recv.flow_control().release_capacity(owed);
        }
        self.poll_data(cx)
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        match ready!(self.recv.poll_data(cx)) {
            Some(Ok(data)) => {
                self.owed += data.len();
                Poll::Ready(Ok(Some(data)))
            }
            // RFC 9113 8.1: a reset without error after the end means "stop sending"; as an end of data it is clean.
            Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => Poll::Ready(Ok(None)),
            Some(Err(error)) => Poll::Ready(Err(broken(error))),
            None => Poll::Ready(Ok(None)),
        }
    }
}

impl H2Writer {
    /// Sends all of `data`, as the far end's window allows; `data` is what is left.
    pub(super) fn poll_write_all(&mut self, data: &mut Bytes, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !data.is_empty() {
            let n = ready!(self.poll_window(data.len(), cx))?;
            self.send.send_data(data.split_to(n), false).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_window(&mut self, want: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(want);
        match ready!(self.send.poll_capacity(cx)) {
            Some(Ok(n)) if n > 0 => Poll::Ready(Ok(n.min(want))),
            Some(Ok(_)) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Err(error)) => Poll::Ready(Err(broken(error))),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Ends this direction.
    pub fn finish(&mut self) -> io::Result<()> {
        self.send.send_data(Bytes::new(), true).map_err(broken)
    }

    /// Ends the stream in both directions, as a failure.
    pub fn reset(&mut self) {
        self.send.send_reset(Reason::CONNECT_ERROR);
    }

    /// Returns when the far end has reset the stream.
    pub async fn broken(&mut self) -> io::Error {
        match poll_fn(|cx| self.send.poll_reset(cx)).await {
            Ok(Reason::NO_ERROR) => std::future::pending().await,
            Ok(reason) => broken(reason.into()),
            Err(error) => broken(error),
        }
    }
}

fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for H2Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.reader.poll_chunk(cx))? {
                Some(data) => self.unread = data,
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = buf.remaining().min(self.unread.len());
        buf.put_slice(&self.unread[..n]);
        self.unread.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let n = ready!(self.writer.poll_window(buf.len(), cx))?;
        self.writer.send.send_data(Bytes::copy_from_slice(&buf[..n]), false).map_err(broken)?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A stream that is closed already needs no end.
        let _ = self.writer.finish();
        Poll::Ready(Ok(()))
    }
}

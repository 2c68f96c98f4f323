//! Messages over a byte stream: what proxies and `destination` speak in place of HTTP/2, whose buffers take more than all else
//! that a proxy costs there.
//!
//! A message is its length (4 bytes, big-endian) and itself, in protobuf's encoding. An empty one is a ping of the server, and the
//! client's answer to it; the first ping goes at once, so a client knows that it is heard.
//!
//! Invariant: memory is taken for a message once its length is known to be allowed; an [`Inbox`] and a [`Link`] without a message
//! under way hold none. Non-goal: what messages say.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::io::{poll_read_buf, poll_write_buf};

use crate::dial::{PING_INTERVAL, PING_TIMEOUT};

/// The application protocol of discovery.
pub const ALPN: &[&[u8]] = &[b"mesh-discovery/1"];
/// Most bytes of a message that a proxy takes.
pub const LARGEST: usize = 4 << 20;
/// Of the length that goes before a message.
pub const PREFIX: usize = 4;
/// A ping, and its answer: a message of no bytes.
pub const PING: [u8; PREFIX] = [0; PREFIX];

/// Bytes read at a time; of a longer message, as many as it has.
const PIECE: usize = 4 * 1024;
/// With so many bytes on their way a link has no room for a further message.
const MOST_UNSENT: usize = 8 * 1024;
/// A server that says nothing for so long does not live: it has missed a ping, and the time of an answer.
const SILENCE: Duration = PING_INTERVAL.saturating_add(PING_TIMEOUT);

/// Why nothing more comes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer says that a message is longer than it may be.
    #[error("a message of more than {0} bytes")]
    TooLong(usize),
    /// The stream ended within a message.
    #[error("the last message ends before its end")]
    CutShort,
    /// The other end does not live, or the network between.
    #[error("no sign of life for {SILENCE:?}")]
    Silent,
    /// The stream broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
}

/// Makes messages of what comes in.
#[derive(Debug)]
pub struct Inbox {
    most: usize,
    received: BytesMut,
}

impl Inbox {
    /// For messages of no more than so many bytes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, received: BytesMut::new() }
    }

    /// The next message of `io`; none: the peer has ended the stream.
    ///
    /// # Errors
    /// All but [`Error::Silent`]; nothing can be read after one.
    pub fn poll_next<IO: AsyncRead>(
        &mut self,
        mut io: Pin<&mut IO>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Error>> {
        loop {
            let length =
                self.received.first_chunk().map(|length| self.allowed(u32::from_be_bytes(*length))).transpose()?;
            let whole = PREFIX + length.unwrap_or_default();
            if length.is_some() && self.received.len() >= whole {
                let mut message = self.received.split_to(whole);
                message.advance(PREFIX);
                return Poll::Ready(Ok(Some(message.freeze())));
            }
            self.received.reserve(whole.max(PIECE) - self.received.len());
            match poll_read_buf(io.as_mut(), cx, &mut self.received) {
                Poll::Ready(Ok(0)) if self.received.is_empty() => return Poll::Ready(Ok(None)),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Error::CutShort)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {
                    if self.received.is_empty() {
                        self.received = BytesMut::new();
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn allowed(&self, length: u32) -> Result<usize, Error> {
        usize::try_from(length).ok().filter(|length| *length <= self.most).ok_or(Error::TooLong(self.most))
    }
}

/// The client's end.
#[derive(Debug)]
pub struct Link<IO> {
    io: IO,
    inbox: Inbox,
    /// On its way to the server.
    unsent: BytesMut,
    /// Sent, not flushed.
    is_flushed: bool,
    /// When something of the server last came.
    heard: Instant,
    /// Not before it will have been silent for too long.
    alarm: Pin<Box<Sleep>>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Link<IO> {
    /// Over `io`, for messages of no more than `most` bytes. Must be called within a tokio runtime.
    pub fn new(io: IO, most: usize) -> Self {
        let heard = Instant::now();
        let alarm = Box::pin(sleep_until(heard + SILENCE));
        Self { io, inbox: Inbox::new(most), unsent: BytesMut::new(), is_flushed: true, heard, alarm }
    }

    /// Puts a message on its way, which it goes while the link is polled. Bounded by who asks for
    /// room first.
    pub fn send(&mut self, message: &impl Message) {
        // Whoever sends 4 GiB has other worries: the server ends a stream long before.
        let length = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX);
        self.unsent.put_u32(length);
        message.encode(&mut self.unsent).unwrap_or_else(|_| unreachable!("a buffer that grows"));
        self.is_flushed = false;
    }

    /// Ready when there is room for a further message.
    ///
    /// # Errors
    /// [`Error::Broken`].
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.unsent.len() < MOST_UNSENT { Poll::Ready(Ok(())) } else { self.poll_flush(cx) }
    }

    /// The next message; an empty one is a ping, which is answered already. None: the server has ended the stream.
    ///
    /// # Errors
    /// See [`Error`]; the link is of no use then.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        // What the server said before it stopped listening is read all the same.
        let sent = self.poll_flush(cx);
        let before = self.inbox.received.len();
        match self.inbox.poll_next(Pin::new(&mut self.io), cx) {
            Poll::Ready(Ok(Some(message))) => {
                self.heard = Instant::now();
                if message.is_empty() {
                    self.unsent.put_slice(&PING);
                    self.is_flushed = false;
                }
                Poll::Ready(Ok(Some(message)))
            }
            Poll::Ready(ended) => Poll::Ready(ended),
            Poll::Pending => {
                if self.inbox.received.len() > before {
                    // A long message takes its time, in which no ping can come.
                    self.heard = Instant::now();
                }
                if let Poll::Ready(Err(error)) = sent {
                    return Poll::Ready(Err(error));
                }
                ready!(self.poll_silence(cx));
                Poll::Ready(Err(Error::Silent))
            }
        }
    }

    /// As [`Link::poll_next`]; dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`Link::poll_next`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Ready when the server has been silent for too long. The alarm is set again when it rings, not with each message.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            let by = self.heard + SILENCE;
            if by <= Instant::now() {
                return Poll::Ready(());
            }
            self.alarm.as_mut().reset(by);
        }
    }

    /// Ready when all that was sent has left.
    ///
    /// # Errors
    /// [`Error::Broken`].
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.unsent.is_empty() {
            if ready!(poll_write_buf(Pin::new(&mut self.io), cx, &mut self.unsent))? == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
        }
        if !self.is_flushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.is_flushed = true;
            self.unsent = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;

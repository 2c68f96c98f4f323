//! A TLS session as a byte stream, on rustls's unbuffered interface.
//!
//! Invariant: an idle session holds no buffer, neither ours nor one of rustls. Small writes gather in one record until it is
//! full, the stream is flushed or a large one comes; four full records leave in one system call, and one read takes in four.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, ReadTraffic, UnbufferedStatus};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffer::{self, Buffer};

/// Most plaintext in one record of ours: a quarter of what leaves at a time; less than it may be (RFC 8446 5.1).
const RECORD: usize = 15 * 1024;
/// Header, content type and tag of a record, and what a key update takes that goes before it.
const OVERHEAD: usize = 256;
/// Most bytes that wait to be decrypted: with what a reader had no room for they fit into one buffer as plaintext.
const MOST_RECEIVED: usize = buffer::SIZE - buffer::RECORD;
/// Most bytes that leave in one system call while there are more: of one more the kernel would make a segment of its own. It puts
/// 64 KiB with all headers into one, in whole packets, of which seven large ones (of 9,001 bytes) have the least room.
const MOST_SENT: usize = 61 * 1024;
/// With so much waiting to be sent nothing more is encrypted: there may be no room. A peer that does not read keeps no more waiting.
const MOST_UNSENT: usize = buffer::SIZE - RECORD - 2 * OVERHEAD;
const _: () = assert!(MOST_SENT + RECORD + OVERHEAD <= buffer::SIZE, "no room for what was gathered");

/// A TLS stream over `IO`.
#[derive(Debug)]
pub struct Stream<IO> {
    io: IO,
    session: Session,
    /// Received, not yet decrypted.
    incoming: Buffer,
    /// Decrypted, not yet read.
    unread: Buffer,
    /// Written, not yet encrypted: less than a record.
    written: Buffer,
    /// Encrypted, not yet sent.
    outgoing: Buffer,
    /// The peer has said that nothing follows.
    ended: bool,
    closing: bool,
    failed: bool,
}

/// Either side of a session.
pub(super) enum Session {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

impl Session {
    fn common(&self) -> &rustls::CommonState {
        match self {
            Session::Client(client) => client,
            Session::Server(server) => server,
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Session::Client(_) => "Client",
            Session::Server(_) => "Server",
        })
    }
}

/// What a look at the session is for.
enum Wish<'a, 'buf> {
    /// The handshake.
    Agree,
    Read(&'a mut ReadBuf<'buf>),
    Write(&'a [u8]),
    Close,
}

/// What became of one look at the session.
#[derive(PartialEq, Eq)]
enum Step {
    /// Look again.
    More,
    /// The wish is fulfilled, or needs more bytes from the peer.
    Done,
}

/// What a look at the session may change.
struct Sides<'a> {
    unread: &'a mut Buffer,
    outgoing: &'a mut Buffer,
    ended: &'a mut bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Stream<IO> {
    /// Performs the handshake.
    pub(super) async fn handshake(io: IO, session: Session) -> io::Result<Self> {
        let (incoming, unread, written, outgoing) = Default::default();
        let mut stream =
            Self { io, session, incoming, unread, written, outgoing, ended: false, closing: false, failed: false };
        std::future::poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(stream)
    }

    /// What was agreed on.
    pub fn session(&self) -> &rustls::CommonState {
        self.session.common()
    }

    /// Bytes of memory in buffers.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        [&self.incoming, &self.unread, &self.written, &self.outgoing].iter().map(|buffer| buffer.held()).sum()
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let stepped = loop {
                match self.step(Wish::Agree) {
                    Ok(Step::More) => {}
                    other => break other,
                }
            };
            // What the peer did wrong it is told by an alert, if the socket takes that.
            let sent = self.poll_send(cx);
            stepped?;
            ready!(sent)?;
            if !self.session.common().is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Receives into `incoming`; 0 is the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let most = MOST_RECEIVED.saturating_sub(self.incoming.len());
        let room = &mut self.incoming.room()[..most];
        if room.is_empty() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a handshake message is too large")));
        }
        let mut room = ReadBuf::new(room);
        match Pin::new(&mut self.io).poll_read(cx, &mut room) {
            Poll::Ready(Ok(())) => {
                let n = room.filled().len();
                self.incoming.fill(n);
                Poll::Ready(Ok(n))
            }
            other => {
                self.incoming.shrink();
                other.map_ok(|()| 0)
            }
        }
    }

    /// One look at what was received. Plaintext goes to `reader` as far as it has room.
    ///
    /// rustls keeps places in the received bytes from one look to the next, so each look gets all of them.
    fn step(&mut self, wish: Wish<'_, '_>) -> io::Result<Step> {
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let step = self.look(wish);
        if step.is_err() {
            self.failed = true;
            // What is left to say goes out: the alert, and before it what was ready when the error came. Where nothing is left,
            // rustls does not bear a further look.
            while self.session.common().wants_write() && self.look(Wish::Agree).is_ok() {}
        }
        step
    }

    fn look(&mut self, wish: Wish<'_, '_>) -> io::Result<Step> {
        let Self { session, incoming, unread, outgoing, ended, .. } = self;
        let mut sides = Sides { unread, outgoing, ended };
        let (discard, step) = match session {
            Session::Client(client) => sides.advance(client.process_tls_records(incoming.filled_mut()), wish),
            Session::Server(server) => sides.advance(server.process_tls_records(incoming.filled_mut()), wish),
        };
        incoming.consume(discard);
        step
    }

    /// Encrypts what was gathered.
    fn encrypt(&mut self) -> io::Result<()> {
        if self.written.is_empty() {
            return Ok(());
        }
        let written = std::mem::take(&mut self.written);
        self.encrypt_record(written.filled())
    }

    fn encrypt_record(&mut self, data: &[u8]) -> io::Result<()> {
        while self.step(Wish::Write(data))? == Step::More {}
        Ok(())
    }

    /// Sends what is encrypted.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, self.outgoing.filled()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.outgoing.consume(n),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes as much of `data` as there is room for, which is something.
    fn poll_take(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        while taken < data.len() {
            if self.outgoing.len() + RECORD + OVERHEAD > MOST_SENT {
                match self.poll_send(cx)? {
                    Poll::Pending if taken == 0 => return Poll::Pending,
                    Poll::Pending => break,
                    Poll::Ready(()) => {}
                }
            }
            if let Some(record) = data[taken..].get(..RECORD) {
                // From where it lies: what was gathered is a record of its own, and goes before it.
                self.encrypt()?;
                self.encrypt_record(record)?;
                taken += RECORD;
            } else {
                taken += self.written.append(&data[taken..], RECORD);
                if self.written.len() == RECORD {
                    self.encrypt()?;
                }
            }
        }
        Poll::Ready(Ok(taken))
    }
}

impl Sides<'_> {
    /// Acts on what rustls says; how much of what was received is done with.
    fn advance<Data>(
        &mut self,
        UnbufferedStatus { discard, state }: UnbufferedStatus<'_, '_, Data>,
        wish: Wish<'_, '_>,
    ) -> (usize, io::Result<Step>) {
        let step = match (state, wish) {
            (Err(error), _) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            (Ok(ConnectionState::ReadTraffic(mut traffic)), wish) => {
                let reader = if let Wish::Read(reader) = wish { Some(reader) } else { None };
                self.take(&mut traffic, reader).map(|()| Step::More)
            }
            (Ok(ConnectionState::EncodeTlsData(mut data)), _) => match data.encode(self.outgoing.room()) {
                Ok(n) => {
                    self.outgoing.fill(n);
                    Ok(Step::More)
                }
                Err(EncodeError::InsufficientSize(_) | EncodeError::AlreadyEncoded) => Err(overfull()),
            },
            (Ok(ConnectionState::TransmitTlsData(transmit)), _) => {
                transmit.done();
                Ok(Step::More)
            }
            (Ok(ConnectionState::PeerClosed), _) => {
                *self.ended = true;
                Ok(Step::More)
            }
            (Ok(ConnectionState::WriteTraffic(mut writer)), Wish::Write(data)) => {
                let sealed = writer.encrypt(data, self.outgoing.room());
                self.seal(sealed)
            }
            (Ok(ConnectionState::WriteTraffic(mut writer)), Wish::Close) => {
                let sealed = writer.queue_close_notify(self.outgoing.room());
                self.seal(sealed)
            }
            (Ok(_), Wish::Write(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            (Ok(_), _) => Ok(Step::Done),
        };
        (discard, step)
    }

    fn seal(&mut self, sealed: Result<usize, EncryptError>) -> io::Result<Step> {
        let n = sealed.map_err(|error| match error {
            EncryptError::InsufficientSize(_) => overfull(),
            EncryptError::EncryptExhausted => io::Error::other(error),
        })?;
        self.outgoing.fill(n);
        Ok(Step::Done)
    }

    /// Hands decrypted records to `reader`, and what it has no room for to `unread`.
    fn take<Data>(
        &mut self,
        traffic: &mut ReadTraffic<'_, '_, Data>,
        mut reader: Option<&mut ReadBuf<'_>>,
    ) -> io::Result<()> {
        while let Some(record) = traffic.next_record() {
            let mut rest = record.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?.payload;
            if let Some(reader) = &mut reader
                && self.unread.is_empty()
            {
                let (now, later) = rest.split_at(rest.len().min(reader.remaining()));
                reader.put_slice(now);
                rest = later;
            }
            if self.unread.append(rest, buffer::SIZE) < rest.len() {
                return Err(overfull());
            }
        }
        Ok(())
    }
}

fn overfull() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "more TLS data at a time than a session may hold")
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            let n = this.unread.len().min(buf.remaining());
            buf.put_slice(&this.unread.filled()[..n]);
            this.unread.consume(n);
            while buf.remaining() > 0 && !this.incoming.is_empty() {
                match this.step(Wish::Read(buf)) {
                    Ok(Step::More) => {}
                    Ok(Step::Done) => break,
                    Err(error) => {
                        // The alert, if the socket takes it.
                        let _ = this.poll_send(cx);
                        return Poll::Ready(Err(error));
                    }
                }
            }
            if buf.filled().len() > before || buf.remaining() == 0 || this.ended {
                return Poll::Ready(Ok(()));
            }
            if ready!(this.poll_fill(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_take(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        for buf in bufs.iter().filter(|buf| !buf.is_empty()) {
            match self.poll_take(cx, buf)? {
                Poll::Pending if taken == 0 => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(n) => {
                    taken += n;
                    // What sending a part has made room for is not for the next slice: a hole would be left in this one.
                    if n < buf.len() {
                        break;
                    }
                }
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outgoing.len() > MOST_UNSENT {
            ready!(self.poll_send(cx))?;
        }
        self.encrypt()?;
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            ready!(self.as_mut().poll_flush(cx))?;
            while self.step(Wish::Close)? == Step::More {}
            self.closing = true;
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

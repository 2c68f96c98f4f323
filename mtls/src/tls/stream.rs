//! A TLS session as a byte stream.
//!
//! Invariant: an idle session holds no buffer. Small writes gather in one record until it is full, the stream is flushed or a large
//! one comes; four full records leave in one system call, and one read takes in five. A record is opened where it is read to, if
//! there is room for it.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffer::{self, Buffer};
use super::handshake::invalid;
use super::records::{self, HEAD, OVERHEAD, Opened, PREPARATION, Records};
use super::talk::Fault;

/// Most plaintext in one record of ours: a quarter of what leaves at a time; less than it may be (RFC 8446 5.1).
const RECORD: usize = 15 * 1024;
/// Room for a record and what goes before it.
const RECORD_ROOM: usize = PREPARATION + OVERHEAD + RECORD;
/// Most bytes that leave in one system call while there are more: of one more the kernel would make a segment of its own. It puts
/// 64 KiB with all headers into one, in whole packets, of which seven large ones (of 9,001 bytes) have the least room.
const MOST_SENT: usize = 61 * 1024;
const _: () = assert!(MOST_SENT + PREPARATION + 2 * OVERHEAD <= buffer::SIZE, "no room for an alert");

/// A TLS stream over `IO`.
pub struct Stream<IO> {
    io: IO,
    records: Box<Records>,
    /// Received. Begins with what was decrypted and not yet read, if anything was.
    incoming: Buffer,
    unread: usize,
    /// What follows on `unread` of its record.
    spent: usize,
    /// Encrypted, not yet sent; then the record that gathers.
    outgoing: Buffer,
    /// The record that gathers: room for its head, and what was written.
    gathered: usize,
    /// The peer has said that nothing follows.
    ended: bool,
    /// We have said so.
    closing: bool,
    failed: bool,
    /// What the reader is told next: it had got something when this came.
    fault: Option<Box<Fault>>,
}

impl<IO> fmt::Debug for Stream<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("tls::Stream").field("ended", &self.ended).field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Stream<IO> {
    /// A stream whose handshake is over; `incoming` has come already.
    pub(super) fn new(io: IO, records: Records, incoming: Buffer) -> Self {
        let (outgoing, records) = (Buffer::default(), Box::new(records));
        let (unread, spent, gathered, fault) = (0, 0, 0, None);
        let (ended, closing, failed) = (false, false, false);
        Self { io, records, incoming, unread, spent, outgoing, gathered, ended, closing, failed, fault }
    }

    /// Hands over what was decrypted before.
    fn take_unread(&mut self, reader: &mut ReadBuf<'_>) {
        if self.unread == 0 {
            return;
        }
        let n = self.unread.min(reader.remaining());
        reader.put_slice(&self.incoming.filled()[..n]);
        self.incoming.consume(n);
        self.unread -= n;
        if self.unread == 0 {
            self.incoming.consume(std::mem::take(&mut self.spent));
        }
    }

    /// Opens the next record, if it is there as a whole, unless `reader` has got something and has no room for this one too; whether it did.
    fn open_next(&mut self, reader: &mut ReadBuf<'_>, before: usize) -> Result<bool, Fault> {
        let Some(length) = records::first_record(self.incoming.filled())? else {
            return Ok(false);
        };
        if reader.filled().len() > before && records::plain_room(length) > reader.remaining() {
            return Ok(false);
        }
        match self.records.open(&mut self.incoming.filled_mut()[..length], reader)? {
            Opened::Read => self.incoming.consume(length),
            Opened::Kept(content) => {
                self.incoming.consume(HEAD);
                (self.unread, self.spent) = (content, length - HEAD - content);
                self.take_unread(reader);
            }
            Opened::End => {
                // What follows it is none of ours.
                self.incoming.consume(self.incoming.len());
                self.ended = true;
            }
        }
        Ok(true)
    }

    /// Ends the session; what the peer did wrong it is told by an alert, if the socket takes that.
    fn fail(&mut self, fault: Fault, cx: &mut Context<'_>) -> io::Error {
        self.failed = true;
        self.incoming = Buffer::default();
        self.outgoing.forget(std::mem::take(&mut self.gathered));
        let idle = self.outgoing.is_empty();
        if let Some(alert) = fault.alert
            && !self.closing
            && self.records.seal_alert(alert, &mut self.outgoing).is_ok()
            && idle
        {
            // Else whoever writes sends it, and it is that one who is to be woken.
            let _ = self.poll_send(cx);
        }
        invalid(fault.error)
    }

    /// Sends what is encrypted.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.poll_send(&mut self.io, cx, self.gathered)
    }

    /// Encrypts what was gathered.
    fn seal_gathered(&mut self) -> io::Result<()> {
        if self.gathered > 0 {
            let length = std::mem::take(&mut self.gathered) - HEAD;
            let sealed = self.records.seal_in_place(length, &mut self.outgoing);
            self.check(sealed)?;
        }
        Ok(())
    }

    /// What could not be sealed is lost, and with it the session.
    fn check(&mut self, sealed: Result<(), rustls::Error>) -> io::Result<()> {
        sealed.map_err(|error| {
            self.failed = true;
            self.outgoing = Buffer::default();
            invalid(error)
        })
    }

    /// Takes as much of `data` as there is room for, which is something.
    fn poll_take(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.failed || self.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut taken = 0;
        while taken < data.len() {
            let rest = &data[taken..];
            if self.gathered > 0 && rest.len() < RECORD {
                taken += self.gather(rest)?;
                continue;
            }
            self.seal_gathered()?;
            if self.outgoing.len() + RECORD_ROOM > MOST_SENT {
                match self.poll_send(cx)? {
                    Poll::Pending if taken == 0 => return Poll::Pending,
                    Poll::Pending => break,
                    Poll::Ready(()) => {}
                }
            }
            let prepared = self.records.prepare(&mut self.outgoing);
            self.check(prepared)?;
            if let Some(record) = rest.get(..RECORD) {
                // From where it lies.
                let sealed = self.records.seal(record, &mut self.outgoing);
                self.check(sealed)?;
                taken += RECORD;
            } else {
                self.gathered = self.outgoing.append(&[0; HEAD], buffer::SIZE);
            }
        }
        Poll::Ready(Ok(taken))
    }

    /// Takes as much of `data` as belongs to the record that gathers.
    fn gather(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = data.len().min(HEAD + RECORD - self.gathered);
        let n = self.outgoing.append(&data[..n], buffer::SIZE);
        self.gathered += n;
        if self.gathered == HEAD + RECORD {
            self.seal_gathered()?;
        }
        Ok(n)
    }
}

#[cfg(test)]
impl<IO> Stream<IO> {
    /// Bytes of memory in buffers.
    pub(super) fn held(&self) -> usize {
        self.incoming.held() + self.outgoing.held()
    }

    pub(super) fn records(&mut self) -> (&mut Records, &mut Buffer) {
        (&mut self.records, &mut self.outgoing)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.failed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if let Some(fault) = this.fault.take() {
            return Poll::Ready(Err(this.fail(*fault, cx)));
        }
        let before = buf.filled().len();
        loop {
            this.take_unread(buf);
            while buf.remaining() > 0 && !this.ended {
                match this.open_next(buf, before) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(fault) if buf.filled().len() > before => {
                        this.fault = Some(Box::new(fault));
                        break;
                    }
                    Err(fault) => return Poll::Ready(Err(this.fail(fault, cx))),
                }
            }
            if buf.filled().len() > before || buf.remaining() == 0 || this.ended {
                return Poll::Ready(Ok(()));
            }
            if ready!(this.incoming.poll_fill(&mut this.io, cx))? == 0 {
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
        self.seal_gathered()?;
        ready!(self.poll_send(cx))?;
        if self.failed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.closing {
            if this.failed {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            this.seal_gathered()?;
            let sealed = this.records.seal_alert(AlertDescription::CloseNotify, &mut this.outgoing);
            this.check(sealed)?;
            this.closing = true;
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

//! The buffers that bytes of a session pass through: borrowed from the thread while bytes are in hand, given back after.
//!
//! Invariant: an empty [`Buffer`] holds no memory, and a thread keeps at most [`KEPT`] spare ones.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A full record (RFC 8446 5.2) with its header.
const RECORD: usize = 5 + 16 * 1024 + 256;
/// Room for five full records.
pub(super) const SIZE: usize = 5 * RECORD;
const KEPT: usize = 2;

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that came in at its end and leave from its beginning.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// The `n` bytes that came in last.
    pub(super) fn last_mut(&mut self, n: usize) -> &mut [u8] {
        &mut self.bytes[self.end - n..self.end]
    }

    /// Room after the bytes: all that [`SIZE`] leaves.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.bytes.len() < SIZE {
            let mut bytes = SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE].into_boxed_slice());
            bytes[..self.len()].copy_from_slice(self.filled());
            (self.start, self.end) = (0, self.len());
            self.bytes = bytes;
        } else if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.len());
        }
        &mut self.bytes[self.end..]
    }

    /// `n` bytes of the room were written.
    pub(super) fn fill(&mut self, n: usize) {
        self.end += n;
    }

    /// Appends as much of `data` as fits up to a length of `limit`; how much that was.
    pub(super) fn append(&mut self, data: &[u8], limit: usize) -> usize {
        let n = data.len().min(limit.saturating_sub(self.len()));
        if n == 0 {
            return 0;
        }
        self.room()[..n].copy_from_slice(&data[..n]);
        self.fill(n);
        n
    }

    /// The `n` bytes that came in last are not wanted.
    pub(super) fn forget(&mut self, n: usize) {
        self.end -= n;
        if self.is_empty() {
            self.give_back();
        }
    }

    /// `n` bytes have left.
    pub(super) fn consume(&mut self, n: usize) {
        self.start += n;
        if self.is_empty() {
            self.give_back();
        }
    }

    /// Holds no more memory than its bytes need: called before a wait.
    pub(super) fn shrink(&mut self) {
        if self.bytes.len() == SIZE && self.len() < SIZE / 2 {
            let rest: Box<[u8]> = Box::from(self.filled());
            self.give_back();
            self.end = rest.len();
            self.bytes = rest;
        }
    }

    /// Receives from `io` as much as there is room for; 0 is the end of the stream.
    ///
    /// # Errors
    /// Those of `io`, and `InvalidData` when there is no room.
    pub(super) fn poll_fill(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.len() == SIZE {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "more TLS data at a time than a session may hold",
            )));
        }
        let mut room = ReadBuf::new(self.room());
        let polled = Pin::new(io).poll_read(cx, &mut room);
        let n = room.filled().len();
        if n > 0 {
            self.fill(n);
        } else {
            self.shrink();
        }
        polled.map_ok(|()| n)
    }

    /// Sends all bytes but the last `kept`.
    pub(super) fn poll_send(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
        kept: usize,
    ) -> Poll<io::Result<()>> {
        while self.len() > kept {
            let bytes = &self.bytes[self.start..self.end - kept];
            match ready!(Pin::new(&mut *io).poll_write(cx, bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.consume(n),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn give_back(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        (self.start, self.end) = (0, 0);
        if bytes.len() == SIZE {
            // While the thread ends there is nobody to keep it for.
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < KEPT {
                    spare.push(bytes);
                }
            });
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spare() -> usize {
        SPARE.with_borrow(Vec::len)
    }

    #[test]
    fn bytes_leave_as_they_came_and_an_empty_buffer_holds_nothing() {
        let mut buffer = Buffer::default();
        assert_eq!(buffer.append(b"abcdef", 4), 4);
        buffer.consume(1);
        assert_eq!(buffer.append(b"efgh", SIZE), 4);
        assert_eq!(buffer.filled(), b"bcdefgh");
        buffer.consume(7);
        assert_eq!((buffer.bytes.len(), spare()), (0, 1));
    }

    #[test]
    fn a_shrunk_buffer_keeps_its_bytes_and_frees_the_rest() {
        let mut buffer = Buffer::default();
        buffer.append(b"part of a record", SIZE);
        buffer.consume(8);
        buffer.shrink();
        assert_eq!((buffer.bytes.len(), buffer.filled(), spare()), (8, &b"a record"[..], 1));
        buffer.append(b"!", SIZE);
        assert_eq!((buffer.filled(), spare()), (&b"a record!"[..], 0));
    }

    #[test]
    fn a_thread_keeps_few() {
        let buffers: Vec<_> = (0..2 * KEPT)
            .map(|_| {
                let mut buffer = Buffer::default();
                buffer.append(b"x", SIZE);
                buffer
            })
            .collect();
        drop(buffers);
        assert_eq!(spare(), KEPT);
    }
}

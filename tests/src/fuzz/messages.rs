//! What discovery's messages are made of, in pieces of any size.
//!
//! Oracle: a reader of the whole, which knows nothing of pieces.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use mesh_mtls::messages::{Error, Inbox, PREFIX};
use tokio::io::{AsyncRead, ReadBuf};

use super::input::Input;

/// Of a message: less than a length of two bytes can say.
const MOST: usize = 1000;

/// How a stream ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Clean,
    CutShort,
    TooLong,
}

/// All messages of a stream, in pieces: the same as in one.
pub(super) fn messages(data: &[u8]) {
    let pieces = Input(data).pieces();
    let whole = pieces.concat();
    assert_eq!(in_pieces(&pieces), in_one(&whole));
}

fn in_one(mut data: &[u8]) -> (Vec<Bytes>, End) {
    let mut messages = Vec::new();
    loop {
        let Some((prefix, rest)) = data.split_first_chunk::<PREFIX>() else {
            return (messages, if data.is_empty() { End::Clean } else { End::CutShort });
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > MOST {
            return (messages, End::TooLong);
        }
        let Some((message, rest)) = rest.split_at_checked(length) else {
            return (messages, End::CutShort);
        };
        messages.push(Bytes::copy_from_slice(message));
        data = rest;
    }
}

/// One piece a read, or as much of it as there is room for, and nothing in between.
struct Pieces<'a> {
    left: Vec<&'a [u8]>,
    waits: bool,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.waits = !self.waits;
        if self.waits {
            return Poll::Pending;
        }
        if let Some(piece) = self.left.pop() {
            let (now, later) = piece.split_at(piece.len().min(room.remaining()));
            room.put_slice(now);
            if !later.is_empty() {
                self.left.push(later);
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn in_pieces(pieces: &[&[u8]]) -> (Vec<Bytes>, End) {
    // An empty one would be the end.
    let left = pieces.iter().rev().copied().filter(|piece| !piece.is_empty()).collect();
    let (mut io, mut inbox) = (Pieces { left, waits: false }, Inbox::new(MOST));
    let (mut messages, cx) = (Vec::new(), &mut Context::from_waker(Waker::noop()));
    loop {
        match inbox.poll_next(Pin::new(&mut io), cx) {
            Poll::Ready(Ok(Some(message))) => messages.push(message),
            Poll::Ready(Ok(None)) => return (messages, End::Clean),
            Poll::Ready(Err(Error::CutShort)) => return (messages, End::CutShort),
            Poll::Ready(Err(Error::TooLong(MOST))) => return (messages, End::TooLong),
            Poll::Ready(Err(error)) => panic!("{error}"),
            Poll::Pending => {}
        }
    }
}

//! gRPC on top of HTTP/2, as far as one method needs it: who may open a stream, messages, and how a stream ends.
//!
//! Invariant: a message that goes out is a few bytes of its own and a snapshot's encoding, which all streams share; one that
//! comes in is bounded before memory is taken for it. Non-goal: HTTP/2 itself (the h2 crate), compression, time limits of
//! callers.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::IoSlice;

use bytes::{Buf, Bytes};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use mesh_proto::discovery::WatchResponse;
use prost::Message as _;

/// The one method.
const WATCH: &str = "/mesh.discovery.v1.Discovery/Watch";

/// Whether it is compressed, and its length.
const PREFIX: usize = 5;
/// The prefix, and the longest field `id`: its tag, and ten bytes of a number.
const HEAD: usize = PREFIX + 1 + 10;

/// Of gRPC's codes those that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Ok = 0,
    InvalidArgument = 3,
    Unimplemented = 12,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// How a stream ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Status {
    code: Code,
    message: Cow<'static, str>,
}

impl Status {
    pub(super) fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    /// The trailers that say it.
    pub(super) fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(2);
        trailers.insert("grpc-status", HeaderValue::from(self.code as u16));
        if self.message.is_empty() {
            return trailers;
        }
        // Percent-encoded it is visible ASCII, which a header can be.
        if let Ok(message) = HeaderValue::try_from(percent_encoded(&self.message)) {
            trailers.insert("grpc-message", message);
        }
        trailers
    }

    /// The response that says it instead of opening a stream.
    pub(super) fn response(&self) -> Response<()> {
        let mut response = opened();
        response.headers_mut().extend(self.trailers());
        response
    }
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            // Writing to a string does not fail.
            _ => _ = write!(encoded, "%{byte:02X}"),
        }
    }
    encoded
}

/// The response that opens a stream.
pub(super) fn opened() -> Response<()> {
    let mut content_type = HeaderValue::from_static("application/grpc");
    // Such a header stays out of HPACK's table, which would be kept for each connection to spare a few bytes once.
    content_type.set_sensitive(true);
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Whether a request is for a stream of ours; if not, the answer.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), Response<()>> {
    let content_type = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    if !content_type.is_some_and(|value| value.starts_with(b"application/grpc")) {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(response);
    }
    if request.uri().path() != WATCH {
        return Err(Status::new(Code::Unimplemented, "no such method").response());
    }
    if request.headers().get("grpc-encoding").is_some_and(|encoding| encoding != "identity") {
        let mut response = Status::new(Code::Unimplemented, "only uncompressed messages are read").response();
        response.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
        return Err(response);
    }
    Ok(())
}

/// A snapshot on its way to one subscription, with gRPC's prefix; or a part of it.
#[derive(Debug)]
pub(super) struct Message {
    head: [u8; HEAD],
    /// What of `head` is still to go.
    from: u8,
    to: u8,
    /// Shared by all subscriptions.
    body: Bytes,
}

impl Message {
    /// None: it is longer than gRPC can say, which the bounds of snapshots exclude.
    pub(super) fn new(id: u64, snapshot: Bytes) -> Option<Self> {
        let mut head = [0; HEAD];
        // Messages that follow each other merge, so the id may stand before the rest.
        let field = WatchResponse { id, version: 0, snapshot: None };
        let to = PREFIX + field.encoded_len();
        field.encode(&mut head.get_mut(PREFIX..)?).ok()?;
        let length = u32::try_from(to - PREFIX + snapshot.len()).ok()?;
        head[1..PREFIX].copy_from_slice(&length.to_be_bytes());
        Some(Self { head, from: 0, to: u8::try_from(to).ok()?, body: snapshot })
    }

    /// Parts with as much of its beginning as `limit` allows.
    pub(super) fn take_front(&mut self, limit: usize) -> Self {
        let of_head = limit.min(usize::from(self.to - self.from));
        let middle = self.from + u8::try_from(of_head).unwrap_or(self.to);
        let body = self.body.split_to(self.body.len().min(limit - of_head));
        let front = Self { head: self.head, from: self.from, to: middle, body };
        self.from = middle;
        front
    }

    fn head(&self) -> &[u8] {
        &self.head[usize::from(self.from)..usize::from(self.to)]
    }
}

impl Buf for Message {
    fn remaining(&self) -> usize {
        self.head().len() + self.body.len()
    }

    fn chunk(&self) -> &[u8] {
        if self.head().is_empty() { &self.body } else { self.head() }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = [self.head(), &self.body].into_iter().filter(|part| !part.is_empty());
        let mut filled = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, count: usize) {
        self.take_front(count);
    }
}

/// Why what came is no message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("a compressed message")]
    Compressed,
    #[error("a message of {length} bytes, the most is {most}")]
    TooLong { length: usize, most: usize },
}

/// Makes messages of pieces.
#[derive(Debug)]
pub(super) struct Inbox {
    most: usize,
    /// The beginning of a message.
    partial: Vec<u8>,
}

impl Inbox {
    /// For messages of no more than so many bytes.
    pub(super) fn new(most: usize) -> Self {
        Self { most, partial: Vec::new() }
    }

    /// Whether the end of a message is missing.
    pub(super) fn is_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    /// The next message of what was kept and `data`, which it is taken from; none: all of `data` is kept.
    pub(super) fn next(&mut self, data: &mut Bytes) -> Result<Option<Bytes>, Unreadable> {
        if self.partial.is_empty()
            && let Some(length) = self.length(data)?
            && data.len() >= PREFIX + length
        {
            data.advance(PREFIX);
            return Ok(Some(data.split_to(length)));
        }
        loop {
            let length = self.length(&self.partial)?;
            let missing = PREFIX + length.unwrap_or_default() - self.partial.len();
            if missing == 0 && length.is_some() {
                let mut message = Bytes::from(std::mem::take(&mut self.partial));
                message.advance(PREFIX);
                return Ok(Some(message));
            }
            if data.is_empty() {
                return Ok(None);
            }
            self.partial.extend_from_slice(&data.split_to(data.len().min(missing)));
        }
    }

    /// What the prefix says, once it is there.
    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        let Some([compressed, length @ ..]) = bytes.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        if *compressed != 0 {
            return Err(Unreadable::Compressed);
        }
        let length = u32::from_be_bytes(*length) as usize;
        if length > self.most {
            return Err(Unreadable::TooLong { length, most: self.most });
        }
        Ok(Some(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: u64, text: &'static str) -> Message {
        Message::new(id, Bytes::from_static(text.as_bytes())).unwrap()
    }

    #[test]
    fn a_message_is_what_tonic_reads_however_it_is_cut() {
        let snapshot = Bytes::from(WatchResponse { id: 0, version: 9, snapshot: None }.encode_to_vec());
        for id in [0, 1, 300, u64::MAX] {
            let whole = Message::new(id, snapshot.clone()).unwrap();
            let length = whole.remaining();
            for cut in 0..=length {
                let mut rest = Message::new(id, snapshot.clone()).unwrap();
                let mut front = rest.take_front(cut);
                assert_eq!((front.remaining(), rest.remaining()), (cut, length - cut));
                let mut bytes = Vec::from(front.copy_to_bytes(cut));
                let mut slices = [IoSlice::new(&[]); 2];
                let filled = rest.chunks_vectored(&mut slices);
                slices[..filled].iter().for_each(|slice| bytes.extend_from_slice(slice));
                assert_eq!(bytes[..PREFIX], [0, 0, 0, 0, u8::try_from(length - PREFIX).unwrap()]);
                let read = WatchResponse::decode(&bytes[PREFIX..]).unwrap();
                assert_eq!((read.id, read.version), (id, 9));
            }
        }
    }

    #[test]
    fn messages_come_whole_out_of_any_pieces() {
        let sent: Vec<u8> = [message(1, "a"), message(2, ""), message(3, "some more")]
            .iter_mut()
            .flat_map(|message| message.copy_to_bytes(message.remaining()))
            .collect();
        for piece in 1..=sent.len() {
            let (mut inbox, mut read) = (Inbox::new(64), Vec::new());
            for data in sent.chunks(piece) {
                let mut data = Bytes::copy_from_slice(data);
                while let Some(message) = inbox.next(&mut data).unwrap() {
                    read.push(message);
                }
                assert!(data.is_empty());
            }
            assert!(!inbox.is_partial());
            assert_eq!(read, [&b"\x08\x01a"[..], b"\x08\x02", b"\x08\x03some more"], "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_too_long_or_compressed_is_refused_before_it_has_come() {
        let next = |bytes: &'static [u8]| Inbox::new(16).next(&mut Bytes::from_static(bytes));
        assert_eq!(next(&[0, 0, 0, 0, 17]), Err(Unreadable::TooLong { length: 17, most: 16 }));
        assert_eq!(next(&[0, 255, 255, 255, 255]), Err(Unreadable::TooLong { length: 0xffff_ffff, most: 16 }));
        assert_eq!(next(&[1, 0, 0, 0, 1, 7]), Err(Unreadable::Compressed));
        assert_eq!(next(&[0, 0, 0, 0, 16]), Ok(None));
    }

    #[test]
    fn a_status_survives_any_text() {
        let trailers = Status::new(Code::InvalidArgument, "100 % \u{fc}ber\r\n").trailers();
        assert_eq!(trailers["grpc-status"], "3");
        assert_eq!(trailers["grpc-message"], "100 %25 %C3%BCber%0D%0A");
    }

    #[test]
    fn only_the_method_in_plain_grpc_opens_a_stream() {
        let check = |path: &str, content_type: &str, encoding: &str| {
            let request = Request::post(path).header(CONTENT_TYPE, content_type).header("grpc-encoding", encoding);
            let refused = check(&request.body(()).unwrap()).err()?;
            let status = refused.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
            Some((refused.status().as_u16(), status.unwrap_or_default()))
        };
        assert_eq!(check(WATCH, "application/grpc+proto", "identity"), None);
        assert_eq!(check("/x.Y/Z", "application/grpc", "identity"), Some((200, "12".to_owned())));
        assert_eq!(check(WATCH, "application/grpc", "gzip"), Some((200, "12".to_owned())));
        assert_eq!(check(WATCH, "application/json", "identity"), Some((415, String::new())));
    }
}

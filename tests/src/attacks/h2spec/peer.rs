//! A client that breaks one rule, and what it may see of a server that keeps them all.

use std::fmt::Write as _;

use super::Answers;
use crate::frames::{Connection, Frame, Read, code, flag, hpack, kind};

/// What was seen in a few words; as an error, what it should have been as well.
pub type Seen = Result<String, String>;

/// Body of the requests that have one.
const BODY: &[u8] = b"test";

/// The client's side of one case.
pub struct Peer<'a> {
    /// The connection.
    pub frames: Connection,
    pub(super) answers: Answers,
    fields: &'a [(String, String)],
}

impl<'a> Peer<'a> {
    /// On `frames`; `fields` are what each request needs to get to the application.
    #[must_use]
    pub fn new(frames: Connection, fields: &'a [(String, String)], answers: Answers) -> Self {
        Self { frames, answers, fields }
    }

    /// Preface and SETTINGS, both ways.
    pub(super) fn begin(&mut self) -> Result<(), String> {
        self.begin_with(&[])
    }

    /// As [`Peer::begin`], with settings of one's own.
    pub(super) fn begin_with(&mut self, settings: &[(u16, u32)]) -> Result<(), String> {
        self.frames.begin(settings).map_err(|error| format!("no beginning: {error}"))
    }

    /// Sends a frame. Whether it could be sent is seen by what comes back.
    pub(super) fn send(&mut self, frame: &Frame) {
        self.frames.send(frame);
    }

    /// Sends frames in one write, so that the server cannot do anything between them.
    pub(super) fn send_all(&mut self, frames: &[Frame]) {
        self.frames.write(&frames.iter().flat_map(Frame::bytes).collect::<Vec<_>>());
    }

    /// A field block, and what every request needs to get to the application.
    pub(super) fn block(&self, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = hpack::literal(fields);
        block.extend(self.rest());
        block
    }

    /// What every request needs to get to the application; it ends a field block.
    pub(super) fn rest(&self) -> Vec<u8> {
        self.fields.iter().flat_map(|(name, value)| hpack::literal(&[(name, value)])).collect()
    }

    /// The field block of a plain request, and `more`.
    pub(super) fn request(&self, method: &str, more: &[(&str, &str)]) -> Vec<u8> {
        let pseudo = [(":method", method), (":scheme", "http"), (":path", "/"), (":authority", "web")];
        self.block(&[&pseudo[..], more].concat())
    }

    /// A whole GET.
    pub(super) fn get(&self, stream: u32) -> Frame {
        Frame::headers(stream, flag::END_HEADERS | flag::END_STREAM, &self.request("GET", &[]))
    }

    /// The head of a POST.
    pub(super) fn post(&self, stream: u32) -> Frame {
        Frame::headers(stream, flag::END_HEADERS, &self.request("POST", &[]))
    }

    /// The body of a POST.
    pub(super) fn body(stream: u32) -> Frame {
        Frame::data(stream, flag::END_STREAM, BODY)
    }

    /// A whole GET is sent and answered.
    pub(super) fn exchange(&mut self, stream: u32) -> Result<(), String> {
        self.send(&self.get(stream));
        self.answered(stream).map(drop)
    }

    /// The application answers, whole.
    pub(super) fn answered(&mut self, stream: u32) -> Seen {
        self.answer(stream)?;
        Ok("answered".to_owned())
    }

    /// The application answers, whole: the head of its answer.
    pub(super) fn answer(&mut self, stream: u32) -> Result<Frame, String> {
        let head =
            self.expect("an answer", |frame| frame.stream == stream && frame.status().is_some_and(|s| s >= 200))?;
        if head.status() != Some(200) {
            return Err(format!("{head:?} in place of 200"));
        }
        if !head.has(flag::END_STREAM) {
            self.expect("the end of the answer", |frame| frame.ends(stream))?;
        }
        Ok(head)
    }

    /// The connection works: PING is answered.
    pub(super) fn alive(&mut self) -> Seen {
        const OPAQUE: [u8; 8] = *b"alive? !";
        self.send(&Frame::ping(OPAQUE));
        self.expect("an answer to PING", |frame| {
            frame.kind == kind::PING && frame.has(flag::ACK) && frame.payload == OPAQUE
        })?;
        Ok("ignored".to_owned())
    }

    /// The connection works, or was closed without an error.
    pub(super) fn alive_or_closed(&mut self) -> Seen {
        let seen = self.alive();
        match (&seen, self.frames.closed, self.error()) {
            (Err(_), Some(_), None | Some(code::NO_ERROR)) => Ok("closed".to_owned()),
            _ => seen,
        }
    }

    /// A frame; a reset of its stream or the end of the connection is a failure.
    pub(super) fn expect(&mut self, what: &str, wanted: impl Fn(&Frame) -> bool) -> Result<Frame, String> {
        let over = |frame: &Frame| match frame.kind {
            // Without an error: the answer came before the end of the request, whose rest is not wanted (RFC 9113, 8.1).
            kind::RST_STREAM | kind::GOAWAY => frame.code() != Some(code::NO_ERROR),
            _ => false,
        };
        match self.frames.until(|frame| wanted(frame) || over(frame)) {
            Read::Frame(frame) if wanted(&frame) => Ok(frame),
            read => Err(format!("{read:?} in place of {what}{}", self.before())),
        }
    }

    /// The connection is closed, with one of `codes` if there is GOAWAY before.
    pub(super) fn connection_error(&mut self, codes: &[u32]) -> Seen {
        self.closed("the end of the connection", codes, |_| false)
    }

    /// The stream is reset with one of `codes` and the connection goes on, or the connection is closed.
    pub(super) fn stream_error(&mut self, stream: u32, codes: &[u32]) -> Seen {
        let seen = self.closed("RST_STREAM", codes, |frame| {
            frame.kind == kind::RST_STREAM && frame.stream == stream && is_one(frame, codes)
        })?;
        if self.frames.closed.is_none() {
            self.alive().map_err(|after| format!("{seen}, but then {after}"))?;
        }
        Ok(seen)
    }

    /// As [`Peer::stream_error`], for a request that must not be answered with success.
    pub(super) fn malformed(&mut self, stream: u32) -> Seen {
        // What answers anything may have done so before it saw the end of the request, and then does not read on.
        let early = (self.answers == Answers::Anything).then_some(code::NO_ERROR);
        let codes: Vec<_> = [code::PROTOCOL_ERROR].into_iter().chain(early).collect();
        let seen = self.stream_error(stream, &codes);
        if self.frames.seen.iter().any(|frame| early.is_some_and(|code| frame.is_reset(stream, code))) {
            return seen;
        }
        let answer = self.frames.seen.iter().find_map(Frame::status);
        match (seen, answer) {
            // RFC 9113, 8.1.1: a server may answer before it resets.
            (Ok(_), Some(200..300)) => Err("taken for a good request".to_owned()),
            // 400 and no reset: the stream is over as well.
            (Err(_), Some(400)) => Ok("answered with 400".to_owned()),
            (seen, _) => seen,
        }
    }

    fn closed(&mut self, what: &str, codes: &[u32], enough: impl Fn(&Frame) -> bool) -> Seen {
        let goaway = |frame: &Frame| frame.kind == kind::GOAWAY && frame.code() != Some(code::NO_ERROR);
        match self.frames.until(|frame| enough(frame) || goaway(frame)) {
            Read::Frame(frame) if enough(&frame) => Ok(format!("reset with {}", frame.code().unwrap_or_default())),
            Read::Frame(frame) if is_one(&frame, codes) => match self.frames.until(|_| false) {
                Read::Closed(_) => Ok(format!("GOAWAY with {}, closed", frame.code().unwrap_or_default())),
                read => Err(format!("{frame:?}, then {read:?} in place of the end")),
            },
            Read::Closed(_) => Ok("closed".to_owned()),
            read => Err(format!("{read:?} in place of {what} with one of {codes:?}{}", self.before())),
        }
    }

    /// The code of the last GOAWAY.
    fn error(&self) -> Option<u32> {
        self.frames.seen.iter().rev().find(|frame| frame.kind == kind::GOAWAY).and_then(Frame::code)
    }

    /// What came before, for a failure's message.
    fn before(&self) -> String {
        self.frames.seen.iter().fold("; before:".to_owned(), |mut text, frame| {
            let _ = write!(text, " {frame:?};");
            text
        })
    }
}

/// RFC 9113, 5.4: the general codes can always stand for a more specific one.
fn is_one(frame: &Frame, codes: &[u32]) -> bool {
    const GENERAL: [u32; 2] = [code::PROTOCOL_ERROR, code::INTERNAL_ERROR];
    frame.code().is_some_and(|code| codes.contains(&code) || GENERAL.contains(&code))
}

//! Where HTTP/1 messages begin and end, read as strictly as RFC 9112 allows: hyper forgives what leaves room for a second
//! reading (lines that end with LF alone, a length beside chunks, encodings that nobody decodes), so each byte passes here
//! before hyper sees it.
//!
//! Invariant: a byte that passes belongs to a message with one reading; whatever hyper and this disagree about is refused by
//! one of them. Pure, and holds nothing but the begin of a line that came in parts.
//! Absent: targets, field names and values that do not frame a message, limits; hyper has those.

use http::Method;

/// Why bytes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// RFC 9112 2.2 lets a reader take LF alone for a line's end; others do not.
    #[error("a line that does not end with CRLF")]
    LineEnd,
    /// RFC 3986 has no such bytes, and a fragment is not for servers; hyper takes the ones and drops the other.
    #[error("a target with bytes that no target has")]
    Target,
    /// Also one that is there twice.
    #[error("Content-Length is not one number")]
    Length,
    /// RFC 9112 6.1: whoever forwards has to understand all codings.
    #[error("Transfer-Encoding is not chunked alone")]
    Encoding,
    /// RFC 9112 6.3: nearly always an attack.
    #[error("both Content-Length and Transfer-Encoding")]
    Both,
    /// RFC 9110 9.3.6: it has no meaning, and would be taken for the tunnel's bytes.
    #[error("CONNECT with a body")]
    ConnectBody,
    /// Not hexadecimal digits, an extension and CRLF.
    #[error("malformed chunk size")]
    ChunkSize,
    /// A chunk that is longer than its size.
    #[error("a chunk that does not end with CRLF")]
    ChunkEnd,
    /// After an upgrade or CONNECT that was declined: whether they are a request cannot be told.
    #[error("bytes sent before the upgrade was agreed to")]
    Early,
    /// Bytes of a server that nobody has asked.
    #[error("bytes after the end of the response")]
    Unasked,
    /// hyper's verdict on what is left to it.
    #[error("malformed or too long trailers, or too long chunk extensions")]
    Trailers,
    /// The end of the stream in the middle of a body.
    #[error("the body ended before its end")]
    Cut,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The first line of a message.
    First,
    /// A field, or the empty line after them.
    Field,
    /// So many bytes of a body.
    Length(u64),
    ChunkSize,
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    Trailer,
    /// A request that wants to leave HTTP waits for its answer.
    Leaving,
    /// Whatever comes: not HTTP any more, or a body up to the end of the connection.
    Anything,
    /// Nothing: the response is over.
    Nothing,
}

/// What a head says about its message's framing.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    length: Option<u64>,
    chunked: bool,
    connect: bool,
    upgrade: bool,
    connection_upgrade: bool,
    status: u16,
}

/// Which messages come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Requests,
    /// Responses; to HEAD without a body, to CONNECT perhaps a tunnel.
    Responses {
        head: bool,
        connect: bool,
    },
}

/// Follows the messages of one direction of a connection.
#[derive(Debug)]
pub struct Framing {
    side: Side,
    state: State,
    head: Head,
    begun: Begun,
    /// Bytes of the body that have come.
    body: u64,
}

/// A line whose end has not come.
#[derive(Debug, Default)]
struct Begun {
    /// Its first bytes: what matters of a line is there.
    start: Vec<u8>,
    /// There are more.
    is_long: bool,
    is_odd: bool,
    last: u8,
}

/// A line without its end.
struct Line<'a> {
    start: &'a [u8],
    is_long: bool,
    /// It has bytes that its kind of line must not have.
    is_odd: bool,
}

/// What is kept of a line that comes in parts: a slow sender shall not cost us its line twice.
const KEPT: usize = 1024;

impl Framing {
    /// Of a client's requests.
    pub fn requests() -> Self {
        Self { side: Side::Requests, state: State::First, head: Head::default(), begun: Begun::default(), body: 0 }
    }

    /// Of a server's responses, which nobody has asked for yet.
    pub fn responses() -> Self {
        let side = Side::Responses { head: false, connect: false };
        Self { side, state: State::Nothing, head: Head::default(), begun: Begun::default(), body: 0 }
    }

    /// A request with this method goes out: its response may come.
    pub fn expect(&mut self, method: &Method) {
        self.side = Side::Responses { head: method == Method::HEAD, connect: method == Method::CONNECT };
        self.state = State::First;
    }

    /// Whether a request has come that wants to leave HTTP, and is not answered.
    pub fn is_leaving(&self) -> bool {
        self.head.leaves() && self.side == Side::Requests
    }

    /// The request that wanted to leave HTTP has been declined: requests may follow.
    pub fn declined(&mut self) {
        (self.head.connect, self.head.upgrade) = (false, false);
        if self.state == State::Leaving {
            self.state = State::First;
        }
    }

    /// Whether the stream may end here as far as a body is concerned.
    pub fn is_in_body(&self) -> bool {
        matches!(self.state, State::Length(_) | State::ChunkSize | State::Chunk(_) | State::ChunkEnd | State::Trailer)
    }

    /// How long the body is, as far as that is known: what has come, and what is left of it or of its chunk.
    pub fn body_length(&self) -> u64 {
        match self.state {
            State::Length(left) | State::Chunk(left) => self.body.saturating_add(left),
            _ => self.body,
        }
    }

    /// Reads on.
    ///
    /// # Errors
    /// How many of the bytes may pass, and what is wrong with those that follow.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), (usize, Bad)> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            at += match &mut self.state {
                State::Anything => return Ok(()),
                State::Leaving => return Err((at, Bad::Early)),
                State::Nothing => return Err((at, Bad::Unasked)),
                State::Length(left) | State::Chunk(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= n as u64;
                    self.body += n as u64;
                    if *left == 0 {
                        self.body_read();
                    }
                    n
                }
                State::First | State::Field | State::ChunkSize | State::ChunkEnd | State::Trailer => {
                    match rest.iter().position(|byte| *byte == b'\n') {
                        Some(end) => {
                            self.whole_line(&rest[..end]).map_err(|bad| (at, bad))?;
                            end + 1
                        }
                        None => {
                            self.part(rest);
                            self.chunk_end_so_far().map_err(|bad| (at, bad))?;
                            rest.len()
                        }
                    }
                }
            };
        }
        Ok(())
    }

    /// All bytes of a body, or of a chunk, have come.
    fn body_read(&mut self) {
        match self.state {
            State::Chunk(_) => self.state = State::ChunkEnd,
            _ => self.end(),
        }
    }

    /// A part of a line.
    fn part(&mut self, bytes: &[u8]) {
        let is_odd = self.is_odd(bytes);
        let Begun { start, is_long, is_odd: was_odd, last } = &mut self.begun;
        let kept = bytes.len().min(KEPT - start.len());
        start.extend_from_slice(&bytes[..kept]);
        *is_long |= kept < bytes.len();
        *was_odd |= is_odd;
        *last = bytes.last().copied().unwrap_or(*last);
    }

    /// A line without its LF, of which `begun` may have the begin.
    fn whole_line(&mut self, rest: &[u8]) -> Result<(), Bad> {
        if self.begun.start.is_empty() {
            let start = rest.strip_suffix(b"\r").ok_or_else(|| self.bad_end())?;
            let is_odd = self.is_odd(start);
            return self.line(&Line { start, is_long: false, is_odd });
        }
        self.part(rest);
        let Begun { start, is_long, is_odd, last } = std::mem::take(&mut self.begun);
        if last != b'\r' {
            return Err(self.bad_end());
        }
        let start = start.strip_suffix(b"\r").filter(|_| !is_long).unwrap_or(&start);
        self.line(&Line { start, is_long, is_odd })
    }

    fn bad_end(&self) -> Bad {
        if self.state == State::ChunkEnd { Bad::ChunkEnd } else { Bad::LineEnd }
    }

    /// Whether bytes do not belong into a line of the present kind.
    fn is_odd(&self, bytes: &[u8]) -> bool {
        match self.state {
            State::First if self.side == Side::Requests => bytes.iter().any(|byte| *byte == b'#' || *byte >= 0x7f),
            // A CR is the line's last byte, or hyper and others disagree about its end.
            State::ChunkSize => {
                let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
                self.begun.last == b'\r' && !bytes.is_empty() || bytes.iter().any(|byte| is_control(*byte))
            }
            _ => false,
        }
    }

    /// A chunk that is too long is refused at once, not at some LF behind it.
    fn chunk_end_so_far(&self) -> Result<(), Bad> {
        let wrong = self.state == State::ChunkEnd && self.begun.start != b"\r";
        if wrong { Err(Bad::ChunkEnd) } else { Ok(()) }
    }

    fn line(&mut self, line: &Line<'_>) -> Result<(), Bad> {
        match self.state {
            State::First if line.is_odd => return Err(Bad::Target),
            // RFC 9112 2.2: empty lines before a request are passed over.
            State::First if line.start.is_empty() => {}
            State::First => self.first(line.start),
            State::Field if line.start.is_empty() => self.head_read()?,
            State::Field => self.head.field(line)?,
            State::ChunkSize => {
                let size = chunk_size(line.start).filter(|_| !line.is_odd).ok_or(Bad::ChunkSize)?;
                self.state = if size == 0 { State::Trailer } else { State::Chunk(size) };
            }
            State::ChunkEnd if line.start.is_empty() => self.state = State::ChunkSize,
            State::ChunkEnd => return Err(Bad::ChunkEnd),
            State::Trailer if line.start.is_empty() => self.end(),
            _ => {}
        }
        Ok(())
    }

    fn first(&mut self, line: &[u8]) {
        self.head = Head { connect: line.starts_with(b"CONNECT "), ..Head::default() };
        if self.side != Side::Requests {
            let status = line.get(9..12).and_then(|status| std::str::from_utf8(status).ok());
            self.head.status = status.and_then(|status| status.parse().ok()).unwrap_or_default();
        }
        self.state = State::Field;
    }

    fn head_read(&mut self) -> Result<(), Bad> {
        let Head { length, chunked, connect, status, .. } = self.head;
        if chunked && length.is_some() {
            return Err(Bad::Both);
        }
        self.state = match (self.side, status) {
            (Side::Requests, _) if connect && (chunked || length.is_some_and(|length| length > 0)) => {
                return Err(Bad::ConnectBody);
            }
            (Side::Responses { .. }, 101) => State::Anything,
            (Side::Responses { .. }, 100..200) => State::First,
            (Side::Responses { connect: true, .. }, 200..300) => State::Anything,
            (Side::Responses { head: true, .. }, _) | (Side::Responses { .. }, 204 | 304) => State::Nothing,
            _ if chunked => State::ChunkSize,
            (Side::Responses { .. }, _) if length.is_none() => State::Anything,
            _ => State::Length(length.unwrap_or(0)),
        };
        if self.state == State::Length(0) {
            self.end();
        }
        Ok(())
    }

    /// The message is over.
    fn end(&mut self) {
        self.body = 0;
        self.state = match self.side {
            Side::Responses { .. } => State::Nothing,
            Side::Requests if self.head.leaves() => State::Leaving,
            Side::Requests => State::First,
        };
    }
}

impl Head {
    fn leaves(&self) -> bool {
        self.connect || (self.upgrade && self.connection_upgrade)
    }

    fn field(&mut self, Line { start: line, is_long, .. }: &Line<'_>) -> Result<(), Bad> {
        // Most fields are told from those that matter by their first letter.
        if !matches!(line.first(), Some(b'c' | b'C' | b't' | b'T' | b'u' | b'U')) {
            return Ok(());
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Ok(()) };
        let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() || *is_long {
                return Err(Bad::Length);
            }
            self.length = Some(number(value).ok_or(Bad::Length)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || *is_long || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Bad::Encoding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            let upgrade = |part: &[u8]| trim(part).eq_ignore_ascii_case(b"upgrade");
            self.connection_upgrade |= value.split(|byte| *byte == b',').any(upgrade);
        }
        Ok(())
    }
}

/// Without the white space that may surround a value (RFC 9110 5.6.3).
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Digits only, and not too many.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

/// The size that a chunk's first line says (RFC 9112 7.1); extensions are passed over.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at(digits);
    let extension = trim(rest).first() == Some(&b';');
    // 16 digits fill a u64, leading zeros too.
    if !(1..=16).contains(&digits) || !(rest.is_empty() || extension) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()
}

fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

#[cfg(test)]
mod tests;

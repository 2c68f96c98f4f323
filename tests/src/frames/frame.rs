//! One frame: nine bytes of header, then its payload (RFC 9113, 4.1).

/// What a client says first (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (RFC 9113, 6).
#[allow(missing_docs)]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
#[allow(missing_docs)]
pub mod flag {
    pub const NONE: u8 = 0;
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 32;
}

/// Error codes (RFC 9113, 7).
#[allow(missing_docs)]
pub mod code {
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const INTERNAL_ERROR: u32 = 2;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const SETTINGS_TIMEOUT: u32 = 4;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE_ERROR: u32 = 6;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION_ERROR: u32 = 9;
    pub const CONNECT_ERROR: u32 = 10;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// Settings (RFC 9113, 6.5.2).
#[allow(missing_docs)]
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

const NAMES: [&str; 10] = [
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
];

/// A frame, to be sent or as it came.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; the reserved bit is the highest one.
    pub stream: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
    /// Of a frame that came and ended a field block: the fields. `None` when the block cannot be decoded, as well.
    pub fields: Option<Vec<(String, String)>>,
}

/// The header of a frame, which need not be true.
#[must_use]
pub fn header(length: usize, kind: u8, flags: u8, stream: u32) -> [u8; 9] {
    let [_, .., a, b, c] = length.to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    [a, b, c, kind, flags, d, e, f, g]
}

impl Frame {
    /// Any frame.
    #[must_use]
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, flags, stream, payload: payload.into(), fields: None }
    }

    /// DATA.
    #[must_use]
    pub fn data(stream: u32, flags: u8, bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(kind::DATA, flags, stream, bytes)
    }

    /// HEADERS; `block` comes from [`super::hpack`], or is no block at all.
    #[must_use]
    pub fn headers(stream: u32, flags: u8, block: &[u8]) -> Self {
        Self::new(kind::HEADERS, flags, stream, block)
    }

    /// CONTINUATION.
    #[must_use]
    pub fn continuation(stream: u32, flags: u8, block: &[u8]) -> Self {
        Self::new(kind::CONTINUATION, flags, stream, block)
    }

    /// PRIORITY.
    #[must_use]
    pub fn priority(stream: u32, dependency: u32, weight: u8) -> Self {
        Self::new(kind::PRIORITY, 0, stream, [&dependency.to_be_bytes()[..], &[weight]].concat())
    }

    /// `RST_STREAM`.
    #[must_use]
    pub fn reset(stream: u32, code: u32) -> Self {
        Self::new(kind::RST_STREAM, 0, stream, code.to_be_bytes())
    }

    /// SETTINGS.
    #[must_use]
    pub fn settings(settings: &[(u16, u32)]) -> Self {
        let pairs = settings.iter().map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat());
        Self::new(kind::SETTINGS, 0, 0, pairs.collect::<Vec<_>>().concat())
    }

    /// The acknowledgement of SETTINGS.
    #[must_use]
    pub fn settings_ack() -> Self {
        Self::new(kind::SETTINGS, flag::ACK, 0, [])
    }

    /// PING.
    #[must_use]
    pub fn ping(data: [u8; 8]) -> Self {
        Self::new(kind::PING, 0, 0, data)
    }

    /// GOAWAY.
    #[must_use]
    pub fn goaway(last: u32, code: u32) -> Self {
        Self::new(kind::GOAWAY, 0, 0, [last.to_be_bytes(), code.to_be_bytes()].concat())
    }

    /// `WINDOW_UPDATE`.
    #[must_use]
    pub fn window(stream: u32, increment: u32) -> Self {
        Self::new(kind::WINDOW_UPDATE, 0, stream, increment.to_be_bytes())
    }

    /// The frame on the wire.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        [&header(self.payload.len(), self.kind, self.flags, self.stream)[..], &self.payload].concat()
    }

    /// Whether a flag is set.
    #[must_use]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The code of `RST_STREAM` or GOAWAY.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            kind::RST_STREAM => 0,
            kind::GOAWAY => 4,
            _ => return None,
        };
        Some(u32::from_be_bytes(self.payload.get(at..at + 4)?.try_into().ok()?))
    }

    /// Whether this resets `stream` with `code`.
    #[must_use]
    pub fn is_reset(&self, stream: u32, code: u32) -> bool {
        self.kind == kind::RST_STREAM && self.stream == stream && self.code() == Some(code)
    }

    /// Whether this is GOAWAY with `code`.
    #[must_use]
    pub fn is_goaway(&self, code: u32) -> bool {
        self.kind == kind::GOAWAY && self.code() == Some(code)
    }

    /// Whether this ends `stream` without an error.
    #[must_use]
    pub fn ends(&self, stream: u32) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.stream == stream && self.has(flag::END_STREAM)
    }

    /// The value of a field, of a frame that came.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.as_ref()?.iter().find_map(|(key, value)| (key == name).then_some(value.as_str()))
    }

    /// The status of a response's head.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.field(":status")?.parse().ok()
    }

    /// The part of HEADERS that is a field block: without padding and priority.
    pub(super) fn block(&self) -> Option<&[u8]> {
        let (mut from, mut to) = (0, self.payload.len());
        if self.kind == kind::HEADERS && self.has(flag::PADDED) {
            (from, to) = (1, to.checked_sub(usize::from(*self.payload.first()?))?);
        }
        if self.kind == kind::HEADERS && self.has(flag::PRIORITY) {
            from += 5;
        }
        self.payload.get(from..to)
    }
}

impl std::fmt::Debug for Frame {
    /// As a line for people: what was seen is part of a failed test's message.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match NAMES.get(usize::from(self.kind)) {
            Some(name) => write!(f, "{name}")?,
            None => write!(f, "type {}", self.kind)?,
        }
        write!(f, " stream {} flags {:#x} {} bytes", self.stream, self.flags, self.payload.len())?;
        if let Some(code) = self.code() {
            write!(f, " code {code}")?;
        }
        if let Some(fields) = &self.fields {
            write!(f, " {fields:?}")?;
        }
        Ok(())
    }
}

//! Is this a TLS ClientHello, and whom does it ask for (RFC 8446 4.1.2 and 5.1, RFC 6066 3)?
//!
//! Invariant: fields are read in their order on the wire and nothing behind the server name is waited for. Once the
//! handshake message says "ClientHello" the verdict can only be TLS: damage after that loses the name, not the verdict.
//! Absent: everything else in the hello. Foreign TLS passes through untouched; our own is rustls' work.

use super::{MAX, Verdict};

/// Content type of handshake records, the first byte of any TLS connection.
pub(super) const HANDSHAKE: u8 = 22;

const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// RFC 8446 5.1: at most 2^14 bytes of plaintext in a record.
const RECORD: u16 = 1 << 14;
/// The longest host name that DNS can carry, in text.
const HOST: usize = 253;

/// Judges bytes that begin with [`HANDSHAKE`].
pub(super) fn client_hello(bytes: &[u8]) -> Verdict {
    let mut records = Records { bytes, left: 0, has_begun: false };
    match opening(&mut records) {
        Ok(length) => named(&mut Message { records, left: length }, bytes.len()),
        Err(Stop::More) => Verdict::NeedMore,
        Err(Stop::Damaged) => Verdict::Opaque,
    }
}

fn named(hello: &mut Message<'_>, seen: usize) -> Verdict {
    match server_name(hello) {
        Ok(sni) => Verdict::Tls { sni },
        Err(Stop::More) if seen < MAX => Verdict::NeedMore,
        Err(_) => Verdict::Tls { sni: None },
    }
}

enum Stop {
    /// The bytes end here.
    More,
    /// Not what the format has at this place.
    Damaged,
}

/// The handshake message's head up to `legacy_version`; returns how many bytes of the message follow.
fn opening(records: &mut Records<'_>) -> Result<usize, Stop> {
    if records.byte()? != CLIENT_HELLO {
        return Err(Stop::Damaged);
    }
    let mut length = 0;
    for _ in 0..3 {
        length = length << 8 | usize::from(records.byte()?);
    }
    // The major version; 3 in everything since SSL 3.
    if length < 2 || records.byte()? != 3 {
        return Err(Stop::Damaged);
    }
    Ok(length - 1)
}

/// Walks from `legacy_version`'s second byte to the end of the server name extension.
fn server_name(hello: &mut Message<'_>) -> Result<Option<Box<str>>, Stop> {
    // legacy_version's minor byte and the random.
    hello.skip(1 + 32)?;
    // legacy_session_id, cipher_suites, legacy_compression_methods.
    let length = hello.byte()?.into();
    hello.skip(length)?;
    let length = hello.short()?.into();
    hello.skip(length)?;
    let length = hello.byte()?.into();
    hello.skip(length)?;
    if hello.left == 0 {
        // RFC 5246 allows a hello without extensions.
        return Ok(None);
    }
    let mut extensions = usize::from(hello.short()?);
    while extensions > 0 {
        let kind = hello.short()?;
        let length = usize::from(hello.short()?);
        if kind == SERVER_NAME {
            return host_name(hello, length);
        }
        hello.skip(length)?;
        extensions = extensions.saturating_sub(4 + length);
    }
    Ok(None)
}

/// The first entry of a ServerNameList of `length` bytes; other kinds than host names were never defined.
fn host_name(hello: &mut Message<'_>, length: usize) -> Result<Option<Box<str>>, Stop> {
    if length < 5 {
        return Err(Stop::Damaged);
    }
    let list = usize::from(hello.short()?);
    let kind = hello.byte()?;
    let name = usize::from(hello.short()?);
    if list + 2 > length || name + 3 > list || kind != HOST_NAME || !(1..=HOST).contains(&name) {
        return Err(Stop::Damaged);
    }
    let mut host = String::with_capacity(name);
    for _ in 0..name {
        match hello.byte()? {
            byte @ (b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.') => {
                host.push(byte.to_ascii_lowercase().into());
            }
            _ => return Err(Stop::Damaged),
        }
    }
    Ok(Some(host.into()))
}

/// A handshake message, cut to the length in its head.
struct Message<'a> {
    records: Records<'a>,
    left: usize,
}

impl Message<'_> {
    fn byte(&mut self) -> Result<u8, Stop> {
        self.left = self.left.checked_sub(1).ok_or(Stop::Damaged)?;
        self.records.byte()
    }

    fn short(&mut self) -> Result<u16, Stop> {
        Ok(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    fn skip(&mut self, count: usize) -> Result<(), Stop> {
        self.left = self.left.checked_sub(count).ok_or(Stop::Damaged)?;
        self.records.skip(count)
    }
}

/// The payload of consecutive handshake records: their headers are checked and taken out as the reading comes to them.
struct Records<'a> {
    bytes: &'a [u8],
    /// Bytes of the current record that are still to come.
    left: usize,
    /// Whether there was a record before.
    has_begun: bool,
}

impl Records<'_> {
    fn byte(&mut self) -> Result<u8, Stop> {
        self.open()?;
        let byte = self.raw()?;
        self.left -= 1;
        Ok(byte)
    }

    fn skip(&mut self, mut count: usize) -> Result<(), Stop> {
        while count > 0 {
            self.open()?;
            let step = count.min(self.left).min(self.bytes.len());
            if step == 0 {
                return Err(Stop::More);
            }
            self.bytes = &self.bytes[step..];
            self.left -= step;
            count -= step;
        }
        Ok(())
    }

    /// Reads a record header when the current record is used up.
    fn open(&mut self) -> Result<(), Stop> {
        if self.left > 0 {
            return Ok(());
        }
        self.expect(|byte| byte == HANDSHAKE)?;
        // RFC 8446 5.1 has the version ignored for all purposes. But what begins with another major one than SSL 3's is no TLS.
        let has_begun = std::mem::replace(&mut self.has_begun, true);
        self.expect(|major| has_begun || major == 3)?;
        self.raw()?;
        let high = self.expect(|high| u16::from(high) <= RECORD >> 8)?;
        let length = u16::from_be_bytes([high, self.raw()?]);
        // Empty handshake records are forbidden.
        if length == 0 || length > RECORD {
            return Err(Stop::Damaged);
        }
        self.left = length.into();
        Ok(())
    }

    fn expect(&mut self, right: impl Fn(u8) -> bool) -> Result<u8, Stop> {
        let byte = self.raw()?;
        if right(byte) { Ok(byte) } else { Err(Stop::Damaged) }
    }

    fn raw(&mut self) -> Result<u8, Stop> {
        let (&byte, rest) = self.bytes.split_first().ok_or(Stop::More)?;
        self.bytes = rest;
        Ok(byte)
    }
}

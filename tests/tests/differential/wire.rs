//! HTTP/1 messages by hand: heads and bodies are read and written as they are.
//!
//! Invariant: nothing is put right; what is malformed is an error, and an end in the middle of a message another.
//! Non-goal: being a judge of syntax beyond framing.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::script::{self, Body, Framing};
use crate::seen::Fields;

/// Reads messages.
pub(crate) struct Reader<R> {
    source: R,
    buffer: Vec<u8>,
}

/// The first line and the fields.
pub(crate) struct Head {
    pub(crate) line: String,
    pub(crate) fields: Fields,
}

/// A body that is being read.
pub(crate) struct Incoming {
    left: Left,
    pub(crate) trailers: Fields,
}

#[derive(Clone, Copy)]
enum Left {
    Nothing,
    Bytes(u64),
    ChunkSize,
    Chunk(u64),
    UntilClose,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, buffer: Vec::new() }
    }

    /// The next message's head; none at the end of the connection.
    pub(crate) async fn head(&mut self) -> io::Result<Option<Head>> {
        if self.buffer.is_empty() && self.fill().await? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&self.line().await?).into_owned();
        Ok(Some(Head { line, fields: self.fields().await? }))
    }

    async fn fields(&mut self) -> io::Result<Fields> {
        let mut fields = Fields::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(fields);
            }
            let colon = line.iter().position(|&byte| byte == b':').ok_or_else(|| malformed(&line))?;
            let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
            fields.push((name, line[colon + 1..].trim_ascii().to_vec()));
        }
    }

    async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer.drain(..end + 2).take(end).collect();
                return Ok(line);
            }
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.source.read_buf(&mut self.buffer).await
    }

    /// At least one and at most `most` bytes.
    async fn some(&mut self, most: u64) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() && self.fill().await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let count = usize::try_from(most).unwrap_or(usize::MAX).min(self.buffer.len());
        Ok(self.buffer.drain(..count).collect())
    }
}

impl Head {
    /// How the body is framed. A response to HEAD has none, whatever it says.
    pub(crate) fn body(&self, is_response: bool, may_have_one: bool) -> Incoming {
        let value = |wanted: &str| self.fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
        let length = value("content-length").and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        let left = match (length, value("transfer-encoding")) {
            _ if !may_have_one => Left::Nothing,
            (_, Some(_)) => Left::ChunkSize,
            (Some(length), None) => Left::Bytes(length),
            (None, None) if is_response => Left::UntilClose,
            (None, None) => Left::Nothing,
        };
        Incoming { left, trailers: Fields::new() }
    }

    /// The status code of a response.
    pub(crate) fn status(&self) -> io::Result<u16> {
        let rest = ["HTTP/1.1 ", "HTTP/1.0 "].iter().find_map(|version| self.line.strip_prefix(version));
        let code = rest.and_then(|rest| rest.get(..3)?.parse().ok());
        code.ok_or_else(|| malformed(self.line.as_bytes()))
    }
}

impl Incoming {
    /// What comes next; none at the end, with the trailers in place then.
    pub(crate) async fn next<R: AsyncRead + Unpin>(&mut self, reader: &mut Reader<R>) -> io::Result<Option<Vec<u8>>> {
        loop {
            match self.left {
                Left::Nothing => return Ok(None),
                Left::Bytes(0) => self.left = Left::Nothing,
                Left::Bytes(most) => {
                    let bytes = reader.some(most).await?;
                    self.left = Left::Bytes(most - bytes.len() as u64);
                    return Ok(Some(bytes));
                }
                Left::UntilClose => {
                    return match reader.some(u64::MAX).await {
                        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                            self.left = Left::Nothing;
                            Ok(None)
                        }
                        other => other.map(Some),
                    };
                }
                Left::ChunkSize => {
                    let line = reader.line().await?;
                    let digits = std::str::from_utf8(&line).ok().and_then(|line| line.split(';').next());
                    let size = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
                    self.left = Left::Chunk(size.ok_or_else(|| malformed(&line))?);
                    if let Left::Chunk(0) = self.left {
                        self.trailers = reader.fields().await?;
                        self.left = Left::Nothing;
                    }
                }
                Left::Chunk(0) => {
                    let line = reader.line().await?;
                    if !line.is_empty() {
                        return Err(malformed(&line));
                    }
                    self.left = Left::ChunkSize;
                }
                Left::Chunk(most) => {
                    let bytes = reader.some(most).await?;
                    self.left = Left::Chunk(most - bytes.len() as u64);
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

/// A head with the fields that frame `body`.
pub(crate) fn head(line: &str, fields: &script::Fields, more: &[(&str, String)], body: &Body) -> Vec<u8> {
    let mut bytes = format!("{line}\r\n").into_bytes();
    let mut add = |name: &str, value: &str| {
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend(latin(value));
        bytes.extend_from_slice(b"\r\n");
    };
    fields.iter().for_each(|(name, value)| add(name, value));
    more.iter().for_each(|(name, value)| add(name, value));
    match body.framing {
        Framing::Length => add("content-length", &body.length().to_string()),
        Framing::Open => add("transfer-encoding", "chunked"),
        Framing::Absent | Framing::UntilClose => {}
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// A field's value: each character is a byte.
pub(crate) fn latin(value: &str) -> Vec<u8> {
    value.chars().map(|c| u8::try_from(c).unwrap_or(b'?')).collect()
}

/// Writes what a body has, in its pieces, and its end unless it is cut off.
pub(crate) async fn write_body(to: &mut (impl AsyncWrite + Unpin), body: &Body, salt: usize) -> io::Result<()> {
    let chunked = body.framing == Framing::Open;
    for piece in body.sent(salt) {
        if chunked {
            to.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
        }
        to.write_all(&piece).await?;
        if chunked {
            to.write_all(b"\r\n").await?;
        }
    }
    if chunked && body.cut.is_none() {
        let mut end = b"0\r\n".to_vec();
        for (name, value) in &body.trailers {
            end.extend([name.as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        to.write_all(&[end.as_slice(), b"\r\n"].concat()).await?;
    }
    to.flush().await
}

fn malformed(line: &[u8]) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, line.escape_ascii().to_string())
}

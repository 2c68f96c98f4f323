//! HTTP/1.1 in as few system calls as it takes: one write, and reads until the answer's length has come.
//!
//! Invariant: an answer counts only with a 2xx status and as many bytes as its `content-length` says.
//! Non-goal: answers without a length; the back end makes none, and a proxy that drops it is found out.

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Target, connect};

const BUFFER: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

/// Holds a connection.
pub struct Client {
    target: Target,
    request: String,
    stream: Option<TcpStream>,
}

/// What an answer's head says.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    /// Bytes of the head itself.
    length: usize,
    status: u16,
    content_length: u64,
    close: bool,
}

impl Client {
    pub(super) fn new(target: &Target) -> Self {
        Self { target: target.clone(), request: request(target, ""), stream: None }
    }

    pub(super) fn stream(&self) -> Option<&TcpStream> {
        self.stream.as_ref()
    }

    /// The stream comes back only from an exchange that went well, and when the server keeps it open.
    pub(super) async fn exchange(&mut self) -> anyhow::Result<u64> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.target.addr).await?,
        };
        let (bytes, close) = exchange(&mut stream, &self.request).await?;
        self.stream = Some(stream).filter(|_| !close);
        Ok(bytes)
    }
}

pub(super) async fn once(target: &Target) -> anyhow::Result<u64> {
    let mut stream = connect(target.addr).await?;
    let (bytes, _) = exchange(&mut stream, &request(target, "connection: close\r\n")).await?;
    let more = stream.read(&mut [0]).await.context("waiting for the server to close")?;
    ensure!(more == 0, "more bytes than the answer's content-length says");
    Ok(bytes)
}

fn request(target: &Target, field: &str) -> String {
    let Target { addr, path } = target;
    format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\n{field}\r\n")
}

/// The length of the body, and whether the server closes after it.
async fn exchange(stream: &mut TcpStream, request: &str) -> anyhow::Result<(u64, bool)> {
    stream.write_all(request.as_bytes()).await.context("sending a request")?;
    // Not kept: thousands of held connections would each hold one.
    let mut buffer = Vec::with_capacity(BUFFER);
    let head = loop {
        ensure!(buffer.len() < BUFFER, "a response head of more than {BUFFER} bytes");
        let read = stream.read_buf(&mut buffer).await.context("waiting for a response")?;
        ensure!(read > 0, "closed before the response was whole");
        if let Some(head) = parse(&buffer)? {
            break head;
        }
    };
    let mut received = (buffer.len() - head.length) as u64;
    while received < head.content_length {
        buffer.clear();
        let read = stream.read_buf(&mut buffer).await.context("waiting for the response's body")?;
        ensure!(read > 0, "closed after {received} of {} bytes", head.content_length);
        received += read as u64;
    }
    ensure!(received == head.content_length, "more bytes than the content-length, {}", head.content_length);
    ensure!((200..300).contains(&head.status), "status {}", head.status);
    Ok((received, head.close))
}

/// The head, once it is whole.
fn parse(bytes: &[u8]) -> anyhow::Result<Option<Head>> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = response.parse(bytes).context("a response")? else { return Ok(None) };
    let mut head = Head { length, status: response.code.unwrap_or_default(), content_length: 0, close: false };
    let mut has_length = false;
    for field in response.headers.iter() {
        let value = str::from_utf8(field.value).context("a header field that is no text")?;
        match field.name {
            name if name.eq_ignore_ascii_case("content-length") => {
                head.content_length = value.parse().with_context(|| format!("content-length {value:?}"))?;
                has_length = true;
            }
            name if name.eq_ignore_ascii_case("connection") => head.close |= value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    if !has_length {
        bail!("status {} without a content-length", head.status);
    }
    Ok(Some(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_parsed_once_it_is_whole() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: Close\r\n\r\nhello";
        assert_eq!(parse(&text[..40]).unwrap(), None);
        let head = Head { length: text.len() - 5, status: 200, content_length: 5, close: true };
        assert_eq!(parse(text).unwrap(), Some(head));
    }

    #[test]
    fn what_cannot_be_counted_is_an_error() {
        for (text, why) in [
            ("HTTP/1.1 503 no\r\n\r\n", "without a content-length"),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "without a content-length"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5x\r\n\r\n", "content-length"),
            ("SSH-2.0-x\r\n\r\n", "a response"),
        ] {
            let error = format!("{:#}", parse(text.as_bytes()).unwrap_err());
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }
}

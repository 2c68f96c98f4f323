//! A back end that takes HTTP/1.1 to the letter and keeps what it was asked.
//!
//! Oracle: bytes that RFC 9112 does not allow in a request, or that two readers could read differently, are a finding; a proxy
//! must not let them through.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use bytes::Bytes;
use h2::server::SendResponse;

/// A request as it came, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Recorded {
    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// What was recorded: requests, or what is wrong with the bytes.
pub(super) type Tape = Arc<Mutex<Vec<Result<Recorded, String>>>>;

/// Listens at `ip`; each answer has the number of its request on the tape.
pub(super) fn start(ip: IpAddr) -> io::Result<(SocketAddr, Tape)> {
    let listener = TcpListener::bind((ip, 0))?;
    let (addr, tape) = (listener.local_addr()?, Tape::default());
    let recording = Arc::clone(&tape);
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let tape = Arc::clone(&recording);
            // A sidecar that breaks off is for the other end to see.
            thread::spawn(move || drop(serve(stream, &tape)));
        }
    });
    Ok((addr, tape))
}

/// Takes what is on the tape.
pub(super) fn take(tape: &Tape) -> Vec<Result<Recorded, String>> {
    std::mem::take(&mut tape.lock().unwrap_or_else(PoisonError::into_inner))
}

fn serve(mut stream: TcpStream, tape: &Tape) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut unread = Vec::new();
    while unread.len() < PREFACE.len() && PREFACE.starts_with(&unread) && more(&mut stream, &mut unread) {}
    if unread.starts_with(PREFACE) {
        return serve_h2(stream, &unread, tape);
    }
    loop {
        let request = match read(&mut unread, |unread| more(&mut stream, unread)) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(what) => {
                tape.lock().unwrap_or_else(PoisonError::into_inner).push(Err(what));
                return Ok(());
            }
        };
        let (head_only, leaves) = (request.method == "HEAD", request.method == "CONNECT");
        tape.lock().unwrap_or_else(PoisonError::into_inner).push(Ok(request));
        if leaves {
            // What follows a CONNECT is for whoever takes it; this one does not.
            return stream.write_all(b"HTTP/1.1 405 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nx-recorded: 1\r\ncontent-length: 2\r\n\r\n")?;
        if !head_only {
            stream.write_all(b"ok")?;
        }
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// HTTP/2, which has one reading only: what the h2 crate makes of it is recorded.
fn serve_h2(stream: TcpStream, unread: &[u8], tape: &Tape) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stream = mesh_proxy::net::Stream::from(tokio::net::TcpStream::from_std(stream)?).unread(unread);
        let mut connection = h2::server::handshake(stream).await.map_err(io::Error::other)?;
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(record_h2(request, respond, Arc::clone(tape)));
        }
        Ok(())
    })
}

async fn record_h2(request: http::Request<h2::RecvStream>, mut respond: SendResponse<Bytes>, tape: Tape) {
    let (parts, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let Ok(data) = data else { return };
        let _ = stream.flow_control().release_capacity(data.len());
        body.extend_from_slice(&data);
    }
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut fields: Vec<_> = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    fields.extend(parts.uri.authority().map(|authority| ("host".to_owned(), authority.to_string())));
    let target = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let request = Recorded { method: parts.method.to_string(), target, fields, body };
    tape.lock().unwrap_or_else(PoisonError::into_inner).push(Ok(request));
    let answer = http::Response::builder().header("x-recorded", "1").body(()).expect("a response");
    // The sidecar may have lost interest.
    let _ = respond.send_response(answer, true);
}

fn more(stream: &mut TcpStream, unread: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 16 << 10];
    let read = stream.read(&mut buffer).unwrap_or(0);
    unread.extend_from_slice(&buffer[..read]);
    read > 0
}

/// The next request, to the letter. `None` when the connection ends before it is whole.
///
/// # Errors
/// What is not allowed.
pub(super) fn read(
    unread: &mut Vec<u8>,
    mut more: impl FnMut(&mut Vec<u8>) -> bool,
) -> Result<Option<Recorded>, String> {
    let head = loop {
        if let Some(end) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
            break unread.drain(..end + 4).collect::<Vec<u8>>();
        }
        if !more(unread) {
            return Ok(None);
        }
    };
    let mut request = parse_head(&head).map_err(|what| format!("{what}: {}", head.escape_ascii()))?;
    let chunked = request.values("transfer-encoding").next().is_some();
    let length = request.values("content-length").next().map(str::to_owned);
    let body = match (chunked, length) {
        (true, Some(_)) => return Err(format!("two framings: {}", head.escape_ascii())),
        (true, None) => chunks(unread, &mut more)?,
        (false, length) => {
            let length =
                length.map_or(Ok(0), |length| length.parse::<usize>().map_err(|e| format!("{length}: {e}")))?;
            exactly(unread, length, &mut more)
        }
    };
    let Some(body) = body else { return Ok(None) };
    request.body = body;
    Ok(Some(request))
}

fn parse_head(head: &[u8]) -> Result<Recorded, String> {
    // Field values may have bytes above ASCII.
    let text: String = head[..head.len() - 4].iter().map(|byte| char::from(*byte)).collect();
    let mut lines = text.split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1" | "HTTP/1.0"] = words[..] else { return Err("request line".to_owned()) };
    if !is_token(method) || target.is_empty() || !target.bytes().all(|byte| byte.is_ascii_graphic() || byte >= 0x80) {
        return Err("request line".to_owned());
    }
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = field(line).ok_or_else(|| format!("field {line:?}"))?;
        fields.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
    let request = Recorded { method: method.to_owned(), target: target.to_owned(), fields, body: Vec::new() };
    for (name, right) in [("content-length", is_number as fn(&str) -> bool), ("transfer-encoding", is_chunked)] {
        let values: Vec<&str> = request.values(name).collect();
        if values.len() > 1 || !values.iter().all(|value| right(value)) {
            return Err(format!("{name}: {values:?}"));
        }
    }
    if request.values("host").count() > 1 {
        return Err("two hosts".to_owned());
    }
    Ok(request)
}

/// A name and a value, of a head or of trailers (RFC 9112 5).
fn field(line: &str) -> Option<(&str, &str)> {
    let is_text = |c: char| c == '\t' || !c.is_ascii_control();
    line.split_once(':').filter(|(name, value)| is_token(name) && value.chars().all(is_text))
}

fn is_chunked(value: &str) -> bool {
    value.eq_ignore_ascii_case("chunked")
}

fn is_number(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_token(text: &str) -> bool {
    let mark = |byte: u8| b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || mark(byte))
}

/// A chunked body: its data, without extensions and trailers, which end here.
fn chunks(unread: &mut Vec<u8>, more: &mut impl FnMut(&mut Vec<u8>) -> bool) -> Result<Option<Vec<u8>>, String> {
    let mut body = Vec::new();
    loop {
        let Some(line) = line(unread, more) else { return Ok(None) };
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (size, rest) = line.split_at(digits);
        // Blanks may stand before an extension only (RFC 9112 7.1.1).
        let is_whole = rest.is_empty() || rest.trim_ascii_start().starts_with(b";");
        let size = std::str::from_utf8(size).ok().filter(|_| is_whole);
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
        let Some(size) = size else { return Err(format!("chunk {}", line.escape_ascii())) };
        if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(format!("chunk {}", line.escape_ascii()));
        }
        if size == 0 {
            break;
        }
        let Some(data) = exactly(unread, size + 2, more) else { return Ok(None) };
        let Some(data) = data.strip_suffix(b"\r\n") else { return Err("a chunk without its end".to_owned()) };
        body.extend_from_slice(data);
    }
    loop {
        match line(unread, more) {
            None => return Ok(None),
            Some(end) if end.is_empty() => return Ok(Some(body)),
            Some(trailer) => {
                let text: String = trailer.iter().map(|byte| char::from(*byte)).collect();
                field(&text).ok_or_else(|| format!("trailer {text:?}"))?;
            }
        }
    }
}

fn line(unread: &mut Vec<u8>, more: &mut impl FnMut(&mut Vec<u8>) -> bool) -> Option<Vec<u8>> {
    loop {
        if let Some(end) = unread.windows(2).position(|two| two == b"\r\n") {
            let mut line: Vec<u8> = unread.drain(..end + 2).collect();
            line.truncate(end);
            return Some(line);
        }
        if !more(unread) {
            return None;
        }
    }
}

fn exactly(unread: &mut Vec<u8>, n: usize, more: &mut impl FnMut(&mut Vec<u8>) -> bool) -> Option<Vec<u8>> {
    while unread.len() < n {
        if n > 1 << 20 || !more(unread) {
            return None;
        }
    }
    Some(unread.drain(..n).collect())
}

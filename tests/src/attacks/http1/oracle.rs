//! A reader of HTTP/1.1 messages that forgives nothing: what it does not take is not clean.
//!
//! Invariant: a message that it takes has one reading only, by RFC 9112 without any of its allowances for old senders.
//! Non-goal: speed, and telling more about a bad message than its first fault.

/// A request as the back end read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The target.
    pub target: String,
    /// Names in lower case and values, in their order.
    pub fields: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// Trailer fields.
    pub trailers: Vec<(String, String)>,
}

impl Request {
    /// The values of a field.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// The first request of `bytes` and its length; none when there is more of it to come.
///
/// # Errors
/// What is not clean about it.
pub fn request(bytes: &[u8]) -> Result<Option<(Request, usize)>, String> {
    let Some((lines, begin)) = head(bytes)? else { return Ok(None) };
    let (line, fields) = lines.split_first().ok_or("no request line")?;
    let [method, target, version] = line.split(' ').collect::<Vec<_>>()[..] else {
        return Err(format!("request line {line:?}"));
    };
    let readable = |byte: u8| byte.is_ascii_graphic();
    if !token(method)
        || target.is_empty()
        || !target.bytes().all(readable)
        || !["HTTP/1.1", "HTTP/1.0"].contains(&version)
    {
        return Err(format!("request line {line:?}"));
    }
    let fields = fields.iter().map(|line| field(line)).collect::<Result<Vec<_>, _>>()?;
    let mut request =
        Request { method: method.into(), target: target.into(), fields, body: Vec::new(), trailers: Vec::new() };
    let hosts = request.all("host").len();
    if hosts > 1 || (hosts == 0 && version == "HTTP/1.1") {
        return Err(format!("{hosts} Host fields"));
    }
    let rest = &bytes[begin..];
    let body = match (&request.all("transfer-encoding")[..], &request.all("content-length")[..]) {
        ([], []) => Some((Vec::new(), Vec::new(), 0)),
        ([], [length]) => {
            let length = number(length, 10).ok_or(format!("content-length {length:?}"))?;
            rest.get(..length).map(|body| (body.to_vec(), Vec::new(), length))
        }
        (["chunked"], []) if version == "HTTP/1.1" => chunked(rest)?,
        (encodings, lengths) => return Err(format!("framed by {encodings:?} and {lengths:?}")),
    };
    let Some((body, trailers, length)) = body else { return Ok(None) };
    (request.body, request.trailers) = (body, trailers);
    Ok(Some((request, begin + length)))
}

/// The status and body of an answer to a GET, if all of it is there and has one reading.
#[must_use]
pub fn whole_answer(bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
    let (lines, begin) = head(bytes).ok()??;
    let (line, fields) = lines.split_first()?;
    let status: u16 = line.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    let fields = fields.iter().map(|line| field(line)).collect::<Result<Vec<_>, _>>().ok()?;
    let all = |name: &str| -> Vec<&str> {
        fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect()
    };
    let rest = &bytes[begin..];
    let (body, end) = match (&all("transfer-encoding")[..], &all("content-length")[..]) {
        ([], [length]) => (rest.get(..number(length, 10)?)?.to_vec(), number(length, 10)?),
        (["chunked"], []) => chunked(rest).ok()?.map(|(body, _, end)| (body, end))?,
        _ => return None,
    };
    (end == rest.len()).then_some((status, body))
}

/// Lines to the empty one, and where that ends.
fn head(bytes: &[u8]) -> Result<Option<(Vec<&str>, usize)>, String> {
    let (mut lines, mut at) = (Vec::new(), 0);
    while let Some((line, next)) = line(bytes, at)? {
        at = next;
        if line.is_empty() {
            return Ok(Some((lines, at)));
        }
        lines.push(line);
    }
    Ok(None)
}

/// The line that begins at `at`, and where the next one does.
fn line(bytes: &[u8], at: usize) -> Result<Option<(&str, usize)>, String> {
    let Some(length) = bytes[at..].iter().position(|byte| *byte == b'\n') else {
        let so_far = bytes[at..].strip_suffix(b"\r").unwrap_or(&bytes[at..]);
        return text(so_far).map(|_| None);
    };
    let line = bytes[at..at + length].strip_suffix(b"\r").ok_or("a line that ends with LF alone")?;
    Ok(Some((text(line)?, at + length + 1)))
}

fn text(line: &[u8]) -> Result<&str, String> {
    let control = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
    match std::str::from_utf8(line) {
        Ok(text) if !line.iter().any(control) => Ok(text),
        _ => Err(format!("a line with odd bytes: {:?}", String::from_utf8_lossy(line))),
    }
}

fn field(line: &str) -> Result<(String, String), String> {
    match line.split_once(':') {
        Some((name, value)) if token(name) => Ok((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).into())),
        _ => Err(format!("field line {line:?}")),
    }
}

fn token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn number(text: &str, radix: u32) -> Option<usize> {
    // `from_str_radix` takes a sign.
    text.bytes().all(|byte| byte.is_ascii_alphanumeric()).then(|| usize::from_str_radix(text, radix).ok()).flatten()
}

type Body = (Vec<u8>, Vec<(String, String)>, usize);

fn chunked(bytes: &[u8]) -> Result<Option<Body>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some((size, begin)) = line(bytes, at)? else { return Ok(None) };
        let size = number(size, 16).filter(|_| size.len() <= 16).ok_or(format!("chunk size {size:?}"))?;
        if size == 0 {
            let Some((lines, length)) = head(&bytes[begin..])? else { return Ok(None) };
            let trailers = lines.iter().map(|line| field(line)).collect::<Result<_, _>>()?;
            return Ok(Some((body, trailers, begin + length)));
        }
        let Some(chunk) = bytes.get(begin..begin + size + 2) else { return Ok(None) };
        let data = chunk.strip_suffix(b"\r\n").ok_or("a chunk longer than its size")?;
        body.extend_from_slice(data);
        at = begin + size + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_clean_request_is_read_to_its_end() {
        let bytes =
            b"POST /a HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\nGET";
        let (read, length) = request(bytes).expect("clean").expect("whole");
        assert_eq!((read.target.as_str(), &read.body[..], length), ("/a", &b"abc"[..], bytes.len() - 3));
        assert_eq!(read.trailers, [("x".to_owned(), "y".to_owned())]);
        for end in 0..length {
            assert_eq!(request(&bytes[..end]), Ok(None), "cut at {end}");
        }
    }

    #[test]
    fn what_has_two_readings_is_not_clean() {
        for bytes in [
            "GET / HTTP/1.1\nHost: web\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: web\r\n x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : web\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: web\r\nX: a\rb\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: web\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: web\r\nContent-Length: +1\r\n\r\nx",
            "GET / HTTP/1.1\r\nHost: web\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            "GET / HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        ] {
            assert!(request(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
    }
}

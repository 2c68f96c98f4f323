//! Which authority a request names (R14): each spelling goes in as it is, and a server keeps what comes out.
//!
//! Invariant: nothing here knows what the mesh does; what it has to do is in the tables.
//! Non-goal: which route a name leads to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::HOST;
use http::{Request, Response, Version};

use crate::client::{PATIENCE, within};
use crate::netns::Host;
use crate::{raw, streams};

/// What must become of a spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// One authority, this one.
    Onward(&'static str),
    /// 400, and nothing at the server.
    Refused,
}

use Expected::{Onward, Refused};

/// Name, request, what must become of it. `connection: close` is added, and the empty line.
const SPELLINGS: &[(&str, &str, Expected)] = &[
    ("origin form", "GET / HTTP/1.1\r\nHost: web", Onward("web")),
    ("with a port", "GET / HTTP/1.1\r\nHost: web:80", Onward("web:80")),
    ("field name and space in odd ways", "GET / HTTP/1.1\r\nhOsT: \t web \t", Onward("web")),
    ("absolute form that agrees", "GET http://web/ HTTP/1.1\r\nHost: web", Onward("web")),
    ("absolute form that differs: it wins", "GET http://web/ HTTP/1.1\r\nHost: other", Onward("web")),
    ("asterisk form", "OPTIONS * HTTP/1.1\r\nHost: web", Onward("web")),
    ("two that differ", "GET / HTTP/1.1\r\nHost: web\r\nHost: other", Refused),
    ("two that agree", "GET / HTTP/1.1\r\nHost: web\r\nHost: web", Refused),
    ("two, with an absolute form", "GET http://web/ HTTP/1.1\r\nHost: web\r\nHost: other", Refused),
    ("none", "GET / HTTP/1.1\r\nX-Other: web", Refused),
    ("empty", "GET / HTTP/1.1\r\nHost:", Refused),
    ("user information", "GET / HTTP/1.1\r\nHost: user@web", Refused),
    ("user information in an absolute form", "GET http://web@other/ HTTP/1.1\r\nHost: other", Refused),
    ("a space", "GET / HTTP/1.1\r\nHost: web other", Refused),
    ("a list", "GET / HTTP/1.1\r\nHost: web, other", Refused),
    ("a path", "GET / HTTP/1.1\r\nHost: web/other", Refused),
    ("a space before the colon", "GET / HTTP/1.1\r\nHost : other\r\nHost: web", Refused),
    ("a folded line", "GET / HTTP/1.1\r\nHost: web\r\n other", Refused),
    ("a port that is none", "GET / HTTP/1.1\r\nHost: web:x", Refused),
    ("a port that is none in an absolute form", "GET http://web:99999/ HTTP/1.1\r\nHost: web", Refused),
    ("an asterisk with GET", "GET * HTTP/1.1\r\nHost: web", Refused),
    ("a fragment", "GET /#@other HTTP/1.1\r\nHost: web", Refused),
];

/// `:authority` and Host fields.
type Named = (Option<&'static str>, &'static [&'static str]);

const H2_SPELLINGS: &[(Named, Expected)] = &[
    ((Some("web"), &[]), Onward("web")),
    ((Some("web:80"), &[]), Onward("web:80")),
    ((Some("web"), &["web"]), Onward("web")),
    ((None, &["web"]), Onward("web")),
    ((Some("web"), &["other"]), Refused),
    ((Some("web"), &["web", "other"]), Refused),
    ((Some("web"), &[""]), Refused),
    ((None, &[]), Refused),
    ((None, &["web", "web"]), Refused),
    ((None, &["user@web"]), Refused),
];

/// How a spelling went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The spelling, in the table's words.
    pub name: String,
    /// What must become of it.
    pub expected: Expected,
    /// What was answered; none where there was no answer.
    pub status: Option<u16>,
    /// What each request that arrived names as its authority, with each name that stands in it.
    pub arrived: Vec<Vec<String>>,
}

impl Outcome {
    /// Whether it went as the mesh has to treat it.
    #[must_use]
    pub fn is_as_tabled(&self) -> bool {
        match self.expected {
            Refused => self.status == Some(400) && self.arrived.is_empty(),
            Onward(name) => self.status == Some(200) && self.arrived == [[name]],
        }
    }

    /// Whether exactly one authority went onward, whichever it is, or the request was refused in any way.
    #[must_use]
    pub fn is_one_or_refused(&self) -> bool {
        match &self.arrived[..] {
            [] => self.status != Some(200),
            [named] => !named.is_empty() && named.iter().all(|name| *name == named[0] && is_authority(name)),
            _ => false,
        }
    }
}

/// Whether a text is a host of plain characters with or without a port (RFC 3986, 3.2), and nothing else.
fn is_authority(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "80"));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    !host.is_empty() && host.bytes().all(plain) && port.parse::<u16>().is_ok()
}

/// Tries all spellings over HTTP/1.1. `server` is a [`raw::Server::ok`] behind the proxy.
#[must_use]
pub fn http1(client: &Host, addr: SocketAddr, server: &raw::Server) -> Vec<Outcome> {
    let one = |&(name, request, expected): &(&str, &str, Expected)| {
        let before = server.received().len();
        let bytes = format!("{request}\r\nConnection: close\r\n\r\n");
        let answer = raw::send(client, addr, bytes.as_bytes());
        let status = answer.ok().and_then(|answer| raw::status(&answer));
        let arrived = server.received().split_off(before);
        let arrived = arrived.iter().filter(|bytes| !bytes.is_empty()).map(|bytes| named(bytes)).collect();
        Outcome { name: name.to_owned(), expected, status, arrived }
    };
    SPELLINGS.iter().map(one).collect()
}

/// All authorities of a request in HTTP/1.1: its Host fields, and that of its target where it differs.
fn named(request: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(request);
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    let hosts = fields.filter(|(field, _)| field.eq_ignore_ascii_case("host"));
    let mut all: Vec<_> = hosts.map(|(_, value)| value.trim().to_owned()).collect();
    if all.is_empty() {
        all.push("no Host".to_owned());
    }
    let target = text.split(' ').nth(1).unwrap_or_default();
    let absolute = target.strip_prefix("http://").map(|rest| rest.split('/').next().unwrap_or_default().to_owned());
    all.extend(absolute.filter(|other| all[0] != *other));
    all
}

/// An HTTP/2 server that keeps all authorities of each request.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<Mutex<Vec<Vec<String>>>>);

impl Names {
    /// Serves on `port` of `host` until the process ends.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn serve(host: &Host, port: u16) -> Self {
        let names = Self::default();
        let kept = names.clone();
        streams::serve(host, port, move |request, mut respond| {
            let text = |host: &http::HeaderValue| String::from_utf8_lossy(host.as_bytes()).into_owned();
            let authority = request.uri().authority().map(ToString::to_string);
            let all = authority.into_iter().chain(request.headers().get_all(HOST).iter().map(text)).collect();
            kept.0.lock().unwrap_or_else(PoisonError::into_inner).push(all);
            async move {
                let _ = respond.send_response(Response::new(()), true);
            }
        });
        names
    }

    fn take(&self) -> Vec<Vec<String>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Tries all spellings over HTTP/2.
#[must_use]
pub fn http2(client: &Host, addr: SocketAddr, names: &Names) -> Vec<Outcome> {
    let one = |&(named, expected): &(Named, Expected)| {
        let answer = within(client, async { tokio::time::timeout(PATIENCE, ask(addr, named)).await });
        let status = answer.ok().and_then(Result::ok);
        Outcome { name: format!("{named:?}"), expected, status, arrived: names.take() }
    };
    H2_SPELLINGS.iter().map(one).collect()
}

async fn ask(addr: SocketAddr, (authority, hosts): Named) -> anyhow::Result<u16> {
    let mut sender = streams::connect(addr).await?;
    let request = match authority {
        Some(authority) => Request::builder().version(Version::HTTP_2).uri(format!("http://{authority}/")),
        // The h2 crate sends no :authority for what a client says is forwarded from HTTP/1.
        None => Request::builder().version(Version::HTTP_11).uri("/"),
    };
    let request = hosts.iter().fold(request, |request, host| request.header(HOST, *host)).body(())?;
    let (response, _) = sender.send_request(request, true)?;
    Ok(response.await?.status().as_u16())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_request_are_all_that_stand_in_it() {
        assert_eq!(named(b"GET http://web/a HTTP/1.1\r\nhost: web\r\n\r\n"), ["web"]);
        assert_eq!(named(b"GET http://web/ HTTP/1.1\r\nHost: other\r\nHost: b\r\n\r\n"), ["other", "b", "web"]);
        assert_eq!(named(b"GET / HTTP/1.1\r\nx: 1\r\n\r\n"), ["no Host"]);
        assert!(
            is_authority("web:80") && !is_authority("user@web") && !is_authority("web, other") && !is_authority("")
        );
    }
}

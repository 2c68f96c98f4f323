//! Which request gets which answer.
//!
//! Invariant: the peer's address decides what is offered; no header widens it. To a peer that is not on loopback, pages
//! for loopback do not exist. Non-goal: reading bodies and sockets.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;

use super::Admin;
use super::page::Age;

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

type Answer = Response<Full<Bytes>>;

/// A request that is understood and allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Live,
    Ready,
    Metrics(Age),
    /// Index into the daemon's own pages.
    Page(usize),
    ReadLevel,
    WriteLevel,
    Shutdown,
}

impl Call {
    pub(super) fn wants_body(self) -> bool {
        self == Self::WriteLevel
    }
}

/// Finds the call, or the refusal.
#[allow(clippy::result_large_err, reason = "an answer is as cold as the whole admin port, and is never copied along")]
pub(super) fn route<B>(admin: &Admin, request: &Request<B>, peer: SocketAddr) -> Result<Call, Answer> {
    let method = request.method();
    let reading = method == Method::GET || method == Method::HEAD;
    let read = |call| {
        if reading { Ok(call) } else { Err(wrong_method("GET, HEAD")) }
    };
    let is_local = peer.ip().to_canonical().is_loopback();
    match request.uri().path() {
        "/live" => return read(Call::Live),
        "/ready" => return read(Call::Ready),
        "/metrics" if is_local => return read(Call::Metrics(Age::New)),
        "/metrics" => return read(Call::Metrics(Age::Recent)),
        _ => {}
    }
    if !is_local {
        return Err(not_found());
    }
    let page = admin.loopback.iter().position(|(path, _)| *path == request.uri().path());
    let call = match (request.uri().path(), page) {
        (_, Some(page)) => read(Call::Page(page)),
        ("/log-level", _) if admin.log.is_some() => match method {
            &Method::PUT => Ok(Call::WriteLevel),
            _ if reading => Ok(Call::ReadLevel),
            _ => Err(wrong_method("GET, HEAD, PUT")),
        },
        ("/shutdown", _) if admin.shutdown.is_some() => match method {
            &Method::POST => Ok(Call::Shutdown),
            _ => Err(wrong_method("POST")),
        },
        _ => return Err(not_found()),
    };
    if !is_from_this_host(request) {
        return Err(text(StatusCode::FORBIDDEN, "for direct requests from this host only\n"));
    }
    call
}

/// Carries a call out.
pub(super) fn give(admin: &Admin, call: Call, body: &[u8]) -> Answer {
    match call {
        Call::Live => text(StatusCode::OK, "live\n"),
        Call::Ready => ready(admin),
        Call::Metrics(age) => answer(StatusCode::OK, METRICS, admin.metrics.text(age, Instant::now())),
        Call::Page(page) => match admin.loopback.get(page) {
            Some((_, json)) => answer(StatusCode::OK, JSON, json()),
            None => not_found(),
        },
        Call::ReadLevel => {
            let level = admin.log.as_ref().map(|log| log.level() + "\n");
            level.map_or_else(not_found, |level| text(StatusCode::OK, level))
        }
        Call::WriteLevel => write_level(admin, body),
        Call::Shutdown => {
            tracing::info!("shutdown requested on the admin port");
            if let Some(shutdown) = &admin.shutdown {
                shutdown.trigger();
            }
            text(StatusCode::OK, "shutting down\n")
        }
    }
}

/// An answer in plain text.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, TEXT, body)
}

fn ready(admin: &Admin) -> Answer {
    let waiting = admin.readiness.waiting();
    if waiting.is_empty() {
        return text(StatusCode::OK, "ready\n");
    }
    text(StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", waiting.join(", ")))
}

fn write_level(admin: &Admin, body: &[u8]) -> Answer {
    let Some(log) = &admin.log else {
        return not_found();
    };
    let Ok(level) = std::str::from_utf8(body) else {
        return text(StatusCode::BAD_REQUEST, "not UTF-8\n");
    };
    match log.set_level(level.trim()) {
        Ok(()) => text(StatusCode::OK, log.level() + "\n"),
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

/// A web page that a local browser shows could reach us by a name that it has pointed at loopback (DNS rebinding), or
/// by a plain cross-site request. The former has a foreign Host, the latter an Origin or a fetch mark.
fn is_from_this_host<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let host = Authority::try_from(host.as_bytes()).is_ok_and(|host| is_local_name(host.host()));
    let target = request.uri().authority().is_none_or(|target| is_local_name(target.host()));
    host && target && !headers.contains_key(ORIGIN) && !headers.contains_key(FETCH_SITE)
}

/// An address cannot be rebound, so any will do.
fn is_local_name(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

fn not_found() -> Answer {
    text(StatusCode::NOT_FOUND, "not found\n")
}

fn wrong_method(allow: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    answer
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

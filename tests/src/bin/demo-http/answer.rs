//! Path -> answer.
//!
//! Invariant: a request body is streamed or left unread as the path says, never buffered whole.
//! Non-goal: methods; each path answers to all.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mesh_tests::app;
use mesh_tests::body::{self, Body, Error};
use serde_json::json;

use crate::query::Query;
use crate::raw::SideDoor;
use crate::upgrade;

/// Who answers, and how slowly.
pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) delay: Duration,
    /// Whether all paths answer as `/headers` does.
    pub(crate) mirror: bool,
    /// Whether all paths answer with 500.
    pub(crate) fail: bool,
}

/// One answer; an error breaks the connection (HTTP/1) or the stream (HTTP/2) off.
pub(crate) async fn answer(
    site: &Site,
    side_door: &SideDoor,
    request: Request<Incoming>,
) -> Result<Response<Body>, Error> {
    let uri = request.uri().clone();
    let query = Query::of(&uri);
    let delay = app::duration(query.text("delay")).unwrap_or_default() + site.delay;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let (close, version, is_head) = (query.has("close"), request.version(), request.method() == Method::HEAD);
    let mut response = match (request.method(), uri.path()) {
        (&Method::CONNECT, _) => upgrade::connect(request),
        _ if site.fail => status("/status/500"),
        _ if site.mirror => headers(&request),
        (_, "/") => facts(site, &request),
        (_, "/headers") => headers(&request),
        (_, "/bytes") => Response::new(body::full(vec![b'x'; query.number("n", 100)])),
        (_, "/chunked") => Response::new(chunked(&query, None)),
        (_, "/trailers") => trailers(&query),
        (_, "/echo") => echo(request),
        (_, "/count") => count(request).await?,
        (_, "/continue") if query.has("reject") && request.headers().contains_key(header::EXPECT) => {
            body::text(StatusCode::EXPECTATION_FAILED, "not before you say please\n")
        }
        (_, "/continue") => count(request).await?,
        (_, "/ws") => upgrade::websocket(request),
        (_, "/early-hints") if request.version() == Version::HTTP_11 => {
            side_door.early_hints()?;
            body::text(StatusCode::OK, "after the hints\n")
        }
        (_, "/truncate") if request.version() == Version::HTTP_2 => reset_midway(&query),
        (_, "/truncate") => return Err(side_door.truncate(&query).await.into()),
        (_, path) => status(path),
    };
    // hyper closes after an answer whose request body it has not read, but does not say so by itself.
    let close = close || response.status() == StatusCode::EXPECTATION_FAILED;
    if close && version != Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Ok(name) = HeaderValue::from_str(&site.name) {
        response.headers_mut().insert(HeaderName::from_static("x-served-by"), name);
    }
    Ok(if is_head { without_body(response) } else { response })
}

/// The head alone, with the length that the body would have. hyper leaves that to the app in HTTP/2.
fn without_body(mut response: Response<Body>) -> Response<Body> {
    if let Some(length) = http_body::Body::size_hint(response.body()).exact() {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = body::empty();
    response
}

/// `/`: the name, and a few facts as JSON.
fn facts(site: &Site, request: &Request<Incoming>) -> Response<Body> {
    let host = request.headers().get(header::HOST).map(|host| String::from_utf8_lossy(host.as_bytes()));
    let facts = json!({
        "name": site.name,
        "method": request.method().as_str(),
        "version": format!("{:?}", request.version()),
        "host": host.as_deref().or_else(|| request.uri().authority().map(|authority| authority.as_str())),
        "pid": std::process::id(),
    });
    json_answer(&facts)
}

/// `/headers`: method, target, version and each header field in the order of arrival (by name), as JSON.
fn headers(request: &Request<Incoming>) -> Response<Body> {
    let fields: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    json_answer(&json!({
        "method": request.method().as_str(),
        "target": request.uri().to_string(),
        "version": format!("{:?}", request.version()),
        "headers": fields,
    }))
}

fn json_answer(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(body::full(format!("{value}\n")));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// `n` pieces of `size` bytes, `interval` apart.
fn chunked(query: &Query<'_>, trailers: Option<HeaderMap>) -> Body {
    let interval = app::duration(query.text("interval")).unwrap_or_default();
    body::pieces(query.number("n", 3), query.number("size", 10), interval, trailers)
}

fn trailers(query: &Query<'_>) -> Response<Body> {
    let mut fields = HeaderMap::new();
    fields.insert("x-digest", HeaderValue::from_static("0123abcd"));
    let mut response = Response::new(chunked(query, Some(fields)));
    response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-digest"));
    response
}

/// Streams the request body back, trailers too.
fn echo(request: Request<Incoming>) -> Response<Body> {
    let (head, incoming) = request.into_parts();
    let mut response = Response::new(incoming.map_err(Error::from).boxed_unsync());
    for name in [header::CONTENT_TYPE, header::TRAILER] {
        if let Some(value) = head.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

/// Reads the body to its end, and answers how many bytes came.
async fn count(request: Request<Incoming>) -> Result<Response<Body>, Error> {
    let mut incoming = request.into_body();
    let mut received = 0;
    while let Some(frame) = incoming.frame().await {
        received += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(body::text(StatusCode::OK, format!("{received}\n")))
}

/// HTTP/2: some bytes, then a reset of the stream.
fn reset_midway(query: &Query<'_>) -> Response<Body> {
    let begin = Bytes::from(vec![b'x'; query.number("after", 10)]);
    let frames = futures_util::stream::iter([Ok(Frame::data(begin))]).chain(futures_util::stream::once(async {
        // Let the beginning leave before the reset, which would discard it.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(Error::from("broken off on purpose"))
    }));
    Response::new(body::frames(frames))
}

/// `/status/503`; anything else is 404.
fn status(path: &str) -> Response<Body> {
    let code = path.strip_prefix("/status/").and_then(|code| StatusCode::from_bytes(code.as_bytes()).ok());
    match code {
        Some(code) if code == StatusCode::NO_CONTENT || code == StatusCode::NOT_MODIFIED => {
            let mut response = Response::new(body::empty());
            *response.status_mut() = code;
            response
        }
        Some(code) => body::text(code, format!("{code}\n")),
        None => body::text(StatusCode::NOT_FOUND, format!("no such path: {path}\n")),
    }
}

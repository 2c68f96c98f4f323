//! The application of all cases: HTTP/1.1 and HTTP/2, reads each request to its end and answers 200.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;

use crate::netns::Host;
use crate::streams;

/// The body of each answer.
pub const BODY: &str = "an answer of some bytes\n";

/// Serves on `port` of all addresses of `host`, until the process ends. The fields `user-agent`, `custom-key` and `number` of a
/// request come back as `saw-...`, and its trailers as `saw-trailers`.
///
/// # Panics
/// When the port is taken.
pub fn back_end(host: &Host, port: u16) {
    streams::accept(host, port, |stream| async move {
        let builder = auto::Builder::new(TokioExecutor::new());
        // Who breaks off is for the test to see at the other end.
        let _ = builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
    });
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let trailers = match body.collect().await {
        Ok(body) => body.trailers().map(HeaderMap::len),
        Err(_) => None,
    };
    // hyper would send the body of an answer to HEAD over HTTP/2.
    let body = if head.method == Method::HEAD { "" } else { BODY };
    let mut response = Response::new(Full::from(body));
    for (name, saw) in [("user-agent", "saw-user-agent"), ("custom-key", "saw-custom-key"), ("number", "saw-number")] {
        if let Some(value) = head.headers.get(name) {
            response.headers_mut().insert(saw, value.clone());
        }
    }
    response.headers_mut().insert("saw-trailers", trailers.unwrap_or_default().into());
    Ok(response)
}

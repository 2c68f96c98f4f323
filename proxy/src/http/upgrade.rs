//! Requests that leave HTTP: upgrades (WebSocket) and CONNECT on HTTP/1.
//!
//! Invariant: bytes flow only after both sides have agreed (101, or 2xx to CONNECT); otherwise the answer is an ordinary one
//! and the upstream connection is not used again.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, Response, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use super::body::Body;
use super::caller::Caller;
use super::h1_io::ServerIo;
use super::judged::Judged;
use super::{BoxedRequest, Failure, Settings, h1_pool};
use crate::net::Stream;

/// Sends `request` on `upstream`, a connection of its own. When both sides agree to leave HTTP, `joined` gets the client's
/// stream and the upstream's.
pub async fn exchange(
    mut request: BoxedRequest,
    upstream: Stream,
    caller: &Caller,
    settings: &Settings,
    joined: impl FnOnce(Stream, Stream) + Send + 'static,
) -> Result<Response<Body>, Failure> {
    let method = request.method().clone();
    let client_side = hyper::upgrade::on(&mut *request);
    let mut client = h1_pool::handshake(upstream, settings).await?;
    let mut response = h1_pool::send(&mut client, request, caller, settings).await.map_err(|(failure, _)| failure)?;
    if !is_agreed(&method, &response) {
        return Ok(response.map(|incoming| Body::h1(incoming, None)));
    }
    let upstream_side = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let (Ok(client), Ok(upstream)) = tokio::join!(client_side, upstream_side) else { return };
        if let (Some(client), Some(upstream)) = (client_stream(client), upstream_stream(upstream)) {
            joined(client, upstream);
        }
    });
    // RFC 9110 9.3.6: they have no meaning here, and a client has to ignore them.
    response.headers_mut().remove(CONTENT_LENGTH);
    response.headers_mut().remove(TRANSFER_ENCODING);
    Ok(response.map(|_| Body::empty()))
}

/// Whether the answer to a request that wants to leave HTTP agrees to that.
pub fn is_agreed<B>(method: &Method, response: &Response<B>) -> bool {
    let status = response.status();
    status == StatusCode::SWITCHING_PROTOCOLS || (method == Method::CONNECT && status.is_success())
}

fn client_stream(upgraded: Upgraded) -> Option<Stream> {
    let parts = upgraded.downcast::<ServerIo>().ok()?;
    Some(parts.io.into_inner().0.unread(&parts.read_buf))
}

fn upstream_stream(upgraded: Upgraded) -> Option<Stream> {
    let parts = upgraded.downcast::<TokioIo<Judged>>().ok()?;
    Some(parts.io.into_inner().into_inner().unread(&parts.read_buf))
}

//! Bodies of the demo apps and of the clients that call them.
//!
//! Invariant: one boxed type, so that each path may answer in its own way.
//! Non-goal: being fast; the load generators are made elsewhere.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};

/// Why a body broke off.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A body of any make.
pub type Body = UnsyncBoxBody<Bytes, Error>;

fn never(never: Infallible) -> Error {
    match never {}
}

/// No body at all.
pub fn empty() -> Body {
    Empty::new().map_err(never).boxed_unsync()
}

/// A body of known length.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(never).boxed_unsync()
}

/// A body of unknown length: `count` pieces of `size` bytes, `interval` apart, with `trailers` at the end.
pub fn pieces(count: usize, size: usize, interval: Duration, trailers: Option<HeaderMap>) -> Body {
    let piece = Bytes::from(vec![b'x'; size]);
    let data = futures_util::stream::unfold(0, move |sent| {
        let piece = piece.clone();
        async move {
            if sent == count {
                return None;
            }
            if sent > 0 && !interval.is_zero() {
                tokio::time::sleep(interval).await;
            }
            Some((Ok(Frame::data(piece)), sent + 1))
        }
    });
    let trailers = futures_util::stream::iter(trailers.map(|map| Ok(Frame::trailers(map))));
    frames(futures_util::StreamExt::chain(data, trailers))
}

/// A body of frames.
pub fn frames(frames: impl Stream<Item = Result<Frame<Bytes>, Error>> + Send + 'static) -> Body {
    StreamBody::new(frames).boxed_unsync()
}

/// A whole plain-text answer.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}

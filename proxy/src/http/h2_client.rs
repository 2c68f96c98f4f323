//! One HTTP/2 exchange as a client.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, SendStream};
use http::{Request, Response, StatusCode};
use http_body::Body as _;

use super::body::{Body, Gate};
use super::caller::Caller;
use super::h2_pool::Ready;
use super::{Failure, Settings};

/// Sends `request`, in HTTP/2 form, on a connection that is ready for a stream.
pub async fn send(
    ready: Ready,
    request: Request<Body>,
    caller: &Caller,
    settings: &Settings,
) -> Result<Response<Body>, Failure> {
    let Ready { mut sender, slot } = ready;
    let (request, gate) = super::h1_pool::hold_body_if_expecting(request, settings);
    let (parts, body) = request.into_parts();
    let end = body.is_end_stream();
    let (response, stream) = sender.send_request(Request::from_parts(parts, ()), end)?;
    drop(sender);
    let stream = if end {
        Some(stream)
    } else {
        tokio::spawn(super::pump::pump(stream, body));
        None
    };
    let mut exchange = Exchange { response, stream, caller, gate };
    let response = poll_fn(|cx| exchange.poll(cx)).await?;
    let stream = exchange.stream.take();
    Ok(response.map(|recv| if recv.is_end_stream() { Body::empty() } else { Body::h2_response(recv, stream, slot) }))
}

/// Waits for the response; dropped before it, resets the stream with the caller's own code.
struct Exchange<'a> {
    response: ResponseFuture,
    stream: Option<SendStream<Bytes>>,
    caller: &'a Caller,
    gate: Option<std::sync::Arc<Gate>>,
}

impl Exchange<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<h2::RecvStream>, Failure>> {
        while let Poll::Ready(Some(interim)) = self.response.poll_informational(cx) {
            let interim = interim?;
            if let (StatusCode::CONTINUE, Some(gate)) = (interim.status(), &self.gate) {
                gate.open();
            }
            self.caller.interim(interim);
        }
        std::pin::Pin::new(&mut self.response).poll(cx).map_err(Failure::from)
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            stream.send_reset(self.caller.reset().unwrap_or(Reason::CANCEL));
        }
    }
}

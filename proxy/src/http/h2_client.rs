//! One HTTP/2 exchange as a client.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Instant;

use h2::Reason;
use h2::client::ResponseFuture;
use http::{Request, Response, StatusCode};
use http_body::Body as _;

use super::body::{Body, Gate};
use super::caller::Caller;
use super::deadline::Deadline;
use super::h2_pool::Ready;
use super::request_half::RequestHalf;
use super::{BoxedRequest, Failure, Settings};

/// Sends `request`, in HTTP/2 form, on a connection that is ready for a stream.
pub async fn send(
    ready: Ready,
    mut request: BoxedRequest,
    caller: &Caller,
    settings: &Settings,
) -> Result<Response<Body>, Failure> {
    let Ready { mut sender, slot, queue } = ready;
    if let Some(deadline) = request.extensions().get::<Deadline>().copied() {
        deadline.tell(request.headers_mut(), Instant::now())?;
    }
    let (request, gate) = super::h1_pool::hold_body_if_expecting(request, settings);
    let (parts, body) = request.into_parts();
    let end = body.is_end_stream();
    let (response, stream) = sender.send_request(Request::from_parts(parts, ()), end)?;
    drop(sender);
    let request = if end { RequestHalf::Sent(stream) } else { RequestHalf::send(stream, body, queue) };
    let mut exchange = Exchange { response, request: Some(request), caller, gate, interim: false };
    let mut response = poll_fn(|cx| exchange.poll(cx)).await?;
    // Boxed, as all that few requests need.
    if let Some(gate) = exchange.gate.clone() {
        response = Box::pin(async move {
            gate.passed().await;
            response
        })
        .await;
    }
    let request = exchange.request.take();
    Ok(response.map(|recv| if recv.is_end_stream() { Body::empty() } else { Body::h2_response(recv, request, slot) }))
}

/// Waits for the response; dropped before it, resets the stream with the caller's own code.
struct Exchange<'a> {
    response: ResponseFuture,
    request: Option<RequestHalf>,
    caller: &'a Caller,
    gate: Option<std::sync::Arc<Gate>>,
    /// The upstream has said something already.
    interim: bool,
}

impl Exchange<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<h2::RecvStream>, Failure>> {
        while let Poll::Ready(Some(interim)) = self.response.poll_informational(cx) {
            let interim = interim?;
            self.interim = true;
            if let (StatusCode::CONTINUE, Some(gate)) = (interim.status(), &self.gate) {
                gate.open();
            }
            self.caller.interim(interim);
        }
        std::pin::Pin::new(&mut self.response).poll(cx).map_err(|error| match error.into() {
            Failure::Lost(text) if self.interim => Failure::Closed(text),
            failure => failure,
        })
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            request.reset(self.caller.reset().unwrap_or(Reason::CANCEL));
        }
    }
}

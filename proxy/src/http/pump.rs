//! Sends a body on an HTTP/2 stream, as fast as the far end's window allows.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body as _, Frame};

use super::body::{Body, BodyError};

enum Next {
    Frame(Option<Result<Frame<Bytes>, BodyError>>),
    Reset(Reason),
}

/// Sends `body` to its end. A body that breaks resets the stream with the same code; a far end that resets the stream
/// cancels the body with its code.
pub async fn pump(stream: &mut SendStream<Bytes>, mut body: Body) {
    loop {
        let frame = match poll_fn(|cx| poll_next(stream, &mut body, cx)).await {
            Next::Reset(reason) => return body.cancel(reason),
            Next::Frame(frame) => frame,
        };
        // Errors of a send concern a stream that is closed; its reset is seen in the next round, or does not matter.
        match frame {
            None => {
                let _ = stream.send_data(Bytes::new(), true);
                return;
            }
            Some(Err(error)) => return stream.send_reset(error.reason()),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let end = body.is_end_stream();
                    if let Err(reason) = send(stream, data, end).await {
                        return body.cancel(reason);
                    }
                    if end {
                        return;
                    }
                }
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else { continue };
                    if stream.send_trailers(trailers).is_err() {
                        // They have no form in HTTP/2: the far end must not wait for them.
                        stream.send_reset(Reason::INTERNAL_ERROR);
                    }
                    return;
                }
            },
        }
    }
}

fn poll_next(stream: &mut SendStream<Bytes>, body: &mut Body, cx: &mut Context<'_>) -> Poll<Next> {
    if let Poll::Ready(reset) = stream.poll_reset(cx) {
        return Poll::Ready(Next::Reset(code(reset)));
    }
    Pin::new(body).poll_frame(cx).map(Next::Frame)
}

async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes, end: bool) -> Result<(), Reason> {
    if data.is_empty() && end {
        return stream.send_data(data, true).map_err(|_| Reason::CANCEL);
    }
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let window = poll_fn(|cx| poll_window(stream, cx)).await?;
        let n = window.min(data.len());
        let last = end && n == data.len();
        stream.send_data(data.split_to(n), last).map_err(|_| Reason::CANCEL)?;
    }
    Ok(())
}

fn poll_window(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<usize, Reason>> {
    if let Poll::Ready(reset) = stream.poll_reset(cx) {
        return Poll::Ready(Err(code(reset)));
    }
    stream.poll_capacity(cx).map(|window| match window {
        Some(Ok(n)) => Ok(n),
        Some(Err(error)) => Err(error.reason().unwrap_or(Reason::CANCEL)),
        None => Err(Reason::CANCEL),
    })
}

fn code(reset: Result<Reason, h2::Error>) -> Reason {
    reset.unwrap_or_else(|error| error.reason().unwrap_or(Reason::CANCEL))
}

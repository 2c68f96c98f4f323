//! Sends a body on an HTTP/2 stream, as fast as the far end's window allows.
//!
//! Invariant: at most a send buffer of a body waits here; the rest stays with its sender.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body as _, Frame};
use mesh_kit::pressure::{Holder, Level};
use mesh_mtls::cork::Queue;
use tokio::time::{Instant, Sleep, sleep_until};

use super::body::{Body, BodyError};

enum Next {
    Frame(Option<Result<Frame<Bytes>, BodyError>>),
    Stopped(Stopped),
}

/// The far end has opened no window for as long as it may.
#[derive(Debug)]
pub struct TooSlow;

/// Sends `body` to its end. A body that breaks resets the stream with the same code; a far end that resets the stream
/// cancels the body with its code. One that takes nothing for as long as `patience` has both ended. While the connection has much
/// to send for others, the body is not read.
pub async fn pump(
    stream: &mut SendStream<Bytes>,
    mut body: Body,
    queue: &Queue,
    patience: Option<Duration>,
) -> Result<(), TooSlow> {
    let mut wait = Wait { patience, since: None, timer: None, holder: Holder::default() };
    loop {
        let frame = match poll_fn(|cx| poll_next(stream, &mut body, queue, &mut wait, cx)).await {
            Next::Stopped(stopped) => return stop(stream, &mut body, &stopped),
            Next::Frame(frame) => frame,
        };
        // Errors of a send concern a stream that is closed; its reset is seen in the next round, or does not matter.
        match frame {
            None => {
                let _ = stream.send_data(Bytes::new(), true);
                return Ok(());
            }
            Some(Err(error)) => {
                stream.send_reset(error.reason());
                return Ok(());
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let end = body.is_end_stream();
                    match send(stream, data, end, queue, &mut wait).await {
                        Ok(()) if end => return Ok(()),
                        Ok(()) => {}
                        Err(stopped) => return stop(stream, &mut body, &stopped),
                    }
                }
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else { continue };
                    if stream.send_trailers(trailers).is_err() {
                        // They have no form in HTTP/2: the far end must not wait for them.
                        stream.send_reset(Reason::INTERNAL_ERROR);
                    }
                    return Ok(());
                }
            },
        }
    }
}

/// The far end does not want the rest, or does not take it.
fn stop(stream: &mut SendStream<Bytes>, body: &mut Body, stopped: &Stopped) -> Result<(), TooSlow> {
    match stopped {
        Stopped::Reset(reason) => {
            body.cancel(*reason);
            Ok(())
        }
        Stopped::TooSlow => {
            stream.send_reset(Reason::CANCEL);
            body.cancel(Reason::CANCEL);
            Err(TooSlow)
        }
    }
}

fn poll_next(
    stream: &mut SendStream<Bytes>,
    body: &mut Body,
    queue: &Queue,
    wait: &mut Wait,
    cx: &mut Context<'_>,
) -> Poll<Next> {
    if queue.poll_room(cx).is_ready() {
        wait.since = None;
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            // A reset is met when data is sent; without data, the body is over anyway.
            return Poll::Ready(Next::Frame(frame));
        }
    } else if wait.poll(cx).is_ready() {
        return Poll::Ready(Next::Stopped(Stopped::TooSlow));
    }
    stream.poll_reset(cx).map(|reset| Next::Stopped(Stopped::Reset(code(reset))))
}

enum Stopped {
    Reset(Reason),
    TooSlow,
}

/// How long the far end has taken nothing. Its timer is made when it is first waited for, and set anew only when it runs out.
struct Wait {
    /// `None` is without end.
    patience: Option<Duration>,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    holder: Holder,
}

impl Wait {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(patience) = self.patience else { return Poll::Pending };
        let end = *self.since.get_or_insert_with(Instant::now) + patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        ready!(timer.as_mut().poll(cx));
        while timer.deadline() < end {
            timer.as_mut().reset(end);
            ready!(timer.as_mut().poll(cx));
        }
        Poll::Ready(())
    }
}

async fn send(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    end: bool,
    queue: &Queue,
    wait: &mut Wait,
) -> Result<(), Stopped> {
    if data.is_empty() && end {
        return match stream.send_data(data, true) {
            Ok(()) => Ok(()),
            Err(_) => Err(gone(stream).await),
        };
    }
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let window = poll_fn(|cx| match poll_window(stream, cx) {
            // While memory is short, what nobody takes is let go first.
            Poll::Pending if wait.holder.look(cx) > Level::Calm => Poll::Ready(Err(Stopped::TooSlow)),
            Poll::Pending => wait.poll(cx).map(|()| Err(Stopped::TooSlow)),
            Poll::Ready(window) => Poll::Ready(window.map_err(Stopped::Reset)),
        });
        let n = window.await?.min(data.len());
        wait.since = None;
        let last = end && n == data.len();
        if stream.send_data(data.split_to(n), last).is_err() {
            return Err(gone(stream).await);
        }
        // Only what has room in the stream's window: the rest waits for its reader, and shall keep nobody else waiting.
        queue.add(n);
    }
    Ok(())
}

fn poll_window(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<usize, Reason>> {
    match stream.poll_capacity(cx) {
        Poll::Ready(Some(Ok(n))) => Poll::Ready(Ok(n)),
        Poll::Ready(Some(Err(_)) | None) => Poll::Ready(Err(why_gone(stream, cx))),
        Poll::Pending => stream.poll_reset(cx).map(|reset| Err(code(reset))),
    }
}

/// A stream on which nothing can be sent any more: the far end may have said why.
fn why_gone(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Reason {
    match stream.poll_reset(cx) {
        Poll::Ready(reset) => code(reset),
        Poll::Pending => Reason::CANCEL,
    }
}

async fn gone(stream: &mut SendStream<Bytes>) -> Stopped {
    poll_fn(|cx| Poll::Ready(Stopped::Reset(why_gone(stream, cx)))).await
}

fn code(reset: Result<Reason, h2::Error>) -> Reason {
    reset.unwrap_or_else(|error| error.reason().unwrap_or(Reason::CANCEL))
}

//! What stands between hyper's HTTP/1 server and the socket: lets interim responses out between messages, and tells an idle
//! connection from one that is slow to send a head, and from one that is at work.
//!
//! Invariant: an interim response is only written when all that hyper wrote before it is out, so it never lands inside a
//! message; when that does not hold it is dropped, which RFC 9110 15.2 allows for.

use std::fmt::Write;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use http::{Response, StatusCode};
use hyper::rt::{ReadBufCursor, Sleep, Timer};
use tokio::io::AsyncWrite;

use super::framing::Bad;
use super::h1_wait::Phase;
use super::judged::Judged;
use crate::net::Stream;

/// State that the socket's wrapper, hyper's clock and the caller's handle share.
#[derive(Debug, Default)]
pub struct Shared {
    /// How many heads hyper has waited for.
    turn: AtomicU32,
    /// The head of this turn has come.
    asked: AtomicBool,
    /// Bytes have arrived in this turn.
    reading: AtomicBool,
    /// All that hyper wrote is out.
    flushed: AtomicBool,
    /// What hyper writes next is an answer of ours.
    answering: AtomicBool,
    /// The answer declines to leave HTTP.
    declined: AtomicBool,
    /// What is wrong with the client's bytes, and whether it is so in a body.
    bad: OnceLock<(Bad, bool)>,
    /// It has been answered.
    blamed: AtomicBool,
    /// Somebody has asked for the body of this turn's request.
    asking: AtomicBool,
    /// Somebody waits for more of that body.
    waiting_for_body: AtomicBool,
    /// The client takes no more bytes for now.
    stuck: AtomicBool,
    /// How often bytes have come or gone.
    moves: AtomicU32,
    interim: Mutex<Bytes>,
    /// The task that serves the connection; an interim response may come from another one.
    serving: AtomicWaker,
}

impl Shared {
    /// Sends a 1xx response before the next message, if that is possible now.
    pub fn interim(&self, response: &Response<()>) {
        if !self.flushed.load(Ordering::Relaxed) {
            return;
        }
        let status = response.status();
        let mut text = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
        for (name, value) in response.headers() {
            if let Ok(value) = value.to_str() {
                // Writing to a String cannot fail.
                let _ = write!(text, "{name}: {value}\r\n");
            }
        }
        text.push_str("\r\n");
        let mut waiting = self.waiting();
        *waiting = [waiting.as_ref(), text.as_bytes()].concat().into();
        drop(waiting);
        self.serving.wake();
    }

    /// What the connection does, and since which turn; while it waits for its client, since which movement of bytes.
    pub(super) fn phase(&self) -> (Phase, u32) {
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        // Before an answer, a client has to send; a request that is answered early may keep its body.
        let awaited = is(&self.stuck) || (is(&self.waiting_for_body) && !is(&self.answering));
        let at_work = is(&self.asked) || !is(&self.flushed);
        let phase = match is(&self.reading) {
            _ if at_work && awaited => return (Phase::Awaiting, self.moves.load(Ordering::Relaxed)),
            _ if at_work || !self.waiting().is_empty() => Phase::Exchange,
            true => Phase::Head,
            false => Phase::Idle,
        };
        (phase, self.turn())
    }

    pub(super) fn turn(&self) -> u32 {
        self.turn.load(Ordering::Relaxed)
    }

    /// Somebody asks for the body of the request of `turn`.
    pub(super) fn asking(&self, turn: u32) {
        if turn == self.turn() {
            self.asking.store(true, Ordering::Relaxed);
        }
    }

    /// Whether somebody has asked for the body of this turn.
    pub(super) fn body_was_asked(&self) -> bool {
        self.asking.load(Ordering::Relaxed)
    }

    /// Whether somebody waits for more of the body of the request of `turn`.
    pub(super) fn waiting_for_body(&self, turn: u32, now: bool) {
        if turn == self.turn() {
            self.waiting_for_body.store(now, Ordering::Relaxed);
        }
    }

    /// Whether the client takes no more bytes for now.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    fn moved<T>(&self, polled: &Poll<T>) {
        if polled.is_ready() {
            self.moves.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn wrote<T>(&self, polled: &Poll<T>) {
        self.stuck.store(polled.is_pending(), Ordering::Relaxed);
        self.moved(polled);
    }

    /// A head has come.
    pub(super) fn asked(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// An answer is on its way to hyper: what it writes from now on is not its own.
    pub(super) fn answering(&self) {
        self.answering.store(true, Ordering::Relaxed);
    }

    /// The answer on its way declines to leave HTTP.
    pub(super) fn declined(&self) {
        self.declined.store(true, Ordering::Relaxed);
    }

    /// The body of the request that is being answered has broken off.
    pub(super) fn body_broke(&self) {
        // The first reason stays: it is the one.
        let _ = self.bad.set((Bad::Trailers, true));
    }

    /// What is wrong with the body of the request that is being answered. Whoever asks says so in his answer.
    pub fn blame(&self) -> Option<Bad> {
        let (bad, _) = self.bad.get().filter(|(_, in_body)| *in_body)?;
        self.blamed.store(true, Ordering::Relaxed);
        Some(*bad)
    }

    /// What is wrong with the client's bytes and nobody has answered, and whether it is so in a body.
    pub(super) fn unanswered(&self) -> Option<(Bad, bool)> {
        self.bad.get().copied().filter(|_| !self.blamed.load(Ordering::Relaxed))
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Bytes> {
        self.interim.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The socket as hyper sees it.
#[derive(Debug)]
pub(super) struct ServerIo {
    stream: Judged,
    shared: Arc<Shared>,
    refused: Option<StatusCode>,
}

impl ServerIo {
    pub(super) fn new(stream: Stream) -> Self {
        let shared = Shared { flushed: AtomicBool::new(true), ..Shared::default() };
        Self { stream: Judged::client(stream), shared: Arc::new(shared), refused: None }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// The socket, and the status with which hyper wanted to refuse a request by itself.
    pub(super) fn into_inner(self) -> (Stream, Option<StatusCode>) {
        (self.stream.into_inner(), self.refused)
    }

    /// Whether the client has seen a part of an answer to its request.
    pub(super) fn has_answered(&self) -> bool {
        self.shared.answering.load(Ordering::Relaxed)
    }

    /// hyper answers what it does not understand by itself, without a reason. Such an answer is held back, for `h1` to give
    /// a better one.
    fn is_refusal(&mut self, bytes: &[u8]) -> bool {
        if self.refused.is_some() {
            return true;
        }
        let first = self.shared.flushed.load(Ordering::Relaxed) && !self.shared.answering.load(Ordering::Relaxed);
        let status = bytes.strip_prefix(b"HTTP/1.1 ").or_else(|| bytes.strip_prefix(b"HTTP/1.0 "));
        let status = status.and_then(|rest| StatusCode::from_bytes(rest.get(..3)?).ok());
        self.refused = status.filter(|status| first && status.is_client_error());
        self.refused.is_some()
    }

    /// Before the first byte of an answer that declines to leave HTTP.
    fn decline(&mut self) {
        if self.shared.declined.load(Ordering::Relaxed) {
            self.shared.declined.store(false, Ordering::Relaxed);
            self.stream.decline();
        }
    }

    /// Keeps what is wrong with the client's bytes, once it stands in the way.
    fn blame(&self, read: &Poll<io::Result<()>>) {
        let (failed, in_body) = (matches!(read, Poll::Ready(Err(_))), self.stream.is_in_body());
        let bad = match self.stream.bad() {
            Some(bad) if failed || bad == Bad::Cut => bad,
            None if failed && in_body => Bad::Cut,
            _ => return,
        };
        let _ = self.shared.bad.set((bad, in_body));
    }

    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shared.flushed.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let mut waiting = self.shared.waiting();
        while !waiting.is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &waiting))?;
            waiting.advance(n);
        }
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Read for ServerIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        // hyper polls for reading whenever it is woken; between messages this is the place to let interim responses out.
        self.shared.serving.register(cx.waker());
        if let Poll::Ready(Err(error)) = self.poll_interim(cx) {
            return Poll::Ready(Err(error));
        }
        let polled = read_into(&mut self.stream, cx, buf);
        self.shared.moved(&polled);
        if polled.is_ready() {
            self.shared.reading.store(true, Ordering::Relaxed);
            self.blame(&polled);
        }
        polled
    }
}

/// hyper's and tokio's read buffers are different types; TokioIo knows how to bridge them.
fn read_into(stream: &mut Judged, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
    hyper::rt::Read::poll_read(Pin::new(&mut hyper_util::rt::TokioIo::new(stream)), cx, buf)
}

impl hyper::rt::Write for ServerIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.decline();
        ready!(self.poll_interim(cx))?;
        if self.is_refusal(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        self.shared.flushed.store(false, Ordering::Relaxed);
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.shared.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.decline();
        ready!(self.poll_interim(cx))?;
        if self.is_refusal(bufs.first().map_or(&[], |buf| buf)) {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        self.shared.flushed.store(false, Ordering::Relaxed);
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.shared.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // hyper flushes only when all that it has written is with us.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.shared.flushed.store(true, Ordering::Relaxed);
        self.poll_interim(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.refused.is_some() || self.shared.unanswered().is_some_and(|(_, in_body)| !in_body) {
            // The better answer is still to come.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// hyper's clock for request heads. It never runs out: hyper asks for it when it begins to wait for a head, which is all that
/// is wanted of it; `h1_wait` says how long to wait.
#[derive(Clone, Debug)]
pub(super) struct HeadClock {
    shared: Arc<Shared>,
    made: Instant,
}

impl HeadClock {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, made: Instant::now() }
    }
}

impl Timer for HeadClock {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        // Whatever was answered before has been handed to us in full.
        self.shared.asked.store(false, Ordering::Relaxed);
        self.shared.reading.store(false, Ordering::Relaxed);
        self.shared.answering.store(false, Ordering::Relaxed);
        self.shared.asking.store(false, Ordering::Relaxed);
        self.shared.waiting_for_body.store(false, Ordering::Relaxed);
        self.shared.turn.fetch_add(1, Ordering::Relaxed);
        // A box of nothing: it allocates nothing.
        Box::pin(Never)
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(Duration::ZERO)
    }

    // Only deadlines are made of it, which do not matter here.
    fn now(&self) -> Instant {
        self.made
    }
}

struct Never;

impl Future for Never {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Sleep for Never {}

//! One body type for both HTTP versions and both directions.
//!
//! Invariant: a body is streamed, never gathered; it ends cleanly only if its sender ended it cleanly. The metrics guard of
//! its exchange rides along and ends with the last byte.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use h2::{Reason, RecvStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::Late;
use super::h1_io;
use super::h1_pool::Lease;
use super::h2_pool::Slot;
use super::headers::GRPC_STATUS;
use super::replay::Reader;
use super::request_half::RequestHalf;
use super::tee::{Follower, Tee};
use super::timed::{Activity, Ahead, Limits, Noted, Timed};
use crate::metrics;

/// A request's or response's body.
#[derive(Default)]
pub struct Body {
    kind: Kind,
    rider: Option<Box<Rider>>,
    held: Option<Box<dyn Witness>>,
}

/// Who is told how a body goes, and is dropped with its last byte.
pub trait Witness: Send + Sync {
    /// Bytes pass.
    fn data(&mut self, _bytes: usize) {}
    /// A gRPC status came in the trailers.
    fn grpc(&mut self, _status: u16) {}
    /// The sender broke off.
    fn broken(&mut self) {}
}

/// Holds on to something, and takes no notice.
struct Held<T>(T);

impl<T: Send + Sync> Witness for Held<T> {}

/// Those of one body.
struct Both<T>(Box<dyn Witness>, T);

impl<T: Witness> Witness for Both<T> {
    fn data(&mut self, bytes: usize) {
        self.0.data(bytes);
        self.1.data(bytes);
    }

    fn grpc(&mut self, status: u16) {
        self.0.grpc(status);
        self.1.grpc(status);
    }

    fn broken(&mut self) {
        self.0.broken();
        self.1.broken();
    }
}

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    H1(Incoming, Option<Lease>),
    H2(H2Body),
    Gated(Box<Gated>),
    Replayed(Reader),
    Watched(Box<Watched>),
    Teed(Box<Tee>),
    Followed(Follower),
    Timed(Box<Timed>),
    Noted(Box<Noted>),
    Ahead(Box<Ahead>),
}

/// What is measured while a response's body passes.
struct Rider {
    request: metrics::Request,
    left: Option<u64>,
}

/// A body that broke before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The sender reset the stream.
    #[error("stream reset with {0:?}")]
    Reset(Reason),
    /// The sender's connection ended early, or its framing was wrong.
    #[error("body cut short: {0}")]
    Cut(String),
    /// Its time is over.
    #[error("body cut short: {0}")]
    Late(Late),
}

impl BodyError {
    /// The code to reset an HTTP/2 stream with.
    pub fn reason(&self) -> Reason {
        match self {
            BodyError::Reset(reason) => *reason,
            BodyError::Cut(_) => Reason::INTERNAL_ERROR,
            BodyError::Late(_) => Reason::CANCEL,
        }
    }
}

impl From<h2::Error> for BodyError {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            // A reset by the sender is passed on; that the sender broke a rule is between it and us.
            Some(reason) if !error.is_library() => BodyError::Reset(reason),
            _ => BodyError::Cut(error.to_string()),
        }
    }
}

struct H2Body {
    recv: RecvStream,
    owed: usize,
    /// The other half of a stream that we opened: to reset it with the caller's own code.
    request: Option<RequestHalf>,
    /// Its place among the streams of its connection.
    _slot: Option<Slot>,
}

impl Body {
    /// No bytes at all.
    pub fn empty() -> Self {
        Self::default()
    }

    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Kind::Full(bytes.into()).into()
    }

    /// What hyper reads from an HTTP/1 connection; the lease returns the connection to its pool at the end.
    pub fn h1(incoming: Incoming, lease: Option<Lease>) -> Self {
        Kind::H1(incoming, lease).into()
    }

    /// What arrives on an HTTP/2 stream.
    pub fn h2(recv: RecvStream) -> Self {
        Kind::H2(H2Body { recv, owed: 0, request: None, _slot: None }).into()
    }

    /// The response on a stream that we opened: `request` is its other half.
    pub fn h2_response(recv: RecvStream, request: Option<RequestHalf>, slot: Slot) -> Self {
        Kind::H2(H2Body { recv, owed: 0, request, _slot: Some(slot) }).into()
    }

    /// A body that tells the connection it comes from when somebody asks for it, and waits for it.
    pub(super) fn watched(self, connection: Arc<h1_io::Shared>) -> Self {
        let turn = connection.turn();
        Kind::Watched(Box::new(Watched { body: self, connection, turn })).into()
    }

    /// One try's view of a body that may be sent again.
    pub fn replayed(reader: Reader) -> Self {
        Kind::Replayed(reader).into()
    }

    /// A body of which others get copies.
    pub(super) fn teed(tee: Tee) -> Self {
        Kind::Teed(Box::new(tee)).into()
    }

    /// A copy of a body that somebody else reads.
    pub(super) fn followed(follower: Follower) -> Self {
        Kind::Followed(follower).into()
    }

    /// A body that is not read before `gate` opens.
    pub fn gated(self, gate: Arc<Gate>, at_the_latest: Duration) -> Self {
        let latest = Box::pin(tokio::time::sleep(at_the_latest));
        Kind::Gated(Box::new(Gated { body: self, gate, latest })).into()
    }

    /// A body that breaks when its time is over. One that has ended already needs no watch.
    pub fn timed(self, limits: Limits) -> Self {
        if http_body::Body::is_end_stream(&self) {
            return self;
        }
        Kind::Timed(Box::new(Timed::new(self, limits))).into()
    }

    /// A body whose frames are signs of life.
    pub fn noted(self, activity: Arc<Activity>) -> Self {
        Kind::Noted(Box::new(Noted { body: self, activity })).into()
    }

    /// A body of which `first` was taken already.
    pub fn ahead(self, first: Result<Frame<Bytes>, BodyError>) -> Self {
        Kind::Ahead(Box::new(Ahead { first: Some(first), body: self })).into()
    }

    fn measured(mut self, request: metrics::Request, length: Option<u64>) -> Self {
        if http_body::Body::is_end_stream(&self) {
            request.finish(Instant::now());
        } else {
            self.rider = Some(Box::new(Rider { request, left: length }));
        }
        self
    }

    /// Keeps `guard` until the last byte has passed, or the body is dropped.
    #[must_use]
    pub fn holding(self, guard: impl Send + Sync + 'static) -> Self {
        self.witnessed(Held(guard))
    }

    /// The same, and tells it how the body goes.
    #[must_use]
    pub fn witnessed(mut self, witness: impl Witness + 'static) -> Self {
        if !http_body::Body::is_end_stream(&self) {
            self.held = Some(match self.held.take() {
                None => Box::new(witness),
                Some(first) => Box::new(Both(first, witness)),
            });
        }
        self
    }

    /// The receiver has given up with `reason`: tells the sender, where it speaks HTTP/2.
    pub fn cancel(&mut self, reason: Reason) {
        match &mut self.kind {
            Kind::H2(h2) => {
                if let Some(request) = h2.request.take() {
                    request.reset(reason);
                }
            }
            Kind::Timed(timed) => timed.body.cancel(reason),
            Kind::Noted(noted) => noted.body.cancel(reason),
            Kind::Ahead(ahead) => ahead.body.cancel(reason),
            _ => {}
        }
    }

    fn ride(&mut self, frame: &Frame<Bytes>) {
        if let Some(witness) = &mut self.held {
            match (frame.data_ref(), frame.trailers_ref().and_then(grpc_status)) {
                (Some(data), _) => witness.data(data.len()),
                (None, Some(status)) => witness.grpc(status),
                (None, None) => {}
            }
        }
        let Some(rider) = &mut self.rider else { return };
        if let Some(data) = frame.data_ref() {
            rider.left = rider.left.map(|left| left.saturating_sub(data.len() as u64));
        } else if let Some(status) = frame.trailers_ref().and_then(grpc_status) {
            rider.request.grpc(status);
        }
        if rider.left == Some(0) || frame.is_trailers() || self.kind.is_end() {
            self.arrive();
        }
    }

    fn arrive(&mut self) {
        if let Some(rider) = self.rider.take() {
            rider.request.finish(Instant::now());
        }
        self.held = None;
    }
}

/// Ends the measuring of an exchange with the last byte of its response.
pub fn measure(response: Response<Body>, mut request: metrics::Request) -> Response<Body> {
    request.response(response.status().as_u16(), Instant::now());
    if let Some(status) = grpc_status(response.headers()) {
        request.grpc(status);
    }
    let length = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    response.map(|body| body.measured(request, length))
}

/// The gRPC status in `headers`, which are trailers or a trailers-only response.
fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get(&GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self { kind, rider: None, held: None }
    }
}

impl Kind {
    fn is_end(&self) -> bool {
        match self {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::H1(incoming, _) => http_body::Body::is_end_stream(incoming),
            Kind::H2(h2) => h2.recv.is_end_stream(),
            Kind::Gated(gated) => gated.body.kind.is_end(),
            Kind::Replayed(reader) => reader.is_end_stream(),
            Kind::Watched(watched) => watched.body.kind.is_end(),
            Kind::Teed(tee) => tee.source.kind.is_end(),
            Kind::Followed(follower) => follower.is_end_stream(),
            Kind::Timed(timed) => timed.body.kind.is_end(),
            Kind::Noted(noted) => noted.body.kind.is_end(),
            Kind::Ahead(ahead) => ahead.first.is_none() && ahead.body.kind.is_end(),
        }
    }
}

type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let mut frame = ready!(match &mut self.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::H1(incoming, lease) => poll_h1(incoming, lease, cx),
            Kind::H2(h2) => h2.poll_frame(cx),
            Kind::Gated(gated) => gated.poll_frame(cx),
            Kind::Replayed(reader) => reader.poll_frame(cx),
            Kind::Watched(watched) => watched.poll_frame(cx),
            Kind::Teed(tee) => tee.poll_frame(cx),
            Kind::Followed(follower) => follower.poll_frame(cx),
            Kind::Timed(timed) => timed.poll_frame(cx),
            Kind::Noted(noted) => noted.poll_frame(cx),
            Kind::Ahead(ahead) => ahead.poll_frame(cx),
        });
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    super::headers::strip_trailers(trailers);
                }
                self.ride(frame);
            }
            Some(Err(_)) => {
                self.rider = None;
                if let Some(witness) = &mut self.held {
                    witness.broken();
                }
            }
            None => self.arrive(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.kind.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::H1(incoming, _) => http_body::Body::size_hint(incoming),
            Kind::H2(h2) if h2.recv.is_end_stream() => SizeHint::with_exact(0),
            Kind::H2(_) => SizeHint::default(),
            Kind::Gated(gated) => gated.body.size_hint(),
            Kind::Replayed(reader) => reader.size_hint(),
            Kind::Watched(watched) => watched.body.size_hint(),
            Kind::Teed(tee) => tee.source.size_hint(),
            Kind::Followed(follower) => follower.size_hint(),
            Kind::Timed(timed) => timed.body.size_hint(),
            Kind::Noted(noted) => noted.body.size_hint(),
            Kind::Ahead(_) => SizeHint::default(),
        }
    }
}

fn poll_h1(incoming: &mut Incoming, lease: &mut Option<Lease>, cx: &mut Context<'_>) -> Polled {
    let mut polled = http_body::Body::poll_frame(Pin::new(&mut *incoming), cx);
    if let (Poll::Pending, Some(lease)) = (&polled, &mut *lease) {
        lease.drive(cx);
        polled = http_body::Body::poll_frame(Pin::new(&mut *incoming), cx);
    }
    let frame = ready!(polled);
    let ended = match &frame {
        None => true,
        Some(Ok(frame)) => frame.is_trailers() || http_body::Body::is_end_stream(incoming),
        Some(Err(_)) => false,
    };
    if ended && let Some(lease) = lease.take() {
        lease.give_back();
    }
    Poll::Ready(frame.map(|frame| frame.map_err(|error| BodyError::Cut(super::h1::describe(&error)))))
}

impl Drop for H2Body {
    /// A response that nobody reads to its end: the upstream need not send it, nor take the rest of the request.
    fn drop(&mut self) {
        if let Some(request) = self.request.take()
            && !self.recv.is_end_stream()
        {
            request.reset(Reason::CANCEL);
        }
    }
}

impl H2Body {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        let owed = std::mem::take(&mut self.owed);
        if owed > 0 {
            // The credit of what was handed on; a closed stream needs none.
            let _ = self.recv.flow_control().release_capacity(owed);
        }
        match ready!(self.recv.poll_data(cx)) {
            Some(Ok(data)) => {
                self.owed = data.len();
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => {}
        }
        Poll::Ready(match ready!(self.recv.poll_trailers(cx)) {
            Ok(Some(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(None) => None,
            Err(error) => Some(Err(error.into())),
        })
    }
}

/// Keeps a body back until the upstream has said 100.
#[derive(Debug, Default)]
pub struct Gate {
    open: AtomicBool,
    waiting: AtomicWaker,
    /// The body has been asked for since the gate is open, or never will be.
    passed: AtomicBool,
    answer: AtomicWaker,
}

impl Gate {
    /// Lets the body pass.
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.waiting.wake();
    }

    /// Waits until an open gate has been passed. A 100 that comes with the answer behind it must reach the client first (RFC
    /// 9110 15.2), and it is by asking for the body that it does.
    pub async fn passed(&self) {
        std::future::poll_fn(|cx| {
            self.answer.register(cx.waker());
            let kept_back = self.open.load(Ordering::Acquire) && !self.passed.load(Ordering::Acquire);
            if kept_back { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    fn pass(&self) {
        self.passed.store(true, Ordering::Release);
        self.answer.wake();
    }
}

struct Gated {
    body: Body,
    gate: Arc<Gate>,
    latest: Pin<Box<Sleep>>,
}

impl Gated {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        self.gate.waiting.register(cx.waker());
        if !self.gate.open.load(Ordering::Acquire) {
            ready!(self.latest.as_mut().poll(cx));
            self.gate.open();
        }
        let polled = http_body::Body::poll_frame(Pin::new(&mut self.body), cx);
        self.gate.pass();
        polled
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        self.gate.pass();
    }
}

struct Watched {
    body: Body,
    connection: Arc<h1_io::Shared>,
    /// The connection's turn that this body belongs to.
    turn: u32,
}

impl Watched {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        self.connection.asking(self.turn);
        let polled = http_body::Body::poll_frame(Pin::new(&mut self.body), cx);
        self.connection.waiting_for_body(self.turn, polled.is_pending());
        if matches!(polled, Poll::Ready(Some(Err(_)))) {
            self.connection.body_broke();
        }
        polled
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.connection.waiting_for_body(self.turn, false);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_gated_body_waits_for_its_gate_or_its_time() {
        let gate = Arc::new(Gate::default());
        let mut body = Body::full("data").gated(Arc::clone(&gate), Duration::from_secs(1));
        let early = tokio::time::timeout(Duration::from_millis(900), body.frame()).await;
        assert!(early.is_err(), "passed a closed gate");
        gate.open();
        let frame = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), "data");

        let mut late = Body::full("late").gated(Arc::new(Gate::default()), Duration::from_secs(1));
        assert!(late.frame().await.is_some(), "time opens the gate too");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_for_an_open_gate_to_be_passed_and_for_no_other() {
        let gate = Arc::new(Gate::default());
        gate.passed().await;
        let mut body = Body::full("data").gated(Arc::clone(&gate), Duration::from_secs(1));
        gate.open();
        let early = tokio::time::timeout(Duration::from_secs(9), gate.passed()).await;
        assert!(early.is_err(), "nobody has asked for the body");
        body.frame().await.expect("a frame").expect("no error");
        gate.passed().await;

        let gate = Arc::new(Gate::default());
        let body = Body::full("data").gated(Arc::clone(&gate), Duration::from_secs(1));
        gate.open();
        drop(body);
        gate.passed().await;
    }
}

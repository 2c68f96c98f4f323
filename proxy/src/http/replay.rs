//! Requests that can be sent again, as long as what has passed of their bodies is small.
//!
//! Invariant: the first try streams; what passes is kept until `LIMIT` bytes, and until all bodies have `MOST_KEPT`; beyond that
//! the body cannot be sent again. Only the newest reader gets data: an older one that still exists is cut off. Nothing is kept once
//! nobody can ask for it any more.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;

use super::BoxedRequest;
use super::body::{Body, BodyError};

/// Most bytes that are kept of a body.
pub const LIMIT: usize = 64 * 1024;
/// Most bytes that are kept of all bodies of the process.
const MOST_KEPT: usize = 1 << 20;

/// Bytes of them that are.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// What it takes to send a request again: its head, and its body unless that was empty.
pub struct Spare {
    head: Head,
    body: Option<Replay>,
}

/// Nearly always thrown away unused, so the fields lie in a list, which is cheaper to make than a map.
struct Head {
    method: Method,
    uri: Uri,
    version: Version,
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Spare {
    /// Keeps what is needed of `request`; the request returned is for the first try.
    pub fn of(mut request: BoxedRequest) -> (BoxedRequest, Self) {
        let head = Head::of(&request);
        if request.body().is_end_stream() {
            return (request, Self { head, body: None });
        }
        let (replay, reader) = Replay::new(std::mem::replace(request.body_mut(), Body::empty()));
        *request.body_mut() = Body::replayed(reader);
        (request, Self { head, body: Some(replay) })
    }

    /// How far the body is; `None`: there is none.
    pub fn passing(&self) -> Option<Passing> {
        self.body.as_ref().map(|replay| Passing(Arc::clone(&replay.0)))
    }

    /// Whether the request can be made again.
    pub fn is_whole(&self) -> bool {
        self.body.as_ref().is_none_or(|replay| !lock(&replay.0).spoiled)
    }

    /// The request from its beginning; `None` when too much of its body is gone.
    pub fn again(&self) -> Option<BoxedRequest> {
        let body = match &self.body {
            None => Body::empty(),
            Some(replay) => Body::replayed(replay.again()?),
        };
        Some(Box::new(self.head.with(body)))
    }
}

impl Head {
    fn of(request: &Request<Body>) -> Self {
        let fields = request.headers().iter().map(|(name, value)| (name.clone(), value.clone()));
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            fields: fields.collect(),
        }
    }

    fn with(&self, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        for (name, value) in &self.fields {
            request.headers_mut().append(name, value.clone());
        }
        request
    }
}

/// How far a body is, whichever try sends it.
pub struct Passing(Arc<Mutex<State>>);

impl Passing {
    /// For how long all of it has been passed on, as far as anybody has looked; `None`: some is still to come.
    pub fn over_for(&self) -> Option<Duration> {
        let mut state = lock(&self.0);
        state.is_over().then(|| state.over_since.get_or_insert_with(Instant::now).elapsed())
    }
}

/// The hold on a body that is being sent.
pub struct Replay(Arc<Mutex<State>>);

struct State {
    source: Body,
    passed: Passed,
    trailers: Option<HeaderMap>,
    complete: bool,
    over_since: Option<Instant>,
    /// More has passed than is kept, or the source broke.
    spoiled: bool,
    /// Nobody will ask for it again.
    settled: bool,
    /// The newest one, and what it reads next of what has passed.
    reader: u64,
    next: usize,
}

/// What has passed of a body.
struct Passed {
    pieces: Vec<Bytes>,
    bytes: usize,
    /// With what it takes to keep them.
    weight: usize,
    /// The count that it is in.
    all: &'static AtomicUsize,
}

impl Passed {
    /// One more; false when there is no room for it.
    fn keep(&mut self, piece: &Bytes) -> bool {
        let weight = piece.len() + size_of::<Bytes>();
        if self.bytes + piece.len() > LIMIT {
            return false;
        }
        self.bytes += piece.len();
        self.weight += weight;
        self.pieces.push(piece.clone());
        self.all.fetch_add(weight, Ordering::Relaxed) + weight <= MOST_KEPT
    }

    fn clear(&mut self) {
        (self.pieces, self.bytes) = (Vec::new(), 0);
        self.all.fetch_sub(std::mem::take(&mut self.weight), Ordering::Relaxed);
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        self.clear();
    }
}

/// One try's view of the body.
pub struct Reader {
    state: Arc<Mutex<State>>,
    number: u64,
    trailers_sent: bool,
}

impl Replay {
    /// Wraps `body`; the reader is for the first try.
    pub fn new(body: Body) -> (Self, Reader) {
        Self::counted(body, &KEPT)
    }

    fn counted(source: Body, all: &'static AtomicUsize) -> (Self, Reader) {
        let passed = Passed { pieces: Vec::new(), bytes: 0, weight: 0, all };
        let state = State {
            source,
            passed,
            trailers: None,
            complete: false,
            over_since: None,
            spoiled: false,
            settled: false,
            reader: 0,
            next: 0,
        };
        let replay = Self(Arc::new(Mutex::new(state)));
        let reader = replay.reader(0);
        (replay, reader)
    }

    /// The body from its beginning, for another try; `None` when too much of it is gone.
    pub fn again(&self) -> Option<Reader> {
        let mut state = lock(&self.0);
        if state.spoiled {
            return None;
        }
        state.reader += 1;
        state.next = 0;
        let number = state.reader;
        drop(state);
        Some(self.reader(number))
    }

    fn reader(&self, number: u64) -> Reader {
        Reader { state: Arc::clone(&self.0), number, trailers_sent: false }
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.settled = true;
        state.let_go();
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.source).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.keep(frame),
            Some(Err(_)) => self.spoiled = true,
            None => self.complete = true,
        }
        if self.is_over() {
            self.over_since.get_or_insert_with(Instant::now);
        }
        Poll::Ready(frame)
    }

    /// Keeps nothing that the newest reader has read, if there will be no other.
    fn let_go(&mut self) {
        if self.settled && self.next >= self.passed.pieces.len() {
            self.passed.clear();
            self.next = 0;
        }
    }

    fn is_over(&self) -> bool {
        self.complete || self.trailers.is_some() || self.source.is_end_stream()
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            if !self.spoiled && !self.settled && !self.passed.keep(data) {
                self.spoiled = true;
                self.passed.clear();
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
    }
}

impl Reader {
    /// The next frame of this try.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = lock(&self.state);
        if state.reader != self.number {
            return Poll::Ready(Some(Err(BodyError::Cut("sent again elsewhere".into()))));
        }
        if let Some(data) = state.passed.pieces.get(state.next).cloned() {
            state.next += 1;
            state.let_go();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if !self.trailers_sent
            && let Some(trailers) = &state.trailers
        {
            self.trailers_sent = true;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers.clone()))));
        }
        if state.complete || state.trailers.is_some() {
            return Poll::Ready(None);
        }
        let frame = ready!(state.poll_source(cx));
        state.next = state.passed.pieces.len();
        self.trailers_sent = state.trailers.is_some();
        Poll::Ready(frame)
    }

    /// Whether all of it was read.
    pub fn is_end_stream(&self) -> bool {
        let state = lock(&self.state);
        let all_passed = state.next >= state.passed.pieces.len() && (self.trailers_sent || state.trailers.is_none());
        state.reader == self.number && all_passed && (state.complete || state.source.is_end_stream())
    }

    /// What is known of the whole body's length, before its first byte was read.
    pub fn size_hint(&self) -> SizeHint {
        let state = lock(&self.state);
        if state.passed.pieces.is_empty() && !state.spoiled { state.source.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn text(body: Body) -> String {
        let bytes = body.collect().await.expect("no error").to_bytes();
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    #[tokio::test]
    async fn a_small_body_is_sent_again_whole() {
        let (replay, first) = Replay::new(Body::full("small"));
        assert_eq!(text(Body::replayed(first)).await, "small");
        let second = replay.again().expect("small enough");
        assert_eq!(text(Body::replayed(second)).await, "small");
    }

    #[tokio::test]
    async fn a_large_body_is_sent_once() {
        let (replay, first) = Replay::new(Body::full(vec![b'x'; LIMIT + 1]));
        assert_eq!(text(Body::replayed(first)).await.len(), LIMIT + 1);
        assert!(replay.again().is_none());
    }

    #[tokio::test]
    async fn bodies_share_the_room_that_there_is() {
        let kept: &'static AtomicUsize = Box::leak(Box::default());
        let sent = async || {
            let (replay, first) = Replay::counted(Body::full(vec![b'x'; LIMIT]), kept);
            assert_eq!(text(Body::replayed(first)).await.len(), LIMIT);
            replay
        };
        let mut replays = Vec::new();
        for _ in 0..MOST_KEPT / (LIMIT + size_of::<Bytes>()) {
            replays.push(sent().await);
        }
        assert!(replays.iter().all(|replay| replay.again().is_some()));
        assert!(sent().await.again().is_none(), "more than there is room for");
        replays.pop();
        assert!(sent().await.again().is_some(), "room again");
        drop(replays);
        assert_eq!(kept.load(Ordering::Relaxed), 0);
    }

    /// The rest of a long call, once its answer has begun.
    #[tokio::test]
    async fn what_nobody_asks_for_again_is_not_kept() {
        let kept: &'static AtomicUsize = Box::leak(Box::default());
        let source = Body::full("second").ahead(Ok(Frame::data("first".into())));
        let (replay, first) = Replay::counted(source, kept);
        let mut first = Body::replayed(first);
        let mut piece = async || first.frame().await.expect("a frame").expect("no error").into_data().expect("data");
        assert_eq!(piece().await, "first");
        assert!(kept.load(Ordering::Relaxed) > 0);
        drop(replay);
        assert_eq!(kept.load(Ordering::Relaxed), 0);
        assert_eq!(piece().await, "second");
        assert_eq!(kept.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_is_unread_stays_for_the_last_reader() {
        let kept: &'static AtomicUsize = Box::leak(Box::default());
        let (replay, first) = Replay::counted(Body::full("data"), kept);
        assert_eq!(text(Body::replayed(first)).await, "data");
        let second = replay.again().expect("small enough");
        drop(replay);
        assert_eq!(text(Body::replayed(second)).await, "data");
        assert_eq!(kept.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn an_older_try_gets_nothing_once_a_newer_one_exists() {
        let (replay, first) = Replay::new(Body::full("data"));
        let second = replay.again().expect("untouched");
        assert!(Body::replayed(first).collect().await.is_err());
        assert_eq!(text(Body::replayed(second)).await, "data");
    }
}

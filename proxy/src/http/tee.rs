//! One body for several readers: the first one reads it, the others get copies of what passes.
//!
//! Invariant: copies never make the first reader wait, nor does it matter to it what becomes of them. What a follower has not
//! taken is at most `LIMIT` bytes and one frame; beyond that it is cut off, and sees a body that broke. A follower's body ends
//! cleanly only if the source did.
//! Non-goal: reading on when the first reader has given up.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use super::body::{Body, BodyError};

/// Most bytes that wait for a follower.
pub const LIMIT: usize = 64 * 1024;

/// The first reader's view.
pub struct Tee {
    pub(super) source: Body,
    followers: Vec<Arc<Mutex<Queue>>>,
}

/// A copy.
pub struct Follower {
    queue: Arc<Mutex<Queue>>,
    left: Option<u64>,
}

/// Tells whether a copy could not keep up.
#[derive(Clone)]
pub struct Pace(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Piece>,
    bytes: usize,
    end: Option<End>,
    waker: Option<Waker>,
}

enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Cleanly,
    /// The source broke, or the first reader gave up.
    Broken,
    /// The follower did not keep up.
    TooSlow,
    /// The follower is no more.
    Gone,
}

type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

impl Body {
    /// Copies of this body, as many as are wanted; none of an empty one costs anything.
    pub fn split(self, copies: usize) -> (Body, Vec<(Body, Option<Pace>)>) {
        if self.is_end_stream() {
            return (self, (0..copies).map(|_| (Body::empty(), None)).collect());
        }
        let followers: Vec<Arc<Mutex<Queue>>> = (0..copies).map(|_| Arc::default()).collect();
        let length = self.size_hint().exact();
        let follow = |queue: &Arc<Mutex<Queue>>| {
            let follower = Follower { queue: Arc::clone(queue), left: length };
            (Body::followed(follower), Some(Pace(Arc::clone(queue))))
        };
        let bodies = followers.iter().map(follow).collect();
        (Body::teed(Tee { source: self, followers }), bodies)
    }
}

impl Tee {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        let frame = ready!(Pin::new(&mut self.source).poll_frame(cx));
        let piece = || match &frame {
            Some(Ok(frame)) => frame
                .data_ref()
                .map(|data| Piece::Data(data.clone()))
                .or_else(|| frame.trailers_ref().map(|trailers| Piece::Trailers(trailers.clone()))),
            _ => None,
        };
        let end = match &frame {
            Some(Err(_)) => Some(End::Broken),
            None => Some(End::Cleanly),
            Some(Ok(_)) => self.source.is_end_stream().then_some(End::Cleanly),
        };
        for follower in &self.followers {
            lock(follower).push(piece(), end);
        }
        Poll::Ready(frame)
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        // A first reader that knows the length need not look for the end.
        let end = if self.source.is_end_stream() { End::Cleanly } else { End::Broken };
        for follower in &self.followers {
            lock(follower).push(None, Some(end));
        }
    }
}

impl Queue {
    fn push(&mut self, piece: Option<Piece>, end: Option<End>) {
        if self.end.is_some() {
            return;
        }
        if let Some(piece) = piece {
            self.bytes += piece.length();
            self.pieces.push_back(piece);
        }
        self.end = end;
        if self.bytes > LIMIT && self.pieces.len() > 1 {
            self.stop(End::TooSlow);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn stop(&mut self, end: End) {
        (self.pieces, self.bytes, self.end) = (VecDeque::new(), 0, Some(end));
    }
}

impl Piece {
    fn length(&self) -> usize {
        match self {
            Piece::Data(data) => data.len(),
            Piece::Trailers(_) => 0,
        }
    }
}

impl Follower {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        let mut queue = lock(&self.queue);
        if let Some(piece) = queue.pieces.pop_front() {
            queue.bytes -= piece.length();
            return Poll::Ready(Some(Ok(match piece {
                Piece::Data(data) => {
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    Frame::data(data)
                }
                Piece::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        match queue.end {
            None => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(End::Cleanly) => Poll::Ready(None),
            Some(_) => Poll::Ready(Some(Err(BodyError::Cut("a copy that could not be kept up".into())))),
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let queue = lock(&self.queue);
        queue.pieces.is_empty() && queue.end == Some(End::Cleanly)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.left.map(SizeHint::with_exact).unwrap_or_default()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut queue = lock(&self.queue);
        if queue.end != Some(End::TooSlow) {
            queue.stop(End::Gone);
        }
    }
}

impl Pace {
    /// Whether the copy was cut off because it could not keep up.
    pub fn is_lost(&self) -> bool {
        lock(&self.0).end == Some(End::TooSlow)
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::http::replay::Replay;

    /// A body of one frame that is not known to have ended with it.
    fn source(bytes: usize) -> Body {
        Body::replayed(Replay::new(Body::full(vec![b'x'; bytes])).1)
    }

    #[tokio::test]
    async fn each_copy_has_every_byte() {
        let (first, copies) = source(1000).split(2);
        assert_eq!(first.collect().await.unwrap().to_bytes().len(), 1000);
        for (copy, pace) in copies {
            assert_eq!((copy.size_hint().exact(), copy.collect().await.unwrap().to_bytes().len()), (Some(1000), 1000));
            assert!(!pace.unwrap().is_lost());
        }
    }

    #[tokio::test]
    async fn a_copy_of_a_body_that_nobody_reads_to_its_end_breaks() {
        let (first, mut copies) = source(1000).split(1);
        drop(first);
        let (copy, pace) = copies.pop().unwrap();
        assert!(copy.collect().await.is_err());
        assert!(!pace.unwrap().is_lost());
    }

    #[test]
    fn a_follower_that_takes_nothing_is_cut_off_and_holds_nothing() {
        let mut queue = Queue::default();
        let piece = || Some(Piece::Data(Bytes::from(vec![b'x'; LIMIT])));
        queue.push(piece(), None);
        assert!(queue.end.is_none() && queue.pieces.len() == 1, "one frame is taken, however large");
        queue.push(piece(), None);
        assert!(queue.end == Some(End::TooSlow) && queue.pieces.is_empty());
        queue.push(piece(), Some(End::Cleanly));
        assert!(queue.end == Some(End::TooSlow) && queue.pieces.is_empty());
    }

    #[tokio::test]
    async fn a_follower_that_is_gone_costs_nothing_more() {
        let (first, copies) = source(1000).split(1);
        let (copy, pace) = copies.into_iter().next().unwrap();
        drop(copy);
        assert_eq!(first.collect().await.unwrap().to_bytes().len(), 1000);
        let pace = pace.unwrap();
        assert!(lock(&pace.0).pieces.is_empty() && !pace.is_lost());
    }
}

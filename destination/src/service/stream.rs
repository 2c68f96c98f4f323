//! One stream: requests in, snapshots out, until one side has enough.
//!
//! Invariant: each wait has an end: a proxy that says nothing, or takes nothing of what is due, is ended with a reason.
//! One snapshot is on its way at a time; all others are marks. Non-goal: what requests mean (`session`); waiting, which
//! the connection does for all of its streams.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use mesh_mtls::spiffe;
use mesh_proto::discovery::WatchRequest;
use prost::Message as _;

use super::Shared;
use super::grpc::{Code, Inbox, Message, Status};
use super::session::{Refusal, Session};
use crate::metrics::Raised;

/// Requests that are looked at before others get their turn.
const REQUESTS_PER_TURN: usize = 256;
/// Messages that are handed to the h2 crate before it gets to write them: with the response that makes four, for which it
/// has room at once and keeps no more.
const MESSAGES_PER_TURN: usize = 3;

/// Bytes a second that a proxy takes at least, after the time that it may take for any message.
const SLOWEST: u32 = 64 * 1024;

/// Why a stream ended.
#[derive(Debug)]
pub(super) enum End {
    /// The proxy has enough.
    Closed,
    /// The connection broke.
    Broken,
    /// What came was no message.
    Malformed(String),
    Refused(Refusal),
    /// It does not take what is due.
    Stalled,
    Shutdown,
}

impl End {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Broken => "broken",
            Self::Malformed(_) => "malformed",
            Self::Refused(refusal) => refusal.reason(),
            Self::Stalled => "stalled",
            Self::Shutdown => "shutdown",
        }
    }

    /// What the proxy is told, if it can be told anything.
    fn status(&self) -> Option<Status> {
        match self {
            Self::Broken | Self::Stalled => None,
            Self::Closed => Some(Status::new(Code::Ok, "")),
            Self::Malformed(what) => Some(Status::new(Code::InvalidArgument, what.clone())),
            Self::Refused(refusal) => Some(Status::new(Code::InvalidArgument, refusal.to_string())),
            Self::Shutdown => Some(Status::new(Code::Unavailable, "draining")),
        }
    }
}

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Something was read or written, so that there may be more to do.
    Progress,
    /// Nothing is left to do.
    Rest,
}

#[derive(Debug)]
pub(super) struct Stream {
    shared: Arc<Shared>,
    session: Session,
    requests: RecvStream,
    updates: SendStream<Message>,
    inbox: Inbox,
    /// Not looked at yet.
    received: Bytes,
    /// What the proxy has not made room for yet.
    sending: Option<Message>,
    /// Until then the proxy has to have taken what is on its way to it, all of it: one that takes a byte now and then is no
    /// better than one that takes none.
    taken_by: Option<Instant>,
    /// Until then it has to have said Hello.
    hello_by: Instant,
    _open: Raised,
}

impl Stream {
    pub(super) fn new(
        shared: Arc<Shared>,
        id: spiffe::Id,
        requests: RecvStream,
        updates: SendStream<Message>,
        now: Instant,
    ) -> Self {
        Self {
            session: Session::new(Arc::clone(&shared), id),
            requests,
            updates,
            inbox: Inbox::new(shared.settings.request),
            received: Bytes::new(),
            sending: None,
            taken_by: None,
            hello_by: now + shared.settings.hello_within,
            _open: shared.metrics.stream(),
            shared,
        }
    }

    /// Does what can be done now. `waker` is woken when the index has something new; all else comes by the connection.
    pub(super) fn turn(&mut self, now: Instant, waker: &Waker) -> Result<Turn, End> {
        let received = self.receive(now)?;
        if !self.session.is_greeted() && now >= self.hello_by {
            return Err(End::Refused(Refusal::HelloLate));
        }
        self.session.look(now, waker);
        let sent = self.send(now)?;
        if self.taken_by.is_some_and(|by| by <= now) {
            return Err(End::Stalled);
        }
        Ok(if received == Turn::Progress { received } else { sent })
    }

    /// When to take the next turn, whatever happens.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let hello_by = (!self.session.is_greeted()).then_some(self.hello_by);
        [self.session.wake_at(), self.taken_by, hello_by].into_iter().flatten().min()
    }

    /// Tells the proxy why it ended.
    pub(super) fn finish(mut self, end: &End) {
        self.shared.metrics.ended(end.reason());
        let Some(status) = end.status() else {
            return;
        };
        // Within a message there is no way to say it. That the stream is gone already is no news either.
        if self.sending.is_some() {
            self.updates.send_reset(Reason::CANCEL);
        } else {
            let _ = self.updates.send_trailers(status.trailers());
        }
    }

    /// When a proxy that begins to take so many bytes now has to be done.
    fn patience(&self, length: usize, now: Instant) -> Instant {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        now + self.shared.settings.stall + Duration::from_secs(1) * length / SLOWEST
    }

    fn receive(&mut self, now: Instant) -> Result<Turn, End> {
        let mut turn = Turn::Rest;
        for _ in 0..REQUESTS_PER_TURN {
            let message = self.inbox.next(&mut self.received).map_err(|error| End::Malformed(error.to_string()))?;
            if let Some(message) = message {
                let request = WatchRequest::decode(message).map_err(|error| End::Malformed(error.to_string()))?;
                self.session.receive(request, now).map_err(End::Refused)?;
                turn = Turn::Progress;
                continue;
            }
            // The connection is driven by the task that takes our turns, so that nobody has to be woken.
            match self.requests.poll_data(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => return Ok(turn),
                Poll::Ready(None) if self.inbox.is_partial() => {
                    return Err(End::Malformed("the last message ends before its end".to_owned()));
                }
                Poll::Ready(None) => return Err(End::Closed),
                Poll::Ready(Some(Ok(data))) => {
                    turn = Turn::Progress;
                    self.requests.flow_control().release_capacity(data.len()).map_err(|_| End::Broken)?;
                    self.received = data;
                }
                Poll::Ready(Some(Err(error))) => return Err(broken(&error)),
            }
        }
        Ok(Turn::Progress)
    }

    /// Sends as much as the proxy has room for. A snapshot is chosen when there is room, so that it is the newest.
    fn send(&mut self, now: Instant) -> Result<Turn, End> {
        let mut turn = Turn::Rest;
        for _ in 0..MESSAGES_PER_TURN {
            if self.sending.is_none() && !self.session.is_due() {
                self.taken_by = None;
                // What it held of the connection's window another stream may wait for, and is not woken by this.
                let freed = self.updates.capacity() > 0;
                self.updates.reserve_capacity(0);
                return Ok(if freed { Turn::Progress } else { turn });
            }
            let length = self.sending.as_ref().map_or(1, |message| message.remaining());
            self.updates.reserve_capacity(length);
            let room = self.updates.capacity();
            if room == 0 {
                let patience = self.patience(0, now);
                self.taken_by.get_or_insert(patience);
                return Ok(turn);
            }
            let message = self.sending.take().or_else(|| {
                let message = self.session.next(now)?;
                self.taken_by = Some(self.patience(message.remaining(), now));
                Some(message)
            });
            let Some(mut message) = message else {
                continue;
            };
            self.updates.reserve_capacity(message.remaining());
            let front = message.take_front(self.updates.capacity());
            self.updates.send_data(front, false).map_err(|error| broken(&error))?;
            if message.has_remaining() {
                self.sending = Some(message);
            } else {
                self.taken_by = None;
            }
            turn = Turn::Progress;
        }
        Ok(Turn::Progress)
    }
}

/// A proxy that resets its stream has enough of it.
fn broken(error: &h2::Error) -> End {
    match error.reason() {
        Some(Reason::CANCEL | Reason::NO_ERROR) if error.is_reset() && error.is_remote() => End::Closed,
        _ => End::Broken,
    }
}

//! The task of one connection, which is one stream: requests in, snapshots out, until one side has enough.
//!
//! Invariant: each turn reads what has come, sends what is due at once, then waits for the peer, the index or the next deadline.
//! Each wait has an end: a proxy that says nothing, answers no ping or takes nothing of what is due is ended with a reason. What
//! one turn sends is on its way at a time; all else are marks. Non-goal: what requests mean (`session`); TLS, which has happened.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use mesh_mtls::messages::{self, Inbox};
use mesh_mtls::{clock, spiffe};
use mesh_proto::discovery::WatchRequest;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Sleep, sleep, sleep_until, timeout};
use tokio_util::io::poll_write_buf;

use super::admission::Place;
use super::message::Message;
use super::session::{Refusal, Session};
use super::{NOT_LOADED, Shared};
use crate::index::Completeness;
use crate::metrics::Raised;

/// Times that a proxy's connection looks whether all manifests are read, before the proxy is told to come again.
const LOOKS: u32 = 10;
/// How long a proxy may take to hear that all ends.
const FAREWELL: Duration = Duration::from_secs(1);
/// Most bytes of a proxy that are read unheard, so that it hears why it was ended.
const UNHEARD: usize = 1 << 20;
/// Times that a connection looks for more to do before it lets others go first.
const ROUNDS: usize = 8;
/// Requests that are looked at before snapshots get their turn.
const REQUESTS_PER_TURN: usize = 32;
/// Messages that leave together.
const MESSAGES_PER_TURN: usize = 8;
/// Bytes a second that a proxy takes at least, after the time that it may take for any message.
const SLOWEST: u32 = 64 * 1024;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Client {
    /// Proved by its certificate.
    pub id: spiffe::Id,
    /// Where it is.
    pub addr: SocketAddr,
}

/// Why a stream ended.
#[derive(Debug)]
enum End {
    /// The proxy has enough.
    Closed,
    /// The connection broke.
    Broken,
    /// What came was no message.
    Malformed(String),
    Refused(Refusal),
    NotLoaded,
    /// It does not take what is due.
    Stalled,
    /// It does not answer.
    Mute,
    Shutdown,
}

impl End {
    fn reason(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Broken => "broken",
            Self::Malformed(_) => "malformed",
            Self::Refused(refusal) => refusal.reason(),
            Self::NotLoaded => "not_loaded",
            Self::Stalled => "stalled",
            Self::Mute => "mute",
            Self::Shutdown => "shutdown",
        }
    }

    /// What the proxy is told, if it can be told anything.
    fn told(&self) -> Option<String> {
        match self {
            Self::Closed | Self::Broken | Self::Stalled | Self::Mute => None,
            Self::Malformed(what) => Some(what.clone()),
            Self::Refused(refusal) => Some(refusal.to_string()),
            Self::NotLoaded => Some(NOT_LOADED.to_owned()),
            Self::Shutdown => Some("draining".to_owned()),
        }
    }
}

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Something was read or written, so that there may be more to do.
    Progress,
    /// Nothing is left to do.
    Rest,
}

/// One ping is on its way at a time.
#[derive(Debug)]
enum Ping {
    /// The next one goes then.
    Due(Instant),
    /// One was sent, and has to be answered by then.
    Sent(Instant),
}

/// To the end.
pub(super) fn serve<IO>(shared: Arc<Shared>, io: IO, client: Client, place: Place) -> impl Future<Output = ()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    // Not within the future, which would have room for it twice.
    let mut connection = Connection::new(Arc::clone(&shared), io, client, clock::steady());
    async move {
        let mut shutdown = pin!(shared.shutdown.requested());
        let mut alarm = pin!(sleep_until(connection.hello_by.into()));
        let over = std::future::poll_fn(|cx| {
            if shutdown.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Shutdown);
            }
            connection.poll(alarm.as_mut(), cx)
        });
        let end = match Box::pin(until_loaded(&shared)).await {
            Ok(()) => over.await,
            Err(end) => end,
        };
        // Boxed, for it is short.
        Box::pin(connection.finish(end)).await;
        drop(place);
    }
}

/// Before all manifests are read nobody is told anything. A proxy waits for a while, lest all come again and again with a handshake
/// each.
async fn until_loaded(shared: &Shared) -> Result<(), End> {
    let patience = shared.settings.hello_within / 2;
    for _ in 0..LOOKS {
        if shared.index().completeness() == Completeness::Whole {
            return Ok(());
        }
        if shared.shutdown.is_requested() {
            return Err(End::Shutdown);
        }
        sleep(patience / LOOKS).await;
    }
    Err(End::NotLoaded)
}

struct Connection<IO> {
    shared: Arc<Shared>,
    io: IO,
    addr: SocketAddr,
    session: Session,
    inbox: Inbox,
    /// What the proxy has not made room for yet.
    sending: Option<Message>,
    /// Until then the proxy has to have taken what is on its way to it, all of it: one that takes a byte now and then is no
    /// better than one that takes none.
    taken_by: Option<Instant>,
    /// Until then it has to have said Hello.
    hello_by: Instant,
    ping: Ping,
    _open: Raised,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Connection<IO> {
    fn new(shared: Arc<Shared>, io: IO, Client { id, addr }: Client, now: Instant) -> Self {
        Self {
            session: Session::new(Arc::clone(&shared), id),
            io,
            addr,
            inbox: Inbox::new(shared.settings.request),
            sending: None,
            taken_by: None,
            hello_by: now + shared.settings.hello_within,
            // At once, so that the proxy knows that it is heard.
            ping: Ping::Due(now),
            _open: shared.metrics.stream(),
            shared,
        }
    }

    /// Ready when it is over.
    fn poll(&mut self, mut alarm: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<End> {
        let now = clock::steady();
        if let Err(end) = self.take_turns(now, cx) {
            return Poll::Ready(end);
        }
        let wake_at = self.wake_at();
        // An alarm that comes too early does no harm, so that most turns leave it as it is.
        if alarm.is_elapsed() || alarm.deadline().into_std() > wake_at {
            alarm.as_mut().reset(wake_at.into());
        }
        if alarm.poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Until nothing is left to do.
    fn take_turns(&mut self, now: Instant, cx: &mut Context<'_>) -> Result<(), End> {
        for _ in 0..ROUNDS {
            let received = self.receive(now, cx)?;
            if !self.session.is_greeted() && now >= self.hello_by {
                return Err(End::Refused(Refusal::HelloLate));
            }
            self.session.look(now, cx.waker());
            let sent = self.send(now, cx)?;
            if self.taken_by.is_some_and(|by| by <= now) {
                return Err(End::Stalled);
            }
            if matches!(self.ping, Ping::Sent(by) if by <= now) {
                return Err(End::Mute);
            }
            if (received, sent) == (Turn::Rest, Turn::Rest) {
                return Ok(());
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// When to take the next turn, whatever happens.
    fn wake_at(&self) -> Instant {
        let hello_by = (!self.session.is_greeted()).then_some(self.hello_by);
        let (Ping::Due(ping) | Ping::Sent(ping)) = self.ping;
        // A ping that is due waits for what is on its way, which has a deadline of its own.
        let ping = if let (Ping::Due(_), Some(by)) = (&self.ping, self.taken_by) { by } else { ping };
        [self.session.wake_at(), self.taken_by, hello_by].into_iter().flatten().fold(ping, Instant::min)
    }

    fn receive(&mut self, now: Instant, cx: &mut Context<'_>) -> Result<Turn, End> {
        for nth in 0..REQUESTS_PER_TURN {
            match self.inbox.poll_next(Pin::new(&mut self.io), cx) {
                Poll::Ready(Ok(Some(message))) => self.take(message, now)?,
                Poll::Ready(Ok(None)) => return Err(End::Closed),
                Poll::Ready(Err(messages::Error::Broken(error))) => return Err(self.broken(&error)),
                Poll::Ready(Err(error)) => return Err(End::Malformed(error.to_string())),
                Poll::Pending => return Ok(if nth == 0 { Turn::Rest } else { Turn::Progress }),
            }
        }
        Ok(Turn::Progress)
    }

    fn take(&mut self, message: Bytes, now: Instant) -> Result<(), End> {
        if message.is_empty() {
            let Ping::Sent(_) = self.ping else {
                return Err(End::Malformed("an answer to no ping".to_owned()));
            };
            self.ping = Ping::Due(now + self.shared.settings.ping_interval);
            return Ok(());
        }
        let request = WatchRequest::decode(message).map_err(|error| End::Malformed(error.to_string()))?;
        self.session.receive(request, now).map_err(End::Refused)
    }

    /// Sends what is due, unless the proxy has not taken what went before it. A snapshot is chosen as late as that, so that it is
    /// the newest.
    fn send(&mut self, now: Instant, cx: &mut Context<'_>) -> Result<Turn, End> {
        if !self.is_taken(cx)? {
            return Ok(Turn::Rest);
        }
        let mut turn = Turn::Rest;
        for _ in 0..MESSAGES_PER_TURN {
            let Some(message) = self.next(now) else {
                break;
            };
            let patience = now + self.shared.settings.stall;
            *self.taken_by.get_or_insert(patience) += time_for(message.remaining());
            self.sending = Some(message);
            turn = Turn::Progress;
            if !self.is_written(cx)? {
                break;
            }
        }
        self.is_taken(cx)?;
        Ok(turn)
    }

    fn next(&mut self, now: Instant) -> Option<Message> {
        if matches!(self.ping, Ping::Due(at) if at <= now) {
            self.ping = Ping::Sent(now + self.shared.settings.ping_timeout);
            return Some(Message::ping());
        }
        self.session.next(now)
    }

    /// Whether nothing is left of what was begun.
    fn is_written(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        while let Some(message) = self.sending.as_mut().filter(|message| message.has_remaining()) {
            match poll_write_buf(Pin::new(&mut self.io), cx, message) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0)) => return Err(End::Broken),
                Poll::Ready(Err(error)) => return Err(self.broken(&error)),
                Poll::Pending => return Ok(false),
            }
        }
        self.sending = None;
        Ok(true)
    }

    /// Whether all that was begun has left.
    fn is_taken(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.taken_by.is_none() {
            return Ok(true);
        }
        if !self.is_written(cx)? {
            return Ok(false);
        }
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Ready(Ok(())) => self.taken_by = None,
            Poll::Ready(Err(error)) => return Err(self.broken(&error)),
            Poll::Pending => {}
        }
        Ok(self.taken_by.is_none())
    }

    /// The kernel, too, gives up a peer whose window is shut for long, or whose host is gone with something on its way.
    fn broken(&self, error: &io::Error) -> End {
        let is_stalled = error.kind() == io::ErrorKind::TimedOut && self.taken_by.is_some();
        if is_stalled { End::Stalled } else { End::Broken }
    }

    /// Counts the end, and tells the proxy why, if it listens.
    async fn finish(self, end: End) {
        let (id, addr, reason) = (self.session.id(), self.addr, end.reason());
        self.shared.metrics.ended(reason);
        match &end {
            End::Closed | End::Shutdown | End::Broken | End::NotLoaded => {
                tracing::debug!(%id, %addr, reason, "stream ended");
            }
            End::Malformed(what) => tracing::warn!(%id, %addr, reason, "stream refused: {what}"),
            End::Refused(refusal) => tracing::warn!(%id, %addr, reason, "stream refused: {refusal}"),
            End::Stalled => tracing::warn!(%id, %addr, reason, "a proxy does not read, disconnected"),
            End::Mute => tracing::warn!(%id, %addr, reason, "a proxy does not answer, disconnected"),
        }
        let Self { mut io, sending, session, .. } = self;
        // It watches nothing any more.
        drop(session);
        let farewell = async {
            // Within a message there is no way to say it.
            if let Some(mut message) = end.told().filter(|_| sending.is_none()).and_then(Message::end) {
                io.write_all_buf(&mut message).await?;
            }
            io.shutdown().await?;
            // A socket that is closed before all was read is reset, and what was said with it.
            let (mut unheard, mut room) = ([0; 512], UNHEARD);
            while room > 0 {
                let n = io.read(&mut unheard).await?;
                room = if n == 0 { 0 } else { room.saturating_sub(n) };
            }
            io::Result::Ok(())
        };
        if !matches!(end, End::Broken | End::Stalled | End::Mute) {
            // Whether it heard makes no difference.
            let _ = timeout(FAREWELL, farewell).await;
        }
    }
}

/// What a slow proxy may take for so many bytes, besides what it may take for any message.
fn time_for(length: usize) -> Duration {
    Duration::from_secs(1) * u32::try_from(length).unwrap_or(u32::MAX) / SLOWEST
}

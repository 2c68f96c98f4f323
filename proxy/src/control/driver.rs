//! The task that keeps one stream to destination, for as long as the proxy lives.
//!
//! Invariant: one stream at a time; each begins with Hello and every live subscription; its end changes no value; two
//! attempts are at least the backoff's `min` apart. Whatever comes is handed to the table, whatever is due is taken from it
//! while the link has room, so nothing piles up here.
//! Not here: what updates mean (`parse`, `table`), TLS (`mesh_mtls::dial`), dead-peer detection (`mesh_mtls::messages`).

use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh_mtls::messages::{self, Link};
use mesh_mtls::tls;
use mesh_proto::discovery as wire;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use wire::watch_response::Snapshot;

use super::{Settings, Shared};
use crate::resilience::backoff::Backoff;

/// Longest text of an error that is kept: the peer has a say in it, and a name of DNS can have 253 characters.
const MAX_ERROR_CHARS: usize = 600;

/// Why a stream is no more, or never was.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("no answer within {0:?}")]
    Unanswered(Duration),
    #[error("{0}")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    #[error("{0}")]
    Lost(#[from] messages::Error),
    #[error("what came cannot be read: {0}")]
    Unreadable(#[from] prost::DecodeError),
    #[error("destination says: {0}")]
    Told(String),
    #[error("ended by destination")]
    Closed,
}

/// Streams over connections that `dial` makes, one after another, until dropped.
pub(super) async fn run<D, F, IO, E>(shared: &Shared, settings: &Settings, hello: wire::Hello, dial: D)
where
    D: Fn() -> F,
    F: Future<Output = Result<IO, E>>,
    IO: AsyncRead + AsyncWrite + Unpin,
    E: Error + Send + Sync + 'static,
{
    let mut backoff = Backoff::new(settings.backoff);
    loop {
        let begun = tokio::time::Instant::now();
        let Err(ended) = follow(shared, settings, hello.clone(), dial()).await;
        // A stream that ends soon after it began is no recovery, however often it begins.
        if begun.elapsed() >= settings.backoff.max {
            backoff.reset();
        }
        let pause = backoff.next();
        report(shared, &ended, pause);
        sleep(pause).await;
    }
}

/// One stream, from Hello to its end.
async fn follow<IO, E>(
    shared: &Shared,
    settings: &Settings,
    hello: wire::Hello,
    dialed: impl Future<Output = Result<IO, E>>,
) -> Result<Infallible, Ended>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    E: Error + Send + Sync + 'static,
{
    shared.lock().restart();
    let within = settings.open_within;
    // Boxed, for it is over soon.
    let opened = Box::pin(timeout(within, open(settings.max_message, hello, dialed)));
    let (link, first) = opened.await.map_err(|_| Ended::Unanswered(within))??;
    shared.connected();
    if let Some(first) = first {
        shared.apply(first, Instant::now());
    }
    exchange(shared, link).await
}

/// A link that the other end has answered on, with what it said unless that was a ping.
async fn open<IO, E>(
    max_message: usize,
    hello: wire::Hello,
    dialed: impl Future<Output = Result<IO, E>>,
) -> Result<(Link<IO>, Option<wire::WatchResponse>), Ended>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    E: Error + Send + Sync + 'static,
{
    let io = dialed.await.map_err(|error| Ended::Unreachable(Box::new(error)))?;
    let mut link = Link::new(io, max_message);
    link.send(&wire::WatchRequest { kind: Some(wire::watch_request::Kind::Hello(hello)) });
    let first = link.next().await?;
    Ok((link, read(first)?))
}

/// What of a conversation can go on.
enum Event {
    Came(Option<Bytes>),
    Room,
}

/// Updates in, subscriptions and acknowledgements out. Updates first, so that a burst of them is acknowledged once.
async fn exchange<IO: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    mut link: Link<IO>,
) -> Result<Infallible, Ended> {
    loop {
        let is_due = shared.lock().is_due();
        let event = poll_fn(|cx| {
            if let Poll::Ready(came) = link.poll_next(cx)? {
                return Poll::Ready(Ok(Event::Came(came)));
            }
            if !is_due {
                return Poll::Pending;
            }
            ready!(link.poll_room(cx))?;
            Poll::Ready(Ok::<_, messages::Error>(Event::Room))
        });
        tokio::select! {
            biased;
            event = event => match event? {
                Event::Came(message) => {
                    if let Some(update) = read(message)? {
                        shared.apply(update, Instant::now());
                    }
                }
                Event::Room => {
                    if let Some(request) = shared.lock().next_request() {
                        link.send(&request);
                    }
                }
            },
            () = shared.wake.notified() => {}
        }
        // Without it, a full receive window of small updates would hold the worker's connections up.
        tokio::task::consume_budget().await;
    }
}

/// What a message says; none: it is a ping.
fn read(message: Option<Bytes>) -> Result<Option<wire::WatchResponse>, Ended> {
    let message = message.ok_or(Ended::Closed)?;
    if message.is_empty() {
        return Ok(None);
    }
    match wire::WatchResponse::decode(message)? {
        wire::WatchResponse { snapshot: Some(Snapshot::End(wire::End { reason })), .. } => Err(Ended::Told(reason)),
        update => Ok(Some(update)),
    }
}

fn report(shared: &Shared, ended: &Ended, pause: Duration) {
    let why = describe(ended);
    let reason = tls::reason_in(ended);
    if matches!(ended, Ended::Unreadable(_) | Ended::Lost(messages::Error::TooLong(_))) {
        shared.metrics.rejected();
    }
    tracing::warn!(error = %why, reason, "no discovery stream, trying again in {pause:.1?}");
    shared.disconnected(why);
}

/// An end with its causes, as one short line. Some causes are already quoted by what wraps them.
fn describe(ended: &Ended) -> String {
    let mut text = ended.to_string();
    let mut cause = ended.source();
    while let Some(error) = cause {
        let quoted = error.to_string();
        if !text.contains(&quoted) {
            text = format!("{text}: {quoted}");
        }
        cause = error.source();
    }
    text.chars().filter(|c| !c.is_control()).take(MAX_ERROR_CHARS).collect()
}

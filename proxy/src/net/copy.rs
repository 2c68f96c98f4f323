//! Copies bytes both ways between two streams.
//!
//! Invariant: an end passes on as an end, for each direction by itself; a break passes on as a break (RST, RST_STREAM), never
//! as an end. What one side cannot take is not read from the other.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use super::stream::{Reader, Stream, Writer};

/// Why a copy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both directions came to their clean end.
    Closed,
    /// The client's side broke.
    ClientReset,
    /// The upstream's side broke.
    UpstreamReset,
    /// One direction had ended and the other was silent for too long.
    HalfClosedTimeout,
    /// Both were silent for too long.
    IdleTimeout,
}

impl End {
    /// The word for metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            End::Closed => "closed",
            End::ClientReset => "client_reset",
            End::UpstreamReset => "upstream_reset",
            End::HalfClosedTimeout => "half_closed_timeout",
            End::IdleTimeout => "idle_timeout",
        }
    }

    /// The limit that has ended it, as policies name it.
    pub fn timeout(self) -> Option<&'static str> {
        match self {
            End::HalfClosedTimeout => Some("half_close"),
            End::IdleTimeout => Some("tcp_idle"),
            End::Closed | End::ClientReset | End::UpstreamReset => None,
        }
    }
}

/// Which way bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the upstream.
    Up,
    /// From the upstream to the client.
    Down,
}

/// Limits of a copy.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long one direction may be silent once the other has ended.
    pub half_closed: Duration,
    /// How long both may be silent; `None`: for ever.
    pub idle: Option<Duration>,
}

enum Broken {
    Read,
    Write,
}

/// Copies until both directions have ended or one side broke; `count` hears of each chunk's bytes.
#[expect(clippy::manual_async_fn, reason = "an async fn has room for its arguments twice")]
pub fn copy(
    mut client: Stream,
    mut upstream: Stream,
    settings: Settings,
    count: impl Fn(Way, u64),
) -> impl Future<Output = End> {
    async move {
        let end = {
            let (mut client_reader, mut client_writer) = client.split();
            let (mut upstream_reader, mut upstream_writer) = upstream.split();
            let passed = AtomicU64::new(0);
            let counted = |way, n| {
                passed.fetch_add(n, Ordering::Relaxed);
                count(way, n);
            };
            let up = pin!(pump(&mut client_reader, &mut upstream_writer, |n| counted(Way::Up, n)));
            let down = pin!(pump(&mut upstream_reader, &mut client_writer, |n| counted(Way::Down, n)));
            both(up, down, &passed, settings).await
        };
        if end != End::Closed {
            client.set_abort();
            upstream.set_abort();
        }
        end
    }
}

async fn both(
    mut up: Pin<&mut impl Future<Output = Result<(), Broken>>>,
    mut down: Pin<&mut impl Future<Output = Result<(), Broken>>>,
    passed: &AtomicU64,
    Settings { half_closed, idle }: Settings,
) -> End {
    let first = poll_fn(|cx| match up.as_mut().poll(cx) {
        Poll::Ready(ended) => Poll::Ready((end_of(Way::Up, ended), false)),
        Poll::Pending => down.as_mut().poll(cx).map(|ended| (end_of(Way::Down, ended), true)),
    });
    let (first, rest_is_up) = match idle {
        None => first.await,
        // Boxed: few connections have a timer.
        Some(idle) => match Box::pin(unless_idle(first, passed, idle)).await {
            Some(first) => first,
            None => return End::IdleTimeout,
        },
    };
    if let Some(end) = first {
        return end;
    }
    // Boxed: few connections are open in one direction for long.
    let rest = Box::pin(async { if rest_is_up { end_of(Way::Up, up.await) } else { end_of(Way::Down, down.await) } });
    Box::pin(unless_silent(rest, passed, half_closed)).await
}

/// `first`, unless nothing passes either way for too long.
async fn unless_idle<T>(first: impl Future<Output = T>, passed: &AtomicU64, idle: Duration) -> Option<T> {
    /// It is found out so much later at most: the time of each chunk is not looked at.
    const LOOKS: u32 = 4;
    let (mut first, mut seen, mut silent) = (pin!(first), passed.load(Ordering::Relaxed), 0);
    while silent < LOOKS {
        if let Ok(ended) = tokio::time::timeout(idle / LOOKS, &mut first).await {
            return Some(ended);
        }
        let now = passed.load(Ordering::Relaxed);
        silent = if now == seen { silent + 1 } else { 0 };
        seen = now;
    }
    None
}

/// Waits for the last direction to end, unless it is silent for too long.
async fn unless_silent(
    mut rest: Pin<Box<impl Future<Output = Option<End>>>>,
    passed: &AtomicU64,
    half_closed: Duration,
) -> End {
    loop {
        let before = passed.load(Ordering::Relaxed);
        match tokio::time::timeout(half_closed, &mut rest).await {
            Ok(end) => return end.unwrap_or(End::Closed),
            Err(_) if passed.load(Ordering::Relaxed) == before => return End::HalfClosedTimeout,
            Err(_) => {}
        }
    }
}

fn end_of(way: Way, result: Result<(), Broken>) -> Option<End> {
    match (way, result.err()?) {
        (Way::Up, Broken::Read) | (Way::Down, Broken::Write) => Some(End::ClientReset),
        (Way::Up, Broken::Write) | (Way::Down, Broken::Read) => Some(End::UpstreamReset),
    }
}

async fn pump(reader: &mut Reader<'_>, writer: &mut Writer<'_>, count: impl Fn(u64)) -> Result<(), Broken> {
    loop {
        let chunks = tokio::select! {
            biased;
            chunks = reader.chunks() => chunks.map_err(|_: io::Error| Broken::Read)?,
            _ = writer.broken() => return Err(Broken::Write),
        };
        let Some(mut chunks) = chunks else { break };
        let n: usize = chunks.iter().map(Bytes::len).sum();
        writer.write_all(&mut chunks).await.map_err(|_| Broken::Write)?;
        count(n as u64);
    }
    // The far end may be gone for good by now; the other direction finds out.
    let _ = writer.finish();
    Ok(())
}

//! Copies bytes both ways between two streams.
//!
//! Invariant: an end passes on as an end, for each direction by itself; a break passes on as a break (RST, RST_STREAM), never
//! as an end. What one side cannot take is not read from the other.

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
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
}

impl End {
    /// The word for metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            End::Closed => "closed",
            End::ClientReset => "client_reset",
            End::UpstreamReset => "upstream_reset",
            End::HalfClosedTimeout => "half_closed_timeout",
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
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long one direction may be silent once the other has ended.
    pub half_closed: Duration,
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
    half_closed: Duration,
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
            both(up, down, &passed, half_closed).await
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
    half_closed: Duration,
) -> End {
    let (first, rest_is_up) = tokio::select! {
        ended = &mut up => (end_of(Way::Up, ended), false),
        ended = &mut down => (end_of(Way::Down, ended), true),
    };
    if let Some(end) = first {
        return end;
    }
    // Boxed: few connections are open in one direction for long.
    let rest = Box::pin(async { if rest_is_up { end_of(Way::Up, up.await) } else { end_of(Way::Down, down.await) } });
    Box::pin(unless_silent(rest, passed, half_closed)).await
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

//! The task that keeps one stream to destination, for as long as the proxy lives.
//!
//! Invariant: one stream at a time; each begins with Hello and every live subscription; its end changes no value; two
//! attempts are at least the backoff's `min` apart. Whatever comes is handed to the table, whatever is due is taken from it,
//! so nothing piles up here: one request is in flight to the encoder at a time.
//! Not here: what updates mean (`parse`, `table`), TLS and dead-peer detection (`mesh_mtls::grpc`).

use std::error::Error as _;
use std::time::{Duration, Instant};

use futures_util::stream;
use mesh_mtls::tls;
use mesh_proto::discovery as wire;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use wire::discovery_client::DiscoveryClient;

use super::{Settings, Shared};
use crate::resilience::backoff::Backoff;

/// Longest text of an error that is kept: the peer has a say in it, and a name of DNS can have 253 characters.
const MAX_ERROR_CHARS: usize = 600;

/// Why a stream is no more, or never was.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("no answer within {0:?}")]
    Unanswered(Duration),
    #[error("{}", describe(.0))]
    Failed(#[from] tonic::Status),
    #[error("ended by destination")]
    Closed,
}

/// Streams over `channel`, one after another, until dropped.
pub(super) async fn run(shared: &Shared, settings: &Settings, hello: wire::Hello, channel: Channel) {
    let mut client = DiscoveryClient::new(channel).max_decoding_message_size(settings.max_message);
    let mut backoff = Backoff::new(settings.backoff);
    loop {
        let begun = tokio::time::Instant::now();
        let ended = follow(shared, settings, hello.clone(), &mut client).await;
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
async fn follow(
    shared: &Shared,
    settings: &Settings,
    hello: wire::Hello,
    client: &mut DiscoveryClient<Channel>,
) -> Ended {
    match open(shared, settings.open_within, hello, client).await {
        Ok((requests, updates)) => exchange(shared, &requests, updates).await,
        Err(ended) => ended,
    }
}

async fn open(
    shared: &Shared,
    within: Duration,
    hello: wire::Hello,
    client: &mut DiscoveryClient<Channel>,
) -> Result<(mpsc::Sender<wire::WatchRequest>, Streaming<wire::WatchResponse>), Ended> {
    shared.lock().restart();
    let (requests, mut queue) = mpsc::channel(1);
    let hello = wire::WatchRequest { kind: Some(wire::watch_request::Kind::Hello(hello)) };
    // The queue is empty and its other end is on this screen.
    requests.try_send(hello).map_err(|_| Ended::Closed)?;
    let outgoing = stream::poll_fn(move |context| queue.poll_recv(context));
    let answer = timeout(within, client.watch(outgoing)).await;
    let updates = answer.map_err(|_| Ended::Unanswered(within))??.into_inner();
    shared.connected();
    Ok((requests, updates))
}

/// Updates in, subscriptions and acknowledgements out. Updates first, so that a burst of them is acknowledged once.
async fn exchange(
    shared: &Shared,
    requests: &mpsc::Sender<wire::WatchRequest>,
    mut updates: Streaming<wire::WatchResponse>,
) -> Ended {
    loop {
        let due = shared.lock().is_due();
        tokio::select! {
            biased;
            update = updates.message() => match update {
                Ok(Some(update)) => shared.apply(update, Instant::now()),
                Ok(None) => return Ended::Closed,
                Err(status) => return status.into(),
            },
            permit = requests.reserve(), if due => match (permit, shared.lock().next_request()) {
                (Ok(permit), Some(request)) => permit.send(request),
                (Ok(_), None) => {}
                (Err(_), _) => return Ended::Closed,
            },
            () = shared.wake.notified() => {}
        }
        // Without it, a full receive window of small updates would hold the worker's connections up.
        tokio::task::consume_budget().await;
    }
}

fn report(shared: &Shared, ended: &Ended, pause: Duration) {
    let why = ended.to_string();
    let reason = match ended {
        Ended::Failed(status) => tls::reason_in(status),
        Ended::Unanswered(_) | Ended::Closed => None,
    };
    if matches!(ended, Ended::Failed(status) if is_unreadable(status)) {
        shared.metrics.rejected();
    }
    tracing::warn!(error = %why, reason, "no discovery stream, trying again in {pause:.1?}");
    shared.disconnected(why);
}

/// Whether a message could not be decoded, or was too long to be: the codes that tonic has for that. Destination itself ends no
/// stream with them; a connection that breaks has them too, with a cause.
fn is_unreadable(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::Internal | Code::OutOfRange) && status.source().is_none()
}

/// A status with its causes, as one short line. Some causes are already quoted by what wraps them.
fn describe(status: &tonic::Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut cause = status.source();
    while let Some(error) = cause {
        let quoted = error.to_string();
        if !text.contains(&quoted) {
            text = format!("{text}: {quoted}");
        }
        cause = error.source();
    }
    text.chars().filter(|c| !c.is_control()).take(MAX_ERROR_CHARS).collect()
}

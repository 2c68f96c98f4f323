//! The task that drives one stream: requests in, snapshots out, until one side has enough.
//!
//! Invariant: each wait has an end: a proxy that says nothing, or takes nothing of what is due, is ended with a reason.
//! One snapshot is on its way at a time; all others are marks. Non-goal: what requests mean (`session`).

use std::time::{Duration, Instant};

use mesh_kit::shutdown::Shutdown;
use mesh_proto::discovery::WatchRequest;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};
use tonic::{Status, Streaming};

use super::Settings;
use super::codec::Update;
use super::connection::Client;
use super::session::{Refusal, Session};
use crate::metrics::Service as Metrics;

/// How long a proxy may take to hear why it is refused.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a stream ended.
#[derive(Debug)]
enum End {
    /// The proxy has enough.
    Closed,
    /// The connection broke, or what came was no message.
    Broken(Status),
    Refused(Refusal),
    /// It does not take what is due.
    Stalled,
    Shutdown,
}

impl End {
    fn reason(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Broken(status) if is_of_the_message(status) => "malformed",
            Self::Broken(_) => "broken",
            Self::Refused(refusal) => refusal.reason(),
            Self::Stalled => "stalled",
            Self::Shutdown => "shutdown",
        }
    }

    /// What the proxy is told.
    fn status(&self) -> Option<Status> {
        match self {
            Self::Closed | Self::Stalled => None,
            Self::Broken(status) => is_of_the_message(status).then(|| Status::invalid_argument(status.message())),
            Self::Refused(refusal) => Some(Status::invalid_argument(refusal.to_string())),
            Self::Shutdown => Some(Status::unavailable("draining")),
        }
    }
}

/// Those that the decoder makes; the transport's are others.
fn is_of_the_message(status: &Status) -> bool {
    use tonic::Code::{InvalidArgument, OutOfRange};
    matches!(status.code(), InvalidArgument | OutOfRange)
}

pub(super) struct Stream {
    pub(super) session: Session,
    pub(super) requests: Streaming<WatchRequest>,
    pub(super) updates: mpsc::Sender<Result<Update, Status>>,
    pub(super) client: Client,
    pub(super) metrics: Metrics,
    pub(super) settings: Settings,
    pub(super) shutdown: Shutdown,
}

impl Stream {
    /// To the end.
    pub(super) async fn run(mut self) {
        let _open = self.metrics.stream();
        let end = self.converse().await;
        let reason = end.reason();
        self.metrics.ended(reason);
        let (id, addr) = (&self.client.id, self.client.addr);
        let id = id.as_ref().map(ToString::to_string);
        match &end {
            End::Closed | End::Shutdown | End::Broken(_) => tracing::debug!(id, %addr, reason, "stream ended"),
            End::Refused(refusal) => tracing::warn!(id, %addr, reason, "stream refused: {refusal}"),
            End::Stalled => {
                tracing::warn!(id, %addr, reason, "a proxy does not read, disconnected");
                // Its window is shut, so that not even the end of the stream would reach it.
                self.client.lifeline.cut();
            }
        }
        if let Some(status) = end.status() {
            let _ = timeout(FAREWELL, self.updates.send(Err(status))).await;
        }
    }

    async fn converse(&mut self) -> End {
        let marks = self.session.marks();
        let greeted_by = Instant::now() + self.settings.hello_within;
        loop {
            self.session.look(Instant::now());
            let due_since = self.session.due_since();
            let stalled_at = due_since.map(|since| since + self.settings.stall);
            tokio::select! {
                request = self.requests.message() => match request {
                    Ok(Some(request)) => if let Err(refusal) = self.session.receive(request, Instant::now()) {
                        return End::Refused(refusal);
                    },
                    Ok(None) => return End::Closed,
                    Err(status) => return End::Broken(status),
                },
                permit = self.updates.reserve(), if due_since.is_some() => match permit {
                    Ok(permit) => if let Some(update) = self.session.next(Instant::now()) {
                        permit.send(Ok(update));
                    },
                    Err(_) => return End::Closed,
                },
                () = marks.changed() => {}
                () = until(self.session.wake_at()) => {}
                () = until(stalled_at) => return End::Stalled,
                () = until(Some(greeted_by)), if !self.session.is_greeted() => return End::Refused(Refusal::HelloLate),
                () = self.updates.closed() => return End::Closed,
                () = self.shutdown.requested() => return End::Shutdown,
            }
            // A proxy that sends without pause does not keep others waiting.
            tokio::task::consume_budget().await;
        }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

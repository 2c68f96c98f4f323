//! The admin server: health, metrics, and for those on this host alone, state and controls. HTTP/1.
//!
//! Invariant: a peer that is not on loopback gets `/live`, `/ready` and `/metrics` and nothing else, whatever it sends, and
//! cannot make us render metrics more than a few times a second; at most [`CONNECTIONS`] connections are open, the oldest gives way to a new one, and an idle one ends.
//! Non-goal: TLS and users. What needs protection is for loopback.

mod answer;
mod connection;
mod page;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time;

use crate::log;
use crate::ready::Readiness;
use crate::shutdown::Shutdown;
use page::Page;

/// Connections open at a time, over all listeners.
pub const CONNECTIONS: usize = 64;

/// How long after something is left over it is swept up: an old text of metrics, dropped lines that nobody was told of.
const SWEEP: Duration = Duration::from_secs(5);
/// The pause after a failed accept: without file descriptors the next one fails as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

type Render = Box<dyn Fn() -> String + Send + Sync>;

/// What a daemon's admin port offers.
pub struct Admin {
    readiness: Readiness,
    metrics: Page,
    loopback: Vec<(&'static str, Render)>,
    log: Option<log::Handle>,
    shutdown: Option<Shutdown>,
}

impl Admin {
    /// Health and metrics.
    #[must_use]
    pub fn new(readiness: Readiness, metrics: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self { readiness, metrics: Page::new(Box::new(metrics)), loopback: Vec::new(), log: None, shutdown: None }
    }

    /// Adds a page of JSON for peers on loopback.
    #[must_use]
    pub fn loopback_get(mut self, path: &'static str, json: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.loopback.push((path, Box::new(json)));
        self
    }

    /// Adds `GET` and `PUT /log-level` for peers on loopback.
    #[must_use]
    pub fn log_level(mut self, log: log::Handle) -> Self {
        self.log = Some(log);
        self
    }

    /// Adds `POST /shutdown` for peers on loopback.
    #[must_use]
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = Some(shutdown);
        self
    }

    /// Serves until dropped, which ends all connections as well.
    pub async fn serve(self, listeners: Vec<TcpListener>) {
        let admin = Arc::new(self);
        let mut connections = Connections::default();
        let mut sweeping = pin!(admin.sweep_up());
        loop {
            tokio::select! {
                accepted = accept(&listeners) => match accepted {
                    Ok((stream, peer)) => connections.spawn(connection::serve(Arc::clone(&admin), stream, peer)),
                    Err(error) => {
                        tracing::warn!(%error, "admin cannot accept");
                        // Descriptors may be ours to give: a probe is worth more than who was there before.
                        connections.end_oldest();
                        time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.tasks.join_next() => {}
                never = &mut sweeping => match never {},
            }
        }
    }

    /// Only after something is left over: a daemon that does nothing is not woken. What comes while one waits counts the next time.
    async fn sweep_up(&self) -> Infallible {
        let dropped = async || match &self.log {
            Some(log) => log.dropped().await,
            None => future::pending().await,
        };
        loop {
            tokio::select! {
                () = self.metrics.made() => {}
                () = dropped() => {}
            }
            time::sleep(SWEEP).await;
            self.metrics.forget(Instant::now());
            if let Some(log) = &self.log {
                log.sweep(Instant::now());
            }
        }
    }
}

/// The open connections, oldest first.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    order: VecDeque<AbortHandle>,
}

impl Connections {
    fn spawn(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        self.order.retain(|task| !task.is_finished());
        if self.order.len() >= CONNECTIONS {
            // A flood of idle connections must not keep a health probe out.
            self.end_oldest();
        }
        self.order.push_back(self.tasks.spawn(connection));
    }

    fn end_oldest(&mut self) {
        if let Some(oldest) = self.order.pop_front() {
            oldest.abort();
        }
    }
}

/// The next connection on any listener. They take turns only by chance, which is enough for an admin port.
async fn accept(listeners: &[TcpListener]) -> io::Result<(TcpStream, SocketAddr)> {
    future::poll_fn(|cx| {
        let mut polls = listeners.iter().map(|listener| listener.poll_accept(cx));
        polls.find(std::task::Poll::is_ready).unwrap_or(std::task::Poll::Pending)
    })
    .await
}

#[cfg(test)]
mod tests;

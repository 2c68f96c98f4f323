//! Drives an HTTP/2 connection that we opened, and watches over tunnels: a far end that says nothing while streams are open is
//! asked for a sign of life, and given up when none comes. The kernel finds a host that is gone; this finds a sidecar that
//! hangs, and both sooner than a request would wait.
//!
//! Invariant: no timer runs while no stream is open, and a far end that answers pings is never given up, however long its
//! streams are silent.
//! Non-goal: connections with applications, which may be busy for longer.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::Connection;
use h2::{Ping, PingPong};
use mesh_mtls::cork::{Corked, Uncork};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};

use super::h2_pool::State;

/// Silence after which a far end is asked.
const SILENCE: Duration = Duration::from_secs(5);
/// It is asked by a ping. Without an answer for so long, new streams go elsewhere.
const DOUBT: Duration = Duration::from_secs(1);
/// Without an answer for so much longer, it is given up: 12 s in all.
const END: Duration = Duration::from_secs(6);

/// A connection with what drives it.
pub(super) struct Driver<IO> {
    connection: Connection<Corked<IO>, Bytes>,
    uncork: Uncork<IO>,
    state: Arc<State>,
    watch: Option<Watch>,
}

/// The watch over a tunnel.
struct Watch {
    ping: PingPong,
    /// Runs while streams are open.
    timer: Option<Pin<Box<Sleep>>>,
    silent: Silent,
}

/// How long a far end has been silent.
#[derive(Clone, Copy)]
enum Silent {
    No,
    Asked,
    Doubted,
}

impl Silent {
    /// How long it may last before more is done.
    fn at_most(self) -> Duration {
        match self {
            Silent::No => SILENCE,
            Silent::Asked => DOUBT,
            Silent::Doubted => END,
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Driver<IO> {
    /// Nothing is driven yet.
    pub(super) fn new(connection: Connection<Corked<IO>, Bytes>, uncork: Uncork<IO>, state: &Arc<State>) -> Self {
        Self { connection, uncork, state: Arc::clone(state), watch: None }
    }

    /// Waits until the far end has answered a ping, and watches over it from then on.
    pub(super) async fn greet(&mut self) -> Result<(), String> {
        let mut ping = self.connection.ping_pong().ok_or("greeted before")?;
        ping.send_ping(Ping::opaque()).map_err(|error| error.to_string())?;
        poll_fn(|cx| {
            if let Poll::Ready(ended) = self.poll_connection(cx) {
                return Poll::Ready(Err(ended.err().map_or_else(|| "closed".into(), |error| error.to_string())));
            }
            ping.poll_pong(cx).map(|pong| pong.map(drop).map_err(|error| error.to_string()))
        })
        .await?;
        self.watch = Some(Watch { ping, timer: None, silent: Silent::No });
        Ok(())
    }

    /// To the connection's end. True: the far end was given up.
    pub(super) async fn run(mut self) -> bool {
        let given_up = poll_fn(|cx| self.poll(cx)).await;
        self.state.close();
        given_up
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if let Poll::Ready(ended) = self.poll_connection(cx) {
            if let Err(error) = ended {
                tracing::debug!(%error, "HTTP/2 connection to the upstream ended early");
            }
            return Poll::Ready(false);
        }
        let Some(watch) = &mut self.watch else { return Poll::Pending };
        watch.poll_silence(&self.state, &self.uncork, cx).map(|()| true)
    }

    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let polled = Pin::new(&mut self.connection).poll(cx);
        self.uncork.rest(polled, cx)
    }
}

impl Watch {
    /// Ready when the far end is to be given up.
    fn poll_silence<IO>(&mut self, state: &State, uncork: &Uncork<IO>, cx: &mut Context<'_>) -> Poll<()>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        if self.timer.is_none() {
            if state.streams() == 0 {
                return Poll::Pending;
            }
            let _ = uncork.heard();
            self.timer = Some(Box::pin(sleep(SILENCE)));
        }
        if !matches!(self.silent, Silent::No) && uncork.heard() {
            state.doubt(false);
            self.becomes(Silent::No);
        }
        while self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
            match self.silent {
                Silent::No if state.streams() == 0 => self.timer = None,
                Silent::No if uncork.heard() => self.becomes(Silent::No),
                Silent::No => {
                    self.ask(cx);
                    self.becomes(Silent::Asked);
                }
                Silent::Asked => {
                    state.doubt(true);
                    self.becomes(Silent::Doubted);
                }
                Silent::Doubted => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    fn becomes(&mut self, silent: Silent) {
        self.silent = silent;
        if let Some(timer) = &mut self.timer {
            timer.as_mut().reset(Instant::now() + silent.at_most());
        }
    }

    fn ask(&mut self, cx: &mut Context<'_>) {
        // The answer to an earlier one is taken, so that another one may be sent. One that is on its way still will do.
        let _ = self.ping.poll_pong(cx);
        let _ = self.ping.send_ping(Ping::opaque());
    }
}

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
use mesh_kit::pressure;
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
        // What comes is kept for its readers, whether they can pass it on or not.
        let _ = pressure::look();
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use h2::client::{Builder, ResponseFuture, SendRequest};
    use http::Request;
    use mesh_mtls::cork::cork;
    use tokio::io::DuplexStream;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::http::h2_pool::Slot;

    const HOUR: Duration = Duration::from_secs(3600);

    struct Pair {
        sender: SendRequest<Bytes>,
        state: Arc<State>,
        hangs: Arc<AtomicBool>,
        running: JoinHandle<bool>,
    }

    /// Takes streams, answers pings and no request; when it hangs, it is there and does nothing.
    async fn far_end(io: DuplexStream, hangs: Arc<AtomicBool>) {
        let mut connection = h2::server::handshake(io).await.expect("a client");
        let mut held = Vec::new();
        loop {
            let look = sleep(DOUBT / 10);
            if hangs.load(Ordering::Relaxed) {
                look.await;
                continue;
            }
            tokio::select! {
                accepted = connection.accept() => match accepted {
                    Some(Ok(stream)) => held.push(stream),
                    _ => return,
                },
                () = look => {}
            }
        }
    }

    async fn pair() -> Pair {
        let (near, far) = tokio::io::duplex(1 << 16);
        let hangs = Arc::default();
        tokio::spawn(far_end(far, Arc::clone(&hangs)));
        let (io, uncork) = cork(near);
        let (sender, connection) = Builder::new().handshake(io).await.expect("a handshake");
        let state = Arc::new(State::default());
        let mut driver = Driver::new(connection, uncork, &state);
        driver.greet().await.expect("an answer to a ping");
        let running = tokio::spawn(driver.run());
        Pair { sender, state, hangs, running }
    }

    impl Pair {
        /// Opens a stream, which nobody answers.
        fn open(&mut self) -> (ResponseFuture, Slot) {
            let request = Request::get("http://web/").body(()).expect("a request");
            let slot = Slot::new(Arc::clone(&self.state), None);
            (self.sender.send_request(request, true).expect("an open connection").0, slot)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_far_end_that_hangs_is_doubted_then_given_up() {
        let mut pair = pair().await;
        let (response, _slot) = pair.open();
        sleep(SILENCE * 10).await;
        let begin = Instant::now();
        pair.hangs.store(true, Ordering::Relaxed);
        while !pair.state.is_doubtful() {
            sleep(DOUBT / 10).await;
        }
        assert!(begin.elapsed() <= SILENCE * 2 + DOUBT * 2, "after {:?}", begin.elapsed());
        assert!(!pair.running.is_finished());
        assert!(pair.running.await.expect("no panic"), "given up, not closed");
        assert!(begin.elapsed() <= SILENCE * 2 + DOUBT * 2 + END, "after {:?}", begin.elapsed());
        assert!(response.await.is_err(), "its streams are lost");
    }

    #[tokio::test(start_paused = true)]
    async fn a_far_end_that_answers_pings_is_kept_however_silent_its_streams_are() {
        let mut pair = pair().await;
        let _open = pair.open();
        for _ in 0..3600 {
            sleep(HOUR / 3600).await;
            assert!(!pair.state.is_doubtful() && !pair.running.is_finished());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_far_end_that_hangs_for_a_moment_is_trusted_again() {
        let mut pair = pair().await;
        let _open = pair.open();
        pair.hangs.store(true, Ordering::Relaxed);
        while !pair.state.is_doubtful() {
            sleep(DOUBT / 10).await;
        }
        pair.hangs.store(false, Ordering::Relaxed);
        sleep(DOUBT).await;
        assert!(!pair.state.is_doubtful() && !pair.running.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_asks_while_nothing_is_expected() {
        let pair = pair().await;
        pair.hangs.store(true, Ordering::Relaxed);
        sleep(HOUR).await;
        assert!(!pair.state.is_doubtful() && !pair.running.is_finished());
    }
}

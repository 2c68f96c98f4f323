//! The end of a proxy's life as its connections see it: told to finish, counted until they have.
//!
//! Invariant: each connection task holds a `Drain`; `Draining::finished` returns when all of them are gone. An accepted
//! connection's place among those that may be open rides along.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::admission::Place;

/// A connection's hold on the proxy's life.
#[derive(Clone, Debug)]
pub struct Drain {
    draining: watch::Receiver<bool>,
    hold: Arc<Hold>,
}

#[derive(Debug)]
struct Hold {
    alive: mpsc::Sender<()>,
    _place: Option<Place>,
}

/// The other side: starts the drain and waits for its end.
#[derive(Debug)]
pub struct Draining {
    start: watch::Sender<bool>,
    gone: mpsc::Receiver<()>,
}

/// A new pair.
pub fn channel() -> (Draining, Drain) {
    let (start, draining) = watch::channel(false);
    let (alive, gone) = mpsc::channel(1);
    (Draining { start, gone }, Drain { draining, hold: Arc::new(Hold { alive, _place: None }) })
}

impl Drain {
    /// The hold of a connection that has `place`, until the last clone is gone.
    #[must_use]
    pub fn of(&self, place: Place) -> Self {
        let hold = Hold { alive: self.hold.alive.clone(), _place: Some(place) };
        Self { draining: self.draining.clone(), hold: Arc::new(hold) }
    }

    /// Whether connections should come to their end.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Returns when they should.
    pub async fn started(&mut self) {
        // An error means that nobody will ever start a drain; the process is about to end.
        if self.draining.wait_for(|draining| *draining).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Draining {
    /// Tells every connection to finish.
    pub fn start(&self) {
        self.start.send_replace(true);
    }

    /// Waits for the last connection, `grace` at most; false when some were left.
    pub async fn finished(&mut self, grace: Duration) -> bool {
        tokio::time::timeout(grace, self.gone.recv()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_when_the_last_connection_is_gone() {
        let (mut draining, drain) = channel();
        let mut connection = drain.clone();
        drop(drain);
        draining.start();
        connection.started().await;
        assert!(!draining.finished(Duration::from_secs(1)).await, "one connection still lives");
        drop(connection);
        assert!(draining.finished(Duration::from_secs(1)).await);
    }
}

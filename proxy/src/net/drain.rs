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
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

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

    /// Under a scheduler that tries many orders of what tasks do.
    #[test]
    fn r66_a_drain_is_over_when_all_connections_are_and_every_one_hears_of_it() {
        // For the time limit, which never runs out here.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let model = move || {
            let _inside = runtime.enter();
            let (mut draining, drain) = channel();
            let open = Arc::new(AtomicUsize::new(0));
            for _ in 0..3 {
                shuttle::future::spawn(connection(drain.clone(), Arc::clone(&open), 1));
            }
            drop(drain);
            draining.start();
            let whole = shuttle::future::block_on(draining.finished(Duration::from_secs(60)));
            assert!(whole, "nobody is left, and nobody says so");
            assert_eq!(open.load(Ordering::SeqCst), 0, "connections that are still open");
        };
        shuttle::check_random(model, 2_000);
    }

    /// Works, opens another one meanwhile, and ends when it is told to.
    fn connection(mut drain: Drain, open: Arc<AtomicUsize>, more: usize) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            open.fetch_add(1, Ordering::SeqCst);
            shuttle::future::yield_now().await;
            if more > 0 {
                shuttle::future::spawn(connection(drain.clone(), Arc::clone(&open), more - 1));
            }
            drain.started().await;
            assert!(drain.is_draining());
            shuttle::future::yield_now().await;
            open.fetch_sub(1, Ordering::SeqCst);
            drop(drain);
        })
    }
}

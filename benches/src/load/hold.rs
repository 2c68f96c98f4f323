//! Connections that are opened, used once, and held.
//!
//! Invariant: a connection counts as held after a whole exchange; at the end, those that were closed meanwhile are errors.
//! Non-goal: speed; few are opened at a time, so that no backlog overflows.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::client::{Client, Protocol, Target};
use super::tally::Tally;

/// How many are opened at a time.
const AT_ONCE: usize = 64;

/// Connections that are open, and what came of opening them.
pub struct Held {
    clients: Vec<Client>,
    tally: Tally,
}

/// The line that says that all are open.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Line {
    /// Connections that are open.
    pub held: usize,
    /// Connections that could not be opened or used.
    pub errors: u64,
}

/// Opens `count` connections.
///
/// # Errors
/// When a client panics; connections that fail are counted.
pub async fn open(protocol: Protocol, target: &Target, count: usize) -> anyhow::Result<Held> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut opening: JoinSet<_> = (0..count).map(|_| first(protocol, target.clone(), Arc::clone(&places))).collect();
    let mut held = Held { clients: Vec::with_capacity(count), tally: Tally::default() };
    while let Some(done) = opening.join_next().await {
        let (since, outcome) = done.context("a client")?;
        let outcome = outcome.map(|(client, bytes)| {
            held.clients.push(client);
            bytes
        });
        held.tally.add(since, outcome);
    }
    Ok(held)
}

impl Held {
    /// What is held.
    #[must_use]
    pub fn line(&self) -> Line {
        Line { held: self.clients.len(), errors: self.tally.errors }
    }

    /// How many are no longer open.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.clients.iter().filter(|client| !client.is_open()).count()
    }

    /// Closes all connections; those that are no longer open count as errors.
    #[must_use]
    pub fn close(mut self) -> Tally {
        for _ in 0..self.lost() {
            self.tally.fail(&anyhow::anyhow!("a connection was not held to the end"));
        }
        self.tally
    }
}

/// Connects and makes one exchange, when it is its turn.
async fn first(protocol: Protocol, target: Target, places: Arc<Semaphore>) -> (Instant, anyhow::Result<(Client, u64)>) {
    // The semaphore is never closed; without a place it would only be earlier.
    let _place = places.acquire().await;
    let since = Instant::now();
    let opened = async {
        let mut client = Client::open(protocol, &target, 1, 1).await?.pop().context("a client")?;
        let bytes = client.exchange().await?;
        Ok((client, bytes))
    };
    (since, opened.await)
}

//! An open loop: requests are due evenly, whatever becomes of those before them.
//!
//! Invariant: latency counts from when a request was due, so a stall of the server shows in every request that it kept
//! waiting, also in those that could not be sent meanwhile ("coordinated omission" would leave them out).
//! Non-goal: finding the rate that a server can bear.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::client::{Client, Protocol, Target};
use super::schedule::{Schedule, Ticker};
use super::tally::Tally;

/// How long after the last request was due those that wait for a connection may still be sent.
const GRACE: Duration = Duration::from_secs(10);
/// Streams at a time on each HTTP/2 connection.
const STREAMS: usize = 64;

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is spoken.
    pub protocol: Protocol,
    /// Where to.
    pub target: Target,
    /// Requests per second.
    pub rate: u32,
    /// For how long.
    pub seconds: u32,
    /// Over how many connections.
    pub connections: usize,
}

/// What dispatcher and clients share. The permits are the requests that are due and not yet sent.
struct Queue {
    schedule: Schedule,
    due: Semaphore,
    next: AtomicU64,
}

/// Runs the load, after one exchange of each client that is not counted: what a first exchange costs is what
/// [`churn`](super::churn) measures.
///
/// # Errors
/// When a connection cannot be opened at all, or the kernel gives no timer.
pub async fn run(plan: &Plan) -> anyhow::Result<Tally> {
    let mut clients = Client::open(plan.protocol, &plan.target, plan.connections, plan.connections * STREAMS).await?;
    for client in &mut clients {
        client.exchange().await.context("before the load")?;
    }
    // The ticker starts after the schedule, so that each tick finds its request due.
    let schedule = Schedule::new(Instant::now(), plan.rate, plan.seconds);
    let mut ticker = Ticker::start(plan.rate).context("a timer")?;
    let queue = Arc::new(Queue { schedule, due: Semaphore::new(0), next: AtomicU64::new(0) });
    let count = clients.len();
    let mut working: JoinSet<_> = clients.into_iter().map(|client| work(client, Arc::clone(&queue))).collect();
    dispatch(&queue, &mut ticker).await?;
    // One more for each client, with which it finds that none is left.
    queue.due.add_permits(count);
    let mut tally = Tally::default();
    while let Some(done) = working.join_next().await {
        tally.merge(done.context("a client")?);
    }
    Ok(tally)
}

async fn dispatch(queue: &Queue, ticker: &mut Ticker) -> anyhow::Result<()> {
    let mut dispatched = 0;
    while dispatched < queue.schedule.count {
        let due = queue.schedule.due_by(Instant::now());
        queue.due.add_permits(usize::try_from(due - dispatched).unwrap_or_default());
        dispatched = due;
        ticker.tick().await.context("a timer")?;
    }
    Ok(())
}

/// Takes requests in turn: waiting for the semaphore is first come, first served, so idle connections go round robin.
async fn work(mut client: Client, queue: Arc<Queue>) -> Tally {
    let mut tally = Tally::default();
    let last_chance = queue.schedule.end() + GRACE;
    while let Ok(permit) = queue.due.acquire().await {
        permit.forget();
        let number = queue.next.fetch_add(1, Ordering::Relaxed);
        if number >= queue.schedule.count {
            break;
        }
        if Instant::now() > last_chance {
            tally.fail(&anyhow::anyhow!("not sent within {GRACE:?} after the last was due"));
            continue;
        }
        tally.add(queue.schedule.due(number), client.exchange().await);
    }
    tally
}

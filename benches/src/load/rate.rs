//! An open loop: requests are due evenly, whatever becomes of those before them.
//!
//! Invariant: latency counts from when a request was due, so a stall of the server shows in every request that it kept
//! waiting, also in those that could not be sent meanwhile ("coordinated omission" would leave them out).
//! Non-goal: finding the rate that a server can bear.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
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
const STREAMS: usize = 16;

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
    /// Set before the first permit.
    schedule: OnceLock<Schedule>,
    due: Semaphore,
    next: AtomicU64,
    tally: Mutex<Tally>,
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
    let (due, next) = (Semaphore::new(0), AtomicU64::new(0));
    let queue = Arc::new(Queue { schedule: OnceLock::new(), due, next, tally: Mutex::default() });
    let count = clients.len();
    let mut working: JoinSet<_> = clients.into_iter().map(|client| work(client, Arc::clone(&queue))).collect();
    // All wait for the first permit before time begins.
    tokio::task::yield_now().await;
    // The ticker starts after the schedule, so that each tick finds its request due.
    let schedule = queue.schedule.get_or_init(|| Schedule::new(Instant::now(), plan.rate, plan.seconds));
    let mut ticker = Ticker::start(plan.rate).context("a timer")?;
    dispatch(schedule, &queue.due, &mut ticker).await?;
    // One more for each client, with which it finds that none is left.
    queue.due.add_permits(count);
    while let Some(done) = working.join_next().await {
        done.context("a client")?;
    }
    let mut tally = queue.tally.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut tally))
}

async fn dispatch(schedule: &Schedule, permits: &Semaphore, ticker: &mut Ticker) -> anyhow::Result<()> {
    let mut dispatched = 0;
    while dispatched < schedule.count {
        let due = schedule.due_by(Instant::now());
        permits.add_permits(usize::try_from(due - dispatched).unwrap_or_default());
        dispatched = due;
        ticker.tick().await.context("a timer")?;
    }
    Ok(())
}

/// Takes requests in turn: waiting for the semaphore is first come, first served, so idle connections go round robin.
async fn work(mut client: Client, queue: Arc<Queue>) {
    while let Ok(permit) = queue.due.acquire().await {
        permit.forget();
        let number = queue.next.fetch_add(1, Ordering::Relaxed);
        let Some(schedule) = queue.schedule.get().filter(|schedule| number < schedule.count) else { return };
        let outcome = if Instant::now() > schedule.end() + GRACE {
            Err(anyhow::anyhow!("not sent within {GRACE:?} after the last was due"))
        } else {
            client.exchange().await
        };
        queue.tally.lock().unwrap_or_else(PoisonError::into_inner).add(schedule.due(number), outcome);
    }
}

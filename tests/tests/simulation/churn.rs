//! Fifty changes a second over a slow way, while requests hold on to endpoints that go.
//!
//! Promises: the proxy is told ten times a second at most, and ends with the truth; no request in flight is lost or counted twice.

use std::time::{Duration, Instant};

use mesh_proxy::balance::{Load, Tried, Wish};
use tokio::time::sleep;

use crate::link::{Link, Weather};
use crate::registry::Registry;

const SETTLED_WITHIN: Duration = Duration::from_secs(5);
const SECONDS: u64 = 5;
const CHANGES_A_SECOND: u64 = 50;

pub(crate) async fn story(seed: u64) -> Duration {
    let mut random = fastrand::Rng::with_seed(seed);
    let link = Link::new(Weather::Fair(Duration::from_millis(random.u64(0..80))));
    let mut registry = Registry::new(1..=4);
    let proxy = registry.proxy(&link);
    proxy.until_right(&registry, SETTLED_WITHIN).await;
    let before = proxy.heard();
    let mut held: Vec<Load> = Vec::new();
    for _ in 0..SECONDS * CHANGES_A_SECOND {
        registry.toggle(random.u8(2..=40));
        sleep(Duration::from_millis(random.u64(0..2 * 1000 / CHANGES_A_SECOND))).await;
        if random.bool() {
            held.push(proxy.backend.pick(&Tried::default(), &Wish::default()).expect("one always stays"));
        } else if !held.is_empty() {
            drop(held.swap_remove(random.usize(..held.len())));
        }
    }
    let took = proxy.until_right(&registry, SETTLED_WITHIN).await;
    assert!(link.is_fair());
    let heard = proxy.heard() - before;
    // By the simulated clock: the changes took about so many seconds, and the first comes at once.
    let most = 10 * (SECONDS + SETTLED_WITHIN.as_secs()) + 2;
    assert!(heard <= most, "{heard} sets for {} changes", registry.history.len());
    let in_flight = || -> u64 {
        let state = serde_json::to_value(proxy.backend.state(Instant::now())).expect("a state");
        state["endpoints"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|endpoint| endpoint["in_flight"].as_u64())
            .sum()
    };
    assert!(in_flight() <= held.len() as u64, "{} of {} held", in_flight(), held.len());
    drop(held);
    assert_eq!(in_flight(), 0);
    took
}

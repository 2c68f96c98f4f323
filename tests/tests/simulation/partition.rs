//! The way to destination stalls, is cut and heals, and destination itself is replaced, while endpoints come and go.
//!
//! Promises: what was known stays known; a request finds an endpoint at every moment; the truth is there soon after the way is.

use std::time::Duration;

use mesh_proxy::balance::{Tried, Wish};
use tokio::time::sleep;

use crate::link::{Link, Weather};
use crate::registry::{Registry, last_byte};

/// After the way is back: the longest pause between two attempts, and the answer.
const HEALED_WITHIN: Duration = Duration::from_secs(11);
const STEPS: usize = 30;

pub(crate) async fn story(seed: u64) -> Duration {
    let mut random = fastrand::Rng::with_seed(seed);
    let fair = |random: &mut fastrand::Rng| Weather::Fair(Duration::from_millis(random.u64(0..50)));
    let link = Link::new(fair(&mut random));
    let mut registry = Registry::new(1..=4);
    let proxy = registry.proxy(&link);
    proxy.until_right(&registry, HEALED_WITHIN).await;
    for _ in 0..STEPS {
        match random.u8(0..10) {
            0 => link.set(Weather::Stalled),
            1 => link.set(Weather::Cut),
            2 | 3 => link.set(fair(&mut random)),
            4 => registry.restart(),
            _ => {
                // One always stays.
                let last = random.u8(2..=12);
                registry.toggle(last);
            }
        }
        for _ in 0..random.u8(0..40) {
            sleep(Duration::from_millis(random.u64(0..800))).await;
            holds(&registry, &proxy);
        }
    }
    link.set(fair(&mut random));
    proxy.until_right(&registry, HEALED_WITHIN).await
}

/// At every moment.
fn holds(registry: &Registry, proxy: &crate::registry::Proxy) {
    let believed = proxy.believes().expect("what was known stays known");
    assert!(registry.history.contains(&believed), "{believed:?} was never true");
    assert_eq!(proxy.balances(), believed);
    let load = proxy.backend.pick(&Tried::default(), &Wish::default()).expect("an endpoint");
    assert!(believed.contains(&last_byte(load.endpoint().addr)));
    assert_eq!(proxy.discovery.status().rejected, 0);
}

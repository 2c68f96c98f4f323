//! The mesh's control loops in a world of one process: a network that delays, stalls and cuts, a clock that flies, and a seed that
//! decides everything.
//!
//! Real are destination's service and index, the proxy's discovery client and balancer, identity's service and the client
//! that renews certificates; simulated are the network below TLS and the clocks. Invariant: a seed is a story that can be told
//! again: `SEED=n` runs that one alone.
//! Non-goal: TLS and sockets, which namespaces have.

mod churn;
mod expiry;
mod link;
mod partition;
mod registry;
mod steering;

use std::time::Duration;

use mesh_tests::yardstick::{Who, count, record};

/// Runs a story for each seed, and records the longest time that it took to be right again.
fn stories<F: Future<Output = Duration>>(name: &str, story: impl Fn(u64) -> F) {
    let seeds: Vec<u64> = match seed() {
        Some(one) => vec![one],
        None => (0..count(50, 1000)).collect(),
    };
    let (mut longest, all) = (Duration::ZERO, seeds.len());
    for seed in seeds {
        // What draws without being told how, draws by the seed as well.
        fastrand::seed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let told = Told { name, seed };
        longest = longest.max(runtime.expect("a runtime").block_on(story(seed)));
        drop(told);
    }
    println!("{name}: {all} seeds, right again within {longest:.1?} of simulated time");
    record(66, name, Who::Mesh, true, &format!("{all} seeds, right again within {longest:.1?}"));
}

#[expect(clippy::disallowed_methods, reason = "a switch of the test's own")]
fn seed() -> Option<u64> {
    std::env::var("SEED").ok().map(|text| text.parse().expect("SEED is a number"))
}

/// Says which seed it was, if the story ends badly.
struct Told<'a> {
    name: &'a str,
    seed: u64,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{}: seed {}; again: SEED={} cargo test -p mesh-tests --test simulation {}",
                self.name, self.seed, self.seed, self.name
            );
        }
    }
}

#[test]
fn r66_a_partition_of_the_control_plane_takes_nothing_away_and_heals() {
    stories("r66_a_partition", partition::story);
}

#[test]
fn r66_endpoints_that_churn_are_followed_to_the_last_one() {
    stories("r66_endpoints", churn::story);
}

#[test]
fn r66_a_certificate_lasts_to_its_end_and_comes_back() {
    stories("r66_a_certificate", expiry::story);
}

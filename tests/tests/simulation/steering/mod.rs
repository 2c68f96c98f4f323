//! Balancers and breakers compared: the same stories under each of them.
//!
//! Promises: expected latency beats turns and least requests where one endpoint is slow; a breaker keeps a failing endpoint from
//! failing many requests; an endpoint that is well again has its share soon; retries stay within their budget when all fail.
//! `make simulate` prints the table.

mod world;

use std::time::Duration;

use mesh_proxy::model::policy::{BackendPolicy, Balancing, BalancingKind, Breaker};
use mesh_proxy::resilience::budget;
use mesh_tests::yardstick::count;

use world::Mood::{Failing, Gone, Slow, Well};
use world::{Report, Story, tell};

const S: Duration = Duration::from_secs(1);

fn policy(kind: BalancingKind, breaks: bool) -> BackendPolicy {
    let balancing = Balancing { kind, ..Balancing::default() };
    let breaker = Breaker { is_enabled: breaks, ..Breaker::default() };
    BackendPolicy { balancing, breaker, ..BackendPolicy::default() }
}

const STEADY: Story = Story {
    name: "all are well",
    endpoints: 10,
    mood: |_, _| Well,
    rate: 500,
    lasts: Duration::from_secs(20),
    retries: 1,
};

fn stories() -> [Story; 7] {
    [
        STEADY,
        Story { name: "1 of 10 is 10 times slower", mood: |i, _| if i == 0 { Slow(10) } else { Well }, ..STEADY },
        Story {
            name: "5 of 100 are 10 times slower",
            endpoints: 100,
            rate: 2_000,
            lasts: 10 * S,
            mood: |i, _| if i < 5 { Slow(10) } else { Well },
            ..STEADY
        },
        Story { name: "1 of 10 fails at once for 5 s", mood: fails_a_while, ..STEADY },
        Story { name: "1 of 10 fails 2 s of every 5", mood: flaps, ..STEADY },
        Story {
            name: "3 of 10 are cut off for 5 s",
            mood: |i, at| if i < 3 { gone_a_while(at) } else { Well },
            ..STEADY
        },
        Story {
            name: "all fail for 5 s",
            mood: |_, at| if (5_000..10_000).contains(&at) { Failing } else { Well },
            ..STEADY
        },
    ]
}

fn fails_a_while(i: usize, at: u64) -> world::Mood {
    if i == 0 && (5_000..10_000).contains(&at) { Failing } else { Well }
}

fn flaps(i: usize, at: u64) -> world::Mood {
    if i == 0 && at % 5_000 < 2_000 { Failing } else { Well }
}

fn gone_a_while(at: u64) -> world::Mood {
    if (5_000..10_000).contains(&at) { Gone } else { Well }
}

#[test]
fn expected_latency_beats_turns_and_least_requests_when_one_is_slow() {
    for seed in 0..count(2, 20) as u64 {
        let p99 = |kind| tell(&stories()[1], &policy(kind, true), seed).permille(990);
        let (ewma, least, turns) =
            (p99(BalancingKind::PeakEwma), p99(BalancingKind::LeastRequest), p99(BalancingKind::RoundRobin));
        assert!(ewma * 2 < least && ewma * 2 < turns, "seed {seed}: p99 {ewma:?}, {least:?}, {turns:?}");
    }
}

#[test]
fn a_breaker_keeps_an_endpoint_that_fails_from_failing_requests() {
    for seed in 0..count(2, 20) as u64 {
        let story = Story { retries: 0, ..stories()[3].clone() };
        let failed = |breaks| tell(&story, &policy(BalancingKind::PeakEwma, breaks), seed).failed;
        let (with, without) = (failed(true), failed(false));
        assert!(with * 5 < without, "seed {seed}: {with} failed, {without} without a breaker");
    }
}

#[test]
fn an_endpoint_that_is_well_again_has_its_share_within_five_seconds() {
    for seed in 0..count(3, 50) as u64 {
        // One that failed at once, and one that did not answer at all.
        for story in [&stories()[3], &stories()[5]] {
            let report = tell(story, &policy(BalancingKind::PeakEwma, true), seed);
            let back = report.back_after(0, story.endpoints, 10 * S);
            assert!(back.is_some_and(|back| back <= 5 * S), "seed {seed}: {}: {back:?}", story.name);
        }
    }
}

#[test]
fn when_all_fail_retries_stay_within_their_budget_and_all_come_back() {
    for seed in 0..count(2, 20) as u64 {
        let story = Story { retries: 5, ..stories()[6].clone() };
        let report = tell(&story, &policy(BalancingKind::PeakEwma, true), seed);
        assert!(report.is_within(budget::DEFAULT, story.lasts), "seed {seed}: {} retries", report.retried);
        assert!(report.failed_percent() < 30.0, "seed {seed}: {} %", report.failed_percent());
        for endpoint in 0..story.endpoints {
            let back = report.back_after(endpoint, story.endpoints, 10 * S);
            assert!(back.is_some_and(|back| back <= 5 * S), "seed {seed}: {endpoint} after {back:?}");
        }
    }
}

#[test]
fn the_table_of_balancers_and_breakers() {
    let ways = [
        ("PeakEwma", policy(BalancingKind::PeakEwma, true)),
        ("PeakEwma, no breaker", policy(BalancingKind::PeakEwma, false)),
        ("LeastRequest", policy(BalancingKind::LeastRequest, true)),
        ("RoundRobin", policy(BalancingKind::RoundRobin, true)),
        ("RoundRobin, no breaker", policy(BalancingKind::RoundRobin, false)),
    ];
    println!("| story | balancing | p50 | p99 | p99.9 ms | failed % | retries (wasted) | share back after s |");
    println!("|---|---|---:|---:|---:|---:|---:|---:|");
    for story in stories() {
        for (name, policy) in &ways {
            println!("{}", line(&story, name, &tell(&story, policy, 1)));
        }
    }
}

fn line(story: &Story, name: &str, report: &Report) -> String {
    let ms = |permille| format!("{:.1}", report.permille(permille).as_secs_f64() * 1e3);
    let healed = (story.mood)(0, 9_999) != Well && (story.mood)(0, 10_000) == Well;
    let back = healed.then(|| report.back_after(0, story.endpoints, 10 * S));
    let back =
        back.map_or(String::new(), |back| back.map_or("never".into(), |back| format!("{:.1}", back.as_secs_f64())));
    format!(
        "| {} | {name} | {} | {} | {} | {:.2} | {} ({}) | {back} |",
        story.name,
        ms(500),
        ms(990),
        ms(999),
        report.failed_percent(),
        report.retried,
        report.wasted
    )
}

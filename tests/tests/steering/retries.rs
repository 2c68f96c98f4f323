//! What is sent again, how often, and what the application then has of it.

use std::time::{Duration, Instant};

use mesh_tests::client::within;
use mesh_tests::streams;

use super::{Policy, World, app};

const GRPC: (&str, &str) = ("content-type", "application/grpc");
/// A breaker would take away what is to be seen.
const EAGER: Policy = (
    "eager",
    "circuitBreaker: {enabled: false}, retryBudget: {percent: 100, minPerSecond: 100, ttl: 10s}, \
     retries: {on: [5xx, reset, grpc-unavailable], attempts: 3, backoff: {initial: 1ms, max: 5ms}, maxRetryAfter: 5s}",
);
const STORM: Policy = (
    "storm",
    "circuitBreaker: {enabled: false}, retries: {on: [5xx], attempts: 10, backoff: {initial: 1ms, max: 2ms}}",
);

#[test]
fn what_a_policy_names_is_sent_again_whole() {
    let world = World::start(&[EAGER]);
    let addr = world.addr("eager");
    let body: Vec<u8> = (0..60_000_u32).map(|i| (i % 251) as u8).collect();
    let mut findings = Vec::new();
    // What the application does, with which body, and how often it sees it in full.
    for (what, fields, body) in [
        ("status-1", &[][..], &b""[..]),
        ("status-3", &[], &body),
        ("early-2", &[], &body),
        ("reset-2", &[], &body),
        ("refused-2", &[], &body),
        ("grpc-2", &[GRPC], &body),
        ("trailers-2", &[GRPC], &body),
    ] {
        let path = format!("/{what}/case");
        let seen = world.send(addr, &path, fields, body);
        let arrived = world.arrivals.of(&path);
        let tries: usize = what.rsplit('-').next().and_then(|n| n.parse::<usize>().ok()).expect("a number") + 1;
        let good = seen.as_ref().is_ok_and(|seen| seen.status == 200 && seen.body.as_deref() == Ok(body))
            && arrived.len() == tries
            && arrived.last().is_some_and(|last| last.body.as_deref() == Some(body));
        if !good {
            let lengths: Vec<_> = arrived.iter().map(|arrival| arrival.body.as_ref().map(Vec::len)).collect();
            let seen = seen.map(|seen| (seen.status, seen.error, seen.grpc, seen.body.map(|body| body.len())));
            findings.push(format!("{what}: {seen:?}; arrived {lengths:?}"));
        }
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    for result in ["attempted", "succeeded"] {
        assert!(world.counted("mesh_retry_results_total", "eager", ("result", result)) >= 7.0, "{result}");
    }
}

#[test]
fn what_cannot_or_may_not_be_sent_again_passes_as_it_is() {
    let world = World::start(&[EAGER]);
    let addr = world.addr("eager");
    let long = vec![b'x'; 100_000];
    let results = |result| world.counted("mesh_retry_results_total", "eager", ("result", result));

    let seen = world.send(addr, "/later-9/attempts", &[], b"a").expect("an answer");
    assert_eq!((seen.status, world.arrivals.count("/later-9/attempts")), (503, 4), "three attempts and the first");
    assert!(results("limit_exceeded") >= 1.0);

    let seen = world.send(addr, "/later-1/too-long", &[], &long).expect("an answer");
    assert_eq!((seen.status, world.arrivals.count("/later-1/too-long")), (503, 1));
    assert!(results("too_large") >= 1.0);

    let began = Instant::now();
    let seen = world.send(addr, "/later-1/waits", &[], b"a").expect("an answer");
    assert_eq!(seen.status, 200);
    assert!(began.elapsed() >= Duration::from_secs(1), "asked for a second, was given {:?}", began.elapsed());

    let seen = world.send(addr, "/much-later-1/", &[], b"a").expect("an answer");
    assert_eq!((seen.status, world.arrivals.count("/much-later-1/")), (503, 1), "an hour is more than is waited for");

    let seen = world.send(addr, "/pushback-1/", &[GRPC], b"a").expect("an answer");
    assert_eq!((seen.grpc.as_deref(), world.arrivals.count("/pushback-1/")), (Some("14"), 1));

    let seen = world.send(addr, "/grpc-1/", &[], b"a").expect("an answer");
    assert_eq!((seen.grpc.as_deref(), world.arrivals.count("/grpc-1/")), (Some("14"), 1), "no call of gRPC");
}

#[test]
fn retries_cannot_storm_in_a_full_outage() {
    const REQUESTS: usize = 2000;
    const AT_ONCE: usize = 20;
    let world = World::start(&[STORM]);
    let (addr, began) = (world.addr("storm"), Instant::now());
    within(&world.mesh.get("client").host, async {
        let sender = streams::connect(addr).await.expect("a connection");
        let clients = (0..AT_ONCE).map(|client| {
            let sender = sender.clone();
            tokio::spawn(async move {
                for i in 0..REQUESTS / AT_ONCE {
                    let seen = app::ask(&sender, &format!("/early-99/{client}/{i}"), &[], b"").await;
                    assert_eq!(seen.map(|seen| seen.status), Ok(503));
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.expect("a client that ends");
        }
    });
    let tries = world.arrivals.count("/early-99/");
    println!("{tries} tries of {REQUESTS} requests in {:?}", began.elapsed());
    assert!(tries > REQUESTS * 105 / 100, "{tries} tries: nothing was retried");
    // A fifth, and three for each second, which are few beside the requests of a second.
    assert!(tries <= REQUESTS * 125 / 100, "{tries} tries of {REQUESTS}");
    assert!(world.counted("mesh_retry_results_total", "storm", ("result", "budget_exceeded")) > 100.0);
    let state = world.mesh.get("client").state();
    let budget = &state["workers"][0]["outbound"]["targets"][0]["budgets"]["default/storm:80"];
    // What is used may be more than what is allowed now, when requests have become fewer since.
    let shown = ["used", "allowed"].map(|field| budget[field].as_u64());
    assert!(shown.iter().all(|shown| shown.is_some_and(|shown| shown > 0)), "{state}");
}

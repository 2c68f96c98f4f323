//! What each recipe is said to do, as a client sees it.
//!
//! Invariant: a check holds once its recipe is in force, and did not before: the kitchen is plain between two of them.

use std::collections::BTreeMap;

use mesh_tests::client::http::Answer;
use mesh_tests::netns::until;

use super::CONVERGE;
use super::kitchen::{Kitchen, reason, served_by};

type Check = fn(&Kitchen);

/// In the order of the page.
pub(super) const ALL: &[(&str, Check)] = &[
    ("Send 5 % of requests to a new version", canary),
    ("Send those who ask for it to a new version", by_header),
    ("Move a path", moved),
    ("Add and remove header fields", fields),
    ("Route gRPC by method", by_method),
    ("Show real traffic to a new version, without its answers", mirrored),
    ("Let pages of another origin read answers", shared),
    ("Keep a session at one endpoint", sticky),
    ("Say how long a request may take", patience),
    ("Send failed requests again", again),
    ("Stop asking an endpoint that fails", breaker),
    ("Bound what a client may have open", bulkhead),
    ("Limit how fast clients may ask", pace),
    ("Send equal keys to the same endpoint", affinity),
    ("Balance in turn, and let new endpoints warm up", in_turn),
    ("Fall back to another Service", fallback),
    ("See how others stand your faults", chaos),
    ("Declare a protocol", bytes),
    ("Take a sick host out by itself", sick),
];

fn canary(kitchen: &Kitchen) {
    until(CONVERGE, || {
        let next = (0..200).filter(|_| served_by(&kitchen.get("/", &[])) == "next").count();
        (1..=30).contains(&next)
    });
}

fn by_header(kitchen: &Kitchen) {
    until(CONVERGE, || served_by(&kitchen.get("/", &[("x-canary", "yes")])) == "next");
    assert_ne!(served_by(&kitchen.get("/", &[])), "next");
}

fn moved(kitchen: &Kitchen) {
    until(CONVERGE, || kitchen.get("/old/a?b=c", &[]).text().contains("/new/a"));
    let gone = kitchen.get("/gone/for/good", &[]);
    assert_eq!((gone.status.as_u16(), &gone.headers["location"] == "http://web/here"), (301, true), "{gone:?}");
}

fn fields(kitchen: &Kitchen) {
    let seen = || kitchen.get("/headers", &[("x-secret", "mine")]);
    until(CONVERGE, || seen().headers.get("x-served").is_some_and(|value| value == "by-mesh"));
    let saw = seen().text();
    assert!(saw.contains(r#"["x-from","mesh"]"#) && !saw.contains("x-secret"), "{saw}");
}

fn by_method(kitchen: &Kitchen) {
    until(CONVERGE, || kitchen.calls() == [tonic::Code::Ok, tonic::Code::Unimplemented]);
}

fn mirrored(kitchen: &Kitchen) {
    let reached = || kitchen.mesh.get("next").metric("mesh_http_requests_total", &[("direction", "inbound")]);
    let before = reached();
    until(CONVERGE, || {
        let answers: Vec<_> = (0..20).map(|_| served_by(&kitchen.get("/", &[]))).collect();
        assert!(answers.iter().all(|name| name != "next"), "an answer of the mirror: {answers:?}");
        reached() > before
    });
}

fn shared(kitchen: &Kitchen) {
    let origin = ("origin", "https://shop.example.com");
    until(CONVERGE, || allowed_origin(&kitchen.get("/", &[origin])) == origin.1);
    let asked = [origin, ("access-control-request-method", "PUT"), ("access-control-request-headers", "x-token")];
    let preflight = kitchen.try_web("OPTIONS", "/", &asked).expect("an answer");
    assert!(preflight.status.is_success() && allowed_origin(&preflight) == origin.1, "{preflight:?}");
    assert_eq!(allowed_origin(&kitchen.get("/", &[("origin", "https://example.org")])), "");
}

fn allowed_origin(answer: &Answer) -> String {
    let origin = answer.headers.get("access-control-allow-origin");
    origin.map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned()).unwrap_or_default()
}

fn sticky(kitchen: &Kitchen) {
    let cookie = || -> Option<(String, String)> {
        let first = kitchen.get("/", &[]);
        let set = first.headers.get("set-cookie")?.to_str().ok()?.to_owned();
        let pair = set.split(';').next().filter(|pair| pair.starts_with("basket="))?;
        Some((pair.to_owned(), served_by(&first)))
    };
    until(CONVERGE, || cookie().is_some());
    for _ in 0..3 {
        let (cookie, by) = cookie().expect("a cookie");
        for _ in 0..8 {
            assert_eq!(served_by(&kitchen.get("/", &[("cookie", &cookie)])), by);
        }
    }
}

fn patience(kitchen: &Kitchen) {
    until(CONVERGE, || {
        let answer = kitchen.get("/?delay=2s", &[]);
        (answer.status.as_u16(), reason(&answer).as_str()) == (504, "request_timeout")
    });
    // Within the limit, on a busy machine not each time.
    until(CONVERGE, || kitchen.get("/", &[]).status == 200);
}

fn again(kitchen: &Kitchen) {
    let retries = || kitchen.mesh.get("client").metric("mesh_retries_total", &[]);
    until(CONVERGE, || {
        let before = retries();
        assert_eq!(kitchen.get("/status/503", &[]).status, 503);
        // None, until the policy is there.
        retries() - before == 3.0
    });
}

fn breaker(kitchen: &Kitchen) {
    // Each endpoint gives 500 when asked to; half of them are out at most, so somebody is always there.
    until(CONVERGE, || {
        for _ in 0..20 {
            kitchen.get("/status/500", &[]);
        }
        let mut served = BTreeMap::<String, u32>::new();
        for _ in 0..20 {
            *served.entry(served_by(&kitchen.get("/", &[]))).or_default() += 1;
        }
        served.len() < 3
    });
}

fn bulkhead(kitchen: &Kitchen) {
    until(CONVERGE, || {
        let answers = kitchen.together(8, "/?delay=500ms");
        let refused = answers.iter().filter(|answer| answer.status == 503 && reason(answer) == "overload").count();
        let served = answers.iter().filter(|answer| answer.status == 200).count();
        (served, refused) == (2, 6)
    });
}

fn pace(kitchen: &Kitchen) {
    until(CONVERGE, || {
        let answers: Vec<_> = (0..40).map(|_| kitchen.get("/", &[])).collect();
        let limited = answers.iter().find(|answer| answer.status == 429);
        limited.is_some_and(|limited| reason(limited) == "rate_limited" && limited.headers.contains_key("retry-after"))
    });
}

fn affinity(kitchen: &Kitchen) {
    let users: Vec<_> = (0..12).map(|user| format!("user-{user}")).collect();
    let by_user = || -> Vec<_> { users.iter().map(|user| served_by(&kitchen.get("/", &[("x-user", user)]))).collect() };
    until(CONVERGE, || {
        let first = by_user();
        (0..4).all(|_| by_user() == first)
    });
}

fn in_turn(kitchen: &Kitchen) {
    until(CONVERGE, || {
        let served: Vec<_> = (0..30).map(|_| served_by(&kitchen.get("/", &[]))).collect();
        served.windows(2).all(|two| two[0] != two[1])
    });
}

fn fallback(kitchen: &Kitchen) {
    until(CONVERGE, || served_by(&kitchen.get_empty()) == "next");
}

fn chaos(kitchen: &Kitchen) {
    until(CONVERGE, || {
        let answer = kitchen.get("/", &[("x-chaos", "yes")]);
        answer.status == 503 && reason(&answer) == "fault"
    });
    assert_eq!(kitchen.get("/", &[]).status, 200);
}

fn bytes(kitchen: &Kitchen) {
    let client = kitchen.mesh.get("client");
    let opened = || client.metric("mesh_tcp_connections_opened_total", &[("direction", "outbound")]);
    let before = opened();
    until(CONVERGE, || kitchen.get("/", &[]).status == 200 && opened() > before);
}

fn sick(kitchen: &Kitchen) {
    let failed = || kitchen.mesh.get("sick").metric("mesh_health_checks_total", &[("result", "failed")]);
    until(CONVERGE, || failed() >= 2.0 && kitchen.endpoints_of_web() == 2.0);
    assert!((0..24).all(|_| served_by(&kitchen.get("/", &[])) != "sick"));
}

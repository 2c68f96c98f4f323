//! The balancer under a scheduler that tries many orders of what threads do.
//!
//! Invariant: the code is that of the product, compiled against the scheduler's locks. Non-goal: connections; nothing is sent.

#![allow(
    clippy::duplicate_mod,
    dead_code,
    unreachable_pub,
    unused_imports,
    missing_docs,
    reason = "a model needs part of it"
)]

use shuttle::{sync, thread};

#[path = "backend.rs"]
mod backend;
#[path = "bulkhead.rs"]
mod bulkhead;
#[path = "choice.rs"]
mod choice;
#[path = "endpoint.rs"]
mod endpoint;
#[path = "ewma.rs"]
mod ewma;
#[path = "key.rs"]
mod key;
#[path = "list.rs"]
mod list;
#[path = "outcome.rs"]
mod outcome;
#[path = "pick.rs"]
mod pick;
#[path = "reach.rs"]
mod reach;
#[path = "request.rs"]
mod request;
#[path = "state.rs"]
mod state;
#[path = "steered.rs"]
mod steered;
#[path = "verdict.rs"]
mod verdict;
#[path = "vitals.rs"]
mod vitals;
#[path = "zones.rs"]
mod zones;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mesh_mtls::credentials::Credentials;
use mesh_mtls::tls;

use super::{Settings, SharedSettings};
use crate::http;
use crate::metrics::{self, Metrics};
use crate::model::{Endpoint as Model, EndpointSet, Name, Traits};
use crate::net::{Connector, connect};
use crate::resilience::backoff;
use backend::{Backend, Tried};
use choice::Wish;
use reach::Reach;
use sync::Arc;

/// Orders that are tried.
const ORDERS: usize = 1_000;

fn endpoints(last: &[u8]) -> EndpointSet {
    let endpoint = |last: &u8| {
        let traits = Traits { sidecar: None, ..Traits::default() };
        Model { addr: ([10, 0, 0, *last], 80).into(), name: Name::default(), traits: traits.into() }
    };
    last.iter().map(endpoint).collect()
}

/// The parts of a proxy that a balancer stands on.
fn reach() -> Arc<Reach> {
    let second = Duration::from_secs(1);
    let liveness = connect::LivenessSettings { keepalive: second, user_timeout: None };
    let settings =
        Settings { initial_latency: second, decay: second, reconnect: backoff::Settings::default(), tries: 3 };
    let mut root = rcgen::CertificateParams::default();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = root.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("a certificate");
    let anchors = mesh_mtls::anchors::Anchors::from_der(vec![root.der().clone()]).expect("anchors");
    let tls = tls::Connector::new(Credentials::new(anchors), http::TUNNEL_ALPN);
    let connector = Connector::new(connect::Settings { timeout: second, liveness });
    let metrics = Metrics::new(metrics::Settings::default());
    Reach::new(
        connector,
        tls,
        Arc::new(http::h1::tests::limits()),
        Arc::new(settings),
        metrics,
        reach::Bulkheads::default(),
    )
}

#[test]
fn a_request_sticks_to_the_endpoint_it_wishes_for_while_that_is_listed_well_and_untried() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let reach = reach();
    let pick_all = move || {
        let backend = Backend::new("web", &reach);
        backend.apply(endpoints(&[1, 2, 3]));
        let wish = Wish { stick_to: Some(([10, 0, 0, 2], 80).into()), ..Wish::default() };
        let picked = || backend.pick(&Tried::default(), &wish).expect("an endpoint");
        let held: Vec<_> = (0..20).map(|_| picked()).collect();
        assert!(held.iter().all(|load| Some(load.endpoint().addr) == wish.stick_to), "whatever its load");
        backend.apply(endpoints(&[1, 3]));
        assert_ne!(Some(picked().endpoint().addr), wish.stick_to, "it is gone");
        backend.apply(endpoints(&[1, 2, 3]));
        picked().endpoint().failed();
        assert_ne!(Some(picked().endpoint().addr), wish.stick_to, "it fails");
    };
    shuttle::check_random(pick_all, 1);
}

#[test]
fn r66_requests_in_flight_are_counted_right_while_endpoints_come_go_and_fail() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let reach = reach();
    shuttle::check_random(
        move || {
            // For the task that tries to reach a failed endpoint again; nobody runs it here.
            let _inside = runtime.enter();
            let before = runtime.metrics().num_alive_tasks();
            let backend = Arc::new(Backend::new("web", &reach));
            backend.apply(endpoints(&[1, 2]));
            let kept = backend.pick(&Tried::default(), &Wish::default()).expect("an endpoint");
            let kept_at = kept.endpoint().addr;
            let requests: Vec<_> = (0..2)
                .map(|_| {
                    let backend = Arc::clone(&backend);
                    thread::spawn(move || {
                        let mut load = backend.pick(&Tried::default(), &Wish::default()).expect("there is always one");
                        assert!(load.endpoint().in_flight() >= 1);
                        load.endpoint().failed();
                        load.opened(Instant::now());
                        load.endpoint().addr
                    })
                })
                .collect();
            let discovery = Arc::clone(&backend);
            let updates = thread::spawn(move || {
                discovery.apply(endpoints(&[1, 2, 3]));
                discovery.apply(endpoints(&[1, 2]));
            });
            let failed: BTreeSet<_> = requests.into_iter().map(|request| request.join().expect("a request")).collect();
            updates.join().expect("updates");
            assert_eq!(kept.endpoint().in_flight(), 1, "of the one that is still held");
            // Over all updates one that stays is the same, with its load and its health.
            let state = backend.state(Instant::now());
            let shown = serde_json::to_value(&state).expect("a state");
            let shown = &shown["endpoints"];
            assert_eq!(shown.as_array().map(Vec::len), Some(2));
            let of_kept = |field: &str| {
                let all = shown.as_array().expect("a list");
                all.iter().find(|it| it["addr"] == kept_at.to_string()).map(|it| it[field].clone())
            };
            assert_eq!(of_kept("in_flight"), Some(1.into()), "{shown}");
            assert_eq!(of_kept("failing"), Some(kept.endpoint().is_failing().into()), "{shown}");
            let tasks = runtime.metrics().num_alive_tasks() - before;
            assert_eq!(tasks, failed.len(), "one task each tries to reach {failed:?} again");
        },
        ORDERS,
    );
}

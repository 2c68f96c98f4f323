//! The polite client of the control plane: again and again, somebody new gets a certificate and learns of a destination.
//!
//! Invariant: each round has connections of its own. Non-goal: speed; one bound is for all of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use mesh_mtls::certify;
use mesh_mtls::credentials::{Anchors, Credentials};
use mesh_mtls::spiffe::Id;
use mesh_tests::mesh::{Mesh, Watcher};
use mesh_tests::netns::{Host, until};
use mesh_tests::yardstick::{Stopwatch, count};
use nix::unistd::Uid;

use crate::LATE;

const PACE: Duration = Duration::from_millis(250);
/// Rounds before an attack, and after it.
const ROUNDS: usize = 3;

pub(crate) struct Polite {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<Duration>>,
}

/// What a round needs.
struct Way {
    identity: SocketAddr,
    destination: SocketAddr,
    anchors: Vec<u8>,
    token: PathBuf,
}

impl Polite {
    /// Starts it on `host`, and waits for its first rounds.
    pub(crate) fn start(mesh: &Mesh, host: &Host) -> Self {
        let control = mesh.control();
        let way = Way {
            identity: control.identity_addr(),
            destination: control.destination_addr(),
            anchors: std::fs::read(control.anchors()).expect("the trust anchors"),
            token: control.token("default", "polite", Uid::from_raw(0)),
        };
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = host.run_in_thread({
            let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime in a test").block_on(async {
                    let mut took = Vec::new();
                    while !stop.load(Relaxed) {
                        let watch = Stopwatch::start();
                        tokio::time::timeout(LATE, round(&way)).await.expect("a round in time");
                        took.push(watch.apart());
                        rounds.fetch_add(1, Relaxed);
                        tokio::time::sleep(PACE).await;
                    }
                    took
                })
            }
        });
        until(LATE, || rounds.load(Relaxed) >= ROUNDS);
        Self { stop, rounds, thread }
    }

    /// Ends it some rounds later: none may have failed, or have taken long.
    pub(crate) fn finish(self) -> String {
        let goal = self.rounds.load(Relaxed) + ROUNDS;
        until(LATE, || self.rounds.load(Relaxed) >= goal || self.thread.is_finished());
        self.stop.store(true, Relaxed);
        let took = self.thread.join().expect("the polite client: no round fails");
        let most = took.iter().max().copied().unwrap_or_default();
        let allowed: Duration = count(Duration::from_secs(20), Duration::from_secs(1));
        assert!(most <= allowed, "the polite client waited {most:?}");
        format!("polite {} of {}, at most {most:.0?}", took.len(), took.len())
    }
}

/// A certificate, and the endpoints of a service.
async fn round(way: &Way) {
    let credentials = Credentials::new(Anchors::from_pem(&way.anchors).expect("anchors"));
    let identity = Id::new("cluster.local", "mesh-system", "identity").expect("an identity");
    let settings = certify::Settings::new(way.identity.to_string(), identity, &way.token);
    tokio::select! {
        () = certify::run(settings, credentials.clone(), ()) => {}
        _ = credentials.certified() => {}
    }
    let mut watcher = Watcher::follow(way.destination, credentials, "web").await;
    assert!(watcher.next().await.is_some(), "a stream that was ended");
}

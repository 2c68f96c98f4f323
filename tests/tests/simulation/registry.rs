//! A registry with one service, destination's real service over it, and a proxy's real client and balancer at the other end of
//! a link.
//!
//! Invariant: the truth is written down with each change, so that what a proxy believes can be held against it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use mesh_destination::index::Index;
use mesh_destination::manifest;
use mesh_destination::metrics::Service as Metrics;
use mesh_destination::model::{Key, Kind, Name};
use mesh_destination::service::{Admission, Client, Discovery as Service, Settings};
use mesh_kit::shutdown::Shutdown;
use mesh_mtls::{clock, spiffe};
use mesh_proxy::balance::{Backend, Reach};
use mesh_proxy::control::{Discovery, Hello, Subscription};
use mesh_proxy::metrics;
use mesh_proxy::model::{BackendId, EndpointSet};
use mesh_tests::pair;
use tokio::io::DuplexStream;
use tokio::task::AbortHandle;

use crate::link::{Link, addr};

/// What all stories share, for it has no state that a story could see.
pub(crate) struct Stage {
    id: spiffe::Id,
    pub(crate) reach: Arc<Reach>,
    metrics: metrics::Metrics,
    destination: Metrics,
}

pub(crate) static STAGE: LazyLock<Stage> = LazyLock::new(|| {
    let id = spiffe::Id::new("cluster.local", "shop", "client").expect("an identity");
    let (reach, metrics) = pair::reach(&id).expect("settings");
    Stage { id, reach, metrics, destination: Metrics::default() }
});

/// Endpoints by the last byte of their address.
pub(crate) type Endpoints = BTreeSet<u8>;

/// The registry and destination.
pub(crate) struct Registry {
    pub(crate) truth: Endpoints,
    /// All truths there ever were.
    pub(crate) history: Vec<Endpoints>,
    index: Arc<Mutex<Index>>,
    /// The one that answers new connections, and the tasks of all connections.
    service: Arc<Mutex<(Service, Admission, Vec<AbortHandle>)>>,
}

impl Registry {
    pub(crate) fn new(endpoints: impl IntoIterator<Item = u8>) -> Self {
        let truth: Endpoints = endpoints.into_iter().collect();
        let index = Self::index(&truth);
        let service = Arc::new(Mutex::new(Self::service(&index)));
        Self { history: vec![truth.clone()], truth, index, service }
    }

    /// A new index of what is true.
    fn index(truth: &Endpoints) -> Arc<Mutex<Index>> {
        const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
            spec: {clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: 8080}], selector: {app: web}}\n";
        let mut index = Index::new("cluster.local");
        let texts = std::iter::once(SERVICE.to_owned()).chain(truth.iter().map(workload));
        for text in texts {
            apply(&mut index, &text);
        }
        index.publish(clock::steady());
        index.complete();
        Arc::new(Mutex::new(index))
    }

    fn service(index: &Arc<Mutex<Index>>) -> (Service, Admission, Vec<AbortHandle>) {
        let (settings, metrics) = (Settings::default(), STAGE.destination.clone());
        let admission = Admission::new(settings, metrics.clone());
        (Service::new(settings, Arc::clone(index), metrics, Shutdown::manual()), admission, Vec::new())
    }

    /// Adds an endpoint that is not there, or removes one that is.
    pub(crate) fn toggle(&mut self, last: u8) {
        let mut index = self.index.lock().expect("a registry");
        if self.truth.remove(&last) {
            index.delete(&Key { kind: Kind::Workload, name: Name::new("shop", format!("web-{last}")) });
        } else {
            self.truth.insert(last);
            apply(&mut index, &workload(&last));
        }
        index.publish(clock::steady());
        drop(index);
        self.history.push(self.truth.clone());
    }

    /// Destination ends, with all its connections, and another one takes its place.
    pub(crate) fn restart(&mut self) {
        self.index = Self::index(&self.truth);
        let ended = std::mem::replace(&mut *self.service.lock().expect("a registry"), Self::service(&self.index));
        ended.2.iter().for_each(AbortHandle::abort);
    }

    /// A proxy at the other end of `link`.
    pub(crate) fn proxy(&self, link: &Link) -> Proxy {
        let (link, service) = (link.clone(), Arc::clone(&self.service));
        let dial = move || {
            let (link, service) = (link.clone(), Arc::clone(&service));
            async move { link.dial(move |stream| accept(&service, stream)).await }
        };
        let id = spiffe::Id::new("cluster.local", "mesh-system", "destination").expect("an identity");
        let settings = mesh_proxy::control::Settings::new("simulated:1".to_owned(), id);
        let (discovery, task) = Discovery::over(dial, settings, Hello::default(), STAGE.metrics.discovery());
        let task = tokio::spawn(task).abort_handle();
        let backend = Arc::new(Backend::new("web", &STAGE.reach));
        let id = BackendId { namespace: "shop".into(), service: "web".into(), port: 80 };
        let endpoints = discovery.endpoints(&id);
        let heard = Arc::new(Mutex::new(0));
        let counting = Arc::clone(&heard);
        endpoints.follow(&backend, move |backend, set| {
            *counting.lock().expect("a proxy") += 1;
            backend.apply(set.clone());
        });
        Proxy { discovery, backend, endpoints, heard, task }
    }
}

fn accept(service: &Mutex<(Service, Admission, Vec<AbortHandle>)>, stream: DuplexStream) {
    let mut service = service.lock().expect("a registry");
    let place = service.1.admit(addr().ip()).expect("a place");
    let client = Client { id: STAGE.id.clone(), addr: addr() };
    let task = tokio::spawn(service.0.clone().serve(stream, client, place)).abort_handle();
    service.2.push(task);
}

fn workload(last: &u8) -> String {
    format!(
        "apiVersion: mesh.internal/v1alpha1\nkind: Workload\nmetadata: {{name: web-{last}, namespace: shop, labels: {{app: web}}}}\n\
         spec: {{addresses: [10.0.0.{last}], serviceAccount: web}}\n"
    )
}

fn apply(index: &mut Index, text: &str) {
    let manifest = manifest::parse(text);
    assert!(!manifest.is_broken(), "{:?}", manifest.findings);
    manifest.objects.into_iter().for_each(|declared| index.apply(declared.object));
}

/// A proxy's client and balancer.
pub(crate) struct Proxy {
    pub(crate) discovery: Discovery,
    pub(crate) backend: Arc<Backend>,
    endpoints: Subscription<EndpointSet>,
    heard: Arc<Mutex<u64>>,
    task: AbortHandle,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// What it believes; `None` before it was told anything.
    pub(crate) fn believes(&self) -> Option<Endpoints> {
        let set = self.endpoints.current()?;
        Some(set.list.iter().map(|endpoint| last_byte(endpoint.addr)).collect())
    }

    /// The endpoints that its balancer would use, of its own account.
    pub(crate) fn balances(&self) -> Endpoints {
        let state = serde_json::to_value(self.backend.state(Instant::now())).expect("a state");
        let all = state["endpoints"].as_array().expect("a list").iter();
        all.map(|endpoint| last_byte(endpoint["addr"].as_str().expect("an address").parse().expect("an address")))
            .collect()
    }

    /// How many sets came.
    pub(crate) fn heard(&self) -> u64 {
        *self.heard.lock().expect("a proxy")
    }

    /// Waits until it believes the truth, and returns how long that took.
    pub(crate) async fn until_right(&self, registry: &Registry, within: Duration) -> Duration {
        let begun = tokio::time::Instant::now();
        while self.believes().as_ref() != Some(&registry.truth) {
            assert!(
                begun.elapsed() < within,
                "after {within:?} {:?} for {:?}; {:?}",
                self.believes(),
                registry.truth,
                self.discovery.status()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.balances(), registry.truth, "what the balancer makes of it");
        begun.elapsed()
    }
}

pub(crate) fn last_byte(addr: SocketAddr) -> u8 {
    match addr.ip() {
        std::net::IpAddr::V4(ip) => ip.octets()[3],
        std::net::IpAddr::V6(ip) => panic!("{ip} is nobody's"),
    }
}

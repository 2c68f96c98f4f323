//! A model of the registry against what a sidecar knows: after any sequence of changes and faults they are the same.
//!
//! Invariant: a sequence is repeated by its seed. At each quiet point, when nothing changes any more and the stream is up,
//! each service has exactly its endpoints within 5 s: none is missing, none that was deleted is left.
//! Non-goal: traffic to these endpoints; most of them have no host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mesh_tests::client::tcp;
use mesh_tests::mesh::Mesh;
use mesh_tests::netns::{Filter, until};
use mesh_tests::yardstick::{Who, count, record};
use nix::sys::signal::Signal;

use super::{SOON, endpoints};

const SERVICES: usize = 5;
const WORKLOADS: u64 = 40;
const PORT: u16 = 8000;
/// From a quiet point until all is known.
const TRUE_WITHIN: Duration = Duration::from_secs(5);

/// A workload of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    service: usize,
    /// The last two bytes of its address.
    address: u16,
    meshed: bool,
}

/// What is true.
struct Truth {
    entries: BTreeMap<u64, Entry>,
    /// In how many files the workloads are: a file holds those whose number leaves its rest.
    files: u64,
    random: fastrand::Rng,
}

/// An address, and the identity of a sidecar.
type Known = BTreeSet<(String, Option<String>)>;

impl Entry {
    fn yaml(&self, number: u64) -> String {
        let [high, low] = self.address.to_be_bytes();
        let Self { service, meshed, .. } = self;
        format!(
            "---\napiVersion: mesh.internal/v1alpha1\nkind: Workload\nmetadata:\n  name: made-up-{number}\n  labels: {{app: \
             s{service}}}\nspec:\n  addresses: [\"10.99.{high}.{low}\"]\n  serviceAccount: s{service}\n  meshed: {meshed}\n"
        )
    }

    fn known(&self) -> (String, Option<String>) {
        let [high, low] = self.address.to_be_bytes();
        let id = format!("spiffe://cluster.local/ns/default/sa/s{}", self.service);
        (format!("10.99.{high}.{low}:{PORT}"), self.meshed.then_some(id))
    }
}

impl Truth {
    fn new(seed: u64) -> Self {
        Self { entries: BTreeMap::new(), files: 10, random: fastrand::Rng::with_seed(seed) }
    }

    /// Addresses that nobody has, also such as somebody had.
    fn free_address(&mut self) -> u16 {
        loop {
            let address = self.random.u16(1..100);
            if self.entries.values().all(|entry| entry.address != address) {
                return address;
            }
        }
    }

    fn changes(&mut self, mesh: &Mesh) {
        let number = self.random.u64(..WORKLOADS);
        let address = self.free_address();
        let (service, meshed) = (self.random.usize(..SERVICES), self.random.bool());
        match (self.entries.get_mut(&number), self.random.u8(..5)) {
            (None, _) => drop(self.entries.insert(number, Entry { service, address, meshed })),
            (Some(_), 0 | 1) => drop(self.entries.remove(&number)),
            (Some(entry), 2) => entry.service = service,
            (Some(entry), 3) => entry.address = address,
            (Some(entry), _) => entry.meshed = !entry.meshed,
        }
        self.write(mesh, number % self.files);
    }

    fn write(&self, mesh: &Mesh, file: u64) {
        let entries = self.entries.iter().filter(|(number, _)| *number % self.files == file);
        // A file without an object is one.
        let text: String = entries.map(|(number, entry)| entry.yaml(*number)).collect();
        mesh.manifests.write(&format!("made-up-{file}"), &text);
    }

    fn of(&self, service: usize) -> Known {
        self.entries.values().filter(|entry| entry.service == service).map(Entry::known).collect()
    }
}

fn known(mesh: &Mesh, service: SocketAddr) -> Known {
    let all = endpoints(mesh, "client", service);
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    all.iter().filter_map(|endpoint| Some((text(&endpoint["addr"])?, text(&endpoint["identity"])))).collect()
}

/// Something happens to somebody on the way; all is well again when this returns.
fn fault(mesh: &mut Mesh, truth: &mut Truth) -> &'static str {
    let (kind, changes) = (truth.random.u8(..6), truth.random.usize(1..20));
    let (control, client) = (mesh.control().host().clone(), mesh.get("client").host.clone());
    let mut meanwhile = |mesh: &Mesh| (0..changes).for_each(|_| truth.changes(mesh));
    match kind {
        0 => {
            mesh.control_mut().destination().kill();
            meanwhile(mesh);
            mesh.control_mut().destination().restart();
            mesh.control().until_both_ready();
            "destination killed"
        }
        1 => {
            mesh.control_mut().destination().signal(Signal::SIGSTOP);
            meanwhile(mesh);
            mesh.control_mut().destination().signal(Signal::SIGCONT);
            "destination suspended"
        }
        2 => {
            mesh.get_mut("client").proxy_mut().signal(Signal::SIGSTOP);
            meanwhile(mesh);
            mesh.get_mut("client").proxy_mut().signal(Signal::SIGCONT);
            "sidecar suspended"
        }
        3 => {
            let _apart = Filter::apart(&control, &client);
            meanwhile(mesh);
            std::thread::sleep(Duration::from_secs(1));
            "partition"
        }
        4 => {
            let _lossy = [Filter::lose(&control, 20), Filter::lose(&client, 20)];
            meanwhile(mesh);
            std::thread::sleep(Duration::from_secs(1));
            "loss"
        }
        _ => {
            // Half a file, which is whole later on; what was in it stays meanwhile.
            mesh.manifests.write("made-up-0", "---\napiVersion: mesh.internal/v1alpha1\nkind: Workl");
            meanwhile(mesh);
            truth.write(mesh, 0);
            "half a file"
        }
    }
}

#[test]
fn r50_what_a_sidecar_knows_is_what_the_registry_says_at_each_quiet_point() {
    let seed = 50;
    println!("seed {seed}");
    let mut truth = Truth::new(seed);
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    let services: Vec<_> = (0..SERVICES).map(|n| mesh.service(&format!("s{n}"), 80, PORT).add().v4).collect();
    (0..truth.files).for_each(|file| truth.write(&mesh, file));
    mesh.start();
    for service in &services {
        // Who dials it follows it.
        drop(mesh_tests::client::within(&mesh.get("client").host, tcp::connect(*service)));
    }
    let (begun, mut quiet_points, mut slowest) = (Instant::now(), 0_u32, Duration::ZERO);
    while begun.elapsed() < Duration::from_secs(count(20, 3600)) {
        (0..truth.random.usize(1..30)).for_each(|_| truth.changes(&mesh));
        let what = if truth.random.bool() { fault(&mut mesh, &mut truth) } else { "changes" };
        until(SOON, || mesh.get("client").metric("mesh_discovery_connected", &[]) > 0.0);
        let quiet = Instant::now();
        let differences = || -> Vec<_> {
            let all = services.iter().enumerate().map(|(n, addr)| (n, known(&mesh, *addr), truth.of(n)));
            all.filter(|(_, known, truth)| known != truth).collect()
        };
        while !differences().is_empty() {
            assert!(quiet.elapsed() <= TRUE_WITHIN, "seed {seed}, point {quiet_points}, {what}: {:#?}", differences());
        }
        slowest = slowest.max(quiet.elapsed());
        quiet_points += 1;
    }
    println!("{quiet_points} quiet points, the slowest was true after {slowest:?}");
    assert!(quiet_points >= 5, "only {quiet_points}");
    record(
        50,
        "registry against /state",
        Who::Mesh,
        true,
        &format!("{quiet_points} quiet points, 0 differences, {slowest:.1?}"),
    );
}

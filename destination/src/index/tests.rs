//! The index without a runtime: resources are applied, watches are looked at.

mod health;
mod policies;

use std::collections::BTreeSet;
use std::task::Waker;
use std::time::Duration;

use super::*;
use crate::manifest;
use crate::model::Protocol;

/// An index of the manifests, published.
fn index(manifests: &str) -> Index {
    let mut index = Index::new("cluster.local");
    index.reset(objects(manifests));
    index.publish(Instant::now());
    index
}

fn objects(manifests: &str) -> Vec<Object> {
    let manifest = manifest::parse(manifests);
    assert!(!manifest.is_broken() && manifest.rejected.is_empty(), "{:?}", manifest.findings);
    manifest.objects.into_iter().map(|d| d.object).collect()
}

fn apply(index: &mut Index, manifests: &str) -> usize {
    objects(manifests).into_iter().for_each(|o| index.apply(o));
    index.publish(Instant::now())
}

fn delete(index: &mut Index, kind: Kind, name: &str) -> usize {
    let name = Name::new("shop", name);
    index.delete(&Key { kind, name });
    index.publish(Instant::now())
}

fn watch(index: &mut Index, resource: Resource) -> Watch {
    index.watch(resource, &Arc::default(), 1)
}

fn outbound(addr: &str) -> Resource {
    Resource::Outbound(Dialed { addr: addr.parse().unwrap(), namespace: "shop".into() })
}

fn backend(service: &str, port: u16) -> Resource {
    let service = Name::new("shop", service);
    Resource::Endpoints(Backend { service, port })
}

fn inbound(address: &str, service_account: &str) -> Resource {
    let id = mesh_mtls::spiffe::Id::new("cluster.local", "shop", service_account).unwrap();
    let addresses = [address.parse().unwrap()].into();
    Resource::Inbound(Arc::new(Proxy { addresses, id }))
}

/// What a watch shows, in few words.
fn shown(watch: &Watch) -> String {
    match &watch.latest().state {
        State::Outbound(Target::Unknown) => "unknown".to_owned(),
        State::Outbound(Target::Service { backend, protocol, .. }) => {
            format!("service {}:{} {protocol:?}", backend.service, backend.port)
        }
        State::Outbound(Target::Workload { endpoint, protocol }) => {
            format!("workload {} {protocol:?}", shown_endpoint(endpoint))
        }
        State::Endpoints(endpoints) => {
            let shown: Vec<_> = endpoints.list.iter().map(shown_endpoint).collect();
            shown.join(", ")
        }
        State::Inbound(inbound) => {
            let declared = inbound.ports.iter().filter(|(port, p)| Protocol::default_for(**port) != p.protocol);
            let shown: Vec<_> = declared.map(|(port, p)| format!("{port} {:?}", p.protocol)).collect();
            shown.join(", ")
        }
    }
}

fn shown_endpoint(endpoint: &Endpoint) -> String {
    let identity = endpoint.identity.as_ref();
    let identity = identity.map_or("plain", |id| id.service_account());
    format!("{} {identity}", endpoint.address)
}

const WEB: &str = "\
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {
  clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00::1'], selector: {app: web}, ports: [
    {name: http, port: 80, targetPort: 8080, appProtocol: http}, {name: admin, port: 81, targetPort: admin}]}}
";

fn workload(name: &str, addresses: &str, rest: &str) -> String {
    format!(
        "---\n{{apiVersion: mesh.internal/v1alpha1, kind: Workload, metadata: {{name: {name}, namespace: shop, labels: {{app: web}}}},
         spec: {{addresses: [{addresses}]{rest}}}}}\n"
    )
}

fn slice(name: &str, service: &str, endpoints: &str) -> String {
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
         metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}},
         ports: [{{name: http, port: 8080}}], endpoints: [{endpoints}]}}\n"
    )
}

#[test]
fn a_services_address_and_port_lead_to_its_backend() {
    let mut index = index(WEB);
    for (addr, target) in [
        ("10.96.0.1:80", "service shop/web:80 Http1"),
        ("[fd00::1]:80", "service shop/web:80 Http1"),
        ("10.96.0.1:81", "service shop/web:81 Detect"),
        ("10.96.0.1:82", "unknown"),
        ("10.96.0.2:80", "unknown"),
    ] {
        assert_eq!(shown(&watch(&mut index, outbound(addr))), target, "{addr}");
    }
}

#[test]
fn server_first_ports_of_a_service_are_opaque_unless_declared() {
    let mut index = index(
        "{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: 10.96.0.3, ports: [
         {name: a, port: 5432}, {name: b, port: 1, targetPort: 3306}, {name: c, port: 6379, appProtocol: http},
         {name: d, port: 25, appProtocol: mesh.internal/detect}, {name: e, port: 587, appProtocol: smtp}]}}",
    );
    for (port, protocol) in [(5432, "Opaque"), (1, "Opaque"), (6379, "Http1"), (25, "Detect"), (587, "Opaque")] {
        let watch = watch(&mut index, outbound(&format!("10.96.0.3:{port}")));
        assert_eq!(shown(&watch), format!("service shop/db:{port} {protocol}"));
    }
}

#[test]
fn a_workloads_own_address_leads_to_exactly_that_endpoint() {
    let meshed = workload("web-1", "10.1.0.1", ", serviceAccount: web, ports: [{port: 9000, appProtocol: grpc}]");
    let plain = workload("web-2", "10.1.0.2", ", meshed: false");
    let mut index = index(&format!("{WEB}{meshed}{plain}"));
    for (addr, target) in [
        ("10.1.0.1:9000", "workload 10.1.0.1:9000 web Grpc"),
        ("10.1.0.1:8080", "workload 10.1.0.1:8080 web Http1"), // the Service declares it
        ("10.1.0.1:3306", "workload 10.1.0.1:3306 web Opaque"),
        ("10.1.0.1:7", "workload 10.1.0.1:7 web Detect"),
        ("10.1.0.2:7", "workload 10.1.0.2:7 plain Detect"),
        ("10.1.0.1:4143", "unknown"),
        ("10.1.0.1:4191", "unknown"),
        ("10.1.0.3:7", "unknown"),
    ] {
        assert_eq!(shown(&watch(&mut index, outbound(addr))), target, "{addr}");
    }
}

#[test]
fn a_selector_finds_workloads_by_label_namespace_and_target_port() {
    let a = workload("a", "10.1.0.1", ", serviceAccount: web, ports: [{name: admin, port: 9000}]");
    let b = workload("b", "10.1.0.2, 10.1.0.3, 'fd00::b'", ", meshed: false");
    let elsewhere = workload("c", "10.1.0.4", "").replace("namespace: shop", "namespace: other");
    let other = workload("d", "10.1.0.5", "").replace("app: web", "app: db");
    let mut index = index(&format!("{WEB}{a}{b}{elsewhere}{other}"));
    let http = watch(&mut index, backend("web", 80));
    assert_eq!(shown(&http), "10.1.0.1:8080 web, 10.1.0.2:8080 plain, [fd00::b]:8080 plain");
    assert_eq!(shown(&watch(&mut index, backend("web", 81))), "10.1.0.1:9000 web");
    assert_eq!(shown(&watch(&mut index, backend("web", 82))), "");
    assert_eq!(shown(&watch(&mut index, backend("nobody", 80))), "");
}

#[test]
fn slices_are_merged_and_get_the_identity_of_the_workload_at_an_address() {
    let one = slice("web-x", "web", "{addresses: [10.1.0.1]}, {addresses: [10.1.0.2], conditions: {ready: false}}");
    let two = slice("web-y", "web", "{addresses: [10.1.0.1]}, {addresses: [10.1.0.9]}");
    let unready = workload("b", "10.1.0.2", "");
    let mut index = index(&format!("{WEB}{one}{two}{unready}"));
    let http = watch(&mut index, backend("web", 80));
    // The selector does not bring back what a slice calls unready.
    assert_eq!(shown(&http), "10.1.0.1:8080 plain, 10.1.0.9:8080 plain");
    assert_eq!(apply(&mut index, &workload("a", "10.1.0.9", ", serviceAccount: web")), 1);
    assert_eq!(shown(&http), "10.1.0.1:8080 plain, 10.1.0.9:8080 web");
    assert_eq!(delete(&mut index, Kind::EndpointSlice, "web-x"), 1);
    assert_eq!(shown(&http), "10.1.0.1:8080 plain, 10.1.0.2:8080 default, 10.1.0.9:8080 web");
}

#[test]
fn a_change_reaches_what_depends_on_it_and_nothing_else() {
    let mut index = index(&format!("{WEB}{}", workload("a", "10.1.0.1", "")));
    let endpoints = watch(&mut index, backend("web", 80));
    let service = watch(&mut index, outbound("10.96.0.1:80"));
    let direct = watch(&mut index, outbound("10.1.0.1:8080"));
    let versions = || [&endpoints, &service, &direct].map(|watch| watch.latest().version);
    let before = versions();
    assert_eq!(apply(&mut index, &workload("b", "10.1.0.2", "")), 1);
    assert!(versions()[0] > before[0] && versions()[1..] == before[1..]);
    assert_eq!(delete(&mut index, Kind::Workload, "a"), 2);
    assert_eq!(shown(&direct), "unknown");
    assert_eq!(delete(&mut index, Kind::Service, "web"), 2);
    assert_eq!((shown(&service), shown(&endpoints)), ("unknown".to_owned(), String::new()));
    assert_eq!(apply(&mut index, WEB), 2);
    assert_eq!(shown(&endpoints), "10.1.0.2:8080 default");
}

#[test]
fn the_same_again_changes_no_version() {
    let manifests = format!("{WEB}{}", workload("a", "10.1.0.1", ""));
    let mut index = index(&manifests);
    let endpoints = watch(&mut index, backend("web", 80));
    let version = endpoints.latest().version;
    assert_eq!(apply(&mut index, &manifests), 0);
    // There and back again, before anybody was told.
    objects(&workload("b", "10.1.0.2", "")).into_iter().for_each(|o| index.apply(o));
    assert_eq!(delete(&mut index, Kind::Workload, "b"), 0);
    assert_eq!(endpoints.latest().version, version);
    assert_eq!(endpoints.latest().changed_at, None);
}

#[test]
fn labels_that_change_move_a_workload() {
    let mut index = index(&format!("{WEB}{}", workload("a", "10.1.0.1", "")));
    let endpoints = watch(&mut index, backend("web", 80));
    apply(&mut index, &workload("a", "10.1.0.1", "").replace("app: web", "app: db"));
    assert_eq!(shown(&endpoints), "");
    apply(&mut index, &WEB.replace("app: web", "app: db"));
    assert_eq!(shown(&endpoints), "10.1.0.1:8080 default");
}

#[test]
fn a_reset_leaves_nothing_of_before() {
    let mut index = index(&format!("{WEB}{}", workload("a", "10.1.0.1", "")));
    let endpoints = watch(&mut index, backend("web", 80));
    index.reset(objects(&format!("{WEB}{}", workload("b", "10.1.0.2", ""))));
    assert_eq!(shown(&endpoints), "10.1.0.1:8080 default"); // readers see nothing half done
    assert_eq!(index.publish(Instant::now()), 1);
    assert_eq!(shown(&endpoints), "10.1.0.2:8080 default");
    index.reset([]);
    index.publish(Instant::now());
    assert_eq!(Kind::ALL.map(|kind| index.count(kind)), [0; Kind::ALL.len()]);
}

#[test]
fn inbound_is_given_to_whom_address_and_identity_agree_on() {
    let a = workload("a", "10.1.0.1", ", serviceAccount: web, ports: [{port: 9000, appProtocol: grpc}]");
    let mut index = index(&format!("{WEB}{a}"));
    let own = watch(&mut index, inbound("10.1.0.1", "web"));
    assert_eq!(shown(&own), "8080 Http1, 9000 Grpc");
    for (address, account) in [("10.1.0.1", "thief"), ("10.1.0.2", "web")] {
        let other = watch(&mut index, inbound(address, account));
        assert_eq!(shown(&other), "", "{address} {account}");
        let State::Inbound(inbound) = &other.latest().state else { panic!() };
        assert_eq!(inbound.ports.len(), 8); // what is usual, for everybody
    }
    apply(&mut index, &WEB.replace("appProtocol: http", "appProtocol: grpc"));
    assert_eq!(shown(&own), "8080 Grpc, 9000 Grpc");
    delete(&mut index, Kind::Service, "web");
    assert_eq!(shown(&own), "9000 Grpc");
}

#[test]
fn a_workloads_own_word_on_a_port_stands_above_a_services() {
    let a = workload("a", "10.1.0.1", ", ports: [{port: 8080, appProtocol: tcp}]");
    let mut index = index(&format!("{WEB}{a}"));
    let own = watch(&mut index, inbound("10.1.0.1", "default"));
    assert_eq!(shown(&own), "8080 Opaque");
}

#[test]
fn slices_carry_a_services_protocol_to_inbound() {
    let service = WEB.replace("selector: {app: web},", "");
    let a = workload("a", "10.1.0.1", "");
    let slice = slice("x", "web", "{addresses: [10.1.0.1]}");
    let mut index = index(&format!("{service}{a}"));
    let own = watch(&mut index, inbound("10.1.0.1", "default"));
    assert_eq!(shown(&own), "");
    assert_eq!(apply(&mut index, &slice), 1);
    assert_eq!(shown(&own), "8080 Http1");
}

#[test]
fn of_two_claims_to_an_address_the_first_by_name_counts_whatever_came_first() {
    let (a, b) = (workload("a", "10.1.0.1", ", serviceAccount: a"), workload("b", "10.1.0.1", ", serviceAccount: b"));
    for manifests in [format!("{a}{b}"), format!("{b}{a}")] {
        let mut index = index(&manifests);
        let direct = watch(&mut index, outbound("10.1.0.1:80"));
        assert_eq!(shown(&direct), "workload 10.1.0.1:80 a Detect");
        delete(&mut index, Kind::Workload, "a");
        assert_eq!(shown(&direct), "workload 10.1.0.1:80 b Detect");
    }
}

#[test]
fn a_meshed_workload_without_a_possible_identity_is_offered_to_nobody() {
    let mut index = Index::new("not a trust domain");
    apply(&mut index, &format!("{WEB}{}", workload("a", "10.1.0.1", "")));
    assert_eq!(shown(&watch(&mut index, backend("web", 80))), "");
    assert_eq!(shown(&watch(&mut index, outbound("10.1.0.1:80"))), "unknown");
}

#[test]
fn many_changes_leave_one_mark() {
    let mut index = index(WEB);
    let marks = Arc::new(Marks::default());
    let _endpoints = index.watch(backend("web", 80), &marks, 7);
    let _other = index.watch(backend("other", 80), &marks, 8);
    assert!(marks.take(Waker::noop()).ids.is_empty());
    for n in 1..=100 {
        assert_eq!(apply(&mut index, &workload("a", &format!("10.1.0.{n}"), "")), 1);
    }
    assert_eq!(marks.take(Waker::noop()), Marked { ids: BTreeSet::from([7]), repeated: 99 });
    assert!(marks.take(Waker::noop()).ids.is_empty());
}

#[test]
fn a_dropped_watch_leaves_nothing() {
    let mut index = index(WEB);
    let marks = Arc::new(Marks::default());
    let first = index.watch(backend("web", 80), &marks, 1);
    let second = index.watch(backend("web", 80), &marks, 2);
    drop(first);
    apply(&mut index, &workload("a", "10.1.0.1", ""));
    assert_eq!(marks.take(Waker::noop()).ids, BTreeSet::from([2]));
    drop(second);
    assert_eq!(index.watched(), 1);
    apply(&mut index, &workload("a", "10.1.0.2", ""));
    assert_eq!(index.watched(), 0);
    for port in 1..=10_000 {
        drop(watch(&mut index, backend("web", port)));
    }
    assert!(index.watched() <= SWEEP_EVERY, "{}", index.watched());
}

/// Applies and deletes the manifests of `parts` in an order that `seed` decides: what watches of `resources` show is at each
/// step what a fresh index of the same manifests shows.
fn assert_order_is_nothing(parts: &[String], resources: &[Resource], shown: fn(&Watch) -> String, mut seed: u64) {
    let truth = |there: &[bool]| {
        let now: String = parts.iter().zip(there).filter(|(_, there)| **there).map(|(part, _)| part.as_str()).collect();
        let mut index = index(&now);
        resources.iter().map(|it| shown(&watch(&mut index, it.clone()))).collect::<Vec<_>>()
    };
    // A little generator of our own: the same sequence on each run.
    let mut next = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(seed >> 33).unwrap() % below
    };
    let mut index = index("");
    let watches: Vec<_> = resources.iter().map(|it| watch(&mut index, it.clone())).collect();
    let mut there = vec![false; parts.len()];
    for step in 0..500 {
        let part = next(parts.len());
        there[part] = !there[part];
        for object in objects(&parts[part]) {
            if there[part] {
                index.apply(object);
            } else {
                index.delete(&object.key());
            }
        }
        if next(3) == 0 {
            continue; // several changes in one publication
        }
        index.publish(Instant::now());
        assert_eq!(watches.iter().map(shown).collect::<Vec<_>>(), truth(&there), "step {step}");
    }
}

#[test]
fn whatever_the_order_of_events_the_end_is_the_same() {
    let parts = [
        WEB.to_owned(),
        workload("a", "10.1.0.1", ", serviceAccount: a"),
        workload("b", "10.1.0.2", ", meshed: false"),
        workload("c", "10.1.0.1", ""),
        slice("x", "web", "{addresses: [10.1.0.1, 10.1.0.7]}"),
        slice("y", "web", "{addresses: [10.1.0.2], conditions: {ready: false}}"),
    ];
    let [service, meshed, plain] = ["10.96.0.1:80", "10.1.0.1:8080", "10.1.0.2:8080"].map(outbound);
    assert_order_is_nothing(&parts, &[service, meshed, plain, backend("web", 80), inbound("10.1.0.1", "a")], shown, 7);
}

//! Manifests as people write them, right and wrong: what is read, and where findings point.

mod policies;

use super::*;
use crate::model::{EndpointSlice, Mesh, Name, Protocol, Readiness, Service, TargetPort, Workload};

/// The findings, one a line.
fn shown(manifest: &Manifest) -> Vec<String> {
    manifest.findings.iter().map(ToString::to_string).collect()
}

fn only(text: &str) -> Object {
    let manifest = parse(text);
    assert!(manifest.findings.is_empty(), "{:?}", shown(&manifest));
    let [declared] = <[Declared; 1]>::try_from(manifest.objects).unwrap();
    declared.object
}

fn service(text: &str) -> Service {
    match only(text) {
        Object::Service(service) => service,
        other => panic!("{other:?}"),
    }
}

fn slice(text: &str) -> EndpointSlice {
    match only(text) {
        Object::EndpointSlice(slice) => slice,
        other => panic!("{other:?}"),
    }
}

fn workload(text: &str) -> Workload {
    match only(text) {
        Object::Workload(workload) => workload,
        other => panic!("{other:?}"),
    }
}

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  creationTimestamp: null
spec:
  type: ClusterIP
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, \"fd00::1\"]
  ports:
  - {name: http, port: 80, targetPort: 8080, appProtocol: http}
  - {name: admin, port: 81, targetPort: admin}
  - {name: dns, port: 53, protocol: UDP}
  - {name: plain, port: 82}
  selector: {app: web}
status: {}
";

const WORKLOAD: &str = "\
apiVersion: mesh.internal/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec:
  addresses: [10.1.0.1, 'fd00::a']
  serviceAccount: web
  zone: a
  ports:
  - {name: http, port: 8080, appProtocol: kubernetes.io/h2c}
";

#[test]
fn a_service_as_kubectl_prints_it_is_read() {
    let service = service(SERVICE);
    assert_eq!(service.name, Name::new("shop", "web"));
    let addresses: Vec<_> = service.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.96.0.1", "fd00::1"]);
    let [http, admin, plain] = &service.ports[..] else {
        panic!("{:?}", service.ports);
    };
    assert_eq!(http.target, TargetPort::Number(8080.try_into().unwrap()));
    assert_eq!(http.protocol, Some(Protocol::Http1));
    assert_eq!(admin.target, TargetPort::Name("admin".to_owned()));
    assert_eq!(plain.target, TargetPort::Number(82.try_into().unwrap()));
    assert_eq!(plain.protocol, None);
    assert_eq!(service.selector["app"], "web");
}

#[test]
fn a_headless_service_has_no_address_and_the_default_namespace() {
    let service =
        service("apiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec: {clusterIP: None, ports: [{port: 1}]}");
    assert!(service.addresses.is_empty());
    assert_eq!(service.name, Name::new("default", "db"));
}

#[test]
fn an_endpoint_without_conditions_is_ready() {
    let slice = slice(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {name: web-x, namespace: shop, labels: {kubernetes.io/service-name: web}}\n\
         ports: [{name: http, port: 8080, protocol: TCP}]\n\
         endpoints:\n- addresses: [10.1.0.1]\n- {addresses: [10.1.0.2], conditions: {ready: false}, zone: b}\n",
    );
    assert_eq!(slice.service.as_deref(), Some("web"));
    assert_eq!(slice.endpoints[0].readiness, Readiness::Ready);
    assert_eq!(slice.endpoints[1].readiness, Readiness::NotReady);
    assert_eq!(slice.endpoints[1].zone, "b");
}

#[test]
fn a_workload_is_meshed_as_service_account_default_unless_it_says_otherwise() {
    let full = workload(WORKLOAD);
    let web = "web".to_owned();
    assert_eq!(full.mesh, Mesh::Meshed { service_account: web });
    assert_eq!(full.ports[0].protocol, Some(Protocol::Http2));
    let head = "apiVersion: mesh.internal/v1alpha1\nkind: Workload\nmetadata: {name: a}\n";
    let bare = workload(&format!("{head}spec: {{addresses: [10.0.0.1]}}"));
    let default = "default".to_owned();
    assert_eq!(bare.mesh, Mesh::Meshed { service_account: default });
    let plain = workload(&format!("{head}spec: {{addresses: [10.0.0.1], meshed: false}}"));
    assert_eq!(plain.mesh, Mesh::Plain);
}

#[test]
fn documents_lists_and_lists_of_a_kind_yield_all_their_objects() {
    let text = format!("---\n{SERVICE}---\n# nothing\n---\n{WORKLOAD}...\n");
    assert_eq!(parse(&text).objects.len(), 2);
    let workload = |name| format!("{{metadata: {{name: {name}}}, spec: {{addresses: [10.0.0.1]}}}}");
    let text = format!(
        "apiVersion: mesh.internal/v1alpha1\nkind: WorkloadList\nmetadata: {{resourceVersion: ''}}\nitems:\n- {}\n- {}\n",
        workload("a"),
        workload("b")
    );
    let manifest = parse(&text);
    assert_eq!(manifest.objects.len(), 2, "{:?}", shown(&manifest));
    assert_eq!((manifest.objects[1].line, manifest.objects[1].column), (6, 3));
    let json = r#"{"apiVersion": "v1", "kind": "List", "items": [
	{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}]}"#;
    let manifest = parse(json);
    assert_eq!(manifest.objects.len(), 1, "{:?}", shown(&manifest));
}

#[test]
fn a_kind_of_others_is_reported_and_skipped() {
    let manifest = parse(&format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: a}}\n---\n{SERVICE}"));
    assert_eq!(shown(&manifest), ["1:1: warning: kind: Deployment of apps/v1 is not used by the mesh, skipped"]);
    assert_eq!(manifest.objects.len(), 1);
    assert!(!manifest.is_broken());
    let near =
        parse("apiVersion: mesh.internal/v1\nkind: Workload\n---\napiVersion: mesh.internal/v1alpha1\nkind: Worklod\n");
    assert_eq!(
        shown(&near),
        [
            "1:1: warning: kind: Workload of mesh.internal/v1 is not used by the mesh, skipped; the mesh reads apiVersion mesh.internal/v1alpha1",
            "4:1: warning: kind: Worklod of mesh.internal/v1alpha1 is not used by the mesh, skipped; did you mean Workload?",
        ]
    );
}

#[test]
fn an_error_names_line_column_and_field() {
    let broken = SERVICE.replace("port: 81", "port: 70000").replace("name: web", "name: Web");
    let manifest = parse(&broken);
    assert_eq!(
        shown(&manifest),
        [
            "4:9: error: metadata.name: \"Web\" is no name: lower case letters, digits and hyphens, at most 63 in a part",
            "13:25: error: spec.ports[1].port: port 70000 is not within 1 to 65535",
        ]
    );
    assert!(manifest.objects.is_empty() && manifest.is_broken());
}

#[test]
fn an_unknown_field_of_ours_is_an_error_with_a_suggestion() {
    let manifest = parse(&WORKLOAD.replace("serviceAccount", "serviceAcount"));
    assert_eq!(shown(&manifest), ["6:3: error: spec.serviceAcount: unknown field; did you mean serviceAccount?"]);
    assert!(manifest.objects.is_empty());
}

#[test]
fn an_unknown_field_of_kubernetes_is_a_warning() {
    let manifest = parse(&SERVICE.replace("selector:", "selectors:"));
    assert_eq!(shown(&manifest), ["16:3: warning: spec.selectors: unknown field; did you mean selector?"]);
    assert_eq!(manifest.objects.len(), 1);
}

#[test]
fn broken_yaml_is_one_error_with_its_place() {
    for (text, line) in [
        ("kind: [Service", 1),
        ("a: b\n  c: d\n", 2),
        ("a: 1\nb: 2\na: 3\n", 3),
        ("apiVersion: v1\nkind: \"Service\nmetadata:\n", 2),
        ("a: *unknown\n", 1),
    ] {
        let manifest = parse(text);
        let [finding] = &manifest.findings[..] else {
            panic!("{text}: {:?}", shown(&manifest));
        };
        assert!(finding.line >= line, "{text}: {finding}");
        assert_eq!(finding.severity, Severity::Error);
        assert!(!finding.message.is_empty() && !finding.message.contains('\n'), "{finding}");
    }
}

#[test]
fn documents_that_are_no_mapping_or_lack_a_kind_are_errors() {
    assert_eq!(shown(&parse("- a\n")), ["1:1: error: expected a mapping, found a list"]);
    assert_eq!(shown(&parse("kind: Service\n")), ["1:1: error: apiVersion: missing"]);
    assert_eq!(shown(&parse("apiVersion: v1\n")), ["1:1: error: kind: missing"]);
    assert_eq!(
        shown(&parse("apiVersion: v1\nkind: Service\n")),
        ["1:1: error: metadata: missing", "1:1: error: spec: missing"]
    );
}

#[test]
fn values_of_the_wrong_shape_are_told_what_they_should_be() {
    let manifest =
        parse(&WORKLOAD.replace("app: web", "app: 1").replace("[10.1.0.1, 'fd00::a']", "[10.1.0.256, 0.0.0.0, 1]"));
    assert_eq!(
        shown(&manifest),
        [
            "3:56: error: metadata.labels[app]: expected a string (quote it), found a number",
            "5:15: error: spec.addresses[0]: 10.1.0.256 is no IP address",
            "5:27: error: spec.addresses[1]: 0.0.0.0 is not the address of one host",
            "5:36: error: spec.addresses[2]: expected a string (quote it), found a number",
        ]
    );
}

#[test]
fn ports_that_are_there_twice_are_errors() {
    let manifest = parse(&SERVICE.replace("port: 81", "port: 80"));
    assert_eq!(shown(&manifest), ["13:5: error: spec.ports[1]: port 80 is there twice"]);
}

#[test]
fn a_bomb_of_aliases_is_refused_at_once() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let alias = format!("*a{}, ", level - 1).repeat(10);
        text.push_str(&format!("a{level}: &a{level} [{alias}]\n"));
    }
    let manifest = parse(&text);
    assert!(manifest.is_broken(), "{:?}", shown(&manifest));
}

#[test]
fn depth_and_length_have_an_end() {
    for text in [
        "[".repeat(100_000),
        "- ".repeat(100_000),
        "{a: ".repeat(100_000),
        "#".repeat(MAX_BYTES + 1),
        "---\na: b\n".repeat(20_000),
    ] {
        let manifest = parse(&text);
        assert!(manifest.is_broken());
        assert!(manifest.findings.len() <= finding::MAX_FINDINGS);
    }
}

#[test]
fn no_cut_of_a_good_manifest_makes_a_panic() {
    let text = format!("{SERVICE}---\n{WORKLOAD}");
    for end in 0..text.len() {
        parse(&text[..end]);
    }
}

#[test]
fn an_endpoint_that_proxies_would_refuse_is_an_error() {
    for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"] {
        let workload = format!(
            "{{apiVersion: mesh.internal/v1alpha1, kind: Workload, metadata: {{name: a}}, spec: {{addresses: ['{address}']}}}}"
        );
        assert!(parse(&workload).is_broken(), "{address}");
    }
}

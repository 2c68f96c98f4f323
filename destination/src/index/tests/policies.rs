//! Which policy counts for what, what is told of it, and what becomes of the others.

use super::*;
use crate::model::policy::Timeouts;

const SERVICES: &str = "\
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {
  clusterIP: 10.96.0.1, selector: {app: web}, ports: [
    {name: http, port: 80, targetPort: 8080, appProtocol: http}, {name: admin, port: 81, targetPort: 9000}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: api, namespace: shop}, spec: {
  clusterIP: 10.96.0.2, ports: [{port: 80}]}}
";

fn policy(name: &str, created: &str, targets: &str, spec: &str) -> String {
    let created = if created.is_empty() { String::new() } else { format!(", creationTimestamp: '{created}'") };
    format!(
        "---\n{{apiVersion: mesh.internal/v1alpha1, kind: TrafficPolicy, metadata: {{name: {name}, namespace: shop{created}}},
         spec: {{targetRefs: [{targets}], {spec}}}}}\n"
    )
}

fn route(name: &str, rule: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: {name}, namespace: shop}},
         spec: {{parentRefs: [{{group: '', kind: Service, name: web, port: 80}}], rules: [{{{rule}, backendRefs: [{{name: api, port: 80}}]}}]}}}}\n"
    )
}

const WEB: &str = "{kind: Service, name: web}";
const HTTP: &str = "{kind: Service, name: web, sectionName: http}";

/// Of a Service's requests: which policies count, and the request timeout in seconds.
fn told(index: &mut Index, addr: &str) -> String {
    let watch = watch(index, outbound(addr));
    let State::Outbound(Target::Service { policy, .. }) = &watch.latest().state else { panic!() };
    shown_policy(policy.as_deref())
}

fn shown_policy(policy: Option<&RequestPolicy>) -> String {
    let Some(policy) = policy else { return "none".to_owned() };
    let Timeouts { request, backend, .. } = policy.timeouts;
    let attempts = policy.retries.as_ref().map_or(0, |retries| retries.attempts);
    let seconds = |time: Option<Duration>| time.map_or("-".to_owned(), |time| time.as_secs().to_string());
    format!("{} request {} backend {} attempts {attempts}", policy.name, seconds(request), seconds(backend))
}

#[test]
fn the_most_specific_target_wins_field_by_field_and_fields_count_as_a_whole() {
    let whole =
        policy("whole", "", WEB, "timeouts: {request: 9s, backendRequest: 8s}, retries: {on: [5xx], attempts: 4}");
    let port = policy("port", "", HTTP, "timeouts: {request: 7s}");
    let mut index = index(&format!("{SERVICES}{whole}{port}"));
    assert_eq!(told(&mut index, "10.96.0.1:80"), "shop/port,shop/whole request 7 backend - attempts 4");
    assert_eq!(told(&mut index, "10.96.0.1:81"), "shop/whole request 9 backend 8 attempts 4");
    assert_eq!(told(&mut index, "10.96.0.2:80"), "none");
    delete(&mut index, Kind::TrafficPolicy, "port");
    assert_eq!(told(&mut index, "10.96.0.1:80"), "shop/whole request 9 backend 8 attempts 4");
}

#[test]
fn a_rule_stands_over_its_route_over_the_port_and_its_own_words_over_all() {
    let whole =
        policy("whole", "", WEB, "timeouts: {request: 9s}, retries: {on: [5xx], attempts: 4, perTryTimeout: 6s}");
    let of_route = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}";
    let of_rule = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: one}";
    let all = format!(
        "{SERVICES}{whole}{}{}{}",
        policy("route", "", of_route, "retries: {on: [reset], attempts: 2}"),
        policy("rule", "", of_rule, "timeouts: {request: 3s}"),
        route("r", "name: one, timeouts: {backendRequest: 1s}"),
    );
    let rule = |index: &mut Index| {
        let watch = watch(index, outbound("10.96.0.1:80"));
        let State::Outbound(Target::Service { routes: Some(routes), .. }) = &watch.latest().state else { panic!() };
        shown_policy(routes.rules[0].policy.as_deref())
    };
    let mut index = index(&all);
    assert_eq!(rule(&mut index), "shop/rule,shop/route request 3 backend 1 attempts 2");
    apply(&mut index, &route("r", "name: one, timeouts: {request: 0s}, retry: {codes: [503], attempts: 7}"));
    assert_eq!(rule(&mut index), "shop/rule request 0 backend - attempts 7");
    apply(&mut index, &route("r", "name: two"));
    assert_eq!(rule(&mut index), "shop/whole,shop/route request 9 backend - attempts 2");
    delete(&mut index, Kind::TrafficPolicy, "route");
    assert_eq!(rule(&mut index), "shop/whole request 9 backend 6 attempts 4");
}

#[test]
fn of_two_on_one_target_the_oldest_counts_whatever_came_first() {
    let old = policy("z-old", "2026-01-01T00:00:00Z", WEB, "timeouts: {request: 1s}");
    let new = policy("a-new", "2026-02-01T00:00:00Z", WEB, "timeouts: {request: 2s}, limits: {requests: 5}");
    let undated = policy("a-undated", "", WEB, "timeouts: {request: 3s}");
    for parts in [[&old, &new, &undated], [&undated, &new, &old], [&new, &old, &undated]] {
        let mut index = index(&format!("{SERVICES}{}{}{}", parts[0], parts[1], parts[2]));
        assert_eq!(told(&mut index, "10.96.0.1:80"), "shop/z-old request 1 backend - attempts 0");
        let troubles = troubles(&index);
        let conflicted = |name: &str| {
            format!(
                "TrafficPolicy shop/{name}: Accepted Conflicted: TrafficPolicy shop/z-old is older and for the same target, \
                 Service shop/web"
            )
        };
        assert_eq!(troubles, [conflicted("a-new"), conflicted("a-undated")]);
        delete(&mut index, Kind::TrafficPolicy, "z-old");
        assert_eq!(told(&mut index, "10.96.0.1:80"), "shop/a-new request 2 backend - attempts 0");
    }
}

/// All conditions that are not met.
fn troubles(index: &Index) -> Vec<String> {
    let statuses = index.statuses().into_iter();
    let shown = |status: Status| {
        let key = status.key.clone();
        let troubles: Vec<_> = status.troubles().cloned().collect();
        troubles.into_iter().map(move |c| format!("{key}: {} {}: {}", c.about.as_str(), c.reason.as_str(), c.message))
    };
    statuses.flat_map(shown).collect()
}

#[test]
fn a_port_by_its_name_and_by_its_number_is_the_same_target() {
    let one = policy("a", "", HTTP, "timeouts: {request: 1s}");
    let two = policy("b", "", "{name: web, port: 80}", "timeouts: {request: 2s}");
    let other = policy("c", "", "{name: web, port: 81}", "timeouts: {request: 3s}");
    let index = index(&format!("{SERVICES}{one}{two}{other}"));
    assert_eq!(
        troubles(&index),
        [
            "TrafficPolicy shop/b: Accepted Conflicted: TrafficPolicy shop/a is older and for the same target, Service shop/web 80"
        ]
    );
}

#[test]
fn what_does_not_exist_is_told_of_routes_and_policies() {
    let of_route = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: three}";
    let manifests = format!(
        "{SERVICES}{}{}{}",
        policy("a", "", "{name: nobody}, {name: web, sectionName: grpc}, {name: web}", "limits: {requests: 5}"),
        policy(
            "b",
            "",
            &format!("{of_route}, {{group: gateway.networking.k8s.io, kind: GRPCRoute, name: r}}"),
            "timeouts: {}"
        ),
        policy("c", "", "{name: api}", "failover: [{name: web, port: 82}, {name: web, port: 80}]"),
    );
    let route = "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: shop}, spec: {
        parentRefs: [{group: '', kind: Service, name: web, port: 99}], rules: [{backendRefs: [{name: gone, port: 1}, {kind: Bucket, name: b}],
        filters: [{type: RequestMirror, requestMirror: {backendRef: {name: api, port: 81}}}]}]}}";
    let mut index = index(&format!("{manifests}{route}"));
    assert_eq!(
        troubles(&index),
        [
            "HTTPRoute shop/r: Accepted NoMatchingParent: Service shop/web has no such port to attach to",
            "HTTPRoute shop/r: ResolvedRefs BackendNotFound: there is no Service shop/gone: requests for that backend are answered with 500",
            "HTTPRoute shop/r: ResolvedRefs InvalidKind: Bucket is no kind of backend: requests for that backend are answered with 500",
            "HTTPRoute shop/r: ResolvedRefs BackendNotFound: Service shop/api has no port 81: requests for that backend are answered with 500",
            "TrafficPolicy shop/a: Accepted TargetNotFound: there is no Service shop/nobody",
            "TrafficPolicy shop/a: Accepted TargetNotFound: Service shop/web has no port \"grpc\"",
            "TrafficPolicy shop/b: Accepted TargetNotFound: HTTPRoute shop/r has no rule called three",
            "TrafficPolicy shop/b: Accepted TargetNotFound: there is no GRPCRoute shop/r",
            "TrafficPolicy shop/c: ResolvedRefs BackendNotFound: failover: Service shop/web has no port 82",
        ]
    );
    // What is found later counts at once.
    apply(
        &mut index,
        "{apiVersion: v1, kind: Service, metadata: {name: nobody, namespace: shop}, spec: {ports: [{port: 1}]}}",
    );
    assert!(!troubles(&index).iter().any(|trouble| trouble.contains("nobody")));
}

#[test]
fn a_rejected_object_has_a_status_whether_a_good_version_is_in_force_or_not() {
    let mut index = index(&format!("{SERVICES}{}", policy("a", "", WEB, "timeouts: {request: 1s}")));
    let key = |kind, name: &str| Key { kind, name: Name::new("shop", name) };
    let rejected = [
        (key(Kind::TrafficPolicy, "a"), "x.yaml: line 3: bad".to_owned()),
        (key(Kind::HttpRoute, "r"), "no".to_owned()),
    ];
    index.reject(rejected.into());
    assert_eq!(
        troubles(&index),
        [
            "HTTPRoute shop/r: Accepted UnsupportedValue: no",
            "TrafficPolicy shop/a: Accepted Invalid: x.yaml: line 3: bad; the last good version stays in force",
        ]
    );
    assert_eq!(index.statuses().iter().map(|status| status.is_in_force).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn a_change_of_a_policy_reaches_what_it_concerns_and_nothing_else() {
    let mut index = index(&format!("{SERVICES}{}", workload("a", "10.1.0.1", "")));
    let watches = [
        outbound("10.96.0.1:80"),
        outbound("10.96.0.1:81"),
        outbound("10.96.0.2:80"),
        backend("web", 80),
        backend("web", 81),
        backend("api", 80),
        inbound("10.1.0.1", "default"),
        outbound("10.1.0.1:8080"),
    ]
    .map(|resource| watch(&mut index, resource));
    let mut before = watches.each_ref().map(|watch| watch.latest().version);
    let mut changed = |index: &mut Index, manifests: &str| -> Vec<usize> {
        apply(index, manifests);
        let now = watches.each_ref().map(|watch| watch.latest().version);
        let places = (0..now.len()).filter(|place| now[*place] != before[*place]).collect();
        before = now;
        places
    };
    assert_eq!(changed(&mut index, &policy("a", "", HTTP, "timeouts: {request: 1s}")), [0]);
    assert_eq!(changed(&mut index, &policy("a", "", HTTP, "timeouts: {connect: 1s}")), [0, 3]);
    assert_eq!(changed(&mut index, &policy("a", "", HTTP, "balancing: {policy: RoundRobin}")), [3]);
    assert_eq!(changed(&mut index, &policy("a", "", WEB, "balancing: {policy: RoundRobin}")), [4]);
    assert_eq!(changed(&mut index, &policy("a", "", HTTP, "rateLimits: {total: {requests: 5}}")), [3, 4, 6]);
    assert_eq!(changed(&mut index, &policy("a", "", HTTP, "protocol: opaque")), [0, 6, 7]);
    assert_eq!(changed(&mut index, &policy("a", "", "{name: nobody}", "protocol: opaque")), [0, 6, 7]);
    assert_eq!(changed(&mut index, &policy("a", "", "{name: api}", "faults: [{delay: {duration: 1s}}]")), [2]);
}

#[test]
fn rates_go_to_the_ports_of_workloads_that_a_service_leads_to() {
    let rates = policy(
        "rates",
        "",
        HTTP,
        "rateLimits: {total: {requests: 10}, clients: [{serviceAccounts: [{name: job}], requests: 1}]}",
    );
    let zone = ", serviceAccount: web, zone: west, healthChecks: [{port: 8080, tcp: {}}]";
    let mut index = index(&format!("{SERVICES}{rates}{}", workload("a", "10.1.0.1", zone)));
    let watch = watch(&mut index, inbound("10.1.0.1", "web"));
    let latest = watch.latest();
    let State::Inbound(inbound) = &latest.state else { panic!() };
    let limited: Vec<_> =
        inbound.ports.iter().filter(|(_, port)| port.rates.is_some()).map(|(port, _)| *port).collect();
    assert_eq!((limited, &*inbound.zone, inbound.checks.len()), (vec![8080], "west", 1));
    let rates = inbound.ports[&8080].rates.as_ref().unwrap();
    assert_eq!((rates.name.as_str(), rates.limits.total.unwrap().per_minute), ("shop/rates", 600));
    assert_eq!(inbound.ports[&8080].protocol, Protocol::Http1);
}

#[test]
fn weights_and_hints_reach_endpoints() {
    let slice =
        slice("x", "web", "{addresses: [10.1.0.9], zone: east, hints: {forZones: [{name: east}, {name: west}]}}");
    let mut index = index(&format!("{SERVICES}{}{slice}", workload("a", "10.1.0.1", ", weight: 7, zone: west")));
    let watch = watch(&mut index, backend("web", 80));
    let latest = watch.latest();
    let State::Endpoints(endpoints) = &latest.state else { panic!() };
    let shown: Vec<_> =
        endpoints.list.iter().map(|e| (e.weight, &*e.zone, e.hints.as_deref().unwrap_or_default().join(" "))).collect();
    assert_eq!(shown, [(7, "west", String::new()), (1, "east", "east west".to_owned())]);
}

#[test]
fn whatever_the_order_of_policies_the_end_is_the_same() {
    let parts = [
        SERVICES.to_owned(),
        workload("a", "10.1.0.1", ""),
        route("r", "name: one"),
        policy("a", "", WEB, "timeouts: {request: 1s, connect: 2s}, rateLimits: {total: {requests: 5}}"),
        policy("b", "2026-01-01T00:00:00Z", WEB, "timeouts: {request: 2s}, protocol: grpc"),
        policy("c", "", HTTP, "retries: {on: [5xx]}, limits: {requests: 5}"),
        policy("d", "", "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}", "timeouts: {request: 4s}"),
    ];
    let [http, admin, own] = ["10.96.0.1:80", "10.96.0.1:81", "10.1.0.1:8080"].map(outbound);
    let resources = [http, admin, own, backend("web", 80), backend("web", 81), inbound("10.1.0.1", "default")];
    assert_order_is_nothing(&parts, &resources, |watch| format!("{:?}", watch.latest().state), 11);
}

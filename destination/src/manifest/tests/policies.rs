//! Policies, and what routes and workloads say beside addresses: bounds, and words for what is beyond them.

use super::*;
use crate::model::policy::{Rate, Section, Subject};

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: mesh.internal/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: web}}\nspec:\n  \
         targetRefs: [{{name: web}}]\n  {spec}\n"
    )
}

/// The errors of a text that yields nothing else: `field: message`.
fn errors(text: &str) -> Vec<String> {
    let manifest = parse(text);
    assert!(!manifest.is_broken() && manifest.objects.is_empty(), "{text}: {:?}", shown(&manifest));
    assert_eq!(manifest.rejected.len(), 1, "{text}");
    manifest.findings.iter().map(|finding| format!("{}: {}", finding.field, finding.message)).collect()
}

#[test]
fn what_a_policy_cannot_say_is_told_with_field_and_bounds() {
    for (spec, error) in [
        ("timeouts: {request: 5}", "spec.timeouts.request: expected a string (quote it), found a number"),
        ("timeouts: {request: 5x}", "spec.timeouts.request: \"5x\" is no duration such as 500ms, 10s or 1m30s"),
        ("timeouts: {connect: 0s}", "spec.timeouts.connect: 0 is too short"),
        ("timeouts: {request: 1s, backendRequest: 2s}", "spec.timeouts.backendRequest: longer than request"),
        ("timeouts: {reqest: 1s}", "spec.timeouts.reqest: unknown field; did you mean request?"),
        ("retries: {attempts: 2}", "spec.retries.on: missing"),
        ("retries: {on: [5xx], attempts: 11}", "spec.retries.attempts: 11 is not within 1 to 10"),
        ("retries: {on: [reset], backoff: {initial: 2s, max: 1s}}", "spec.retries.backoff.max: shorter than initial"),
        (
            "timeouts: {backendRequest: 1s}\n  retries: {on: [reset], perTryTimeout: 1s}",
            "spec.retries: perTryTimeout is the same as timeouts.backendRequest, say one of them",
        ),
        ("retryBudget: {ttl: 500ms}", "spec.retryBudget.ttl: not within 1s to 1m"),
        ("retryBudget: {percent: 101}", "spec.retryBudget.percent: 101 is not within 0 to 100"),
        (
            "circuitBreaker: {successRate: {threshold: 101}}",
            "spec.circuitBreaker.successRate.threshold: expected a percentage from 0 to 100, found a number",
        ),
        ("circuitBreaker: {ejection: {min: 2s, max: 1s}}", "spec.circuitBreaker.ejection.max: shorter than min"),
        (
            "circuitBreaker: {ejection: {maxEndpointsPercent: 0}}",
            "spec.circuitBreaker.ejection.maxEndpointsPercent: 0 is not within 1 to 100",
        ),
        ("limits: {requests: 0}", "spec.limits.requests: 0 is not within 1 to 4294967295"),
        ("balancing: {policy: ConsistentHash}", "spec.balancing.hash: missing"),
        (
            "balancing: {hash: [{query: a}]}",
            "spec.balancing.policy: hash and boundedLoadPercent go with policy ConsistentHash only",
        ),
        (
            "balancing: {policy: ConsistentHash, hash: [{header: a, query: b}]}",
            "spec.balancing.hash[0]: one of header, cookie, query and sourceAddress: true has to be there",
        ),
        (
            "balancing: {policy: ConsistentHash, hash: [{header: mesh-client-id}]}",
            "spec.balancing.hash[0].header: \"mesh-client-id\" is no header field that a policy may look at",
        ),
        (
            "balancing: {policy: ConsistentHash, hash: [{cookie: {name: 'a b'}}]}",
            "spec.balancing.hash[0].cookie.name: \"a b\" is no name of a cookie",
        ),
        ("failover: [{name: web}]", "spec.failover[0].port: missing"),
        ("rateLimits: {total: {}}", "spec.rateLimits.total.requests: missing"),
        ("rateLimits: {total: {requests: 5, per: 2m}}", "spec.rateLimits.total.per: not within 1s to 1m"),
        ("rateLimits: {total: {requests: 2000000}}", "spec.rateLimits.total.requests: more than 1000000 a second"),
        ("rateLimits: {header: {perValue: {requests: 5}}}", "spec.rateLimits.header.name: missing"),
        ("faults: [{delay: {percent: 5}}]", "spec.faults[0].delay.duration: missing"),
        ("faults: [{}]", "spec.faults[0]: a delay, an abort or both have to be there"),
        (
            "faults: [{abort: {grpcStatus: BUSY}}]",
            "spec.faults[0].abort.grpcStatus: \"BUSY\" is no status of gRPC, such as UNAVAILABLE",
        ),
        ("faults: [{abort: {httpStatus: 199}}]", "spec.faults[0].abort.httpStatus: 199 is not within 200 to 599"),
        ("protocol: quic", "spec.protocol: \"quic\" is none of detect, http1, http2, grpc, opaque"),
        ("circuitBraker: {}", "spec.circuitBraker: unknown field; did you mean circuitBreaker?"),
    ] {
        let found = errors(&policy(spec));
        assert!(found.contains(&error.to_owned()), "{spec}: {found:?}");
    }
}

#[test]
fn a_policy_s_targets_are_services_their_ports_and_rules_of_routes() {
    let route = "group: gateway.networking.k8s.io, kind: HTTPRoute, name: r";
    let targets = format!("[{{name: web}}, {{name: web, port: 80}}, {{{route}, sectionName: one}}]");
    let text = policy("timeouts: {request: 1s}").replace("[{name: web}]", &targets);
    let Object::TrafficPolicy(read) = only(&text) else { panic!() };
    let sections: Vec<_> = read.targets.iter().map(|target| &target.section).collect();
    assert_eq!(sections, [&Section::Whole, &Section::Port(80.try_into().unwrap()), &Section::Name("one".into())]);
    assert!(matches!(&read.targets[2].subject, Subject::Route(key) if key.to_string() == "HTTPRoute default/r"));
    for (targets, spec, error) in [
        ("[]", "limits: {}", "spec.targetRefs: missing"),
        (
            "[{kind: Deployment, name: web}]",
            "limits: {}",
            "spec.targetRefs[0].kind: Deployment of group \"\" is no target: Service of group \"\", HTTPRoute and GRPCRoute \
             of group gateway.networking.k8s.io are",
        ),
        (
            "[{name: web, port: 80, sectionName: http}]",
            "limits: {}",
            "spec.targetRefs[0].port: a port is of a Service, and not beside a sectionName",
        ),
        (
            &format!("[{{{route}}}]"),
            "limits: {requests: 5}",
            "spec.limits: a route cannot have it: timeouts, retries, retryBudget and faults only",
        ),
        (
            &format!("[{{{route}}}]"),
            "timeouts: {connect: 5s}",
            "spec.timeouts: a route cannot have connect, tcpIdle and halfClose: they are of connections",
        ),
    ] {
        let found = errors(&policy(spec).replace("[{name: web}]", targets));
        assert!(found.contains(&error.to_owned()), "{targets} {spec}: {found:?}");
    }
}

#[test]
fn rates_are_per_minute_with_a_burst_of_one_second() {
    for (rate, per_minute, burst) in [
        ("requests: 1000", 60_000, 1_000),
        ("requests: 10, per: 7s", 86, 1),
        ("requests: 1, per: 1m", 1, 1),
        ("requests: 600, per: 1m", 600, 10),
        ("requests: 5, burst: 50", 300, 50),
        ("requests: 60000000, per: 1m", 60_000_000, 1_000_000),
    ] {
        let Object::TrafficPolicy(read) = only(&policy(&format!("rateLimits: {{total: {{{rate}}}}}"))) else {
            panic!()
        };
        assert_eq!(read.spec.rates.unwrap().total, Some(Rate { per_minute, burst }), "{rate}");
    }
}

fn route(rule: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec: {{parentRefs: \
         [{{group: '', kind: Service, name: web}}], rules: [{{{rule}}}]}}\n"
    )
}

#[test]
fn what_a_route_cannot_say_of_copies_cors_retries_and_sessions_is_told() {
    let filter = |kind: &str, field: &str, rest: &str| format!("filters: [{{type: {kind}, {field}: {{{rest}}}}}]");
    let to = "backendRef: {name: web, port: 80}";
    for (rule, error) in [
        (filter("RequestMirror", "requestMirror", ""), "filters[0].requestMirror.backendRef: missing"),
        (
            filter("RequestMirror", "requestMirror", &format!("{to}, percent: 5, fraction: {{numerator: 1}}")),
            "filters[0].requestMirror.percent: not beside fraction",
        ),
        (
            filter("RequestMirror", "requestMirror", &format!("{to}, fraction: {{numerator: 3, denominator: 2}}")),
            "filters[0].requestMirror.fraction.numerator: more than denominator",
        ),
        (
            filter("CORS", "cors", "allowOrigins: ['https://a.*.b']"),
            "filters[0].cors.allowOrigins[0]: \"https://a.*.b\" is no origin, such as https://*.example.com",
        ),
        (filter("CORS", "cors", "allowMethods: ['A B']"), "filters[0].cors.allowMethods[0]: \"A B\" is no method"),
        ("retry: {codes: [200]}".to_owned(), "retry.codes[0]: 200 is not within 400 to 599"),
        (
            "sessionPersistence: {type: Query}".to_owned(),
            "sessionPersistence.type: \"Query\" is none of Cookie, Header",
        ),
        (
            "sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}".to_owned(),
            "sessionPersistence.absoluteTimeout: a permanent cookie has to end some time",
        ),
        (
            "sessionPersistence: {type: Header, sessionName: Mesh-Session}".to_owned(),
            "sessionPersistence.sessionName: the mesh's own header fields carry no sessions",
        ),
        (
            "matches: [{headers: [{name: mesh-client-id, value: x}]}]".to_owned(),
            "matches[0].headers: \"mesh-client-id\" is no header field that can be looked at",
        ),
    ] {
        let found = errors(&route(&rule));
        assert!(found.contains(&format!("spec.rules[0].{error}")), "{rule}: {found:?}");
    }
}

#[test]
fn what_a_workload_cannot_say_of_its_health_breaks_its_file() {
    for (spec, error) in [
        ("weight: 10001", "spec.weight: 10001 is not within 1 to 10000"),
        ("healthChecks: [{port: 1}]", "spec.healthChecks[0]: one of http, grpc and tcp has to be there"),
        (
            "healthChecks: [{port: 1, tcp: {}, grpc: {}}]",
            "spec.healthChecks[0]: one of http, grpc and tcp has to be there",
        ),
        ("healthChecks: [{tcp: {}}]", "spec.healthChecks[0].port: missing"),
        ("healthChecks: [{port: 1, tcp: {}, interval: 10ms}]", "spec.healthChecks[0].interval: shorter than 100ms"),
        (
            "healthChecks: [{port: 1, tcp: {}, healthyAfter: 101}]",
            "spec.healthChecks[0].healthyAfter: 101 is not within 1 to 100",
        ),
        (
            "healthChecks: [{port: 1, http: {statuses: 2xx}}]",
            "spec.healthChecks[0].http.statuses: expected a status such as \"200\" or a range such as \"200-399\"",
        ),
        ("meshed: false, healthChecks: [{port: 1, tcp: {}}]", "spec.healthChecks: without a sidecar nobody runs them"),
    ] {
        let text = format!(
            "{{apiVersion: mesh.internal/v1alpha1, kind: Workload, metadata: {{name: a}}, spec: {{addresses: [10.0.0.1], {spec}}}}}"
        );
        let manifest = parse(&text);
        let found: Vec<_> = manifest.findings.iter().map(|f| format!("{}: {}", f.field, f.message)).collect();
        assert!(manifest.is_broken() && found.contains(&error.to_owned()), "{spec}: {found:?}");
    }
}

#[test]
fn a_rejected_object_leaves_the_others_and_one_without_a_name_does_not() {
    let text = format!("{}---\n{}---\n{SERVICE}", policy("limits: {requests: 0}"), route("nme: x"));
    let manifest = parse(&text);
    assert!(!manifest.is_broken(), "{:?}", shown(&manifest));
    assert_eq!(manifest.objects.len(), 1);
    let rejected: Vec<_> = manifest.rejected.iter().map(|(key, why)| format!("{key}: {why}")).collect();
    assert_eq!(
        rejected,
        [
            "TrafficPolicy default/web: line 6: spec.limits.requests: 0 is not within 1 to 4294967295",
            "HTTPRoute default/r: line 11: spec.rules[0].nme: unknown field; did you mean name?",
        ]
    );
    let nameless = text.replace("metadata: {name: r}", "metadata: {name: R}");
    assert!(parse(&nameless).is_broken(), "nobody could say what was rejected");
    let long = route(&format!("name: x, matches: [{}]", "{path: {value: '/0123456789'}}, ".repeat(6_000)));
    assert!(errors(&long).iter().any(|error| error.contains("are more than 65536")), "{:?}", errors(&long).last());
}

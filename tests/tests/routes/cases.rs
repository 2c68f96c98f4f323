//! The table: routes, requests, and what has to come of them.
//!
//! Source: the names, routes and expectations of the Gateway API's conformance tests for meshes, as facts.

/// A test: what is attached, and what is asked then.
pub(super) struct Test {
    pub(super) name: &'static str,
    /// Manifests.
    pub(super) routes: &'static [&'static str],
    pub(super) cases: &'static [Case],
}

/// A request, and all that has to be true of its answer.
#[derive(Clone, Copy)]
pub(super) struct Case {
    /// Who is dialed: a Service, or a workload by its own address.
    pub(super) dial: &'static str,
    pub(super) port: u16,
    /// None: the name that is dialed.
    pub(super) host: Option<&'static str>,
    pub(super) path: &'static str,
    pub(super) send: &'static [(&'static str, &'static str)],
    pub(super) from_consumer: bool,
    pub(super) grpc: bool,
    pub(super) expect: &'static [Expect],
}

/// What has to be true.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expect {
    /// 200, answered by this one.
    By(&'static str),
    Status(u16),
    Location(&'static str),
    /// The target that the backend saw.
    Path(&'static str),
    /// A field that the backend saw, all its values joined by commas.
    Saw(&'static str, &'static str),
    NotSaw(&'static str),
    /// A field that the client got.
    Answered(&'static str, &'static str),
    NotAnswered(&'static str),
    /// Of a batch, what `echo-v1` and `echo-v2` answered in percent.
    Shares([usize; 2]),
}

use Expect::{Answered, By, Location, NotAnswered, NotSaw, Path, Saw, Shares, Status};

impl Case {
    pub(super) fn is_batch(&self) -> bool {
        matches!(self.expect, [Shares(_), ..])
    }

    const fn from_consumer(mut self) -> Self {
        self.from_consumer = true;
        self
    }

    const fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    const fn host(mut self, host: &'static str) -> Self {
        self.host = Some(host);
        self
    }

    const fn grpc(mut self) -> Self {
        (self.grpc, self.port) = (true, 7070);
        self
    }
}

const fn to(
    dial: &'static str,
    path: &'static str,
    send: &'static [(&'static str, &'static str)],
    expect: &'static [Expect],
) -> Case {
    Case { dial, port: 80, host: None, path, send, from_consumer: false, grpc: false, expect }
}

/// A request to `echo`.
const fn get(path: &'static str, send: &'static [(&'static str, &'static str)], expect: &'static [Expect]) -> Case {
    to("echo", path, send, expect)
}

const V1: Expect = By("echo-v1");
const V2: Expect = By("echo-v2");
const NO_ROUTE: Expect = Status(404);

/// What is sent to, and what has to become of it in, rules that rewrite and change fields.
const CHANGED: &[(&str, &str)] =
    &[("X-Header-Remove", "remove-val"), ("X-Header-Add-Append", "append-val-1"), ("X-Header-Set", "set-val")];
const CHANGES: [Expect; 4] = [
    Saw("x-header-set", "set-overwrites-values"),
    Saw("x-header-add", "header-val-1"),
    Saw("x-header-add-append", "append-val-1,header-val-2"),
    NotSaw("x-header-remove"),
];

pub(super) const ALL: &[Test] = &[
    Test { name: "MeshBasic", routes: &[], cases: &[get("/", &[], &[Status(200)])] },
    Test {
        name: "MeshHTTPRouteSimpleSameNamespace",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-simple, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}],
  rules: [
    {backendRefs: [{name: echo-v1, port: 8080}]}]}}"#,
        ],
        cases: &[get("/", &[], &[V1])],
    },
    Test {
        name: "MeshHTTPRouteMatching",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-matching, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}],
  rules: [
    {matches: [{path: {type: PathPrefix, value: /}}, {headers: [{name: version, value: one}]}], backendRefs: [{name: echo-v1, port: 8080}]},
    {matches: [{path: {type: PathPrefix, value: /v2}}, {headers: [{name: version, value: two}]}], backendRefs: [{name: echo-v2, port: 8080}]}]}}"#,
        ],
        cases: &[
            get("/", &[], &[V1]),
            get("/example", &[], &[V1]),
            get("/", &[("Version", "one")], &[V1]),
            get("/v2", &[], &[V2]),
            get("/v2example", &[], &[V1]),
            get("/foo/v2/example", &[], &[V1]),
            get("/v2/", &[], &[V2]),
            get("/v2/example", &[], &[V2]),
            get("/", &[("Version", "two")], &[V2]),
        ],
    },
    Test {
        name: "MeshTrafficSplit",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-split, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}],
  rules: [
    {matches: [{path: {type: Exact, value: /v1}}], backendRefs: [{name: echo-v1, port: 80}]},
    {matches: [{path: {type: Exact, value: /v2}}], backendRefs: [{name: echo-v2, port: 80}]}]}}"#,
        ],
        cases: &[get("/v1", &[], &[V1]), get("/v2", &[], &[V2])],
    },
    Test {
        name: "MeshHTTPRouteWeight",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-weights, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}],
  rules: [
    {backendRefs: [{name: echo-v1, port: 8080, weight: 70}, {name: echo-v2, port: 8080, weight: 30}]}]}}"#,
        ],
        cases: &[get("/", &[], &[Shares([70, 30])])],
    },
    Test {
        name: "MeshHTTPRouteRedirectHostAndStatus",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-redirect, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}],
  rules: [
    {matches: [{path: {type: PathPrefix, value: /hostname-redirect}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org}}]},
    {matches: [{path: {type: PathPrefix, value: /host-and-status}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, statusCode: 301}}]}]}}"#,
        ],
        cases: &[
            get("/hostname-redirect", &[], &[Status(302), Location("http://example.org/hostname-redirect")]),
            get("/host-and-status", &[], &[Status(301), Location("http://example.org/host-and-status")]),
        ],
    },
    Test {
        name: "MeshHTTPRouteRequestHeaderModifier",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-headers, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}],
  rules: [
    {matches: [{path: {type: PathPrefix, value: /set}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set, value: set-overwrites-values}]}}], backendRefs: [{name: echo-v1, port: 8080}]},
    {matches: [{path: {type: PathPrefix, value: /add}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: X-Header-Add, value: add-appends-values}]}}], backendRefs: [{name: echo-v1, port: 8080}]},
    {matches: [{path: {type: PathPrefix, value: /remove}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [X-Header-Remove]}}], backendRefs: [{name: echo-v1, port: 8080}]},
    {matches: [{path: {type: PathPrefix, value: /multiple}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set-1, value: header-set-1}, {name: X-Header-Set-2, value: header-set-2}], add: [{name: X-Header-Add-1, value: header-add-1}, {name: X-Header-Add-2, value: header-add-2}, {name: X-Header-Add-3, value: header-add-3}], remove: [X-Header-Remove-1, X-Header-Remove-2]}}], backendRefs: [{name: echo-v1, port: 8080}]},
    {matches: [{path: {type: PathPrefix, value: /case-insensitivity}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set, value: header-set}], add: [{name: X-Header-Add, value: header-add}], remove: [X-Header-Remove]}}], backendRefs: [{name: echo-v1, port: 8080}]}]}}"#,
        ],
        cases: &[
            get(
                "/set",
                &[("some-other-header", "val")],
                &[V1, Saw("x-header-set", "set-overwrites-values"), Saw("some-other-header", "val")],
            ),
            get(
                "/set",
                &[("X-Header-Set", "some-other-value"), ("some-other-header", "val")],
                &[V1, Saw("x-header-set", "set-overwrites-values"), Saw("some-other-header", "val")],
            ),
            get(
                "/add",
                &[("some-other-header", "val")],
                &[V1, Saw("x-header-add", "add-appends-values"), Saw("some-other-header", "val")],
            ),
            get(
                "/add",
                &[("X-Header-Add", "some-other-value")],
                &[V1, Saw("x-header-add", "some-other-value,add-appends-values")],
            ),
            get(
                "/remove",
                &[("X-Header-Remove", "val"), ("another-header", "val")],
                &[V1, NotSaw("x-header-remove"), Saw("another-header", "val")],
            ),
            get(
                "/multiple",
                &[
                    ("X-Header-Set-2", "set-val-2"),
                    ("X-Header-Add-2", "add-val-2"),
                    ("X-Header-Remove-2", "remove-val-2"),
                    ("Another-Header", "another-header-val"),
                ],
                &[
                    V1,
                    Saw("x-header-set-1", "header-set-1"),
                    Saw("x-header-set-2", "header-set-2"),
                    Saw("x-header-add-1", "header-add-1"),
                    Saw("x-header-add-2", "add-val-2,header-add-2"),
                    Saw("x-header-add-3", "header-add-3"),
                    Saw("another-header", "another-header-val"),
                    NotSaw("x-header-remove-1"),
                    NotSaw("x-header-remove-2"),
                ],
            ),
            get(
                "/case-insensitivity",
                &[
                    ("x-header-set", "original-val-set"),
                    ("x-header-add", "original-val-add"),
                    ("x-header-remove", "original-val-remove"),
                    ("another-header", "another-header-val"),
                ],
                &[
                    V1,
                    Saw("x-header-set", "header-set"),
                    Saw("x-header-add", "original-val-add,header-add"),
                    NotSaw("x-header-remove"),
                    Saw("another-header", "another-header-val"),
                ],
            ),
        ],
    },
    Test {
        name: "MeshHTTPRouteBackendRequestHeaderModifier",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-backend-headers, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}],
  rules: [
    {matches: [{path: {type: PathPrefix, value: /set}}], backendRefs: [{name: echo-v1, port: 8080, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set, value: set-overwrites-values}]}}]}]},
    {matches: [{path: {type: PathPrefix, value: /add}}], backendRefs: [{name: echo-v1, port: 8080, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: X-Header-Add, value: add-appends-values}]}}]}]},
    {matches: [{path: {type: PathPrefix, value: /remove}}], backendRefs: [{name: echo-v1, port: 8080, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [X-Header-Remove]}}]}]},
    {matches: [{path: {type: PathPrefix, value: /multiple}}], backendRefs: [{name: echo-v1, port: 8080, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set-1, value: header-set-1}, {name: X-Header-Set-2, value: header-set-2}], add: [{name: X-Header-Add-1, value: header-add-1}, {name: X-Header-Add-2, value: header-add-2}, {name: X-Header-Add-3, value: header-add-3}], remove: [X-Header-Remove-1, X-Header-Remove-2]}}]}]},
    {matches: [{path: {type: PathPrefix, value: /case-insensitivity}}], backendRefs: [{name: echo-v1, port: 8080, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set, value: header-set}], add: [{name: X-Header-Add, value: header-add}], remove: [X-Header-Remove]}}]}]}]}}"#,
        ],
        cases: &[
            get(
                "/set",
                &[("some-other-header", "val")],
                &[V1, Saw("x-header-set", "set-overwrites-values"), Saw("some-other-header", "val")],
            ),
            get(
                "/set",
                &[("X-Header-Set", "some-other-value"), ("some-other-header", "val")],
                &[V1, Saw("x-header-set", "set-overwrites-values"), Saw("some-other-header", "val")],
            ),
            get(
                "/add",
                &[("some-other-header", "val")],
                &[V1, Saw("x-header-add", "add-appends-values"), Saw("some-other-header", "val")],
            ),
            get(
                "/add",
                &[("X-Header-Add", "some-other-value")],
                &[V1, Saw("x-header-add", "some-other-value,add-appends-values")],
            ),
            get(
                "/remove",
                &[("X-Header-Remove", "val"), ("another-header", "val")],
                &[V1, NotSaw("x-header-remove"), Saw("another-header", "val")],
            ),
            get(
                "/multiple",
                &[
                    ("X-Header-Set-2", "set-val-2"),
                    ("X-Header-Add-2", "add-val-2"),
                    ("X-Header-Remove-2", "remove-val-2"),
                    ("Another-Header", "another-header-val"),
                ],
                &[
                    V1,
                    Saw("x-header-set-1", "header-set-1"),
                    Saw("x-header-set-2", "header-set-2"),
                    Saw("x-header-add-1", "header-add-1"),
                    Saw("x-header-add-2", "add-val-2,header-add-2"),
                    Saw("x-header-add-3", "header-add-3"),
                    Saw("another-header", "another-header-val"),
                    NotSaw("x-header-remove-1"),
                    NotSaw("x-header-remove-2"),
                ],
            ),
            get(
                "/case-insensitivity",
                &[
                    ("x-header-set", "original-val-set"),
                    ("x-header-add", "original-val-add"),
                    ("x-header-remove", "original-val-remove"),
                    ("another-header", "another-header-val"),
                ],
                &[
                    V1,
                    Saw("x-header-set", "header-set"),
                    Saw("x-header-add", "original-val-add,header-add"),
                    NotSaw("x-header-remove"),
                    Saw("another-header", "another-header-val"),
                ],
            ),
        ],
    },
    Test {
        name: "MeshHTTPRouteQueryParamMatching",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-query, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}],
  rules: [
    {matches: [{queryParams: [{name: animal, value: whale}]}], backendRefs: [{name: echo-v1, port: 8080}]},
    {matches: [{queryParams: [{name: animal, value: dolphin}]}], backendRefs: [{name: echo-v2, port: 8080}]},
    {matches: [{path: {type: PathPrefix, value: /path1}, queryParams: [{name: animal, value: whale}]}], backendRefs: [{name: echo-v1, port: 8080}]},
    {matches: [{headers: [{name: version, value: one}], queryParams: [{name: animal, value: whale}]}], backendRefs: [{name: echo-v2, port: 8080}]},
    {matches: [{path: {type: PathPrefix, value: /path3}, queryParams: [{name: animal, value: shark}]}, {path: {type: PathPrefix, value: /path4}, queryParams: [{name: animal, value: kraken}], headers: [{name: version, value: three}]}], backendRefs: [{name: echo-v1, port: 8080}]},
    {matches: [{path: {type: PathPrefix, value: /path5}}], backendRefs: [{name: echo-v1, port: 8080}]},
    {matches: [{queryParams: [{name: animal, value: hydra}]}], backendRefs: [{name: echo-v2, port: 8080}]}]}}"#,
        ],
        cases: &[
            get("/?animal=whale", &[], &[V1, Path("/?animal=whale")]),
            get("/?animal=dolphin", &[], &[V2]),
            get("/?animal=whale&otherparam=irrelevant", &[], &[V1]),
            get("/?animal=dolphin&color=yellow", &[], &[V2]),
            get("/?color=blue", &[], &[NO_ROUTE]),
            get("/?animal=dog", &[], &[NO_ROUTE]),
            get("/?animal=whaledolphin", &[], &[NO_ROUTE]),
            get("/", &[], &[NO_ROUTE]),
            get("/path1?animal=whale", &[], &[V1]),
            get("/?animal=whale", &[("version", "one")], &[V2]),
            get("/path3?animal=shark", &[], &[V1]),
            get("/path4?animal=kraken", &[("version", "three")], &[V1]),
            get("/?animal=shark", &[], &[NO_ROUTE]),
            get("/path4?animal=kraken", &[], &[NO_ROUTE]),
            get("/path5?animal=hydra", &[], &[V1]),
        ],
    },
    Test {
        name: "MeshHTTPRouteRedirectPath",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-redirect-path, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}],
  rules: [
    {matches: [{path: {type: PathPrefix, value: /original-prefix}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix}}}]},
    {matches: [{path: {type: PathPrefix, value: /full}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /full-path-replacement}}}]},
    {matches: [{path: {type: PathPrefix, value: /path-and-host}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix}}}]},
    {matches: [{path: {type: PathPrefix, value: /path-and-status}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix}, statusCode: 301}}]},
    {matches: [{path: {type: PathPrefix, value: /full-path-and-host}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, path: {type: ReplaceFullPath, replaceFullPath: /replacement-full}}}]},
    {matches: [{path: {type: PathPrefix, value: /full-path-and-status}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /replacement-full}, statusCode: 301}}]}]}}"#,
        ],
        cases: &[
            get("/original-prefix/lemon", &[], &[Status(302), Location("http://echo/replacement-prefix/lemon")]),
            get("/full/path/original", &[], &[Status(302), Location("http://echo/full-path-replacement")]),
            get("/path-and-host", &[], &[Status(302), Location("http://example.org/replacement-prefix")]),
            get("/path-and-status", &[], &[Status(301), Location("http://echo/replacement-prefix")]),
            get("/full-path-and-host", &[], &[Status(302), Location("http://example.org/replacement-full")]),
            get("/full-path-and-status", &[], &[Status(301), Location("http://echo/replacement-full")]),
        ],
    },
    Test {
        name: "MeshHTTPRouteRedirectPort",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-redirect-port, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}],
  rules: [
    {matches: [{path: {type: Exact, value: /port}}], filters: [{type: RequestRedirect, requestRedirect: {port: 8083}}]},
    {matches: [{path: {type: Exact, value: /port-and-host}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, port: 8083}}]},
    {matches: [{path: {type: Exact, value: /port-and-status}}], filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, port: 8083}}]},
    {matches: [{path: {type: Exact, value: /port-and-host-and-status}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, statusCode: 301, port: 8083}}]}]}}"#,
        ],
        cases: &[
            get("/port", &[], &[Status(302), Location("http://echo:8083/port")]),
            get("/port-and-host", &[], &[Status(302), Location("http://example.org:8083/port-and-host")]),
            get("/port-and-status", &[], &[Status(301), Location("http://echo:8083/port-and-status")]),
            get(
                "/port-and-host-and-status",
                &[],
                &[Status(301), Location("http://example.org:8083/port-and-host-and-status")],
            ),
        ],
    },
    Test {
        name: "MeshHTTPRouteSchemeRedirect",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-redirect-scheme, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}],
  rules: [
    {matches: [{path: {type: Exact, value: /scheme}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]},
    {matches: [{path: {type: Exact, value: /scheme-and-host}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, scheme: https}}]},
    {matches: [{path: {type: Exact, value: /scheme-and-status}}], filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, scheme: https}}]},
    {matches: [{path: {type: Exact, value: /scheme-and-host-and-status}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, statusCode: 301, scheme: https}}]}]}}"#,
        ],
        cases: &[
            get("/scheme", &[], &[Status(302), Location("https://echo/scheme")]),
            get("/scheme-and-host", &[], &[Status(302), Location("https://example.org/scheme-and-host")]),
            get("/scheme-and-status", &[], &[Status(301), Location("https://echo/scheme-and-status")]),
            get(
                "/scheme-and-host-and-status",
                &[],
                &[Status(301), Location("https://example.org/scheme-and-host-and-status")],
            ),
        ],
    },
    Test {
        name: "MeshHTTPRoute303Redirect",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-303, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}],
  rules: [
    {matches: [{path: {type: PathPrefix, value: /redirect}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, statusCode: 303}}]}]}}"#,
        ],
        cases: &[get("/redirect", &[], &[Status(303), Location("http://example.org/redirect")])],
    },
    Test {
        name: "MeshHTTPRoute307Redirect",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-307, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}],
  rules: [
    {matches: [{path: {type: PathPrefix, value: /temporary}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, statusCode: 307}}]}]}}"#,
        ],
        cases: &[get("/temporary", &[], &[Status(307), Location("http://example.org/temporary")])],
    },
    Test {
        name: "MeshHTTPRoute308Redirect",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-308, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}],
  rules: [
    {matches: [{path: {type: PathPrefix, value: /permanent}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, statusCode: 308}}]}]}}"#,
        ],
        cases: &[get("/permanent", &[], &[Status(308), Location("http://example.org/permanent")])],
    },
    Test {
        name: "MeshHTTPRouteRewritePath",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-rewrite, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}],
  rules: [
    {matches: [{path: {type: PathPrefix, value: /prefix/one}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /one}}}], backendRefs: [{name: echo-v1, port: 8080}]},
    {matches: [{path: {type: PathPrefix, value: /strip-prefix}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}], backendRefs: [{name: echo-v1, port: 8080}]},
    {matches: [{path: {type: PathPrefix, value: /full/one}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /one}}}], backendRefs: [{name: echo-v1, port: 8080}]},
    {matches: [{path: {type: PathPrefix, value: /full/rewrite-path-and-modify-headers}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /test}}}, {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set, value: set-overwrites-values}], add: [{name: X-Header-Add, value: header-val-1}, {name: X-Header-Add-Append, value: header-val-2}], remove: [X-Header-Remove]}}], backendRefs: [{name: echo-v1, port: 8080}]},
    {matches: [{path: {type: PathPrefix, value: /prefix/rewrite-path-and-modify-headers}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /prefix}}}, {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set, value: set-overwrites-values}], add: [{name: X-Header-Add, value: header-val-1}, {name: X-Header-Add-Append, value: header-val-2}], remove: [X-Header-Remove]}}], backendRefs: [{name: echo-v1, port: 8080}]}]}}"#,
        ],
        cases: &[
            get("/prefix/one/two", &[], &[V1, Path("/one/two")]),
            get("/strip-prefix/three", &[], &[V1, Path("/three")]),
            get("/strip-prefix", &[], &[V1, Path("/")]),
            get("/full/one/two", &[], &[V1, Path("/one")]),
            get(
                "/full/rewrite-path-and-modify-headers/test",
                CHANGED,
                &[V1, Path("/test"), CHANGES[0], CHANGES[1], CHANGES[2], CHANGES[3]],
            ),
            get(
                "/prefix/rewrite-path-and-modify-headers/one",
                CHANGED,
                &[V1, Path("/prefix/one"), CHANGES[0], CHANGES[1], CHANGES[2], CHANGES[3]],
            ),
        ],
    },
    Test {
        name: "MeshHTTPRouteNamedRule",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-named, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}],
  rules: [
    {name: named-rule, matches: [{path: {type: PathPrefix, value: /named}}], backendRefs: [{name: echo-v1, port: 8080}]},
    {matches: [{path: {type: PathPrefix, value: /unnamed}}], backendRefs: [{name: echo-v2, port: 8080}]}]}}"#,
        ],
        cases: &[get("/named", &[], &[V1]), get("/unnamed", &[], &[V2])],
    },
    Test {
        name: "MeshPorts",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-ports-v1, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo-v1, port: 80}],
  rules: [
    {filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Header-Set, value: v1}]}}], backendRefs: [{name: echo-v1, port: 8080}]}]}}"#,
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-ports-v2, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo-v2}],
  rules: [
    {filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Header-Set, value: v2}]}}], backendRefs: [{name: echo-v2, port: 8080}]}]}}"#,
        ],
        cases: &[
            to("echo-v1", "/", &[], &[V1, Answered("x-header-set", "v1")]),
            to("echo-v1", "/", &[], &[V1, NotAnswered("x-header-set")]).port(8080),
            to("echo-v2", "/", &[], &[V2, Answered("x-header-set", "v2")]),
            to("echo-v2", "/", &[], &[V2, Answered("x-header-set", "v2")]).port(8080),
        ],
    },
    Test {
        name: "MeshFrontend",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-frontend, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo-v2}],
  rules: [
    {filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Header-Set, value: set}]}}], backendRefs: [{name: echo-v2, port: 8080}]}]}}"#,
        ],
        cases: &[
            to("echo-v2", "/", &[], &[V2, Answered("x-header-set", "set")]),
            to("pod:echo-v2", "/", &[], &[V2, NotAnswered("x-header-set")]).port(8080),
        ],
    },
    Test {
        name: "MeshFrontendHostname",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-frontend, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo-v2}],
  rules: [
    {filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Header-Set, value: set}]}}], backendRefs: [{name: echo-v2, port: 8080}]}]}}"#,
        ],
        cases: &[
            to("echo-v2", "/", &[], &[V2, Answered("x-header-set", "set")]).host("echo-v1"),
            to("echo-v1", "/", &[], &[V1, NotAnswered("x-header-set")]).host("echo-v2"),
        ],
    },
    Test {
        name: "MeshConsumerRoute",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mesh-consumer, namespace: consumer}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo-v1, namespace: default}],
  rules: [
    {filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Header-Set, value: set}]}}], backendRefs: [{name: echo-v1, namespace: default, port: 8080}]}]}}"#,
        ],
        cases: &[
            to("echo-v1", "/", &[], &[V1, Answered("x-header-set", "set")]).from_consumer(),
            to("echo-v1", "/", &[], &[V1, NotAnswered("x-header-set")]),
        ],
    },
    Test {
        name: "MeshGRPCRouteRequestHeaderModifier",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: mesh-grpc-headers, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo, port: 7070}],
  rules: [
    {matches: [{headers: [{name: x-test-case, value: set}]}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-echo-set, value: set-overwrites-values}]}}], backendRefs: [{name: echo-v1, port: 7070}]},
    {matches: [{headers: [{name: x-test-case, value: add}]}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-echo-add, value: add-appends-values}]}}], backendRefs: [{name: echo-v1, port: 7070}]},
    {matches: [{headers: [{name: x-test-case, value: remove}]}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x-echo-remove]}}], backendRefs: [{name: echo-v1, port: 7070}]},
    {matches: [{headers: [{name: x-test-case, value: multi}]}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-echo-set-1, value: set-1}, {name: x-echo-set-2, value: set-2}], add: [{name: x-echo-add-1, value: add-1}, {name: x-echo-add-2, value: add-2}], remove: [x-echo-remove-1, x-echo-remove-2]}}], backendRefs: [{name: echo-v2, port: 7070}]}]}}"#,
        ],
        cases: &[
            get(
                "",
                &[("x-test-case", "set"), ("x-echo-set", "some-other-value"), ("x-echo-other", "val")],
                &[V1, Saw("x-echo-set", "set-overwrites-values"), Saw("x-echo-other", "val")],
            )
            .grpc(),
            get(
                "",
                &[("x-test-case", "add"), ("x-echo-add", "some-other-value")],
                &[V1, Saw("x-echo-add", "some-other-value,add-appends-values")],
            )
            .grpc(),
            get(
                "",
                &[("x-test-case", "remove"), ("x-echo-remove", "val"), ("x-echo-other", "val")],
                &[V1, NotSaw("x-echo-remove"), Saw("x-echo-other", "val")],
            )
            .grpc(),
            get(
                "",
                &[
                    ("x-test-case", "multi"),
                    ("x-echo-set-2", "old"),
                    ("x-echo-add-2", "old"),
                    ("x-echo-remove-1", "old"),
                    ("x-echo-remove-2", "old"),
                ],
                &[
                    V2,
                    Saw("x-echo-set-1", "set-1"),
                    Saw("x-echo-set-2", "set-2"),
                    Saw("x-echo-add-1", "add-1"),
                    Saw("x-echo-add-2", "old,add-2"),
                    NotSaw("x-echo-remove-1"),
                    NotSaw("x-echo-remove-2"),
                ],
            )
            .grpc(),
        ],
    },
    Test {
        name: "MeshGRPCRouteWeight",
        routes: &[
            r#"{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: mesh-grpc-weights, namespace: default}, spec: {
  parentRefs: [{group: "", kind: Service, name: echo, port: 7070}],
  rules: [
    {backendRefs: [{name: echo-v1, port: 7070, weight: 70}, {name: echo-v2, port: 7070, weight: 30}, {name: echo-v3, port: 7070, weight: 0}]}]}}"#,
        ],
        cases: &[get("", &[], &[Shares([70, 30])]).grpc()],
    },
];

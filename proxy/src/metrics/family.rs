//! Every metric of the proxy: its name, its kind, what it means. No other file of the workspace's proxy spells one.
//!
//! Invariant: names and units follow Prometheus' naming rules (`promtool check metrics` finds nothing), and a family is
//! listed in [`ALL`] by the same line that defines it. `process` has those that Prometheus itself names.

use std::fmt;

/// What a family counts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

/// A metric with all its label sets.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

/// Upper bounds of the histograms' buckets in seconds: dense where a call through two sidecars ends, up to the longest
/// deadline that people set.
pub(super) const BUCKETS: [f64; 15] =
    [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

/// Series of a histogram: its buckets, `+Inf`, sum and count.
pub(super) const HISTOGRAM_SERIES: usize = BUCKETS.len() + 3;

macro_rules! families {
    ($($id:ident: $kind:ident $name:literal $help:literal;)*) => {
        $(pub(super) static $id: Family = Family { name: $name, kind: Kind::$kind, help: $help };)*
        /// All of them, to be described once.
        pub(super) static ALL: &[&Family] = &[$(&$id),*];
    };
}

families! {
    BUILD_INFO: Gauge "mesh_build_info" "The version of this proxy, as a label.";
    SERIES: Gauge "mesh_series" "Series that this proxy has made, those named process_ aside.";
    SERIES_OVERFLOW: Counter "mesh_series_overflow_total"
        "How often something was counted under overflow or other, because the series cap was reached.";

    HTTP_REQUESTS: Counter "mesh_http_requests_total" "HTTP requests begun.";
    HTTP_IN_FLIGHT: Gauge "mesh_http_requests_in_flight" "HTTP requests begun whose response has not ended.";
    HTTP_RESPONSES: Counter "mesh_http_responses_total"
        "HTTP exchanges ended, by status, its class, and whether the end was complete or cut.";
    HTTP_DURATION: Histogram "mesh_http_response_duration_seconds"
        "From the begin of a request to the end of its response, for those that had a response.";
    HTTP_FIRST_BYTE: Histogram "mesh_http_first_byte_seconds"
        "From the begin of a request to the head of its response.";
    GRPC_RESPONSES: Counter "mesh_grpc_responses_total" "gRPC calls ended, by the status that was seen.";

    TCP_OPENED: Counter "mesh_tcp_connections_opened_total" "Opaque connections opened.";
    TCP_CLOSED: Counter "mesh_tcp_connections_closed_total" "Opaque connections closed, by reason.";
    TCP_OPEN: Gauge "mesh_tcp_connections_open" "Opaque connections open now.";
    TCP_SENT: Counter "mesh_tcp_sent_bytes_total" "Bytes of opaque connections sent towards the upstream.";
    TCP_RECEIVED: Counter "mesh_tcp_received_bytes_total"
        "Bytes of opaque connections received from the upstream.";

    ERRORS: Counter "mesh_errors_total" "Failures that the mesh itself answered or reset, by reason.";
    DETECTIONS: Counter "mesh_detections_total" "Verdicts of protocol detection.";
    HANDSHAKES: Counter "mesh_tls_handshakes_total" "Mutual TLS handshakes ended, ok or the reason of failure.";
    PASSTHROUGH: Counter "mesh_tls_passthrough_connections_total"
        "TLS connections of applications passed through untouched, by the server name they asked for.";
    REFUSED: Counter "mesh_connections_refused_total"
        "Connections closed before a byte of theirs was served, by reason.";
    HTTP2_ABUSE: Counter "mesh_http2_abuse_total"
        "HTTP/2 connections that the proxy ended because of what the peer did, by the code that it was told.";
    HEALTHY: Gauge "mesh_workload_healthy"
        "1 while the application's health checks succeed, 0 while one fails; absent where there are none.";
    HEALTH_CHECKS: Counter "mesh_health_checks_total" "Questions to the application, by result: ok or failed.";
    FAULTS: Counter "mesh_faults_injected_total" "Requests that a policy has delayed or aborted, by what was done to them.";
    MIRRORED: Counter "mesh_mirrored_requests_total"
        "Copies of requests sent to mirrors, by what came of them: answered, failed, too_slow, dropped or invalid.";
    ACCEPT_ERRORS: Counter "mesh_accept_errors_total" "Failures to accept a connection.";

    BALANCER_ENDPOINTS: Gauge "mesh_balancer_endpoints" "Endpoints of a target, by state.";
    EJECTIONS: Counter "mesh_balancer_ejections_total" "How often a circuit breaker has put an endpoint out.";
    RETRIES: Counter "mesh_retries_total" "Requests sent once more, by reason.";
    RETRY_RESULTS: Counter "mesh_retry_results_total"
        "What came of retries: attempted, succeeded, limit_exceeded, budget_exceeded, or too_large a body.";
    TIMEOUTS: Counter "mesh_timeouts_total" "Requests and connections that took too long, by the limit that ended them.";
    ZONE_REQUESTS: Counter "mesh_zone_requests_total"
        "Requests sent to endpoints of the proxy's own zone (local) or of another, each try.";
    ZONE_SENT: Counter "mesh_zone_sent_bytes_total" "Bytes of bodies and byte streams sent to endpoints, by zone.";
    ZONE_RECEIVED: Counter "mesh_zone_received_bytes_total"
        "Bytes of bodies and byte streams received from endpoints, by zone.";
    TUNNEL_CONNECTIONS: Gauge "mesh_tunnel_connections" "Open connections between sidecars.";
    TUNNEL_STREAMS: Gauge "mesh_tunnel_streams" "Open streams on connections between sidecars.";

    CERTIFICATE_EXPIRY: Gauge "mesh_identity_certificate_expiry_timestamp_seconds"
        "When the certificate in use ends, in seconds since 1970; 0 before there is one.";
    RENEWALS: Counter "mesh_identity_renewals_total" "Attempts to get a certificate, by result.";
    TRUST_BUNDLE_UPDATES: Counter "mesh_identity_trust_bundle_updates_total" "Trust anchors received and taken over.";

    DISCOVERY_CONNECTED: Gauge "mesh_discovery_connected" "1 while the discovery stream is up.";
    DISCOVERY_UPDATES: Counter "mesh_discovery_updates_total" "Updates taken from discovery, by what they are about.";
    DISCOVERY_REJECTIONS: Counter "mesh_discovery_rejections_total"
        "Updates from discovery that were refused as malformed.";
    DISCOVERY_SUBSCRIPTIONS: Gauge "mesh_discovery_subscriptions"
        "What is subscribed to, by what it is about.";
}

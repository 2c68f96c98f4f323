//! Every metric of this service.
//!
//! Invariant: label values are words of the program, so the number of series is fixed; gauges that count living things
//! come down with their guards. Non-goal: series by identity or source.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_mtls::grpc;
use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::authority::Authority;
use crate::connections::Full;
use crate::issuer;

const ISSUED: &str = "mesh_identity_certificates_issued_total";
const REFUSED: &str = "mesh_identity_requests_refused_total";
const DURATION: &str = "mesh_identity_certify_duration_seconds";
const ISSUER_END: &str = "mesh_identity_issuer_not_after_timestamp_seconds";
const ANCHOR_END: &str = "mesh_identity_anchor_not_after_timestamp_seconds";
const ANCHORS: &str = "mesh_identity_anchors";
const TOKENS: &str = "mesh_identity_tokens";
const SUBSCRIBERS: &str = "mesh_identity_bundle_subscribers";
const RELOADS: &str = "mesh_identity_reloads_total";
const RELOAD_ERRORS: &str = "mesh_identity_reload_errors_total";
const HANDSHAKES_FAILED: &str = "mesh_identity_handshakes_failed_total";
const ACCEPT_ERRORS: &str = "mesh_identity_accept_errors_total";
const HTTP2_ABUSE: &str = "mesh_identity_http2_abuse_total";
const CONNECTIONS: &str = "mesh_identity_connections";
const CONNECTIONS_REFUSED: &str = "mesh_identity_connections_refused_total";

/// What is reloaded together.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// Anchors, issuer and key.
    Authority,
    /// The tokens file.
    Tokens,
}

/// Handles, made once. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    handles: Arc<Handles>,
}

struct Handles {
    issued: Counter,
    duration: Histogram,
    issuer_end: Gauge,
    anchor_end: Gauge,
    anchors: Gauge,
    tokens: Gauge,
    subscribers: Gauge,
    connections: Gauge,
}

/// Something that is counted as long as it lives.
pub struct Guard(Gauge);

impl Metrics {
    /// Registers everything with the recorder that is installed.
    #[must_use]
    pub fn new() -> Self {
        describe();
        for full in [Full::Total, Full::Source] {
            counter!(CONNECTIONS_REFUSED, "reason" => full.word()).absolute(0);
        }
        for source in [Source::Authority, Source::Tokens] {
            counter!(RELOADS, "source" => source.word()).absolute(0);
            counter!(RELOAD_ERRORS, "source" => source.word()).absolute(0);
        }
        let handles = Handles {
            issued: counter!(ISSUED),
            duration: histogram!(DURATION),
            issuer_end: gauge!(ISSUER_END),
            anchor_end: gauge!(ANCHOR_END),
            anchors: gauge!(ANCHORS),
            tokens: gauge!(TOKENS),
            subscribers: gauge!(SUBSCRIBERS),
            connections: gauge!(CONNECTIONS),
        };
        Self { handles: Arc::new(handles) }
    }

    /// A certificate was issued.
    pub fn issued(&self) {
        self.handles.issued.increment(1);
    }

    /// A request for one was refused.
    pub fn refused(&self, reason: &'static str) {
        counter!(REFUSED, "reason" => reason).increment(1);
    }

    /// A request for one was answered.
    pub fn answered(&self, after: Duration) {
        self.handles.duration.record(after);
    }

    /// An authority has come into force.
    pub fn authority(&self, authority: &Authority) {
        self.handles.issuer_end.set(unix(authority.issuer.not_after()));
        self.handles.anchors.set(count(authority.anchors.der().len()));
        let ends = authority.anchors.der().iter().filter_map(|anchor| Some(issuer::validity(anchor).ok()?.1));
        if let Some(first_end) = ends.min() {
            self.handles.anchor_end.set(unix(first_end));
        }
    }

    /// A table of tokens has come into force.
    pub fn tokens(&self, tokens: usize) {
        self.handles.tokens.set(count(tokens));
    }

    /// Changed files have been taken.
    pub fn reloaded(&self, source: Source) {
        counter!(RELOADS, "source" => source.word()).increment(1);
    }

    /// Changed files have been refused, or a part of them.
    pub fn reload_failed(&self, source: Source) {
        counter!(RELOAD_ERRORS, "source" => source.word()).increment(1);
    }

    /// A connection was refused before its handshake, or that failed.
    pub fn came_to_nothing(&self, reason: &'static str) {
        if reason == grpc::DESCRIPTORS { self.connection_refused(reason) } else { self.handshake_failed(reason) }
    }

    fn handshake_failed(&self, reason: &'static str) {
        counter!(HANDSHAKES_FAILED, "reason" => reason).increment(1);
    }

    /// A connection came to nothing, though its handshake did not fail.
    pub fn connection_refused(&self, reason: &'static str) {
        counter!(CONNECTIONS_REFUSED, "reason" => reason).increment(1);
    }

    /// A connection was ended because of what its peer did.
    pub fn http2_abuse(&self, reason: &'static str) {
        counter!(HTTP2_ABUSE, "reason" => reason).increment(1);
    }

    /// accept(2) failed for want of something.
    pub fn accept_failed(&self) {
        counter!(ACCEPT_ERRORS).increment(1);
    }

    /// Counts a connection.
    #[must_use]
    pub fn connection(&self) -> Guard {
        Guard::new(&self.handles.connections)
    }

    /// Counts a stream of the trust bundle.
    #[must_use]
    pub fn subscriber(&self) -> Guard {
        Guard::new(&self.handles.subscribers)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Guard {
    fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl Source {
    fn word(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Tokens => "tokens",
        }
    }
}

fn describe() {
    describe_counter!(ISSUED, "Certificates issued to token holders");
    describe_counter!(REFUSED, "Requests for a certificate that were refused, by reason");
    describe_histogram!(DURATION, "Time to answer a request for a certificate");
    describe_gauge!(ISSUER_END, "When the issuer's certificate expires, Unix time");
    describe_gauge!(ANCHOR_END, "When the first trust anchor expires, Unix time");
    describe_gauge!(ANCHORS, "Trust anchors in the bundle");
    describe_gauge!(TOKENS, "Tokens known");
    describe_gauge!(SUBSCRIBERS, "Open streams of the trust bundle");
    describe_counter!(RELOADS, "Changed files that came into force, by source");
    describe_counter!(RELOAD_ERRORS, "Changed files that were refused in whole or part, by source");
    describe_counter!(HANDSHAKES_FAILED, "TLS handshakes that failed, by reason");
    describe_gauge!(CONNECTIONS, "Open connections");
    describe_counter!(CONNECTIONS_REFUSED, "Connections that came to nothing, by reason");
    describe_counter!(
        HTTP2_ABUSE,
        "HTTP/2 connections ended because of what the peer did, by the code that it was told"
    );
    describe_counter!(ACCEPT_ERRORS, "Connections that could not be accepted");
}

#[allow(clippy::cast_precision_loss)]
fn count(n: usize) -> f64 {
    n as f64
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

//! Every metric of the daemon: names, labels, buckets, and handles to count with.
//!
//! Invariant: no name of a metric is spelled elsewhere, and no label's value comes from a peer. What goes up and down is a
//! guard. Non-goal: the recorder (`mesh_kit::metrics`) and what it knows of the process.

use std::time::{Duration, SystemTime};

use ::metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use mesh_kit::metrics::Prometheus;

use crate::index::{Index, Reason, Status};
use crate::model::Kind;

const OBJECTS: &str = "mesh_destination_objects";
const RELOADS: &str = "mesh_destination_reloads_total";
const MANIFEST_ERRORS: &str = "mesh_destination_manifest_errors_total";
const MANIFESTS: &str = "mesh_destination_manifests";
const LOST: &str = "mesh_destination_manifests_lost";
const LAST_RELOAD: &str = "mesh_destination_last_successful_reload_timestamp_seconds";
const APPLY: &str = "mesh_destination_index_apply_duration_seconds";
const WATCHED: &str = "mesh_destination_watched_resources";
const CONNECTIONS: &str = "mesh_destination_connections";
const CONNECTIONS_REFUSED: &str = "mesh_destination_connections_refused_total";
const ACCEPT_ERRORS: &str = "mesh_destination_accept_errors_total";
const STREAMS: &str = "mesh_destination_streams";
const STREAMS_OPENED: &str = "mesh_destination_streams_opened_total";
const STREAMS_ENDED: &str = "mesh_destination_streams_ended_total";
const SUBSCRIPTIONS: &str = "mesh_destination_subscriptions";
const UPDATES_SENT: &str = "mesh_destination_updates_sent_total";
const SNAPSHOTS_TRUNCATED: &str = "mesh_destination_snapshots_truncated_total";
const UPDATES_COALESCED: &str = "mesh_destination_updates_coalesced_total";
const ACKNOWLEDGEMENTS: &str = "mesh_destination_acknowledgements_total";
const PROPAGATION: &str = "mesh_destination_propagation_delay_seconds";
const TROUBLED: &str = "mesh_destination_rejections";
const HEALTH_REPORTS: &str = "mesh_destination_health_reports_total";
const UNHEALTHY: &str = "mesh_destination_unhealthy_workloads";
const PRESERVED: &str = "mesh_destination_preserved_backends";
const CERTIFICATE_EXPIRY: &str = "mesh_destination_certificate_expiry_timestamp_seconds";
const CERTIFY_FAILURES: &str = "mesh_destination_certify_failures_total";

/// Computing what a change means takes microseconds, mostly.
const APPLY_BUCKETS: [f64; 9] = [0.000_01, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.1, 1.0];

/// Installs the recorder and says what the metrics mean.
pub fn install() -> Prometheus {
    let prometheus = Prometheus::install_with(&[(APPLY, &APPLY_BUCKETS)]);
    for (name, help) in [
        (OBJECTS, "Objects known, by kind"),
        (MANIFESTS, "Manifest files, by whether their newest content is in use"),
        (LOST, "1 while the directory of manifests is missing, empty or unreadable"),
        (LAST_RELOAD, "When all manifests were last found to be in use"),
        (WATCHED, "Resources that proxies watch, counted once each"),
        (CONNECTIONS, "Open connections of proxies"),
        (STREAMS, "Open discovery streams"),
        (SUBSCRIPTIONS, "Subscriptions of all streams, by resource"),
        (TROUBLED, "Conditions of routes and policies that are not met, by reason"),
        (UNHEALTHY, "Workloads that are not well, as their own sidecars say"),
        (PRESERVED, "Watched backends whose endpoints all stay in use although more than half are not well"),
        (CERTIFICATE_EXPIRY, "When the certificate in use expires"),
    ] {
        describe_gauge!(name, help);
    }
    for (name, help) in [
        (RELOADS, "Attempts to read changed manifests, by result"),
        (MANIFEST_ERRORS, "Errors found in manifests, each once a version of its file"),
        (CONNECTIONS_REFUSED, "Connections that came to nothing, by reason"),
        (ACCEPT_ERRORS, "Connections that could not be accepted"),
        (STREAMS_OPENED, "Discovery streams opened"),
        (STREAMS_ENDED, "Discovery streams ended, by reason"),
        (UPDATES_SENT, "Snapshots sent, by resource"),
        (SNAPSHOTS_TRUNCATED, "Snapshots with more endpoints than a proxy takes, of which the last were left out"),
        (UPDATES_COALESCED, "Snapshots never sent because a newer one took their place"),
        (ACKNOWLEDGEMENTS, "Answers of proxies to snapshots, by result"),
        (HEALTH_REPORTS, "Reports of sidecars on their own workloads, by result"),
        (CERTIFY_FAILURES, "Requests for a certificate that failed, by reason"),
    ] {
        describe_counter!(name, help);
    }
    for (name, help) in [
        (APPLY, "Time to apply a batch of changes and compute what it means"),
        (PROPAGATION, "Time from seeing a change to a proxy's acknowledgement of it"),
    ] {
        describe_histogram!(name, Unit::Seconds, help);
    }
    prometheus
}

/// How an attempt to read changed manifests ended.
#[derive(Clone, Copy, Debug)]
pub enum Reload {
    /// All is in use.
    Applied,
    /// Some files are broken, and their last good state is in use.
    Partial,
    /// Nothing could be read, and the last good state of all is in use.
    Failed,
}

/// For the source of objects.
#[derive(Debug)]
pub struct Source {
    objects: [(Kind, Gauge); Kind::ALL.len()],
    applied: Counter,
    partial: Counter,
    failed: Counter,
    errors: Counter,
    good: Gauge,
    broken: Gauge,
    lost: Gauge,
    last: Gauge,
    apply: Histogram,
}

impl Default for Source {
    fn default() -> Self {
        let reloads = |result: &'static str| counter!(RELOADS, "result" => result);
        Self {
            objects: Kind::ALL.map(|kind| (kind, gauge!(OBJECTS, "kind" => kind.as_str()))),
            applied: reloads("applied"),
            partial: reloads("partial"),
            failed: reloads("failed"),
            errors: counter!(MANIFEST_ERRORS),
            good: gauge!(MANIFESTS, "state" => "good"),
            broken: gauge!(MANIFESTS, "state" => "broken"),
            lost: gauge!(LOST),
            last: gauge!(LAST_RELOAD),
            apply: histogram!(APPLY),
        }
    }
}

impl Source {
    /// An attempt ended.
    pub fn reloaded(&self, result: Reload) {
        match result {
            Reload::Applied => self.applied.increment(1),
            Reload::Partial => self.partial.increment(1),
            Reload::Failed => self.failed.increment(1),
        }
    }

    /// The directory as a whole cannot be read, or there is nothing in it.
    pub fn lost(&self) {
        self.reloaded(Reload::Failed);
        self.lost.set(1.0);
    }

    /// An error was found in a manifest.
    pub fn error(&self) {
        self.errors.increment(1);
    }

    /// So many files are in use, and so many are broken.
    pub fn manifests(&self, good: usize, broken: usize) {
        self.lost.set(0.0);
        self.good.set(count(good));
        self.broken.set(count(broken));
    }

    /// Everything is in use as it is on disk.
    pub fn in_sync(&self, now: SystemTime) {
        self.last.set(unix_seconds(now));
    }

    /// A batch of changes took so long.
    pub fn indexed(&self, took: Duration, objects: impl Fn(Kind) -> usize) {
        self.apply.record(took);
        for (kind, gauge) in &self.objects {
            gauge.set(count(objects(*kind)));
        }
    }
}

/// What is watched, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// An original destination.
    Outbound,
    /// Endpoints of a backend.
    Endpoints,
    /// A proxy's own policy.
    Inbound,
}

const RESOURCES: [&str; 3] = ["outbound", "endpoints", "inbound"];

/// For the discovery service.
#[derive(Clone, Debug)]
pub struct Service {
    streams: Gauge,
    opened: Counter,
    subscriptions: [Gauge; 3],
    sent: [Counter; 3],
    truncated: Counter,
    coalesced: Counter,
    applied: Counter,
    refused: Counter,
    propagation: Histogram,
    connections: Gauge,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            streams: gauge!(STREAMS),
            opened: counter!(STREAMS_OPENED),
            subscriptions: RESOURCES.map(|kind| gauge!(SUBSCRIPTIONS, "resource" => kind)),
            sent: RESOURCES.map(|kind| counter!(UPDATES_SENT, "resource" => kind)),
            truncated: counter!(SNAPSHOTS_TRUNCATED),
            coalesced: counter!(UPDATES_COALESCED),
            applied: counter!(ACKNOWLEDGEMENTS, "result" => "applied"),
            refused: counter!(ACKNOWLEDGEMENTS, "result" => "refused"),
            propagation: histogram!(PROPAGATION),
            connections: gauge!(CONNECTIONS),
        }
    }
}

impl Service {
    /// A stream is open, for as long as the guard lives.
    pub fn stream(&self) -> Raised {
        self.opened.increment(1);
        Raised::of(&self.streams)
    }

    /// A stream ended. Rare, so that no handle is kept.
    pub fn ended(&self, reason: &'static str) {
        counter!(STREAMS_ENDED, "reason" => reason).increment(1);
    }

    /// A subscription is there.
    pub fn subscribed(&self, resource: Resource) {
        self.subscriptions[resource as usize].increment(1.0);
    }

    /// It is no more.
    pub fn unsubscribed(&self, resource: Resource) {
        self.subscriptions[resource as usize].decrement(1.0);
    }

    /// A snapshot was handed to the connection.
    pub fn sent(&self, resource: Resource) {
        self.sent[resource as usize].increment(1);
    }

    /// A snapshot was too large, and was cut.
    pub fn truncated(&self) {
        self.truncated.increment(1);
    }

    /// So many changes came too fast to be sent each.
    pub fn coalesced(&self, changes: u64) {
        self.coalesced.increment(changes);
    }

    /// A proxy applied a snapshot; `delay` since its change was seen, when there was one.
    pub fn applied(&self, delay: Option<Duration>) {
        self.applied.increment(1);
        if let Some(delay) = delay {
            self.propagation.record(delay);
        }
    }

    /// A proxy refused a snapshot.
    pub fn refused(&self) {
        self.refused.increment(1);
    }

    /// A proxy said how its workload is. Rare, so that no handle is kept.
    pub fn health_reported(&self, result: &'static str) {
        counter!(HEALTH_REPORTS, "result" => result).increment(1);
    }

    /// A connection is open, for as long as the guard lives.
    pub fn connection(&self) -> Raised {
        Raised::of(&self.connections)
    }
}

/// A connection came to nothing.
pub fn connection_refused(reason: &'static str) {
    counter!(CONNECTIONS_REFUSED, "reason" => reason).increment(1);
}

/// accept(2) failed for want of something.
pub fn accept_failed() {
    counter!(ACCEPT_ERRORS).increment(1);
}

/// What the index knows, as of a scrape.
pub fn indexed(index: &Index) {
    gauge!(WATCHED).set(count(index.watched()));
    gauge!(UNHEALTHY).set(count(index.unhealthy().count()));
    gauge!(PRESERVED).set(count(index.preserved().len()));
    let statuses = index.statuses();
    for reason in Reason::TROUBLES {
        let troubles = statuses.iter().flat_map(Status::troubles).filter(|condition| condition.reason == reason);
        gauge!(TROUBLED, "reason" => reason.as_str()).set(count(troubles.count()));
    }
}

/// A certificate is in force.
pub fn certified(until: SystemTime) {
    gauge!(CERTIFICATE_EXPIRY).set(unix_seconds(until));
}

/// A request for a certificate failed.
pub fn certify_failed(reason: &'static str) {
    counter!(CERTIFY_FAILURES, "reason" => reason).increment(1);
}

/// Lowers again, when dropped, what it raised.
#[derive(Debug)]
pub struct Raised {
    gauge: Gauge,
}

impl Raised {
    fn of(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        let gauge = gauge.clone();
        Self { gauge }
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.gauge.decrement(1.0);
    }
}

fn count(number: usize) -> f64 {
    // Exact to 2^53.
    number as f64
}

fn unix_seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

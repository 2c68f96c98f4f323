//! What the admin port shows of the proxy: readiness, and its state as JSON.
//!
//! Invariant: rendering takes no lock for longer than a copy. Who may see what is `mesh_kit::admin`'s work.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use mesh_kit::ready::{Check, Status};
use mesh_mtls::anchors::Anchors;
use mesh_mtls::certify::{Error, Observer};
use mesh_mtls::credentials::{Credentials, Leaf};
use serde::Serialize;

use crate::control::{self, Discovery};
use crate::metrics::Identity;

/// Makes readiness follow the certificate: there is one, and it has not expired.
pub async fn follow_certificate(check: Check, credentials: Credentials) {
    let status = |usable| if usable { Status::Ready } else { Status::Waiting };
    credentials.follow_usable(|usable| check.set(status(usable))).await;
}

/// Makes metrics follow the certificate.
pub struct Certified(pub Identity);

impl Observer for Certified {
    fn certified(&self, leaf: &Leaf) {
        self.0.certified(leaf.not_after());
        self.0.renewal("ok");
    }

    fn failed(&self, error: &Error) {
        self.0.renewal(error.reason());
    }

    fn bundle_changed(&self, _: &Anchors) {
        self.0.trust_bundle_updated();
    }
}

/// Everything that `/state` shows.
#[derive(Serialize)]
struct State<'a, W> {
    version: &'a str,
    draining: bool,
    certificate: Option<Certificate>,
    trust_anchors: usize,
    discovery: control::Status,
    workers: Vec<W>,
}

#[derive(Serialize)]
struct Certificate {
    identity: String,
    seconds_left: i64,
}

/// What `/state` is made of; `workers` shows each worker's two sides.
pub struct Sources<F> {
    /// The certificate and the anchors.
    pub credentials: Credentials,
    /// The control plane as seen from here.
    pub discovery: Discovery,
    /// Each worker's own knowledge.
    pub workers: F,
    /// Whether the proxy is about to end.
    pub draining: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl<F, W> Sources<F>
where
    F: Fn(Instant) -> Vec<W>,
    W: Serialize,
{
    /// The state as JSON.
    pub fn render(&self) -> String {
        let state = State {
            version: mesh_kit::build::VERSION,
            draining: (self.draining)(),
            certificate: self.credentials.leaf().map(|leaf| certificate(&leaf)),
            trust_anchors: self.credentials.anchors().der().len(),
            discovery: self.discovery.status(),
            workers: (self.workers)(Instant::now()),
        };
        // Plain data with string keys: there is nothing that JSON could not say.
        serde_json::to_string_pretty(&state).unwrap_or_default()
    }
}

fn certificate(leaf: &Leaf) -> Certificate {
    let seconds = match leaf.not_after().duration_since(SystemTime::now()) {
        Ok(left) => i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        Err(over) => -i64::try_from(over.duration().as_secs()).unwrap_or(i64::MAX),
    };
    Certificate { identity: leaf.id().to_string(), seconds_left: seconds }
}

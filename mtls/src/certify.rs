//! Keeps [`Credentials`] fresh: certifies with `identity` at once, renews in time, follows the trust bundle.
//!
//! Invariant: a leaf comes into force only when it fits the key made for it, leads to the current anchors and carries
//! the identity asked for; anchors only when all of them can be used. Whatever fails, the last good ones stay in force
//! to their last second. Non-goal: an end; the owner drops the future.

mod bundle;
mod request;
mod schedule;
mod token;

use std::path::PathBuf;
use std::time::Duration;

use mesh_proto::identity::identity_client::IdentityClient;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::codegen::Bytes;
use tonic::transport::Channel;

pub use request::Error;
use schedule::{Now, Schedule, Validity};
use token::TokenFile;

use crate::anchors::Anchors;
use crate::clock;
use crate::credentials::{Credentials, Leaf};
use crate::grpc;
use crate::spiffe::Id;
use crate::tls::Connector;

/// The longest answer of `identity` that is read: a full bundle of large certificates.
const MAX_ANSWER: usize = 1024 * 1024;
/// For the answer to one request; a server that hangs is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Whom to ask, and as whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port` of `identity`.
    pub identity_addr: String,
    /// What `identity` has to prove.
    pub identity_id: Id,
    /// Holds the token that says who we are; read again for each request, for tokens rotate.
    pub token_file: PathBuf,
    /// The identity to ask for; none: the one that the token stands for.
    pub id: Option<Id>,
    /// After a change of anchors or issuer all clients renew, spread over this time.
    pub renewal_spread: Duration,
}

impl Settings {
    /// Asks for the identity of the token, and spreads renewals over two seconds.
    pub fn new(identity_addr: impl Into<String>, identity_id: Id, token_file: impl Into<PathBuf>) -> Self {
        Self {
            identity_addr: identity_addr.into(),
            identity_id,
            token_file: token_file.into(),
            id: None,
            renewal_spread: Duration::from_secs(2),
        }
    }
}

/// Told what happens, for metrics and readiness. `()` listens to nothing.
pub trait Observer: Send + Sync {
    /// `leaf` is in force.
    fn certified(&self, leaf: &Leaf) {
        let _ = leaf;
    }

    /// A request for a certificate failed; it is repeated.
    fn failed(&self, error: &Error) {
        let _ = error;
    }

    /// `anchors` are in force, and differ from those before.
    fn bundle_changed(&self, anchors: &Anchors) {
        let _ = anchors;
    }

    /// The bundle's stream failed, and is opened again; or a bundle was refused.
    fn bundle_failed(&self, error: &Error) {
        let _ = error;
    }
}

impl Observer for () {}

/// Runs for ever. Must be called within a tokio runtime, any flavour.
pub async fn run(settings: Settings, credentials: Credentials, observer: impl Observer) {
    let connector = Connector::anonymous(credentials.clone(), grpc::ALPN);
    let channel = grpc::channel(&settings.identity_addr, settings.identity_id.clone(), connector);
    run_over(channel, settings, credentials, observer).await;
}

/// The same over a channel that is there already.
pub async fn run_over(channel: Channel, settings: Settings, credentials: Credentials, observer: impl Observer) {
    let client = IdentityClient::new(channel).max_decoding_message_size(MAX_ANSWER);
    let (issuer, issuers) = watch::channel(Bytes::new());
    tokio::join!(
        bundle::follow(client.clone(), &credentials, &issuer, &observer),
        renew(client, &settings, &credentials, issuers, &observer),
    );
}

async fn renew(
    mut client: IdentityClient<Channel>,
    settings: &Settings,
    credentials: &Credentials,
    mut issuers: watch::Receiver<Bytes>,
    observer: &impl Observer,
) {
    let mut anchors = credentials.watch_anchors();
    let mut schedule = Schedule::default();
    let mut token = TokenFile::new(settings.token_file.clone());
    loop {
        anchors.mark_unchanged();
        issuers.mark_unchanged();
        match request::certify(&mut client, &mut token, settings, credentials).await {
            Ok(leaf) => {
                let leaf = credentials.set_leaf(leaf);
                let left = leaf.not_after().duration_since(clock::wall()).unwrap_or_default();
                tracing::info!(id = %leaf.id(), ?left, "certified");
                let validity = Validity { not_before: leaf.not_before(), not_after: leaf.not_after() };
                schedule.issued(validity, Now::read(), fastrand::f64());
                observer.certified(&leaf);
            }
            Err(error) => {
                tracing::warn!(reason = error.reason(), "no certificate: {error}");
                schedule.failed(Now::read(), fastrand::f64());
                observer.failed(&error);
            }
        }
        until_due(&mut schedule, &mut anchors, &mut issuers, settings.renewal_spread).await;
    }
}

async fn until_due(
    schedule: &mut Schedule,
    anchors: &mut watch::Receiver<Anchors>,
    issuers: &mut watch::Receiver<Bytes>,
    spread: Duration,
) {
    loop {
        let wait = schedule.wait(Now::read());
        if wait.is_zero() {
            return;
        }
        tokio::select! {
            () = sleep(wait) => {}
            Ok(()) = anchors.changed() => schedule.hasten(Now::read(), spread.mul_f64(fastrand::f64())),
            Ok(()) = issuers.changed() => schedule.hasten(Now::read(), spread.mul_f64(fastrand::f64())),
        }
    }
}

#[cfg(test)]
mod tests;

//! Follows the trust bundle of `identity` for as long as the process lives.
//!
//! Invariant: a bundle that is empty or cannot be used changes nothing.

use mesh_proto::identity::identity_client::IdentityClient;
use mesh_proto::identity::{TrustBundleRequest, TrustBundleResponse};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::codegen::Bytes;
use tonic::transport::Channel;

use super::schedule::Backoff;
use super::{ANSWER_TIMEOUT, Error, Observer};
use crate::anchors::Anchors;
use crate::credentials::Credentials;

/// `issuer` is told who signs leaves, so that a change of it is noticed even under the same anchors.
pub(super) async fn follow(
    mut client: IdentityClient<Channel>,
    credentials: &Credentials,
    issuer: &watch::Sender<Bytes>,
    observer: &impl Observer,
) {
    let mut backoff = Backoff::default();
    loop {
        let error = read(&mut client, credentials, issuer, observer, &mut backoff).await;
        tracing::debug!(reason = error.reason(), "trust bundle: {error}");
        observer.bundle_failed(&error);
        sleep(backoff.next(fastrand::f64())).await;
    }
}

/// Reads one stream to its end, which is always an error: the server should go on for ever.
async fn read(
    client: &mut IdentityClient<Channel>,
    credentials: &Credentials,
    issuer: &watch::Sender<Bytes>,
    observer: &impl Observer,
    backoff: &mut Backoff,
) -> Error {
    let mut bundles = match timeout(ANSWER_TIMEOUT, client.trust_bundle(TrustBundleRequest {})).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => return status.into(),
        Err(_) => return Error::Timeout,
    };
    loop {
        match bundles.message().await {
            Ok(Some(bundle)) => {
                backoff.reset();
                if let Err(error) = apply(&bundle, credentials, observer) {
                    tracing::warn!(reason = error.reason(), "trust bundle refused: {error}");
                    observer.bundle_failed(&error);
                }
                tell(issuer, bundle.issuer_der);
            }
            Ok(None) => return Error::Ended,
            Err(status) => return status.into(),
        }
    }
}

/// The first issuer that is heard of is nothing new: it has signed, or will sign, the leaf in force.
fn tell(issuer: &watch::Sender<Bytes>, now: Bytes) {
    issuer.send_if_modified(|known| {
        let before = std::mem::replace(known, now);
        !before.is_empty() && before != *known
    });
}

fn apply(bundle: &TrustBundleResponse, credentials: &Credentials, observer: &impl Observer) -> Result<(), Error> {
    let der = bundle.anchors_der.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let anchors = Anchors::from_der(der)?;
    if credentials.set_anchors(anchors.clone()) {
        tracing::info!(anchors = anchors.der().len(), "trust bundle changed");
        observer.bundle_changed(&anchors);
    }
    Ok(())
}

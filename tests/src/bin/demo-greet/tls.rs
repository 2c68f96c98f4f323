//! A TLS server whose certificate nobody knows: what the mesh sees as foreign TLS.
//!
//! Invariant: a fresh self-signed certificate at each start.
//! Non-goal: client certificates.

use std::sync::Arc;

use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::TlsAcceptor;

/// An acceptor with a self-signed certificate for `name`.
pub(crate) fn self_signed(name: &str) -> anyhow::Result<TlsAcceptor> {
    let pair = rcgen::generate_simple_self_signed([name.to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key.into())?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

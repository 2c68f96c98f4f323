//! rustls put together: our one crypto provider, the verifiers, and where certificates come from.
//!
//! Invariant: the process default provider is never asked; every configuration made here has TLS 1.3 as its only
//! version and keeps no session. Anchors and leaf are looked up in the cell at each handshake, so that no
//! configuration is ever stale.

use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, ServerConfig, SignatureScheme,
    SupportedCipherSuite,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::{ClientAuth, Shown};
use crate::chain::{self, Refusal, Role};
use crate::credentials::Credentials;
use crate::spiffe::Id;

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: cipher_suites(has_aes()),
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    })
});

/// Whether the processor computes AES itself.
#[derive(Clone, Copy)]
enum Aes {
    InHardware,
    InSoftware,
}

fn cipher_suites(aes: Aes) -> Vec<SupportedCipherSuite> {
    let (aes128, aes256, chacha20) = (
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    );
    match aes {
        Aes::InHardware => vec![aes128, aes256, chacha20],
        Aes::InSoftware => vec![chacha20, aes128, aes256],
    }
}

fn has_aes() -> Aes {
    #[cfg(target_arch = "x86_64")]
    let found = std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let found = std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let found = false;
    if found { Aes::InHardware } else { Aes::InSoftware }
}

pub(crate) fn load_key(key: &PrivateKeyDer<'_>) -> Result<Arc<dyn SigningKey>, Error> {
    PROVIDER.key_provider.load_private_key(key.clone_key())
}

#[cfg(test)]
pub(super) fn preferred_suite() -> SupportedCipherSuite {
    cipher_suites(has_aes())[0]
}

pub(super) fn server(credentials: &Credentials, client_auth: ClientAuth, alpn: &[&[u8]]) -> ServerConfig {
    let verifier = ClientVerifier { credentials: credentials.clone(), client_auth };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider above has TLS 1.3 suites and groups")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(Newest(credentials.clone())));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.enable_secret_extraction = true; // for `records`
    config
}

pub(super) fn client(credentials: &Credentials, shown: Shown, alpn: &[Vec<u8>], expected: Id) -> ClientConfig {
    let verifier = ServerVerifier { credentials: credentials.clone(), expected };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider above has TLS 1.3 suites and groups")
        .dangerous() // so rustls calls any verifier that is not its own
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match shown {
        Shown::Leaf => builder.with_client_cert_resolver(Arc::new(Newest(credentials.clone()))),
        Shown::Nothing => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.to_vec();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.enable_secret_extraction = true; // for `records`
    config
}

/// The newest leaf of the cell, whatever the peer asks for: we have just one.
#[derive(Debug)]
struct Newest(Credentials);

impl Newest {
    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.0.leaf().map(|leaf| leaf.certified())
    }
}

impl ResolvesServerCert for Newest {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl ResolvesClientCert for Newest {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        self.0.leaf().is_some()
    }
}

#[derive(Debug)]
struct ServerVerifier {
    credentials: Credentials,
    expected: Id,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let anchors = self.credentials.anchors();
        let presented = chain::verify(leaf, intermediates, &anchors, now, Role::Server).map_err(invalid)?;
        if presented != self.expected {
            return Err(invalid(Refusal::Identity { expected: self.expected.clone(), presented }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &PROVIDER.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct ClientVerifier {
    credentials: Credentials,
    client_auth: ClientAuth,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.client_auth == ClientAuth::Required
    }

    /// No hints: clients have one certificate, and strangers need not learn whom we trust.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let anchors = self.credentials.anchors();
        chain::verify(leaf, intermediates, &anchors, now, Role::Client).map_err(invalid)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &PROVIDER.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

fn invalid(refusal: Refusal) -> Error {
    Error::InvalidCertificate(refusal.into())
}

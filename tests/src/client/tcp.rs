//! Conversations over plain TCP and over a TLS of the app's own.
//!
//! Invariant: who speaks first is what the function's name says.
//! Non-goal: verifying the foreign certificate; it is self-signed, and the mesh's business is not to touch it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::PATIENCE;

/// Connects.
///
/// # Errors
/// When the address cannot be reached in time.
pub async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(addr)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects and waits silently for the first line; how long that took, from before the connect.
///
/// # Errors
/// When no line comes in time.
pub async fn greeting(addr: SocketAddr) -> io::Result<(String, Duration)> {
    let start = Instant::now();
    let mut stream = BufReader::new(connect(addr).await?);
    let mut line = String::new();
    tokio::time::timeout(PATIENCE, stream.read_line(&mut line)).await??;
    Ok((line.trim_end().to_owned(), start.elapsed()))
}

/// Sends `bytes`, ends its side, and reads what comes to the end.
///
/// # Errors
/// When the conversation breaks off or takes too long.
pub async fn exchange(stream: impl AsyncRead + AsyncWrite, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = async {
        writer.write_all(bytes).await?;
        writer.shutdown().await
    };
    let receive = async {
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.map(|_| received)
    };
    let both = async { tokio::try_join!(send, receive) };
    let ((), received) = tokio::time::timeout(PATIENCE, both).await??;
    Ok(received)
}

/// A TLS session with whoever has `name` in its hello, and the certificates that came, as DER, leaf first.
///
/// # Errors
/// When the handshake fails.
pub async fn tls(addr: SocketAddr, name: &str) -> io::Result<(impl AsyncRead + AsyncWrite, Vec<Vec<u8>>)> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, connect(addr).await?).await?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let chain = chain.iter().map(|der| der.to_vec()).collect();
    Ok((stream, chain))
}

/// Whoever takes any certificate, for a TLS client of a test's own.
#[must_use]
pub fn anybody(provider: Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Anybody(provider))
}

/// Takes any certificate, but has the handshake signed with it.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

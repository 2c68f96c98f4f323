//! Handshakes: [`Acceptor`] and [`Connector`] over any stream.
//!
//! Invariant: TLS 1.3 only, no resumption, no early data, no key log, and no SNI, so that names stay private. Each
//! handshake reads the newest anchors and leaf and ends within a time limit. Non-goal: sockets; the caller brings the
//! stream.

mod buffer;
mod config;
mod error;
mod handshake;
mod records;
mod stream;
pub mod talk;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::UnbufferedClientConnection;
use rustls::server::{ServerConfig, UnbufferedServerConnection};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use config::load_key;
pub use error::{Blame, Error, reason_in};
pub use stream::Stream;

use crate::anchors::Anchors;
use crate::chain;
use crate::credentials::Credentials;
use crate::spiffe::Id;
use handshake::{Handshake, Session};

/// Limits of a handshake.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// From the first byte to the end of the handshake.
    pub handshake_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { handshake_timeout: Duration::from_secs(10) }
    }
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate, no connection.
    Required,
    /// A client may be nobody; if it shows a certificate, that must be good.
    Optional,
}

/// Who is at the other end of an accepted connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Proved by its certificate; none under [`ClientAuth::Optional`] only.
    pub id: Option<Id>,
}

/// Accepts TLS. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Acceptor {
    credentials: Credentials,
    config: Arc<ServerConfig>,
    settings: Settings,
}

impl Acceptor {
    /// Demands that the client speaks one of `alpn`, the first that we list winning; with an empty list any will do.
    pub fn new(credentials: Credentials, client_auth: ClientAuth, alpn: &[&[u8]]) -> Self {
        let config = Arc::new(config::server(&credentials, client_auth, alpn));
        Self { credentials, config, settings: Settings::default() }
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_settings(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    /// Performs the handshake.
    ///
    /// # Errors
    /// See [`Error`]; the stream is gone then, and the peer was sent an alert where TLS has one.
    pub async fn accept<IO>(&self, io: IO) -> Result<(Stream<IO>, Peer), Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.credentials.usable_leaf(SystemTime::now()).ok_or(Error::NotCertified)?;
        let session = Box::new(UnbufferedServerConnection::new(Arc::clone(&self.config))?);
        let handshake = Handshake::new(io, Session::Server(session));
        let done = within(self.settings.handshake_timeout, handshake.perform()).await?;
        let agreed = done.agreed();
        if agreed.alpn_protocol().is_none() && !self.config.alpn_protocols.is_empty() {
            return Err(Error::Alpn);
        }
        let leaf = agreed.peer_certificates().and_then(<[_]>::first);
        let id = leaf.map(chain::identity).transpose().map_err(Error::Certificate)?;
        Ok((done.into_stream()?, Peer { id }))
    }
}

/// Whether a connector shows our certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Leaf,
    Nothing,
}

/// Opens TLS. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connector {
    credentials: Credentials,
    shown: Shown,
    alpn: Arc<[Vec<u8>]>,
    settings: Settings,
}

impl Connector {
    /// Shows our leaf, and refuses to connect while there is none. Demands that the server picks one of `alpn`, unless
    /// that is empty.
    pub fn new(credentials: Credentials, alpn: &[&[u8]]) -> Self {
        Self { credentials, shown: Shown::Leaf, alpn: owned(alpn), settings: Settings::default() }
    }

    /// Shows no certificate; the server is verified all the same. For asking `identity` before we have a leaf.
    pub fn anonymous(credentials: Credentials, alpn: &[&[u8]]) -> Self {
        Self { shown: Shown::Nothing, ..Self::new(credentials, alpn) }
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_settings(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    /// The same with other protocols.
    #[must_use]
    pub fn with_alpn(self, alpn: &[&[u8]]) -> Self {
        Self { alpn: owned(alpn), ..self }
    }

    /// What servers are verified with now.
    pub fn anchors(&self) -> Anchors {
        self.credentials.anchors()
    }

    /// Performs the handshake; the server must prove to be `expected`.
    ///
    /// In TLS 1.3 a client is done before the server has judged the client's certificate: that refusal comes with the
    /// first read, and [`reason_in`] finds it there.
    ///
    /// # Errors
    /// See [`Error`]; the stream is gone then, and the peer was sent an alert where TLS has one.
    pub async fn connect<IO>(&self, io: IO, expected: &Id) -> Result<Stream<IO>, Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        if self.shown == Shown::Leaf {
            self.credentials.usable_leaf(SystemTime::now()).ok_or(Error::NotCertified)?;
        }
        let config = config::client(&self.credentials, self.shown, &self.alpn, expected.clone());
        // rustls wants a name; it is neither sent (SNI is off) nor verified (the expected id is).
        let name = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let session = Box::new(UnbufferedClientConnection::new(Arc::new(config), name)?);
        let handshake = Handshake::new(io, Session::Client(session));
        let done = within(self.settings.handshake_timeout, handshake.perform()).await?;
        if done.agreed().alpn_protocol().is_none() && !self.alpn.is_empty() {
            return Err(Error::Alpn);
        }
        Ok(done.into_stream()?)
    }
}

fn owned(alpn: &[&[u8]]) -> Arc<[Vec<u8>]> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}

async fn within<T>(limit: Duration, handshake: impl Future<Output = std::io::Result<T>>) -> Result<T, Error> {
    match tokio::time::timeout(limit, handshake).await {
        Ok(done) => done.map_err(Error::from),
        Err(_) => Err(Error::Timeout(limit)),
    }
}

#[cfg(test)]
mod tests;

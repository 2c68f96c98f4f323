//! Somebody with a certificate of the mesh, who opens tunnels as a sidecar does and says on them what a test wants.
//!
//! Invariant: certificate and handshake are honest.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context as _;
use mesh_mtls::certify;
use mesh_mtls::credentials::{Anchors, Credentials};
use mesh_mtls::spiffe::Id;
use mesh_mtls::tls::{Acceptor, ClientAuth, Connector};
use mesh_proxy::http::TUNNEL_ALPN;
use nix::unistd::Uid;

use super::{Connection, Listener, through_tls};
use crate::client::{PATIENCE, within};
use crate::mesh::Mesh;
use crate::netns::Host;

/// The member, on a host of its own choice.
pub struct Member {
    host: Host,
    credentials: Credentials,
}

impl Member {
    /// Gets a certificate of the identity `service_account`.
    ///
    /// # Errors
    /// When the mesh has not started, or issues none in time.
    pub fn of(mesh: &Mesh, host: &Host, service_account: &str) -> anyhow::Result<Self> {
        let token = mesh.control().token("default", service_account, Uid::from_raw(0));
        let anchors = std::fs::read(mesh.control().anchors()).context("the anchors")?;
        let credentials = Credentials::new(Anchors::from_pem(&anchors)?);
        let identity = Id::new("cluster.local", "mesh-system", "identity")?;
        let settings = certify::Settings::new(mesh.control().identity_addr().to_string(), identity, &token);
        within(host, async {
            let certifying = tokio::spawn(certify::run(settings, credentials.clone(), ()));
            let certified = tokio::time::timeout(2 * PATIENCE, credentials.certified()).await;
            certifying.abort();
            certified
        })
        .context("no certificate")?;
        Ok(Self { host: host.clone(), credentials })
    }

    /// Opens a connection to the tunnel port of a sidecar, which must prove to be `service_account`.
    ///
    /// # Errors
    /// When it cannot be reached, or the handshake fails.
    pub fn dial(&self, addr: SocketAddr, service_account: &str) -> std::io::Result<Connection> {
        self.dial_in("default", addr, service_account, TUNNEL_ALPN)
    }

    /// As [`Member::dial`], for a service account of another namespace and the protocol that it speaks: the control plane's
    /// namespace is `mesh-system`.
    ///
    /// # Errors
    /// When it cannot be reached, or the handshake fails.
    pub fn dial_in(
        &self,
        namespace: &str,
        addr: SocketAddr,
        service_account: &str,
        alpn: &[&[u8]],
    ) -> std::io::Result<Connection> {
        let tcp = self.host.enter(|| TcpStream::connect_timeout(&addr, PATIENCE))?;
        tcp.set_nodelay(true)?;
        tcp.set_nonblocking(true)?;
        let expected = Id::new("cluster.local", namespace, service_account).map_err(std::io::Error::other)?;
        let connector = Connector::new(self.credentials.clone(), alpn);
        through_tls(async move {
            let tcp = tokio::net::TcpStream::from_std(tcp)?;
            let connected = tokio::time::timeout(HANDSHAKE, connector.connect(tcp, &expected)).await;
            connected?.map_err(std::io::Error::other)
        })
    }

    /// Accepts a connection from another sidecar, with the certificate of this member; `None` when there is none in time.
    #[must_use]
    pub fn accept(&self, listener: &Listener, patience: Duration) -> Option<Connection> {
        let tcp = TcpStream::from(listener.accept(patience)?.into_socket());
        tcp.set_nonblocking(true).ok()?;
        let acceptor = Acceptor::new(self.credentials.clone(), ClientAuth::Required, TUNNEL_ALPN);
        let accepted = through_tls(async move {
            let tcp = tokio::net::TcpStream::from_std(tcp)?;
            let accepted = tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await;
            accepted?.map(|(stream, _)| stream).map_err(std::io::Error::other)
        });
        accepted.ok()
    }
}

/// For a handshake; long, for a debug build on a busy machine.
const HANDSHAKE: Duration = Duration::from_secs(20);

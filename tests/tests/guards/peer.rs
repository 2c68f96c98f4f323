//! A sidecar that lies: it has a certificate of the mesh, and says over its tunnel whatever a test wants.
//!
//! Invariant: certificate and handshake are honest; what is asked for is not.
//! Non-goal: being refused for who it is.

use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, Response};
use mesh_mtls::certify;
use mesh_mtls::credentials::{Anchors, Credentials};
use mesh_mtls::spiffe::Id;
use mesh_mtls::tls::Connector;
use mesh_tests::client::tcp;
use mesh_tests::mesh::Mesh;
use mesh_tests::streams;
use nix::unistd::Uid;

/// Somebody with a token.
pub(crate) struct Liar {
    token: PathBuf,
    anchors: Vec<u8>,
    identity: SocketAddr,
}

/// What came of a lie.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The reason word of `mesh-error`.
    pub(crate) reason: Option<String>,
}

/// A tunnel to a sidecar.
#[derive(Clone)]
pub(crate) struct Tunnel(SendRequest<Bytes>);

impl Liar {
    pub(crate) fn new(mesh: &Mesh) -> Self {
        let token = mesh.control().token("default", "liar", Uid::from_raw(0));
        let anchors = std::fs::read(mesh.control().anchors()).expect("the mesh has started");
        Self { token, anchors, identity: mesh.control().identity_addr() }
    }

    /// Gets a certificate, and opens a tunnel to the sidecar at `addr`.
    pub(crate) async fn tunnel(&self, addr: SocketAddr, service_account: &str) -> anyhow::Result<Tunnel> {
        let credentials = Credentials::new(Anchors::from_pem(&self.anchors)?);
        let identity = Id::new("cluster.local", "mesh-system", "identity")?;
        let settings = certify::Settings::new(self.identity.to_string(), identity, &self.token);
        let certifying = tokio::spawn({
            let credentials = credentials.clone();
            async move { certify::run(settings, credentials, ()).await }
        });
        credentials.certified().await;
        certifying.abort();
        let expected = Id::new("cluster.local", "default", service_account)?;
        let stream = Connector::new(credentials, &[b"h2"]).connect(tcp::connect(addr).await?, &expected).await?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Tunnel(sender))
    }
}

impl Tunnel {
    /// A request that is said to be for `destination`.
    pub(crate) async fn request(&self, destination: Option<&str>) -> anyhow::Result<Answer> {
        let request = Request::builder().uri("http://web/").header("mesh-origin", "1.1");
        let request = destination.into_iter().fold(request, |request, to| request.header("mesh-destination", to));
        let (response, _) = self.0.clone().ready().await?.send_request(request.body(())?, true)?;
        Ok(Answer::of(&response.await?))
    }

    /// A byte stream that is said to be for `authority`, and a request on it if it is granted.
    pub(crate) async fn connect(&self, authority: &str) -> anyhow::Result<Answer> {
        let request = Request::builder().method(Method::CONNECT).uri(authority).body(())?;
        let (response, mut stream) = self.0.clone().ready().await?.send_request(request, false)?;
        let response = response.await?;
        if response.status() != 200 {
            return Ok(Answer::of(&response));
        }
        stream.send_data("GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n".into(), false)?;
        let answer = streams::body(response.into_body()).await.map_err(|code| anyhow::anyhow!("reset, {code:?}"))?;
        let status = mesh_tests::raw::status(&answer);
        let status = status.ok_or_else(|| anyhow::anyhow!("answered {:?}", String::from_utf8_lossy(&answer)))?;
        Ok(Answer { status, reason: None })
    }
}

impl Answer {
    fn of<B>(response: &Response<B>) -> Self {
        let said = response.headers().get("mesh-error").map(|said| String::from_utf8_lossy(said.as_bytes()));
        let reason = said.and_then(|said| said.split(';').next().map(str::to_owned));
        Self { status: response.status().as_u16(), reason }
    }
}

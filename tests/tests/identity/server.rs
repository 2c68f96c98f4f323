//! A running `mesh-identity`, and a caller of it.
//!
//! Invariant: no fixed ports: both addresses are read from its log. Non-goal: restarting in place.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mesh_mtls::anchors::Anchors;
use mesh_mtls::credentials::Credentials;
use mesh_mtls::grpc;
use mesh_mtls::spiffe::Id;
use mesh_mtls::tls::Connector;
use mesh_proto::identity::identity_client::IdentityClient;
use mesh_proto::identity::{CertifyRequest, CertifyResponse};
use mesh_tests::bin;
use mesh_tests::netns::Proc;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::openssl::{self, P256, Request};

pub(crate) const SOON: Duration = Duration::from_secs(30);
pub(crate) const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
pub(crate) const OWN: &str = "spiffe://cluster.local/ns/mesh-system/sa/identity";

/// The folder of a server: its CA, its tokens.
pub(crate) struct Home {
    dir: TempDir,
}

pub(crate) struct Server {
    pub(crate) process: Proc,
    pub(crate) addr: SocketAddr,
    pub(crate) admin: SocketAddr,
    anchors: PathBuf,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A new token, as the command prints it.
    pub(crate) fn token(&self, id: &str) -> String {
        let mut command = Command::new(bin("mesh-identity"));
        command.args(["token", "add", "--id", id, "--tokens"]).arg(self.path("tokens"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Starts a server that makes its own CA.
    pub(crate) fn start(&self, more: &[&str]) -> Server {
        let ca = self.path("ca");
        self.start_with(&[&["--init-dir", ca.to_str().unwrap()], more].concat(), ca.join("anchors.pem"))
    }

    /// Starts a server with the files `anchors.pem`, `issuer.pem` and `issuer.key` of this folder.
    pub(crate) fn start_on_files(&self, more: &[&str]) -> Server {
        let paths = ["anchors.pem", "issuer.pem", "issuer.key"].map(|name| self.path(name));
        let [anchors, certificate, key] = paths.each_ref().map(|path| path.to_str().unwrap());
        let files = ["--anchors", anchors, "--issuer-cert", certificate, "--issuer-key", key];
        self.start_with(&[&files, more].concat(), self.path("anchors.pem"))
    }

    fn start_with(&self, args: &[&str], anchors: PathBuf) -> Server {
        let mut command = Command::new(bin("mesh-identity"));
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--tokens"]).arg(self.path("tokens"));
        let process = Proc::spawn(command.args(args));
        let line = process.wait_for_line(" serving ", SOON);
        let field = |name: &str| {
            let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)).expect(&line);
            value.parse().expect(value)
        };
        Server { addr: field("listen="), admin: field("admin="), process, anchors }
    }
}

impl Server {
    /// A client that trusts the anchors that the server has on disk now.
    pub(crate) fn client(&self) -> IdentityClient<Channel> {
        let anchors = Anchors::from_pem(&fs::read(&self.anchors).unwrap()).unwrap();
        self.client_that_trusts(anchors)
    }

    /// Where its anchors are on disk.
    pub(crate) fn anchors(&self) -> &Path {
        &self.anchors
    }

    pub(crate) fn client_that_trusts(&self, anchors: Anchors) -> IdentityClient<Channel> {
        let own: Id = OWN.parse().unwrap();
        let connector = Connector::anonymous(Credentials::new(anchors), grpc::ALPN);
        IdentityClient::new(grpc::channel(&self.addr.to_string(), own, connector))
    }

    pub(crate) fn metrics(&self) -> String {
        self.get("/metrics").1
    }

    /// A metric's value; a series that is not there counts as nought.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect(value))
    }

    /// Waits for a metric to have a value.
    pub(crate) fn until_metric(&self, series: &str, at_least: f64) {
        let deadline = Instant::now() + SOON;
        while self.metric(series) < at_least {
            assert!(Instant::now() < deadline, "{series} < {at_least}:\n{}\n{}", self.metrics(), self.process.output());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Status and body of a page on the admin port.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        let host = IpAddr::from([127, 0, 0, 1]);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect(&answer);
        (head[9..12].parse().unwrap(), body.to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let state = if self.process.is_running() { "runs" } else { "has ended" };
            eprintln!("the server {state}; it said:\n{}", self.process.output());
        }
    }
}

/// Asks for a certificate.
pub(crate) async fn certify(
    client: &mut IdentityClient<Channel>,
    token: impl AsRef<[u8]>,
    identity: &str,
    csr: &[u8],
) -> Result<CertifyResponse, Status> {
    let request = CertifyRequest {
        token: token.as_ref().to_vec().into(),
        identity: identity.to_owned(),
        csr_der: csr.to_vec().into(),
    };
    let answer = tokio::time::timeout(SOON, client.certify(request)).await;
    answer.expect("an answer in time").map(tonic::Response::into_inner)
}

/// The code of an answer.
pub(crate) fn code<T>(answer: &Result<T, Status>) -> Code {
    answer.as_ref().map_or_else(Status::code, |_| Code::Ok)
}

/// A CSR with nothing but the identity.
pub(crate) fn plain_csr(identity: &str) -> Vec<u8> {
    let name = format!("subjectAltName=URI:{identity}");
    openssl::csr(&Request { key: P256, subject: "/", extensions: &[&name] })
}

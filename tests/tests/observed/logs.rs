//! Text of peers that would make lines of its own in a log, or steer a terminal, or fill a disk.
//!
//! Invariant: every daemon is told every text in every field that it logs, over its real ports.

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use mesh_mtls::credentials::Credentials;
use mesh_mtls::grpc;
use mesh_mtls::spiffe::Id;
use mesh_mtls::tls::Connector;
use mesh_proto::discovery as wire;
use mesh_proto::identity::CertifyRequest;
use mesh_proto::identity::identity_client::IdentityClient;
use mesh_tests::client::{PATIENCE, within};
use mesh_tests::mesh::{Daemon, INBOUND_PORT, Mesh, Speaker};
use mesh_tests::netns::{Host, until};
use mesh_tests::yardstick::{Bystander, Who, count, log_is_safe, record};
use wire::watch_request::Kind;

use crate::mesh;

const SOON: Duration = Duration::from_secs(30);
/// What no line may begin with, or hold as it is.
const FORGED: &str = "2026-01-01T00:00:00.000Z  INFO all: is well";

fn hostile() -> Vec<String> {
    vec![
        format!("a\r\n{FORGED}"),
        format!("a\n{FORGED}\n"),
        "\u{1b}[2J\u{1b}[31mred".to_owned(),
        "\u{1b}]0;title\u{7}".to_owned(),
        "a\u{0}b\u{8}\u{8}\u{7f}".to_owned(),
        "\u{202e}txt.exe\u{2028}\u{200b}\u{feff}".to_owned(),
        "x".repeat(8 * 1024),
        "\u{9b}31m\u{85}".to_owned(),
    ]
}

fn system(service_account: &str) -> Id {
    Id::new("cluster.local", "mesh-system", service_account).expect("an identity")
}

/// Says each text to destination in each field, again and again.
async fn to_destination(addr: SocketAddr, credentials: Credentials, times: usize) {
    for text in hostile() {
        let mut speaker = Speaker::connect(addr, credentials.clone()).await;
        speaker.say(Kind::Hello(wire::Hello {
            proxy_version: text.chars().take(2000).collect(),
            namespace: text.chars().take(2000).collect(),
            workload: text.chars().take(2000).collect(),
            addresses: vec![vec![10, 77, 0, 99].into()],
        }));
        for _ in 0..times {
            speaker.say(Kind::Ack(wire::Ack { id: 1, version: 1, error: text.clone() }));
        }
        // A service that no name can have ends the stream, with a reason.
        let backend = wire::BackendRef { namespace: text.clone(), service: text.clone(), port: 80 };
        let resource = Some(wire::Resource { kind: Some(wire::resource::Kind::Endpoints(backend)) });
        speaker.say(Kind::Subscribe(wire::Subscribe { id: 1, resource }));
        while speaker.next().await.is_some() {}
    }
}

/// The same to identity.
async fn to_identity(addr: SocketAddr, credentials: Credentials, times: usize) {
    let connector = Connector::anonymous(credentials, grpc::ALPN);
    let channel = grpc::channel(&addr.to_string(), system("identity"), connector);
    let mut client = IdentityClient::new(channel);
    for text in hostile() {
        for _ in 0..times {
            let request = CertifyRequest {
                token: text.clone().into_bytes().into(),
                identity: text.clone(),
                csr_der: text.clone().into_bytes().into(),
            };
            assert!(client.certify(request).await.is_err());
        }
    }
}

/// The same to the sidecars: heads, hosts, server names, tunnels.
fn to_sidecars(mesh: &Mesh, service: SocketAddr, times: usize) {
    let client = &mesh.get("client").host;
    let outsider = &mesh.get("outsider").host;
    for text in hostile().into_iter().chain(["y".repeat(1 << 20)]) {
        for _ in 0..times {
            let head = format!(
                "GET http://{text}/{text} HTTP/1.1\r\nhost: {text}\r\nuser-agent: {text}\r\n{text}: {text}\r\n\r\n"
            );
            for (host, addr) in [(client, service), (outsider, mesh.get("web").at(8000)[0])] {
                // Whatever comes of it.
                throw(host, addr, head.as_bytes());
            }
            throw(client, mesh.get("outsider").at(9)[0], head.as_bytes());
            let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], text.as_bytes()].concat();
            throw(outsider, mesh.get("web").at(INBOUND_PORT)[0], &hello[..hello.len().min(4096)]);
        }
    }
}

/// Says it, and waits for no answer.
fn throw(host: &Host, addr: SocketAddr, bytes: &[u8]) {
    let said = host.enter(|| TcpStream::connect_timeout(&addr, PATIENCE)).and_then(|mut stream| {
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(bytes)?;
        stream.shutdown(Shutdown::Both)
    });
    // Who is refused need not be heard to its end.
    drop(said);
}

/// Manifests that say it in each place.
fn to_the_folder(mesh: &Mesh) {
    for (n, text) in hostile().iter().enumerate() {
        let quoted = serde_json::to_string(text).expect("text");
        let manifest = format!(
            "{{\"apiVersion\": \"v1\", \"kind\": {quoted}, \"metadata\": {{\"name\": {quoted}, {quoted}: {quoted}}}, \"spec\": {quoted}}}\n\
             ---\napiVersion: mesh.internal/v1alpha1\nkind: Workload\nmetadata: {{name: {quoted}, namespace: {quoted}}}\n\
             spec: {{addresses: [{quoted}], serviceAccount: {quoted}, zone: {quoted}, meshed: {quoted}}}\n"
        );
        mesh.manifests.write(&format!("hostile-{n}"), &manifest);
    }
    // A file's name is somebody's text as well.
    let name = format!("\u{1b}[2J\n{FORGED}");
    mesh.manifests.write(&name, "kind: [");
}

fn daemons(mesh: &Mesh) -> impl Iterator<Item = &Daemon> {
    mesh.programs().filter(|daemon| !daemon.name().contains("demo"))
}

#[test]
fn r38_no_text_of_a_peer_makes_a_line_steers_a_terminal_or_fills_the_log() {
    let (mut mesh, service) = mesh(&[]);
    mesh.start();
    let outsider = mesh.get("outsider").host.clone();
    let bystander = Bystander::start(&mesh.get("client").host, service);
    let credentials = mesh.control().credentials(&outsider, "liar");
    let times = count(40, 400);
    within(&outsider, to_destination(mesh.control().destination_addr(), credentials.clone(), times));
    within(&outsider, to_identity(mesh.control().identity_addr(), credentials, times));
    to_sidecars(&mesh, service, count(2, 20));
    to_the_folder(&mesh);
    until(SOON, || mesh.programs().any(|daemon| daemon.name() == "destination" && daemon.log().contains("hostile-")));
    let beside = bystander.finish();
    let mut lines = 0;
    for daemon in daemons(&mesh) {
        let log = daemon.log();
        log_is_safe(daemon.name(), &log, &[]);
        assert!(!log.lines().any(|line| line.starts_with(FORGED)), "{}: {log}", daemon.name());
        lines += log.lines().count();
    }
    // The control: the texts did come to the logs, and there was more than may be written.
    let log_of = |name: &str| daemons(&mesh).find(|daemon| daemon.name() == name).map(Daemon::log).unwrap_or_default();
    for text in ["\\u{1b}[2J", "is well"] {
        until(SOON, || log_of("destination").contains(text));
    }
    for name in ["destination", "identity"] {
        until(SOON, || log_of(name).contains("lines dropped by the rate limit"));
    }
    record(38, "texts in every logged field", Who::Mesh, true, &format!("{lines} safe lines of 5 daemons, {beside}"));
}

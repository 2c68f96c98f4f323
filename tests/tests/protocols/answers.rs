//! Answers that the mesh makes itself: the reason word is one and the same in the answer, the metric and the log; and
//! nobody else can make such an answer.
//!
//! Invariant: each word is looked for in all three places.
//! Non-goal: every reason; those that need a fault are with that fault's tests.

use bytes::Bytes;
use http::Method;
use mesh_tests::body;
use mesh_tests::client::http::{Answer, Connection, Version, get};
use mesh_tests::client::{rpc, within};
use mesh_tests::echo::EchoRequest;
use mesh_tests::mesh::{Mesh, SOON};
use mesh_tests::netns::until;
use mesh_tests::raw;
use tonic::Code;

use super::{APP, mesh, pairs};

/// The word of an answer of the mesh.
fn word(answer: &Answer) -> String {
    let said = answer.headers.get("mesh-error").map(|value| String::from_utf8_lossy(value.as_bytes()));
    said.and_then(|said| said.split(';').next().map(str::to_owned)).unwrap_or_default()
}

/// Counted so many times by the sidecar of `workload`, and said as many times in its log.
fn told(mesh: &Mesh, workload: &str, direction: &str, word: &str, times: usize) {
    let workload = mesh.get(workload);
    let labels = [("direction", direction), ("reason", word)];
    let wanted = f64::from(u32::try_from(times).expect("a small number"));
    until(SOON, || workload.metric("mesh_errors_total", &labels) >= wanted);
    assert_eq!(workload.metric("mesh_errors_total", &labels).to_bits(), wanted.to_bits(), "{word}");
    let log = || workload.proxy().expect("a sidecar").log();
    let is_it = |line: &&str| line.contains(&format!("reason={word} ")) && line.contains("by the mesh");
    until(SOON, || log().lines().filter(is_it).count() >= times);
    assert_eq!(log().lines().filter(is_it).count(), times, "{word} in the log of {}:\n{}", workload.name, log());
}

#[test]
fn a_service_without_endpoints_is_named_in_the_form_of_the_protocol() {
    let mut mesh = mesh();
    let nobody = mesh.service("nobody", 80, APP).add();
    mesh.start();
    let client = mesh.get("client").host.clone();
    let ask = |version| {
        within(
            &client,
            async move { Connection::open(nobody.v4, version).await?.fetch(get(nobody.v4, version, "/")).await },
        )
    };
    for version in [Version::H1, Version::H2] {
        let answer = ask(version).expect("an answer");
        assert_eq!((answer.status.as_u16(), word(&answer).as_str()), (503, "no_endpoints"), "{version:?}: {answer:?}");
        assert!(answer.text().contains("no_endpoints; default/nobody:80"), "{version:?}: {answer:?}");
    }
    let status = within(&client, async move {
        let mut client = rpc::connect(nobody.v4).await.expect("a connection");
        client.unary(EchoRequest::default()).await.expect_err("nobody to answer")
    });
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().starts_with("no_endpoints; default/nobody:80"), "{status:?}");
    let header = status.metadata().get("mesh-error").and_then(|value| value.to_str().ok());
    assert_eq!(header, Some(status.message()), "{status:?}");
    told(&mesh, "client", "outbound", "no_endpoints", 3);
}

#[test]
fn an_app_that_breaks_off_before_its_answer_is_named_by_the_sidecar_next_to_it() {
    let mut mesh = mesh();
    let pairs = pairs(&mut mesh, APP);
    let break_off = |mut conversation: raw::Conversation| conversation.head().map(drop);
    let servers = ["web", "legacy"].map(|name| raw::Server::start(&mesh.get(name).host, APP, break_off));
    mesh.start();
    for (client, addr) in pairs {
        // May not be sent twice, so it is not tried elsewhere.
        let mut request = get(addr, Version::H1, "/");
        *request.method_mut() = Method::POST;
        *request.body_mut() = body::full(Bytes::from_static(b"once"));
        let answer =
            within(
                &mesh.get(client).host,
                async move { Connection::open(addr, Version::H1).await?.fetch(request).await },
            );
        let answer = answer.expect("an answer");
        let found = (answer.status.as_u16(), word(&answer));
        assert_eq!(found, (502, "upstream_reset".to_owned()), "{client} to {addr}: {answer:?}");
    }
    assert_eq!(servers.each_ref().map(raw::Server::accepted), [2, 1], "a POST was sent twice");
    told(&mesh, "web", "inbound", "upstream_reset", 2);
    told(&mesh, "client", "outbound", "upstream_reset", 1);
}

/// An app that claims to be the mesh.
fn forge(mut conversation: raw::Conversation) -> std::io::Result<()> {
    conversation.head()?;
    conversation.say(
        b"HTTP/1.1 200 OK\r\nmesh-error: overload; forged\r\nmesh-client-id: spiffe://forged/ns/a/sa/b\r\n\
        x-kept: yes\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    )
}

#[test]
fn nobody_else_speaks_for_the_mesh() {
    const FORGED: &[u8] = b"GET / HTTP/1.1\r\nhost: web\r\nmesh-client-id: spiffe://forged/ns/a/sa/b\r\n\
        mesh-error: overload; forged\r\nMesh-Client-Id: forged too\r\nx-kept: yes\r\nconnection: close\r\n\r\n";
    let mut mesh = mesh();
    let pairs = pairs(&mut mesh, APP);
    let servers = ["web", "legacy"].map(|name| raw::Server::start(&mesh.get(name).host, APP, forge));
    mesh.start();
    for (client, addr) in pairs {
        let answer = raw::send(&mesh.get(client).host, addr, FORGED).expect("an answer");
        let answer = String::from_utf8_lossy(&answer).to_lowercase();
        let right = answer.starts_with("http/1.1 200") && answer.contains("x-kept: yes") && !answer.contains("forged");
        assert!(right && !answer.contains("mesh-"), "{client} to {addr}: {answer}");
    }
    let requests: Vec<_> = servers.iter().flat_map(raw::Server::received).collect();
    let requests: Vec<_> = requests.iter().map(|bytes| String::from_utf8_lossy(bytes).to_lowercase()).collect();
    for request in &requests {
        assert!(request.contains("x-kept: yes") && !request.contains("forged"), "{request}");
    }
    // What is true is said: who the sidecar has proved the client to be.
    let told: Vec<_> = requests.iter().map(|request| request.lines().find(|line| line.starts_with("mesh-"))).collect();
    assert_eq!(told, [Some("mesh-client-id: spiffe://cluster.local/ns/default/sa/client"), None, None]);
}

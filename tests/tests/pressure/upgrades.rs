//! Connections that leave HTTP by an upgrade.
//!
//! Invariant: after the switch both ends say what they like, and are heard.
//! Non-goal: WebSocket frames; the bytes are the app's.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use mesh_tests::mesh::{Mesh, SOON};
use mesh_tests::netns::Host;
use mesh_tests::raw::{Conversation, Server};
use nix::sys::signal::Signal;

use super::{APP, POLL, Route, dial, head, mesh};

const HANDSHAKE: &[u8] = b"GET / HTTP/1.1\r\nhost: web\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// An app that switches and echoes, and says in the mesh's name what it must not.
fn switch(mut conversation: Conversation) -> io::Result<()> {
    conversation.head()?;
    conversation.say(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nmesh-error: spoofed\r\nmesh-client-id: spoofed\r\n\r\n",
    )?;
    loop {
        let chunk = conversation.read()?;
        if chunk.is_empty() {
            return Ok(());
        }
        conversation.say(&chunk)?;
    }
}

/// Asks for the switch: the connection, and the head of the answer.
fn upgrade(host: &Host, addr: std::net::SocketAddr) -> (TcpStream, String) {
    let mut stream = dial(host, addr);
    stream.write_all(HANDSHAKE).expect("a live connection");
    let head = head(&mut stream).expect("an answer");
    (stream, head)
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut back = [0; 4];
    stream.write_all(b"ping")?;
    stream.read_exact(&mut back)?;
    if &back == b"ping" { Ok(()) } else { Err(io::Error::other(format!("came back as {back:?}"))) }
}

#[test]
fn what_an_app_says_in_the_name_of_the_mesh_does_not_pass_with_a_switch() {
    let (mut mesh, routes) = mesh();
    let _servers = ["web", "legacy"].map(|name| Server::start(&mesh.get(name).host, APP, switch));
    mesh.start();
    for Route { client, addr } in routes {
        let (mut stream, head) = upgrade(&mesh.get(client).host, addr);
        assert!(head.starts_with("http/1.1 101 ") && head.contains("\r\nupgrade: websocket\r\n"), "{addr}: {head}");
        assert!(head.contains("\r\nsec-websocket-accept: "), "{client} to {addr}: {head}");
        assert!(!head.contains("mesh-"), "{client} to {addr}: {head}");
        echo(&mut stream).expect("an echo");
    }
}

#[test]
fn r54_what_was_upgraded_goes_on_for_the_grace_of_a_sidecar_that_ends() {
    const GRACE: Duration = Duration::from_secs(6);
    let mut mesh = Mesh::new();
    // One ends at the client's side of a conversation, one at the app's side of another.
    mesh.workload("near").service_account("near").env("MESH_SHUTDOWN_GRACE", "6s").add();
    mesh.workload("far").of("far").env("MESH_SHUTDOWN_GRACE", "6s").add();
    mesh.workload("outsider").plain().add();
    mesh.workload("web").of("web").add();
    let web = mesh.service("web", 80, APP).add().v4;
    let [far, _] = mesh.get("far").at(APP);
    let _servers = ["web", "far"].map(|name| Server::start(&mesh.get(name).host, APP, switch));
    mesh.start();
    let mut conversations = [("near", "near", web), ("far", "outsider", far)].map(|(ends, client, addr)| {
        let (mut stream, head) = upgrade(&mesh.get(client).host, addr);
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        echo(&mut stream).expect("an echo");
        (ends, stream)
    });
    let begin = Instant::now();
    for (ends, _) in &conversations {
        mesh.get_mut(ends).proxy_mut().signal(Signal::SIGTERM);
    }
    // Inbound leaves a quarter to outbound: there is time left for an echo on a busy machine.
    while begin.elapsed() < GRACE / 2 {
        for (ends, stream) in &mut conversations {
            let echo = echo(stream);
            assert!(echo.is_ok(), "{ends}: {echo:?} {:?} after the signal", begin.elapsed());
        }
        std::thread::sleep(POLL);
    }
    for (ends, _) in &conversations {
        assert!(mesh.get_mut(ends).proxy_mut().is_running(), "{ends} ended before its grace");
    }
    for (ends, stream) in conversations {
        drop(stream);
        // What was held is over, and so is the sidecar.
        assert!(mesh.get_mut(ends).proxy_mut().wait(SOON).success(), "{ends}");
    }
}

#[test]
fn an_upgrade_passes_by_a_replica_whose_app_is_down() {
    const UPGRADES: usize = 12;
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    let up = mesh.workload("up").of("web").add();
    mesh.workload("down").of("web").add();
    let plain = mesh.workload("plain-up").of("legacy").plain().add();
    mesh.workload("plain-down").of("legacy").plain().add();
    let services = ["web", "legacy"].map(|name| mesh.service(name, 80, APP).add().v4);
    let _servers = [up, plain].map(|host| Server::start(&host, APP, switch));
    mesh.start();
    for addr in services {
        let answers: Vec<_> = (0..UPGRADES).map(|_| upgrade(&mesh.get("client").host, addr)).collect();
        let heads: Vec<_> = answers.iter().map(|(_, head)| head.lines().next().unwrap_or_default()).collect();
        assert!(heads.iter().all(|line| line.starts_with("http/1.1 101 ")), "{addr}: {heads:#?}");
    }
}

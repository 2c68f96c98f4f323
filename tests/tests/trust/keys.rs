//! New keys within a session, asked for by OpenSSL.
//!
//! Invariant: the other end is not our TLS library, which knows our records too well. Non-goal: when we change keys unasked;
//! unit tests see to that.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ChildStdin;
use std::time::Duration;

use mesh_tests::mesh::Mesh;
use mesh_tests::netns::{Proc, until};

use crate::mesh;

const SOON: Duration = Duration::from_secs(20);
/// HTTP/2's preface, and SETTINGS without any.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0";

/// OpenSSL's client, which takes a line that begins with `K` for a wish to change keys.
struct Client {
    process: Proc,
    stdin: ChildStdin,
}

impl Client {
    fn connect(mesh: &Mesh, addr: SocketAddr) -> Self {
        let mut command = mesh.get("outsider").host.command("openssl");
        command.args(["s_client", "-connect", &addr.to_string(), "-alpn", "h2", "-tls1_3", "-msg"]);
        let (process, stdin) = Proc::spawn_fed(&mut command);
        Self { process, stdin }
    }

    fn say(&mut self, bytes: &[u8]) {
        self.stdin.write_all(bytes).and_then(|()| self.stdin.flush()).expect("a client that runs");
    }

    /// How often it has told of one so far.
    fn key_updates(&self, direction: &str) -> usize {
        self.process.output().matches(&format!("{direction} TLS 1.3, Handshake [length 0005], KeyUpdate")).count()
    }
}

#[test]
fn openssl_asks_for_new_keys_and_gets_them() {
    let (mut mesh, _) = mesh();
    mesh.start();
    let mut client = Client::connect(&mesh, mesh.control().identity_addr());
    client.process.wait_for_line("Verify return code", SOON);
    client.say(PREFACE);
    for round in 0..5 {
        let payload = format!("mesh-{round:02}");
        // Eight bytes, the last of which ends a line in what OpenSSL says.
        client.say(&[PING, payload.as_bytes(), b"\n"].concat());
        client.process.wait_for_line(&payload, SOON);
        assert_eq!(client.key_updates("<<<"), round, "what was asked for comes before the next data");
        // It is alone in what OpenSSL reads at a time, since the answer to what went before has come.
        client.say(b"K\n");
        until(SOON, || client.key_updates(">>>") == round + 1);
    }
}

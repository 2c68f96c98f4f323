//! New keys within a session, asked for by OpenSSL.
//!
//! Invariant: the other end is not our TLS library, which knows our records too well. Non-goal: when we change keys unasked;
//! unit tests see to that.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use mesh_tests::mesh::Mesh;
use mesh_tests::netns::until;

use crate::mesh;

const SOON: Duration = Duration::from_secs(20);
/// HTTP/2's preface, and SETTINGS without any.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0";

/// OpenSSL's client, which takes a line that begins with `K` for a wish to change keys.
struct Client {
    process: Child,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Client {
    fn connect(mesh: &Mesh, addr: SocketAddr) -> Self {
        let mut command = mesh.get("outsider").host.command("openssl");
        command.args(["s_client", "-connect", &addr.to_string(), "-alpn", "h2", "-tls1_3", "-msg"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("openssl");
        let (mut stdout, said) = (process.stdout.take().expect("a pipe"), Arc::default());
        let client = Self { process, said: Arc::clone(&said) };
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = stdout.read(&mut bytes) {
                said.lock().expect("nobody panics with it").extend_from_slice(&bytes[..n]);
            }
        });
        client
    }

    fn say(&mut self, bytes: &[u8]) {
        let stdin = self.process.stdin.as_mut().expect("a pipe");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("a client that runs");
    }

    /// How often `wanted` is in what it has said so far.
    fn heard(&self, wanted: &[u8]) -> usize {
        let said = self.said.lock().expect("nobody panics with it");
        said.windows(wanted.len()).filter(|window| *window == wanted).count()
    }

    fn key_updates(&self, direction: &str) -> usize {
        self.heard(format!("{direction} TLS 1.3, Handshake [length 0005], KeyUpdate").as_bytes())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn openssl_asks_for_new_keys_and_gets_them() {
    let (mut mesh, _) = mesh();
    mesh.start();
    let mut client = Client::connect(&mesh, mesh.control().identity_addr());
    until(SOON, || client.heard(b"Verify return code") > 0);
    client.say(PREFACE);
    for round in 0..5 {
        let payload = format!("mesh-{round:03}");
        client.say(&[PING, payload.as_bytes()].concat());
        until(SOON, || client.heard(payload.as_bytes()) == 1);
        assert_eq!(client.key_updates("<<<"), round, "what was asked for comes before the next data");
        // It is alone in what OpenSSL reads at a time, since the answer to what went before has come.
        client.say(b"K\n");
        until(SOON, || client.key_updates(">>>") == round + 1);
    }
}

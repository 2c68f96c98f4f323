//! What an idle session costs. A test binary of its own, so that no other test allocates meanwhile.

#![allow(clippy::unwrap_used, reason = "the lint spares tests, but not their helpers")]

use mesh_mtls::credentials::Credentials;
use mesh_mtls::tls::{Acceptor, ClientAuth, Connector};
use mesh_mtls::{anchors, credentials, spiffe};
use testing::{Ca, id};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

// The unit tests' certificates; they reach the crate's modules through the imports above.
#[allow(dead_code)]
#[path = "../src/testing/ca.rs"]
mod testing;

const SESSIONS: usize = 500;
/// Measured: 10 KiB. Both ends, the pipe between them included.
const BUDGET_KIB: usize = 16;

#[tokio::test]
async fn an_idle_session_stays_within_its_budget() {
    let ca = Ca::root("root");
    let cell = |name| -> Credentials { ca.credentials(&id(name)) };
    let connector = Connector::new(cell("web"), &[b"h2"]);
    let acceptor = Acceptor::new(cell("api"), ClientAuth::Required, &[b"h2"]);
    let mut open = Vec::with_capacity(2 * SESSIONS);
    let mut before = 0;
    for round in 0..2 * SESSIONS {
        if round == SESSIONS {
            before = resident_kib(); // allocator and library are warm
        }
        let (near, far) = duplex(4096);
        let expected = id("api");
        let (client, server) = tokio::join!(connector.connect(near, &expected), acceptor.accept(far));
        let (mut client, (mut server, _)) = (client.unwrap(), server.unwrap());
        let mut heard = [0; 16];
        client.write_all(&heard).await.unwrap();
        client.flush().await.unwrap();
        server.read_exact(&mut heard).await.unwrap();
        server.write_all(&heard).await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut heard).await.unwrap();
        open.push((client, server));
    }
    let each = resident_kib().saturating_sub(before) / SESSIONS;
    println!("{each} KiB per session, both ends");
    assert!(each <= BUDGET_KIB, "{each} KiB");
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

//! An endpoint that discovery names and that is somebody else: a TLS server with a bad chain on each address.
//!
//! Invariant: what it hears in plaintext, on the tunnel's port or on the app's, is kept. Non-goal: HTTP; nobody gets so far.

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_tests::mesh::{INBOUND_PORT, Mesh};
use mesh_tests::netns::Host;
use mesh_tests::raw::{Conversation, Server};
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};

use crate::HTTP;
use crate::certs::Shown;

/// Who discovery says that it is.
pub(crate) const ID: &str = "spiffe://cluster.local/ns/default/sa/impostor";
/// First bytes that are a TLS record of a handshake.
const HANDSHAKE: u8 = 22;

/// The host, with an address for each chain.
pub(crate) struct Impostor {
    host: Host,
    heard: Arc<Mutex<Heard>>,
    app: Server,
    tunnel: Server,
}

#[derive(Default)]
struct Heard {
    /// Bytes of peers that went on after the handshake, or never began one.
    trusted: Vec<Vec<u8>>,
    /// How handshakes went that came to their end.
    kinds: Vec<HandshakeKind>,
}

impl Impostor {
    /// Adds it to a mesh that has not started: a meshed workload `bad-N` for each chain.
    pub(crate) fn add(mesh: &Mesh, shown: Vec<Shown>) -> Self {
        let host = mesh.host("impostor");
        for (nth, _) in shown.iter().enumerate() {
            let added = host.command("ip").args(["address", "add", &format!("{}/16", ip(nth)), "dev", "eth0"]).status();
            assert!(added.is_ok_and(|status| status.success()), "an address more");
            mesh.manifests.write(&workload_file(nth), &manifest(nth));
        }
        let tickets = Ticketer::new().expect("a key for tickets");
        let heard = Arc::new(Mutex::new(Heard::default()));
        let (keeps, app_keeps) = (Arc::clone(&heard), Arc::clone(&heard));
        let tunnel =
            Server::start(&host, INBOUND_PORT, move |conversation| serve(conversation, (&shown, &tickets), &keeps));
        let app = Server::start(&host, HTTP, move |mut conversation| {
            let first = conversation.read()?;
            lock(&app_keeps).trusted.push(first);
            Ok(())
        });
        Self { host, heard, app, tunnel }
    }

    /// Where the app of the nth workload is said to listen.
    pub(crate) fn addr(nth: usize) -> SocketAddr {
        (ip(nth), HTTP).into()
    }

    /// Has discovery forget the workloads.
    pub(crate) fn withdraw(mesh: &Mesh, count: usize) {
        (0..count).for_each(|nth| mesh.manifests.remove(&workload_file(nth)));
    }

    /// Handshakes that were begun.
    pub(crate) fn handshakes(&self) -> usize {
        self.tunnel.accepted()
    }

    /// Fails when it was trusted with anything.
    pub(crate) fn was_not_trusted(&self) {
        let heard = lock(&self.heard);
        assert!(heard.trusted.is_empty(), "{:?} was told {:?}", self.host, heard.trusted);
        assert_eq!(self.app.accepted(), 0, "connections in plaintext");
    }

    /// How the handshakes went that came to their end.
    pub(crate) fn handshake_kinds(&self) -> Vec<HandshakeKind> {
        lock(&self.heard).kinds.clone()
    }

    /// Whether somebody went on after a handshake.
    pub(crate) fn was_trusted(&self) -> bool {
        !lock(&self.heard).trusted.is_empty()
    }
}

fn ip(nth: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 200, u8::try_from(nth + 1).expect("a few chains"))
}

fn workload_file(nth: usize) -> String {
    format!("workload-bad-{nth}")
}

fn manifest(nth: usize) -> String {
    format!(
        "apiVersion: mesh.internal/v1alpha1\nkind: Workload\nmetadata: {{name: bad-{nth}, namespace: default}}\n\
         spec: {{addresses: [\"{}\"], serviceAccount: impostor, meshed: true}}\n",
        ip(nth)
    )
}

/// The chains by address, and what makes tickets.
type Offer<'a> = (&'a [Shown], &'a Arc<dyn ProducesTickets>);

/// A handshake with the chain that belongs to the address; then whatever is said.
fn serve(conversation: Conversation, (shown, tickets): Offer<'_>, heard: &Mutex<Heard>) -> io::Result<()> {
    let mut stream = conversation.stream;
    let mut first = [0];
    if stream.peek(&mut first)? == 1 && first[0] != HANDSHAKE {
        lock(heard).trusted.push(first.to_vec());
    }
    let mut session = session(&stream, (shown, tickets))?;
    // Fails with the alert of who refuses us.
    while session.is_handshaking() {
        session.complete_io(&mut stream)?;
    }
    lock(heard).kinds.extend(session.handshake_kind());
    let mut said = vec![0; 4096];
    let n = rustls::Stream::new(&mut session, &mut stream).read(&mut said)?;
    said.truncate(n);
    lock(heard).trusted.push(said);
    Ok(())
}

fn session(stream: &TcpStream, (shown, tickets): Offer<'_>) -> io::Result<ServerConnection> {
    let IpAddr::V4(ip) = stream.local_addr()?.ip().to_canonical() else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let chain = shown.get(usize::from(ip.octets()[3]) - 1).ok_or(io::ErrorKind::NotFound)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(io::Error::other)?.with_no_client_auth();
    let mut config = config.with_cert_resolver(chain.resolver());
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.ticketer = Arc::clone(tickets);
    config.send_tls13_tickets = 2;
    ServerConnection::new(Arc::new(config)).map_err(io::Error::other)
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The table of destinations: what a sidecar's peer may name, and what a stranger may dial.
//!
//! Invariant: after each refusal the app has not been connected to; after each grant it has.
//! Non-goal: names; destinations between sidecars are addresses.

use std::io::ErrorKind;
use std::net::SocketAddr;

use mesh_tests::client::within;
use mesh_tests::mesh::{INBOUND_PORT, Mesh};
use mesh_tests::raw;
use mesh_tests::yardstick::{Who, record};

use super::peer::{Answer, Liar};
use super::{APP, mesh, run, verdict};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// To the app.
    Allow,
    /// 508: the proxy's own port.
    Loop,
    /// 403: not this workload's address.
    NotLocal,
    /// 400: no address at all.
    Bad,
    /// No connection, or one that is reset without an answer.
    Closed,
    /// The admin port, which everybody may ask how the proxy is.
    Admin,
}

use Verdict::{Admin, Allow, Bad, Closed, Loop, NotLocal};

/// What a peer with a certificate names. OWN4, OWN6, OTHER4 and OTHER6 stand for addresses of this and another pod.
const TUNNEL: &[(&str, Verdict)] = &[
    ("OWN4:8000", Allow),
    ("[OWN6]:8000", Allow),
    ("[::ffff:OWN4]:8000", Allow),
    ("OWN4:4140", Loop),
    ("[OWN6]:4140", Loop),
    ("OWN4:4143", Loop),
    ("[OWN6]:4143", Loop),
    ("[::ffff:OWN4]:4143", Loop),
    ("OWN4:4190", Loop),
    ("OWN4:4191", Loop),
    ("[OWN6]:4191", Loop),
    ("OWN4:0", NotLocal),
    ("OTHER4:8000", NotLocal),
    ("[OTHER6]:8000", NotLocal),
    ("OTHER4:4143", NotLocal),
    ("127.0.0.1:8000", NotLocal),
    ("127.0.0.1:4140", NotLocal),
    ("127.0.0.1:4191", NotLocal),
    ("127.8.8.8:8000", NotLocal),
    ("[::1]:8000", NotLocal),
    ("[::1]:4191", NotLocal),
    ("[::ffff:127.0.0.1]:8000", NotLocal),
    ("0.0.0.0:8000", NotLocal),
    ("0.0.0.0:4191", NotLocal),
    ("[::]:8000", NotLocal),
    ("[::]:4140", NotLocal),
    ("169.254.1.1:8000", NotLocal),
    ("[fe80::1]:8000", NotLocal),
    ("224.0.0.1:8000", NotLocal),
    ("[ff02::1]:8000", NotLocal),
    ("255.255.255.255:8000", NotLocal),
    ("10.77.255.255:8000", NotLocal),
    ("203.0.113.9:8000", NotLocal),
    ("[2001:db8::9]:8000", NotLocal),
    ("localhost:8000", Bad),
    ("web:8000", Bad),
];

/// What somebody without a certificate dials.
const DIALED: &[(&str, Verdict)] = &[
    ("OWN4:8000", Allow),
    ("[OWN6]:8000", Allow),
    ("OWN4:4140", Loop),
    ("[OWN6]:4140", Loop),
    ("OWN4:4143", Closed),
    ("[OWN6]:4143", Closed),
    ("OWN4:4190", Closed),
    ("OWN4:4191", Admin),
    ("[OWN6]:4191", Admin),
    ("OWN4:0", NotLocal),
    // What is routed to the workload, and redirected to its sidecar, although it is for others.
    ("OTHER4:8000", NotLocal),
    ("OTHER4:4143", Closed),
    ("203.0.113.9:8000", NotLocal),
    ("203.0.113.9:4191", NotLocal),
    ("169.254.9.9:8000", NotLocal),
    ("[2001:db8::9]:8000", NotLocal),
    ("224.0.0.1:8000", Closed),
    ("255.255.255.255:8000", Closed),
];

fn resolve(mesh: &Mesh, text: &str) -> String {
    let (own, other) = (&mesh.get("web").host, &mesh.get("other").host);
    text.replace("OWN4", &own.v4.to_string())
        .replace("OWN6", &own.v6.to_string())
        .replace("OTHER4", &other.v4.to_string())
        .replace("OTHER6", &other.v6.to_string())
}

/// What an answer in HTTP amounts to.
fn of(status: u16, reason: Option<&str>) -> Result<Verdict, String> {
    match (status, reason) {
        (200, None) => Ok(Allow),
        (508, Some("loop")) => Ok(Loop),
        (403, Some("not_local")) => Ok(NotLocal),
        (400, Some("bad_request")) => Ok(Bad),
        other => Err(format!("{other:?}")),
    }
}

/// What is wrong, if it is not as tabled.
fn judge(expected: Verdict, seen: &Result<Verdict, String>, connects: usize) -> Option<String> {
    let reached = connects > 0;
    let right = *seen == Ok(expected) && reached == (expected == Allow);
    (!right).then(|| format!("{expected:?} is tabled, seen {seen:?}, and {connects} connections at the app"))
}

#[test]
fn r26_a_peer_reaches_its_target_app_and_nothing_else() {
    let mut mesh = mesh();
    let app = raw::Server::ok(&mesh.get("web").host, APP);
    let other = raw::Server::ok(&mesh.get("other").host, APP);
    mesh.start();
    let liar = Liar::new(&mesh);
    let tunnel_addr: SocketAddr = (mesh.get("web").host.v4, INBOUND_PORT).into();
    let rows: Vec<_> = TUNNEL.iter().map(|(text, expected)| (resolve(&mesh, text), *expected)).collect();
    let judged = |what: String, expected, answer: anyhow::Result<Answer>, before: usize| {
        let seen = answer.map_err(|error| format!("{error:#}"));
        let seen = seen.and_then(|answer| of(answer.status, answer.reason.as_deref()));
        judge(expected, &seen, app.accepted() - before).map(|wrong| format!("{what}: {wrong}"))
    };
    let findings = within(&mesh.get("outsider").host, async {
        let tunnel = liar.tunnel(tunnel_addr, "web").await.expect("a tunnel");
        let mut findings = Vec::new();
        for (destination, expected) in &rows {
            let before = app.accepted();
            let answer = tunnel.request(Some(destination)).await;
            findings.extend(judged(format!("request for {destination}"), *expected, answer, before));
            let before = app.accepted();
            let answer = tunnel.connect(destination).await;
            findings.extend(judged(format!("CONNECT {destination}"), *expected, answer, before));
        }
        let before = app.accepted();
        let answer = tunnel.request(None).await;
        findings.extend(judged("a request for nobody".to_owned(), Bad, answer, before));
        findings
    });
    verdict(2 * rows.len() + 1, &findings);
    assert_eq!(other.accepted(), 0, "a sidecar served as a relay");
}

/// Leads what the outsider sends to other addresses to the workload, and there into its sidecar.
fn divert(mesh: &Mesh) {
    let (web, outsider, other) = (&mesh.get("web").host, &mesh.get("outsider").host, &mesh.get("other").host);
    for address in ["203.0.113.9", "169.254.9.9", &other.v4.to_string()] {
        run(outsider, &format!("ip route add {address}/32 via {}", web.v4));
    }
    run(outsider, &format!("ip -6 route add 2001:db8::9/128 via {}", web.v6));
    let rule = format!("-t nat -I PREROUTING 1 -p tcp -j REDIRECT --to-ports {INBOUND_PORT}");
    run(web, &format!("iptables {} ", rule.replace("-p tcp", &format!("-p tcp ! -d {}", web.v4))));
    run(web, &format!("ip6tables {}", rule.replace("-p tcp", "-p tcp -d 2001:db8::9")));
}

#[test]
fn r26_a_stranger_reaches_the_app_it_dials_and_nothing_else() {
    let mut mesh = mesh();
    let app = raw::Server::ok(&mesh.get("web").host, APP);
    let other = raw::Server::ok(&mesh.get("other").host, APP);
    mesh.start();
    divert(&mesh);
    let mut findings = Vec::new();
    for (text, expected) in DIALED {
        let addr: SocketAddr = resolve(&mesh, text).parse().expect("an address");
        let before = app.accepted();
        let request = format!("GET /live HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
        let answer = raw::send(&mesh.get("outsider").host, addr, request.as_bytes());
        let seen = match answer.as_deref() {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err("hangs".to_owned())
            }
            Err(_) | Ok([]) => Ok(Closed),
            Ok(answer) => {
                let said = String::from_utf8_lossy(answer).into_owned();
                let reason = said.lines().find_map(|line| line.strip_prefix("mesh-error: "));
                let reason = reason.and_then(|said| said.split(';').next());
                let seen = of(raw::status(answer).unwrap_or_default(), reason);
                // The app says ok to everything; the admin server says something of its own.
                if seen == Ok(Allow) && app.accepted() == before { Ok(Admin) } else { seen }
            }
        };
        let finding = judge(*expected, &seen, app.accepted() - before);
        findings.extend(finding.map(|wrong| format!("{addr}: {wrong}; {:?}", answer.map(String::from_utf8))));
    }
    verdict(DIALED.len(), &findings);
    assert_eq!(other.accepted(), 0, "a sidecar served as a relay");
    record(26, "a client without a sidecar", Who::Mesh, true, &format!("{0} of {0} as tabled", DIALED.len()));
}

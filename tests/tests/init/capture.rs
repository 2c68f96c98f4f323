//! R41: which connections are captured and which pass, flow by flow.
//!
//! Every listener answers with its name, a redirected connection's original destination behind it, and closes.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use mesh_tests::netns::{Host, Net};
use mesh_tests::yardstick::{Who, record};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Uid, setfsuid};

use crate::apply;

const PROXY: u32 = 2102;
const APP: u32 = 1000;
const PORT: u16 = 8080;
const SKIPPED: u16 = 2222;
const SOON: Duration = Duration::from_secs(5);
const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// A workload with the listeners of a proxy and of an app, and a peer with an app.
struct Stage {
    _net: Net,
    workload: Host,
    peer: Host,
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    In,
    Out,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    direction: Direction,
    port: u16,
    uid: u32,
    /// In: the workload dials its own address; out: it dials its loopback address.
    loopback: bool,
    ipv6: bool,
}

#[test]
fn r41_thirty_two_flows_are_captured_or_pass_as_tabled() {
    let stage = Stage::new(&[PORT, SKIPPED]);
    apply(&stage.workload, &format!("--skip-inbound-ports {SKIPPED} --skip-outbound-ports {SKIPPED}"));
    let flows = flows();
    assert_eq!(flows.len(), 32);
    let wrong: Vec<String> = flows
        .into_iter()
        .filter_map(|flow| {
            let (target, answer) = (stage.target(flow), stage.play(flow));
            let expected = expected(flow, target);
            (answer != expected).then(|| format!("{flow:?} to {target}: {answer:?} instead of {expected:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of 32:\n{}", wrong.len(), wrong.join("\n"));
    record(41, "flows", Who::Mesh, true, "32 of 32 as tabled");
}

#[test]
fn r41_the_ports_of_the_proxy_are_not_redirected() {
    let stage = Stage::new(&[4190, 4191]);
    apply(&stage.workload, "");
    for address in stage.workload.addresses() {
        for port in [4190, 4191] {
            assert_eq!(dial(&stage.peer, APP, SocketAddr::new(address, port)), "app");
        }
        // What is meant for the inbound port itself arrives there, with itself as its original destination.
        let inbound = SocketAddr::new(address, 4143);
        let answer = dial(&stage.peer, APP, inbound);
        assert!(answer == "inbound direct" || answer == format!("inbound {inbound}"), "{answer}");
    }
}

#[test]
fn r41_listed_inbound_ports_are_the_only_ones_captured() {
    let stage = Stage::new(&[PORT, SKIPPED]);
    apply(&stage.workload, &format!("--inbound-ports {PORT}"));
    for address in stage.workload.addresses() {
        let target = SocketAddr::new(address, PORT);
        assert_eq!(dial(&stage.peer, APP, target), format!("inbound {target}"));
        assert_eq!(dial(&stage.peer, APP, SocketAddr::new(address, SKIPPED)), "app");
    }
}

#[test]
fn r41_peers_in_skipped_subnets_are_left_alone_both_ways() {
    let stage = Stage::new(&[PORT]);
    let [v4, v6] = stage.peer.addresses();
    apply(&stage.workload, &format!("--skip-subnets {v4}/32,{v6}/128"));
    for (here, there) in stage.workload.addresses().into_iter().zip(stage.peer.addresses()) {
        assert_eq!(dial(&stage.peer, APP, SocketAddr::new(here, PORT)), "app");
        assert_eq!(dial(&stage.workload, APP, SocketAddr::new(there, PORT)), "app");
    }
}

#[test]
fn r41_service_addresses_that_nobody_has_are_captured() {
    let stage = Stage::new(&[]);
    apply(&stage.workload, "");
    for target in ["10.96.0.10:80", "[fd96::10]:80", "192.0.2.1:65535"] {
        let target: SocketAddr = target.parse().unwrap();
        assert_eq!(dial(&stage.workload, APP, target), format!("outbound {target}"));
    }
}

#[test]
fn r41_udp_passes_untouched() {
    let stage = Stage::new(&[]);
    apply(&stage.workload, "");
    for (here, there) in stage.workload.addresses().into_iter().zip(stage.peer.addresses()) {
        let bind = |address| move || UdpSocket::bind(SocketAddr::new(address, 0)).unwrap();
        let (here, there) = (stage.workload.enter(bind(here)), stage.peer.enter(bind(there)));
        for (from, to) in [(&here, &there), (&there, &here)] {
            to.set_read_timeout(Some(SOON)).unwrap();
            from.send_to(b"datagram", to.local_addr().unwrap()).unwrap();
            let mut buffer = [0; 16];
            let (length, source) = to.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], source), (&b"datagram"[..], from.local_addr().unwrap()));
        }
    }
}

#[test]
fn r41_after_cleanup_nothing_is_captured() {
    let stage = Stage::new(&[PORT]);
    apply(&stage.workload, "");
    apply(&stage.workload, "--cleanup");
    for (here, there) in stage.workload.addresses().into_iter().zip(stage.peer.addresses()) {
        assert_eq!(dial(&stage.peer, APP, SocketAddr::new(here, PORT)), "app");
        assert_eq!(dial(&stage.workload, APP, SocketAddr::new(there, PORT)), "app");
    }
}

impl Stage {
    fn new(app_ports: &[u16]) -> Self {
        let net = Net::new();
        let [workload, peer] = ["workload", "peer"].map(|name| net.host(name));
        listen(&workload, "inbound", ANY, 4143);
        listen(&workload, "outbound", LOOPBACK, 4140);
        for port in app_ports {
            listen(&workload, "app", ANY, *port);
            listen(&peer, "app", ANY, *port);
        }
        Self { _net: net, workload, peer }
    }

    fn target(&self, flow: Flow) -> SocketAddr {
        let addresses = match (flow.direction, flow.loopback) {
            (Direction::In, _) => self.workload.addresses(),
            (Direction::Out, true) => LOOPBACK,
            (Direction::Out, false) => self.peer.addresses(),
        };
        SocketAddr::new(addresses[usize::from(flow.ipv6)], flow.port)
    }

    fn play(&self, flow: Flow) -> String {
        let from = match (flow.direction, flow.loopback) {
            (Direction::In, false) => &self.peer,
            _ => &self.workload,
        };
        dial(from, flow.uid, self.target(flow))
    }
}

fn flows() -> Vec<Flow> {
    let mut flows = Vec::new();
    for direction in [Direction::In, Direction::Out] {
        for port in [PORT, SKIPPED] {
            for uid in [APP, PROXY] {
                for loopback in [false, true] {
                    flows.extend([false, true].map(|ipv6| Flow { direction, port, uid, loopback, ipv6 }));
                }
            }
        }
    }
    flows
}

/// The table: loopback and skipped ports pass; the user matters to what goes out, as inbound it is another host's.
fn expected(flow: Flow, target: SocketAddr) -> String {
    match (flow.direction, flow.port, flow.uid) {
        _ if flow.loopback => "app".to_owned(),
        (_, SKIPPED, _) | (Direction::Out, _, PROXY) => "app".to_owned(),
        (Direction::In, ..) => format!("inbound {target}"),
        (Direction::Out, ..) => format!("outbound {target}"),
    }
}

/// Connects as user `uid` and returns the answer, or the error.
fn dial(from: &Host, uid: u32, target: SocketAddr) -> String {
    from.enter(|| {
        // Holds for this thread, which ends with the call.
        setfsuid(Uid::from_raw(uid));
        let mut answer = String::new();
        let read = TcpStream::connect_timeout(&target, SOON).and_then(|mut stream| {
            stream.set_read_timeout(Some(SOON))?;
            stream.read_to_string(&mut answer)
        });
        read.map_or_else(|error| error.to_string(), |_| answer)
    })
}

/// Listens on `port` of both addresses until the test process ends.
fn listen(host: &Host, name: &'static str, addresses: [IpAddr; 2], port: u16) {
    for address in addresses {
        let listener = host.enter(|| bind(SocketAddr::new(address, port)).unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let answer = match name {
                    "app" => name.to_owned(),
                    _ => format!("{name} {}", original_destination(&stream)),
                };
                // A client that has gone does not care.
                let _ = stream.write_all(answer.as_bytes());
            }
        });
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(64)?;
    Ok(socket.into())
}

fn original_destination(stream: &TcpStream) -> String {
    let found = if stream.local_addr().unwrap().is_ipv6() {
        getsockopt(stream, sockopt::Ip6tOriginalDst)
            .map(|raw| SocketAddr::new(Ipv6Addr::from(raw.sin6_addr.s6_addr).into(), u16::from_be(raw.sin6_port)))
    } else {
        getsockopt(stream, sockopt::OriginalDst).map(|raw| {
            SocketAddr::new(Ipv4Addr::from_bits(u32::from_be(raw.sin_addr.s_addr)).into(), u16::from_be(raw.sin_port))
        })
    };
    found.map_or_else(|_| "direct".to_owned(), |address| address.to_string())
}

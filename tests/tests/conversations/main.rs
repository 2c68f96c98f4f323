//! Each protocol between each pair of meshed and plain hosts over each address family, in namespaces with real rules.
//!
//! Invariant: one mesh for the whole table; every cell is tried, and all that fail are reported together.
//! Non-goal: what happens on failure; here everybody behaves.

mod cells;
mod scheduling;
mod targets;
mod workers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use mesh_tests::client;
use mesh_tests::mesh::{App, Mesh, Service, Workload};

use cells::{Conversation, TABLE};

/// The apps of a server, each on a port that tells nothing about its protocol.
fn apps() -> impl Iterator<Item = App> {
    TABLE.iter().map(|conversation| {
        let port = conversation.port();
        match conversation {
            Conversation::Http1 | Conversation::Http2 | Conversation::WebSocket => App::demo("demo-http", port, &[]),
            Conversation::Grpc => App::demo("demo-grpc", port, &[]),
            Conversation::ServerFirst => App::demo("demo-greet", port, &[]),
            Conversation::ClientFirst => App::demo("demo-greet", port, &["--mode=digest"]),
            Conversation::ForeignTls => App::demo("demo-greet", port, &["--mode=tls", "--name=shop.test"]),
        }
    })
}

/// Two clients and two servers, one of each in the mesh, and a service for each conversation and server.
fn table(mesh: &mut Mesh) -> BTreeMap<(Conversation, &'static str), Service> {
    mesh.workload("client").service_account("client").add();
    mesh.workload("outsider").plain().add();
    apps().fold(mesh.workload("meshed").of("meshed"), |spec, app| spec.app(app)).add();
    apps().fold(mesh.workload("plain").of("plain").plain(), |spec, app| spec.app(app)).add();
    let pairs = TABLE.iter().flat_map(|conversation| ["meshed", "plain"].map(|server| (*conversation, server)));
    let services = pairs.map(|(conversation, server)| {
        let port = conversation.port();
        let name = format!("{conversation}-{server}").to_lowercase();
        ((conversation, server), mesh.service(&name, port, port).over(server).add())
    });
    services.collect()
}

/// One cell; how it went.
fn run(conversation: Conversation, client: &Workload, addr: SocketAddr) -> Result<String, String> {
    let start = Instant::now();
    client::within(&client.host, conversation.hold(addr)).map(|()| format!("{:?}", start.elapsed()))
}

/// Between two sidecars all is mutual TLS, and to a plain server none of it is: what the client's sidecar counted.
fn encryption(client: &Workload, conversation: Conversation, server: &str) -> Result<(), String> {
    let name = format!("{conversation}-{server}").to_lowercase();
    let target = format!("default/{name}:{}", conversation.port());
    let metrics = client.metrics();
    let count = |tls| {
        let labels = [("direction", "outbound"), ("target", &*target), ("tls", tls)];
        let families = ["mesh_http_requests_total", "mesh_tcp_connections_opened_total"];
        families.map(|family| metrics.sum(family, &labels)).iter().sum::<f64>()
    };
    let expected = match (server, conversation) {
        ("meshed", _) => "mutual",
        (_, Conversation::ForeignTls) => "foreign",
        _ => "none",
    };
    let counts = ["mutual", "foreign", "none"].map(|tls| (tls, count(tls)));
    match counts.iter().all(|(tls, count)| (*count > 0.5) == (*tls == expected)) {
        true => Ok(()),
        false => Err(format!("{target}: {expected} only was expected: {counts:?}")),
    }
}

#[test]
fn every_protocol_passes_between_every_pair_over_both_families() {
    let mut mesh = Mesh::new();
    let services = table(&mut mesh);
    mesh.start();
    let mut failures = Vec::new();
    for conversation in TABLE {
        let of = |server| services[&(conversation, server)];
        let direct = mesh.get("meshed").at(conversation.port());
        let cells = [
            ("client", "meshed to meshed", [of("meshed").v4, of("meshed").v6]),
            ("client", "meshed to plain", [of("plain").v4, of("plain").v6]),
            ("outsider", "plain to meshed", direct),
            // Not a service but a workload's own address.
            ("client", "meshed to meshed, directly", direct),
        ];
        for (client, pair, addresses) in cells {
            for addr in addresses {
                let result = run(conversation, mesh.get(client), addr);
                let cell = format!("{conversation}, {pair}, {addr}");
                println!("{cell}: {result:?}");
                failures.extend(result.err().map(|error| format!("{cell}: {error}")));
            }
        }
    }
    for (conversation, server) in services.keys() {
        failures.extend(encryption(mesh.get("client"), *conversation, server).err());
    }
    // Foreign TLS is not opened, but the name that its client asks for is there to be read.
    for (sidecar, direction) in [("client", "outbound"), ("meshed", "inbound")] {
        let labels = [("direction", direction), ("sni", "shop.test")];
        let count = mesh.get(sidecar).metric("mesh_tls_passthrough_connections_total", &labels);
        failures.extend((count < 0.5).then(|| format!("{sidecar} has counted no shop.test")));
    }
    assert!(failures.is_empty(), "{} cells failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_server_that_speaks_first_is_not_kept_waiting() {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    mesh.workload("outsider").plain().add();
    let greeter = |port| App::demo("demo-greet", port, &[]);
    mesh.workload("greet").of("greet").app(greeter(7001)).app(greeter(7002)).add();
    mesh.workload("bare").plain().app(greeter(7001)).add();
    let service = mesh.service("greet", 7001, 7001).add();
    mesh.start();
    let time = |client: &str, addr| {
        let times = (0..5).map(|_| client::within(&mesh.get(client).host, client::tcp::greeting(addr)));
        let times: Vec<_> = times.map(|result| result.expect("a greeting").1).collect();
        println!("{client} to {addr}: {times:?}");
        times
    };
    let without = time("outsider", mesh.get("bare").at(7001)[0]);
    let without = without.iter().min().expect("five greetings");
    let [unseen, _] = mesh.get("greet").at(7002);
    // The first one on a port is the hardest: nothing is known of it. Who waits for the client waits for seconds.
    for (client, addr) in [("client", service.v4), ("client", service.v6), ("outsider", unseen)] {
        let with = time(client, addr);
        let over = with[0].saturating_sub(*without);
        assert!(over.as_millis() <= 1000, "{client} to {addr}: {over:?} longer than without a mesh, {with:?}");
    }
}

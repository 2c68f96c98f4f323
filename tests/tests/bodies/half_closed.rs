//! Clients that end their side once they have asked, as `nc -N` and old libraries do.
//!
//! Invariant: the end of the request's side is no end of the exchange.
//! Non-goal: half-close of plain TCP; the conversation matrix has that.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use mesh_tests::client::PATIENCE;
use mesh_tests::mesh::{App, Mesh};
use mesh_tests::raw;

use super::APP;

#[test]
fn a_client_that_ends_its_side_after_the_request_gets_its_answer() {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    mesh.workload("outsider").plain().add();
    mesh.workload("web").of("web").app(App::demo("demo-http", APP, &[])).add();
    let service = mesh.service("web", 80, APP).add().v4;
    mesh.start();
    for (client, addr) in [("client", service), ("outsider", mesh.get("web").at(APP)[0])] {
        for version in ["1.1", "1.0"] {
            let mut stream =
                mesh.get(client).host.enter(|| TcpStream::connect_timeout(&addr, PATIENCE)).expect("a connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
            // The app takes its time: the end comes to the sidecar while it waits.
            let request = format!("GET /bytes?n=70000&delay=300ms HTTP/{version}\r\nhost: web\r\n\r\n");
            stream.write_all(request.as_bytes()).expect("a live connection");
            stream.shutdown(Shutdown::Write).expect("a live connection");
            let mut answer = Vec::new();
            let read = stream.read_to_end(&mut answer);
            let what = format!("{client}, HTTP/{version}: {read:?}");
            assert_eq!(raw::status(&answer), Some(200), "{what}");
            assert!(answer.len() > 70_000, "{what}");
        }
    }
}

//! The Services that the recipes speak of, and a client.

use std::io;
use std::net::SocketAddr;

use http::Request;
use mesh_tests::body;
use mesh_tests::client::http::{Answer, Connection, Version};
use mesh_tests::client::{rpc, within};
use mesh_tests::echo::EchoRequest;
use mesh_tests::mesh::{App, Mesh, Service};
use mesh_tests::netns::until;

use super::CONVERGE;

const HTTP: u16 = 8080;
const GRPC: u16 = 7070;
/// The address that the page's sick host has.
const SICK: &str = "192.0.2.7";

/// See the module.
pub(super) struct Kitchen {
    /// With workloads `client`, `web-1`, `web-2`, `sick` (which is of `web` too), `next`, `rpc`.
    pub(super) mesh: Mesh,
    web: Service,
    empty: Service,
    rpc: Service,
}

impl Kitchen {
    pub(super) fn start() -> Self {
        let mut mesh = Mesh::new();
        mesh.workload("client").service_account("client").add();
        for (name, of) in [("web-1", "web"), ("web-2", "web"), ("sick", "web"), ("next", "web-next")] {
            let named = format!("--name={name}");
            mesh.workload(name).of(of).app(App::demo("demo-http", HTTP, &[&named])).add();
        }
        mesh.workload("rpc").of("rpc").app(App::demo("demo-grpc", GRPC, &["--name=rpc"])).add();
        let web = mesh.service("web", 80, HTTP).add();
        mesh.service("web-next", 80, HTTP).add();
        let empty = mesh.service("empty", 80, HTTP).add();
        let rpc = mesh.service("rpc", GRPC, GRPC).add();
        mesh.start();
        Self { mesh, web, empty, rpc }
    }

    /// A manifest of the page for this machine.
    pub(super) fn at_home(&self, manifest: &str) -> String {
        let own = self.mesh.get("sick").host.v4.to_string();
        if manifest.contains(SICK) {
            self.mesh.withdraw("sick");
        }
        manifest.replace(SICK, &own)
    }

    /// Waits until no recipe is in force.
    pub(super) fn until_plain(&self) {
        self.mesh.publish("sick");
        until(CONVERGE, || {
            let served: Vec<_> = (0..24).map(|_| self.get("/", &[])).collect();
            let plain = |answer: &Answer| answer.status == 200 && !answer.headers.contains_key("x-served");
            let all_web = served.iter().all(|answer| plain(answer) && served_by(answer) != "next");
            let empty = self.ask(self.empty.v4, "GET", "/", &[]).is_ok_and(|answer| answer.status == 503);
            let paced = self.get("/", &[("x-chaos", "yes"), ("x-tenant", "one")]).status == 200;
            let patient = self.get("/?delay=400ms", &[]).status == 200;
            all_web && empty && paced && patient && self.endpoints_of_web() == 3.0
        });
    }

    /// How many the client's sidecar knows.
    pub(super) fn endpoints_of_web(&self) -> f64 {
        self.mesh.get("client").metric("mesh_balancer_endpoints", &[("target", "default/web:80")])
    }

    /// `GET` of `web`.
    pub(super) fn get(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.ask(self.web.v4, "GET", path, fields).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// A request to `web`, which may be broken off.
    pub(super) fn try_web(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> io::Result<Answer> {
        self.ask(self.web.v4, method, path, fields)
    }

    /// `GET` of the Service without endpoints.
    pub(super) fn get_empty(&self) -> Answer {
        self.ask(self.empty.v4, "GET", "/", &[]).expect("an answer")
    }

    /// Requests at the same time.
    pub(super) fn together(&self, n: usize, path: &str) -> Vec<Answer> {
        let addr = self.web.v4;
        within(&self.mesh.get("client").host, async move {
            let one = || async move {
                let request = Request::builder().uri(path).header("host", "web").body(body::empty());
                Connection::open(addr, Version::H1).await?.fetch(request.expect("a request")).await
            };
            let all = futures_util::future::join_all((0..n).map(|_| one())).await;
            all.into_iter().map(|answer| answer.expect("an answer")).collect()
        })
    }

    fn ask(&self, addr: SocketAddr, method: &str, path: &str, fields: &[(&str, &str)]) -> io::Result<Answer> {
        let request = Request::builder().method(method).uri(path).header("host", "web");
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(body::empty()).expect("a request that a test wrote");
        within(&self.mesh.get("client").host, async { Connection::open(addr, Version::H1).await?.fetch(request).await })
    }

    /// The code of a unary call, and of a streaming one.
    pub(super) fn calls(&self) -> [tonic::Code; 2] {
        let addr = self.rpc.v4;
        within(&self.mesh.get("client").host, async move {
            let mut client = rpc::connect(addr).await.expect("a channel");
            let request = EchoRequest::default;
            let code = |result: Result<(), tonic::Status>| result.err().map_or(tonic::Code::Ok, |status| status.code());
            let unary = client.unary(request()).await.map(|_| ());
            let streaming = client.server_stream(request()).await.map(|_| ());
            [code(unary), code(streaming)]
        })
    }
}

/// Which workload answered.
pub(super) fn served_by(answer: &Answer) -> String {
    let name = answer.headers.get("x-served-by");
    name.map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned()).unwrap_or_default()
}

/// The reason of an answer that the mesh made.
pub(super) fn reason(answer: &Answer) -> String {
    let said = answer.headers.get("mesh-error").map(|said| String::from_utf8_lossy(said.as_bytes()).into_owned());
    said.unwrap_or_default().split(';').next().unwrap_or_default().to_owned()
}

//! Other proxies under the same attacks: Envoy and HAProxy as plain reverse proxies, each between a client and a back end in
//! namespaces of their own.
//!
//! Invariant: their configuration says where to listen, where to forward and which version the back end speaks; all limits are
//! their makers' defaults, but for the time-outs that HAProxy wants to be given, and for what a row sets for the mesh as well
//! or the mesh does by itself: these are in [`Setup`].
//! Non-goal: installing them; `make reliability` does. No test needs them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{Front, Group, Process, Who};
use crate::bins;
use crate::netns::{Host, Net, Proc, until};

/// Where the proxy listens, for HTTP/1 and for HTTP/2 with prior knowledge, and where the back end does: for attacks, and for
/// a polite client whose back end is another one.
const PORTS: [(u16, u16); 2] = [(9000, 8000), (9001, 8001)];
const SOON: Duration = Duration::from_secs(20);

/// Which version the back end is spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// What is said of a proxy of another make.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// How the back ends are spoken to.
    pub speaks: Speaks,
    /// After so many seconds without progress a stream is given up; none stands for the maker's default, here and below.
    pub stall: Option<u64>,
    /// After so many seconds a connection ends whose first head has not come.
    pub head: Option<u64>,
    /// More connections are refused.
    pub connections: Option<usize>,
    /// A port of the back end's host where another one listens, which has its share of all requests.
    pub second: Option<u16>,
    /// Requests are sent elsewhere that the back end did not process, or that got no answer.
    pub again: bool,
    /// Where it runs.
    pub group: Option<&'a Group>,
}

impl From<Speaks> for Setup<'_> {
    fn from(speaks: Speaks) -> Self {
        Self { speaks, stall: None, head: None, connections: None, second: None, again: false, group: None }
    }
}

/// A running proxy of another make. Dropped, it ends.
pub struct Peer {
    /// The way through it.
    pub front: Front,
    /// Another way through it, to a back end of its own.
    pub polite: Front,
    // In this order: the program, then where it runs.
    _program: Proc,
    _dir: tempfile::TempDir,
    _net: Net,
}

impl Peer {
    /// Starts Envoy or HAProxy in front of a back end that the caller starts.
    ///
    /// # Errors
    /// When the program is not installed.
    ///
    /// # Panics
    /// Without root, or when it does not listen in time.
    pub fn start<'a>(who: Who, setup: impl Into<Setup<'a>>) -> anyhow::Result<Self> {
        let (program, setup) = (program(who)?, setup.into());
        let net = Net::new();
        let [client, proxy, back] = ["client", "proxy", "back"].map(|name| net.host(name));
        let dir = tempfile::Builder::new().prefix("mesh-peer-").tempdir()?;
        let mut command = proxy.command(program);
        // Envoy tells formats apart by their names.
        let file = dir.path().join("config.json");
        match who {
            Who::Envoy => {
                fs::write(&file, envoy(&back, setup).to_string())?;
                command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "--config-path"]);
            }
            _ => {
                fs::write(&file, haproxy(&back, setup))?;
                command.args(["-db", "-f"]);
            }
        }
        command.arg(file);
        if let Some(group) = setup.group {
            command = group.run(&command);
        }
        let program = Proc::spawn(&mut command);
        let way = match setup.speaks {
            Speaks::Http1 => "HTTP/1.1 to the back end",
            Speaks::Http2 => "HTTP/2 to the back end",
        };
        let [front, polite] = PORTS.map(|(port, behind)| {
            let addr = (proxy.v4, port).into();
            client.enter(|| until(SOON, || std::net::TcpStream::connect(addr).is_ok()));
            let (client, back, proxy) = (client.clone(), back.clone(), Process(program.id()));
            Front { who, way, client, addr, back, port: behind, proxy }
        });
        Ok(Self { front, polite, _program: program, _dir: dir, _net: net })
    }
}

/// The version of an installed proxy, in its own words.
///
/// # Errors
/// When it is not installed, or does not say it.
pub fn version(who: Who) -> anyhow::Result<String> {
    let flag = if who == Who::Envoy { "--version" } else { "-v" };
    let said = Command::new(program(who)?).arg(flag).output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let is_version = |word: &&str| word.split('.').count() >= 3 && word.starts_with(|c: char| c.is_ascii_digit());
    let mut words = said.split([' ', '/', '\n']);
    words.find(is_version).map(str::to_owned).with_context(|| said.clone())
}

fn program(who: Who) -> anyhow::Result<PathBuf> {
    match who {
        Who::Mesh => anyhow::bail!("the mesh is no peer of itself"),
        Who::Haproxy => {
            let places = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"].map(PathBuf::from);
            places.into_iter().find(|path| path.is_file()).context("haproxy is not installed")
        }
        Who::Envoy => {
            let lib = bins::target().unwrap_or_default().join("bench-venv/lib");
            let versions = fs::read_dir(&lib).with_context(|| lib.display().to_string())?;
            let mut found = versions.flatten().map(|entry| entry.path().join("site-packages/envoy/_bin/envoy"));
            found.find(|path| path.is_file()).context("envoy is not installed")
        }
    }
}

fn envoy(back: &Host, setup: Setup<'_>) -> Value {
    let mut config = json!({ "static_resources": {
        "listeners": PORTS.map(|(port, behind)| listener(port, behind, setup)),
        "clusters": PORTS.map(|(_, behind)| cluster(back, behind, setup)),
    }});
    if let Some(most) = setup.connections {
        let limit = format!("{TYPES}.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig");
        config["overload_manager"] = json!({ "resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": { "@type": limit, "max_active_downstream_connections": most },
        }]});
    }
    config
}

const TYPES: &str = "type.googleapis.com/envoy.extensions";

fn socket(address: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": address, "port_value": port } })
}

fn listener(port: u16, behind: u16, setup: Setup<'_>) -> Value {
    let cluster = behind.to_string();
    let mut manager = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "front", "codec_type": "AUTO",
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
        "route_config": { "virtual_hosts": [{
            "name": "back", "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": cluster } }],
        }]},
        "http_filters": [{ "name": "router", "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router") }}],
    });
    if let Some(stall) = setup.stall {
        manager["stream_idle_timeout"] = format!("{stall}s").into();
    }
    if let Some(head) = setup.head {
        manager["request_headers_timeout"] = format!("{head}s").into();
        // Of a connection without a request, also where its first bytes are still to come.
        manager["common_http_protocol_options"] = json!({ "idle_timeout": format!("{head}s") });
    }
    if setup.again {
        manager["route_config"]["virtual_hosts"][0]["retry_policy"] =
            json!({ "retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 3 });
    }
    json!({
        "name": port.to_string(), "address": socket("0.0.0.0", port),
        "filter_chains": [{ "filters": [{ "name": "http", "typed_config": manager }] }],
    })
}

fn cluster(back: &Host, port: u16, setup: Setup<'_>) -> Value {
    let version = if setup.speaks == Speaks::Http1 { "http_protocol_options" } else { "http2_protocol_options" };
    let name = port.to_string();
    let endpoint = |port| json!({ "endpoint": { "address": socket(&back.v4.to_string(), port) } });
    let endpoints: Vec<_> = [port].into_iter().chain(setup.second).map(endpoint).collect();
    // Three at a time, if nothing is said.
    let again = json!({ "thresholds": [{ "retry_budget": { "min_retry_concurrency": 100 } }] });
    json!({
        "name": name, "type": "STATIC",
        "circuit_breakers": if setup.again { again } else { json!({}) },
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }]},
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": { version: {} },
        }},
    })
}

fn haproxy(back: &Host, setup: Setup<'_>) -> String {
    let version = if setup.speaks == Speaks::Http1 { "" } else { " proto h2" };
    let (stall, head) = (setup.stall.unwrap_or(30), setup.head.unwrap_or(10));
    // Its own `maxconn` refuses nobody: those beyond it wait in the kernel's queue.
    let most = setup.connections.map(|most| format!("  tcp-request connection reject if {{ fe_conn gt {most} }}\n"));
    let again = if setup.again { "  retry-on all-retryable-errors\n" } else { "" };
    let server = |port: u16| format!("  server back-{port} {}:{port}{version}\n", back.v4);
    let ways = PORTS.map(|(port, behind)| {
        format!(
            "frontend front-{port}\n  bind 0.0.0.0:{port}\n{}  default_backend back-{behind}\n\
             backend back-{behind}\n{}{}",
            most.as_deref().unwrap_or_default(),
            server(behind),
            setup.second.map(server).unwrap_or_default(),
        )
    });
    format!(
        "global\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client {stall}s\n  \
         timeout server 30s\n  timeout http-request {head}s\n{again}{}",
        ways.concat()
    )
}

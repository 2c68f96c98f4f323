//! Other proxies under the same attacks: Envoy and HAProxy as plain reverse proxies, each between a client and a back end in
//! namespaces of their own.
//!
//! Invariant: their configuration says where to listen, where to forward and which version the back end speaks; all limits are
//! their makers' defaults, but for the time-outs that HAProxy wants to be given.
//! Non-goal: installing them; `make reliability` does. No test needs them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{Front, Process, Who};
use crate::bins;
use crate::netns::{Host, Net, Proc, until};

/// Where the proxy listens, for HTTP/1 and for HTTP/2 with prior knowledge.
const FRONT: u16 = 9000;
/// Where the back end listens.
const BACK: u16 = 8000;
const SOON: Duration = Duration::from_secs(20);

/// Which version the back end is spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// A running proxy of another make. Dropped, it ends.
pub struct Peer {
    /// The way through it.
    pub front: Front,
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
    pub fn start(who: Who, speaks: Speaks) -> anyhow::Result<Self> {
        let program = program(who)?;
        let net = Net::new();
        let [client, proxy, back] = ["client", "proxy", "back"].map(|name| net.host(name));
        let dir = tempfile::Builder::new().prefix("mesh-peer-").tempdir()?;
        let file = dir.path().join("config");
        let mut command = proxy.command(program);
        match who {
            Who::Envoy => {
                fs::write(&file, envoy(&back, speaks).to_string())?;
                command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "--config-path"]);
                // It tells formats apart by their names.
                let json = file.with_extension("json");
                fs::rename(&file, &json)?;
                command.arg(json);
            }
            _ => {
                fs::write(&file, haproxy(&back, speaks))?;
                command.args(["-db", "-f"]).arg(&file);
            }
        }
        let program = Proc::spawn(&mut command);
        let addr = (proxy.v4, FRONT).into();
        client.enter(|| until(SOON, || std::net::TcpStream::connect(addr).is_ok()));
        let way = match speaks {
            Speaks::Http1 => "HTTP/1.1 to the back end",
            Speaks::Http2 => "HTTP/2 to the back end",
        };
        let process = Process(program.id());
        let front = Front { who, way, client, addr, back, port: BACK, proxy: process };
        Ok(Self { front, _program: program, _dir: dir, _net: net })
    }
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

fn envoy(back: &Host, speaks: Speaks) -> Value {
    const TYPES: &str = "type.googleapis.com/envoy.extensions";
    let socket = |address: &str, port| json!({ "socket_address": { "address": address, "port_value": port } });
    let version = if speaks == Speaks::Http1 { "http_protocol_options" } else { "http2_protocol_options" };
    let manager = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "front", "codec_type": "AUTO",
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
        "route_config": { "virtual_hosts": [{
            "name": "back", "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "back" } }],
        }]},
        "http_filters": [{ "name": "router", "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router") }}],
    });
    let listener = json!({
        "name": "front", "address": socket("0.0.0.0", FRONT),
        "filter_chains": [{ "filters": [{ "name": "http", "typed_config": manager }] }],
    });
    let cluster = json!({
        "name": "back", "type": "STATIC",
        "load_assignment": { "cluster_name": "back", "endpoints": [{ "lb_endpoints": [
            { "endpoint": { "address": socket(&back.v4.to_string(), BACK) } },
        ]}]},
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": { version: {} },
        }},
    });
    json!({ "static_resources": { "listeners": [listener], "clusters": [cluster] } })
}

fn haproxy(back: &Host, speaks: Speaks) -> String {
    let version = if speaks == Speaks::Http1 { "" } else { " proto h2" };
    format!(
        "global\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n  \
         timeout http-request 10s\n\
         frontend front\n  bind 0.0.0.0:{FRONT}\n  default_backend back\n\
         backend back\n  server back {}:{BACK}{version}\n",
        back.v4
    )
}

//! Envoy, the binary of the Python package: as many workers as asked for, HTTP connection manager or TCP proxy, HTTP/2 between the sidecars.
//!
//! Its listeners, clusters and circuit breakers are open to all connections of the bench; request ids and the
//! `x-forwarded` fields that it adds by itself are off where it can be told so, as the others add none.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use mesh_tests::mesh::{ADMIN_PORT, INBOUND_PORT, Metrics};
use serde_json::{Value, json};

use super::{Counters, Flavour, Plan, Scene, Side, Work, venv};
use crate::certs::NAME;
use crate::rig::{OUTBOUND_PORT, Rig};

const TYPES: &str = "type.googleapis.com/envoy.extensions";
/// More than any scenario opens.
const MOST: u32 = 100_000;

pub(super) fn program() -> anyhow::Result<PathBuf> {
    let lib = venv().join("lib");
    let versions = fs::read_dir(&lib).with_context(|| format!("{}: `make bench` fills it", lib.display()))?;
    let mut found = versions.flatten().map(|entry| entry.path().join("site-packages/envoy/_bin/envoy"));
    found.find(|path| path.is_file()).context("envoy is not installed: `make bench` installs it")
}

pub(super) fn plan(rig: &Rig, side: Side, work: Work, folder: &Path) -> anyhow::Result<Plan> {
    let path = folder.join(format!("envoy-{}.json", side.name()));
    let text = serde_json::to_vec_pretty(&config(&Scene::new(rig, side, work)))?;
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    ensure!(work.workers > 0, "envoy needs a worker");
    let workers = work.workers.to_string();
    let words = ["--concurrency", &workers, "--disable-hot-restart", "--log-level", "warning", "-c"];
    let args = words.map(str::to_owned).into_iter().chain([path.display().to_string()]).collect();
    let metrics = "/stats/prometheus?filter=front";
    Ok(Plan { program: program()?, args, env: Vec::new(), metrics, ready: "/ready", comm: "envoy" })
}

pub(super) fn counters(metrics: &Metrics) -> Counters {
    let http = [("envoy_http_conn_manager_prefix", "front")];
    let tcp = [("envoy_tcp_prefix", "front")];
    Counters {
        requests: metrics.sum("envoy_http_downstream_rq_total", &http),
        connections: metrics.sum("envoy_tcp_downstream_cx_total", &tcp)
            + metrics.sum("envoy_http_downstream_cx_total", &http),
    }
}

fn config(scene: &Scene) -> Value {
    let far = match scene.side {
        Side::Client => scene.far,
        Side::Server => ([127, 0, 0, 1], scene.work.port).into(),
    };
    let mut clusters = vec![cluster(scene, "back", &[far])];
    let endpoints: Vec<_> = scene.endpoints().collect();
    clusters.extend(scene.targets().map(|target| cluster(scene, &target.to_string(), &endpoints)));
    json!({
        "admin": { "address": socket("127.0.0.1", ADMIN_PORT) },
        "static_resources": { "listeners": [listener(scene)], "clusters": clusters },
    })
}

fn listener(scene: &Scene) -> Value {
    let filter = match scene.work.flavour {
        Flavour::Tcp => json!({
            "name": "tcp",
            "typed_config": {
                "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": "front", "cluster": "back",
            },
        }),
        Flavour::Http1 | Flavour::Http2 => json!({ "name": "http", "typed_config": manager(scene) }),
    };
    let (address, chain) = match scene.side {
        Side::Client => (socket("127.0.0.1", OUTBOUND_PORT), json!({ "filters": [filter] })),
        Side::Server => (
            socket("0.0.0.0", INBOUND_PORT),
            json!({ "filters": [filter], "transport_socket": {
                "name": "tls",
                "typed_config": {
                    "@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"),
                    "common_tls_context": tls(scene), "require_client_certificate": true,
                },
            }}),
        ),
    };
    json!({ "name": "front", "address": address, "tcp_backlog_size": 4096, "filter_chains": [chain] })
}

fn manager(scene: &Scene) -> Value {
    let host = |name: &str, domain: &str| {
        json!({
            "name": name, "domains": [domain],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": name, "timeout": "0s" } }],
        })
    };
    let targets = scene.targets().map(|target| target.to_string());
    let hosts: Vec<_> = targets.map(|target| host(&target, &target)).chain([host("back", "*")]).collect();
    json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "front",
        "codec_type": "AUTO",
        "generate_request_id": false,
        "stream_idle_timeout": "3600s",
        "route_config": { "virtual_hosts": hosts },
        "http_filters": [{
            "name": "router",
            "typed_config": {
                "@type": format!("{TYPES}.filters.http.router.v3.Router"), "suppress_envoy_headers": true,
            },
        }],
    })
}

fn cluster(scene: &Scene, name: &str, endpoints: &[SocketAddr]) -> Value {
    let limits = json!([{
        "max_connections": MOST, "max_pending_requests": MOST, "max_requests": MOST, "max_retries": 3,
    }]);
    let address = |endpoint: &SocketAddr| socket(&endpoint.ip().to_string(), endpoint.port());
    let endpoints: Vec<_> =
        endpoints.iter().map(|endpoint| json!({ "endpoint": { "address": address(endpoint) } })).collect();
    let mut cluster = json!({
        "name": name, "type": "STATIC", "connect_timeout": "10s",
        "circuit_breakers": { "thresholds": limits },
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] },
    });
    let protocol = match (scene.side, scene.work.flavour) {
        (_, Flavour::Tcp) => None,
        (Side::Server, Flavour::Http1) => Some("http_protocol_options"),
        (Side::Client, Flavour::Http1) | (_, Flavour::Http2) => Some("http2_protocol_options"),
    };
    if let Some(protocol) = protocol {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": { protocol: {} },
            },
        });
    }
    if scene.side == Side::Client {
        cluster["transport_socket"] = json!({
            "name": "tls",
            "typed_config": {
                "@type": format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"),
                "sni": NAME, "common_tls_context": tls(scene),
            },
        });
    }
    cluster
}

/// BoringSSL prefers AES-128-GCM in TLS 1.3 where the processor has AES, and cannot be told otherwise.
fn tls(scene: &Scene) -> Value {
    let alpn: &[&str] = if scene.work.flavour == Flavour::Tcp { &[] } else { &["h2"] };
    json!({
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{
            "certificate_chain": { "filename": scene.certs.leaf }, "private_key": { "filename": scene.certs.key },
        }],
        "validation_context": {
            "trusted_ca": { "filename": scene.certs.root },
            "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": NAME } }],
        },
        "alpn_protocols": alpn,
    })
}

fn socket(address: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": address, "port_value": port } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::tests::{files, scene};

    const OPTIONS: &str = "/typed_extension_protocol_options/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

    fn resources(side: Side, flavour: Flavour, targets: u16) -> Value {
        config(&scene(side, flavour, targets, &files()))["static_resources"].take()
    }

    #[test]
    fn applications_are_spoken_to_as_they_speak_and_sidecars_in_http_2() {
        for (side, flavour, protocol) in [
            (Side::Client, Flavour::Http1, "http2_protocol_options"),
            (Side::Client, Flavour::Http2, "http2_protocol_options"),
            (Side::Server, Flavour::Http1, "http_protocol_options"),
            (Side::Server, Flavour::Http2, "http2_protocol_options"),
        ] {
            let resources = resources(side, flavour, 0);
            let path = format!("/clusters/0{OPTIONS}/explicit_http_config/{protocol}");
            assert!(resources.pointer(&path).is_some(), "{resources:#}");
        }
    }

    #[test]
    fn both_sides_have_certificates_and_verify_the_others() {
        for (side, path) in [
            (Side::Client, "/clusters/0/transport_socket/typed_config"),
            (Side::Server, "/listeners/0/filter_chains/0/transport_socket/typed_config"),
        ] {
            let resources = resources(side, Flavour::Tcp, 0);
            let tls = resources.pointer(path).unwrap();
            assert_eq!(tls["common_tls_context"]["validation_context"]["trusted_ca"]["filename"], "/certs/root.pem");
            assert_eq!(tls["common_tls_context"]["tls_params"]["tls_minimum_protocol_version"], "TLSv1_3");
            assert!(side == Side::Client || tls["require_client_certificate"] == true, "{tls:#}");
        }
    }

    #[test]
    fn each_service_has_a_cluster_of_ten_endpoints() {
        let resources = resources(Side::Client, Flavour::Http1, 2);
        let endpoints = resources.pointer("/clusters/2/load_assignment/endpoints/0/lb_endpoints").unwrap();
        assert_eq!(endpoints.as_array().map(Vec::len), Some(10));
    }
}

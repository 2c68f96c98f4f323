//! HAProxy, the distribution's: one process, `nbthread` as many workers, the Prometheus exporter on its admin port.
//!
//! What the sidecars of an application of HTTP/1.1 speak with each other is up to the operator: HTTP/1.1 over a pool of
//! connections, which is its default, or HTTP/2, which costs it less where bodies are small. So both are measured.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mesh_tests::mesh::{ADMIN_PORT, INBOUND_PORT, Metrics};

use super::{Counters, Flavour, Plan, Scene, Side, Work};
use crate::certs::NAME;
use crate::process::files;
use crate::rig::{OUTBOUND_PORT, Rig};

const PLACES: [&str; 2] = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"];

pub(super) fn program() -> anyhow::Result<PathBuf> {
    let found = PLACES.map(PathBuf::from).into_iter().find(|path| path.is_file());
    found.context("haproxy is not installed: `make bench` installs it")
}

/// What sidecars speak with each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Between {
    AsTheApplication,
    Http2,
}

pub(super) fn plan(rig: &Rig, side: Side, work: Work, folder: &Path, between: Between) -> anyhow::Result<Plan> {
    let path = folder.join(format!("haproxy-{}.cfg", side.name()));
    fs::write(&path, config(&Scene::new(rig, side, work), between)).with_context(|| path.display().to_string())?;
    let args = ["-db", "-f"].map(str::to_owned).into_iter().chain([path.display().to_string()]).collect();
    let (metrics, ready) = ("/metrics?scope=frontend", "/ready");
    Ok(Plan { program: program()?, args, env: Vec::new(), metrics, ready, comm: "haproxy" })
}

pub(super) fn counters(metrics: &Metrics) -> Counters {
    let labels = [("proxy", "front")];
    Counters {
        requests: metrics.sum("haproxy_frontend_http_requests_total", &labels),
        connections: metrics.sum("haproxy_frontend_connections_total", &labels),
    }
}

fn config(scene: &Scene, between: Between) -> String {
    let tcp = scene.work.flavour == Flavour::Tcp;
    let (root, both) = (scene.certs.root.display(), scene.certs.both.display());
    let (alpn, clear) = match (scene.work.flavour, between) {
        (Flavour::Http1, Between::AsTheApplication) => (" alpn http/1.1", ""),
        (Flavour::Http1, Between::Http2) => (" alpn h2", ""),
        (Flavour::Http2, _) => (" alpn h2", " proto h2"),
        (Flavour::Tcp, _) => ("", ""),
    };
    let tls = format!("ssl crt {both} ca-file {root} verify required{alpn}");
    let (bind, far) = match scene.side {
        Side::Client => (
            format!("127.0.0.1:{OUTBOUND_PORT}{clear}"),
            format!("{} {tls} verifyhost {NAME} sni str({NAME})", scene.far),
        ),
        Side::Server => (format!("0.0.0.0:{INBOUND_PORT} {tls}"), format!("127.0.0.1:{}{clear}", scene.work.port)),
    };
    let (mode, reuse) = if tcp { ("tcp", "") } else { ("http", "  http-reuse always\n") };
    let (choice, more) = targets(scene, &tls, reuse);
    format!(
        "global\n  nbthread {workers}\n  maxconn {most}\n  ssl-default-bind-options ssl-min-ver TLSv1.3\n  \
         ssl-default-server-options ssl-min-ver TLSv1.3\n  \
         ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256\n  \
         ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256\n\
         defaults\n  mode {mode}\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n  backlog 4096\n  \
         maxconn {most}\n\
         frontend front\n  bind {bind}\n{choice}  default_backend back\n\
         backend back\n{reuse}  server far {far}\n{more}\
         frontend admin\n  mode http\n  bind 127.0.0.1:{ADMIN_PORT}\n  \
         http-request use-service prometheus-exporter if {{ path /metrics }}\n  http-request return status 200\n",
        workers = scene.work.workers,
        // It refuses to start when its files would not suffice for two ends of each.
        most = (files() - 400) / 2,
    )
}

/// How the front end chooses among many services, and their back ends.
fn targets(scene: &Scene, tls: &str, reuse: &str) -> (&'static str, String) {
    let choice = if scene.targets().next().is_some() { "  use_backend %[req.hdr(host)]\n" } else { "" };
    let backend = |target| {
        let servers = scene.endpoints().enumerate().map(|(number, endpoint)| {
            format!("  server s{number} {endpoint} {tls} verifyhost {NAME} sni str({NAME})\n")
        });
        format!("backend {target}\n{reuse}{}", servers.collect::<String>())
    };
    (choice, scene.targets().map(backend).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::tests::{files, scene};

    #[test]
    fn both_sides_verify_and_speak_what_was_chosen() {
        let certs = files();
        let text = |side, flavour, between| config(&scene(side, flavour, 0, &certs), between);
        for side in Side::BOTH {
            let http1 = text(side, Flavour::Http1, Between::AsTheApplication);
            assert!(http1.contains("verify required alpn http/1.1") && http1.contains("http-reuse always"), "{http1}");
            assert!(text(side, Flavour::Http1, Between::Http2).contains("verify required alpn h2"));
            assert!(text(side, Flavour::Http2, Between::AsTheApplication).contains(" proto h2"));
            let tcp = text(side, Flavour::Tcp, Between::AsTheApplication);
            assert!(tcp.contains("mode tcp") && tcp.contains("verify required") && !tcp.contains("alpn"), "{tcp}");
            assert!(tcp.contains("ssl-min-ver TLSv1.3") && tcp.contains("nbthread 2"), "{tcp}");
        }
    }

    #[test]
    fn a_service_is_chosen_by_its_authority() {
        let certs = files();
        let text = config(&scene(Side::Client, Flavour::Http1, 2, &certs), Between::AsTheApplication);
        assert!(text.contains("use_backend %[req.hdr(host)]"), "{text}");
        assert!(text.contains("backend 10.97.0.1:8000\n") && text.contains("server s9 10.78.1.10:4143 ssl"), "{text}");
    }
}

//! The composition root: manifests to the index, the index to the service, certificates to both ends of it.
//!
//! Invariant: what can fail at the start fails before anybody is served: listeners, anchors. Proxies are served when all
//! manifests are read and the certificate is there; before, they are refused, and keep what they know. Non-goal: decisions;
//! they are in the other rooms.

use std::fs;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use mesh_kit::admin::Admin;
use mesh_kit::metrics::Prometheus;
use mesh_kit::ready::{Check, Readiness, Status};
use mesh_kit::shutdown::Shutdown;
use mesh_kit::{limits, listen, log, memory};
use mesh_mtls::certify;
use mesh_mtls::credentials::{Anchors, Credentials, Leaf};
use mesh_mtls::grpc::{self, Incoming};
use mesh_mtls::messages;
use mesh_mtls::spiffe::Id;
use mesh_mtls::tls::{Acceptor, ClientAuth};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_util::task::TaskTracker;

use crate::cli::Serve;
use crate::index::Index;
use crate::metrics;
use crate::model::Kind;
use crate::service::{self, Admission, Client, Discovery};
use crate::source::directory::{self, Directory};

/// Of each kind, most that `/state` shows.
const SHOWN: usize = 1_000;

/// Serves until a signal, or the admin port, asks for the end.
///
/// # Errors
/// When it cannot start, or a server fails.
pub async fn serve(settings: Serve) -> anyhow::Result<()> {
    let log = log::init(settings.log_format.into(), &settings.log)?;
    if let Err(error) = limits::raise_files() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let shutdown = Shutdown::on_signals().context("signals")?;
    tokio::spawn(memory::upkeep());
    let listeners = bind(&settings.listen)?;
    let admin_listeners = bind(&settings.admin)?;
    let prometheus = metrics::install();
    let readiness = Readiness::new();
    let [manifests, certified, listening] = ["manifests", "certified", "listening"].map(|name| readiness.check(name));

    let credentials = Credentials::new(anchors(&settings)?);
    let index = Arc::new(Mutex::new(Index::new(settings.trust_domain.clone())));
    let directory = Directory::new(&settings.manifests, directory::Settings::default(), metrics::Source::default());
    let admin = admin(&prometheus, &readiness, &index, &credentials).log_level(log).shutdown(shutdown.clone());
    let identity = certify::run(identity(&settings)?, credentials.clone(), Observer);

    let server = async {
        // A handshake without a certificate fails; until then connections wait in the kernel's queue.
        credentials.certified().await;
        tracing::info!(listen = ?settings.listen, admin = ?settings.admin, "serving");
        listening.set(Status::Ready);
        serve_proxies(&settings, listeners, &index, &credentials, &shutdown).await
    };
    let end = async {
        shutdown.requested().await;
        readiness.drain();
        tokio::time::sleep(settings.shutdown_grace).await;
    };
    tokio::select! {
        served = server => served,
        () = end => Ok(()),
        () = directory.run(&index, || manifests.set(Status::Ready)) => anyhow::bail!("the directory is not followed any more"),
        () = identity => Ok(()),
        () = follow_certificate(&credentials, &certified) => Ok(()),
        () = admin.serve(admin_listeners) => Ok(()),
        () = prometheus.upkeep() => Ok(()),
    }
}

fn bind(addrs: &[std::net::SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
    addrs.iter().map(|addr| listen::bind(*addr).with_context(|| format!("listen on {addr}"))).collect()
}

fn anchors(settings: &Serve) -> anyhow::Result<Anchors> {
    let path = &settings.trust_anchors;
    let pem = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Anchors::from_pem(&pem).with_context(|| format!("anchors of {}", path.display()))
}

fn identity(settings: &Serve) -> anyhow::Result<certify::Settings> {
    let id = match &settings.identity_id {
        Some(id) => id.clone(),
        None => Id::new(&settings.trust_domain, "mesh-system", "identity")?,
    };
    Ok(certify::Settings::new(&settings.identity_addr, id, &settings.token_file))
}

fn admin(
    prometheus: &Prometheus,
    readiness: &Readiness,
    index: &Arc<Mutex<Index>>,
    credentials: &Credentials,
) -> Admin {
    let (prometheus, index, credentials) = (prometheus.clone(), Arc::clone(index), credentials.clone());
    let indexed = Arc::clone(&index);
    let scrape = move || {
        metrics::indexed(&indexed.lock().unwrap_or_else(PoisonError::into_inner));
        prometheus.render()
    };
    Admin::new(readiness.clone(), scrape).loopback_get("/state", move || {
        let index = index.lock().unwrap_or_else(PoisonError::into_inner);
        state(&index, credentials.leaf().as_deref())
    })
}

fn state(index: &Index, leaf: Option<&Leaf>) -> String {
    let objects: serde_json::Map<_, _> =
        Kind::ALL.into_iter().map(|kind| (kind.as_str().to_owned(), index.count(kind).into())).collect();
    let certificate = leaf.map(|leaf| {
        let until = leaf.not_after().duration_since(UNIX_EPOCH).unwrap_or_default();
        serde_json::json!({"identity": leaf.id().as_str(), "not_after_unix": until.as_secs()})
    });
    let unhealthy: Vec<_> = index.unhealthy().take(SHOWN).collect();
    let unhealthy: Vec<_> =
        unhealthy.iter().map(|(name, why)| serde_json::json!({"workload": name, "why": why})).collect();
    let preserved = index.preserved().into_iter().take(SHOWN).map(|(backend, unhealthy)| {
        serde_json::json!({"service": backend.service.to_string(), "port": backend.port, "unhealthy": unhealthy})
    });
    serde_json::json!({
        "status": statuses(index),
        "health": {"unhealthy": unhealthy, "preserved": preserved.collect::<Vec<_>>()},
        "objects": objects,
        "watched_resources": index.watched(),
        "revision": index.revision(),
        "certificate": certificate,
    })
    .to_string()
}

/// What became of routes and policies; of more than [`SHOWN`] those in trouble first.
fn statuses(index: &Index) -> serde_json::Value {
    let mut statuses = index.statuses();
    let troubled = statuses.iter().filter(|status| status.troubles().next().is_some()).count();
    statuses.sort_by_key(|status| status.troubles().next().is_none());
    let left_out = statuses.len().saturating_sub(SHOWN);
    let shown = statuses.iter().take(SHOWN).map(|status| {
        let conditions = status.conditions.iter().map(|condition| {
            serde_json::json!({
                "type": condition.about.as_str(),
                "status": !condition.reason.is_trouble(),
                "reason": condition.reason.as_str(),
                "message": condition.message,
            })
        });
        serde_json::json!({
            "kind": status.key.kind.as_str(),
            "namespace": status.key.name.namespace,
            "name": status.key.name.name,
            "in_force": status.is_in_force,
            "conditions": conditions.collect::<Vec<_>>(),
        })
    });
    serde_json::json!({"troubled": troubled, "left_out": left_out, "objects": shown.collect::<Vec<_>>()})
}

/// Serves on all listeners until `shutdown`, and until the last stream has ended.
async fn serve_proxies(
    settings: &Serve,
    listeners: Vec<TcpListener>,
    index: &Arc<Mutex<Index>>,
    credentials: &Credentials,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let limits = service::Settings {
        connections: usize::try_from(settings.connections)?,
        connections_per_address: usize::try_from(settings.source_connections)?,
        subscriptions: usize::try_from(settings.subscriptions)?,
        stall: settings.stall_timeout,
        ..service::Settings::default()
    };
    let metrics = metrics::Service::default();
    let discovery = Discovery::new(limits, Arc::clone(index), metrics.clone(), shutdown.clone());
    let admission = Admission::new(limits, metrics);
    let acceptor = Acceptor::new(credentials.clone(), ClientAuth::Required, messages::ALPN);
    let mut servers = JoinSet::new();
    for listener in listeners {
        let incoming = grpc::incoming(listener, acceptor.clone())
            .on_refused(metrics::connection_refused)
            .on_accept_error(metrics::accept_failed);
        servers.spawn(serve_listener(incoming, discovery.clone(), admission.clone(), shutdown.clone()));
    }
    while let Some(served) = servers.join_next().await {
        served.context("serve proxies")?;
    }
    Ok(())
}

/// Takes connections until `shutdown`, and waits for the last one's end.
async fn serve_listener(mut incoming: Incoming, discovery: Discovery, admission: Admission, shutdown: Shutdown) {
    // As a set of tasks would, but without an entry for each.
    let connections = TaskTracker::new();
    let mut shutdown = pin!(shutdown.requested());
    loop {
        tokio::select! {
            Some(Ok(connection)) = incoming.next() => {
                let (tls, grpc::Peer { id, addr }) = connection.into_parts();
                // The acceptor takes nobody without one.
                let Some(id) = id else { continue };
                if let Some(place) = admission.admit(addr.ip()) {
                    connections.spawn(discovery.clone().serve(tls, Client { id, addr }, place));
                }
            }
            () = &mut shutdown => break,
        }
    }
    drop(incoming);
    connections.close();
    connections.wait().await;
}

/// The longest that a certificate goes unlooked at: timers do not see that the wall clock was set.
const RECHECK: Duration = Duration::from_mins(1);

/// Whether a certificate that is good until then is good now, and when to ask again.
fn standing(not_after: Option<SystemTime>, now: SystemTime) -> (Status, Duration) {
    match not_after.and_then(|not_after| not_after.duration_since(now).ok()) {
        Some(left) => (Status::Ready, left.min(RECHECK)),
        None => (Status::Waiting, RECHECK),
    }
}

/// Ready is who has a certificate that has not expired.
async fn follow_certificate(credentials: &Credentials, certified: &Check) {
    let mut leaves = credentials.watch_leaf();
    loop {
        let leaf = leaves.borrow_and_update().clone();
        let (status, recheck) = standing(leaf.map(|leaf| leaf.not_after()), SystemTime::now());
        certified.set(status);
        tokio::select! {
            () = tokio::time::sleep(recheck) => {}
            changed = leaves.changed() => if changed.is_err() { return },
        }
    }
}

/// Tells metrics of certificates.
struct Observer;

impl certify::Observer for Observer {
    fn certified(&self, leaf: &Leaf) {
        metrics::certified(leaf.not_after());
    }

    fn failed(&self, error: &certify::Error) {
        metrics::certify_failed(error.reason());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_held_against_the_wall_clock_each_minute() {
        let now = SystemTime::now();
        let day = Duration::from_hours(24);
        assert_eq!(standing(Some(now + day), now), (Status::Ready, RECHECK));
        // The clock is set forward past the end, and back again.
        assert_eq!(standing(Some(now + day), now + 2 * day), (Status::Waiting, RECHECK));
        assert_eq!(standing(Some(now + day), now), (Status::Ready, RECHECK));
        let second = Duration::from_secs(1);
        assert_eq!(standing(Some(now + second), now), (Status::Ready, second));
        assert_eq!(standing(None, now), (Status::Waiting, RECHECK));
    }
}

//! The composition root: files to cells, cells to the service, service to the listener.
//!
//! Invariant: the listeners are bound before anything else can fail late; one task watches all files and owns all
//! cells.
//! Non-goal: decisions; they are in the pure rooms.

use std::sync::Mutex;
use std::time::SystemTime;

use anyhow::Context as _;
use mesh_kit::admin::Admin;
use mesh_kit::metrics::Prometheus;
use mesh_kit::ready::{Readiness, Status};
use mesh_kit::shutdown::Shutdown;
use mesh_kit::{limits, listen, log};
use mesh_mtls::credentials::Credentials;
use mesh_mtls::grpc;
use mesh_mtls::spiffe::Id;
use mesh_mtls::tls::{Acceptor, ClientAuth};
use mesh_proto::identity::identity_server::IdentityServer;
use tokio::net::TcpListener;

use crate::cli::Serve;
use crate::connections::{self, Places};
use crate::csr;
use crate::init::{self, Outcome};
use crate::limiter::{self, Limiter};
use crate::metrics::Metrics;
use crate::server::Server;
use crate::service::{Service, TOKEN_LIMIT};

mod watch;

/// Bytes of a request: the largest token and CSR, a name, and a bit. Anybody may send that much before it is judged.
const MESSAGE_LIMIT: usize = 24 * 1024;
const _: () = assert!(TOKEN_LIMIT + csr::SIZE_LIMIT + 2048 < MESSAGE_LIMIT);
/// Sources that the rate limiter knows at a time.
const SOURCES: usize = 16 * 1024;

/// Serves until a signal, or the admin port, asks for the end.
///
/// # Errors
/// When it cannot start, or the server fails.
pub async fn serve(settings: Serve) -> anyhow::Result<()> {
    let log = log::init(settings.log_format.into(), &settings.log)?;
    if let Err(error) = limits::raise_files() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let shutdown = Shutdown::on_signals().context("signals")?;
    let listener = listen::bind(settings.listen).with_context(|| format!("listen on {}", settings.listen))?;
    let admin_listener = listen::bind(settings.admin).with_context(|| format!("listen on {}", settings.admin))?;
    let prometheus = Prometheus::install();
    let metrics = Metrics::new();
    let readiness = Readiness::new();
    let own_id = own_id(&settings.trust_domain)?;

    init_dir(&settings)?;
    let (watcher, cells) = watch::start(&settings, own_id, readiness.check("issuer"), metrics.clone())?;
    let listening = readiness.check("listening");
    tracing::info!(listen = %listener.local_addr()?, admin = %admin_listener.local_addr()?, "serving");
    let admin = Admin::new(readiness.clone(), {
        let prometheus = prometheus.clone();
        move || prometheus.render()
    });
    let admin = admin.log_level(log).shutdown(shutdown.clone());

    let server = serve_grpc(&settings, listener, &cells, metrics, shutdown.clone());
    listening.set(Status::Ready);
    let end = async {
        shutdown.requested().await;
        readiness.drain();
        tokio::time::sleep(settings.shutdown_grace).await;
    };
    tokio::select! {
        served = server => served,
        () = end => Ok(()),
        () = watcher.run() => Ok(()),
        () = admin.serve(vec![admin_listener]) => Ok(()),
        () = prometheus.upkeep() => Ok(()),
    }
}

fn own_id(trust_domain: &str) -> anyhow::Result<Id> {
    Ok(Id::new(trust_domain, "mesh-system", "identity")?)
}

fn init_dir(settings: &Serve) -> anyhow::Result<()> {
    let Some(dir) = &settings.init_dir else { return Ok(()) };
    match init::ensure(dir, &settings.trust_domain, SystemTime::now())? {
        Outcome::Created => tracing::info!(dir = %dir.display(), "made a root and an issuer"),
        Outcome::Present => {}
    }
    Ok(())
}

async fn serve_grpc(
    settings: &Serve,
    listener: TcpListener,
    cells: &watch::Cells,
    metrics: Metrics,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let limits = limiter::Settings { per_second: settings.source_rate, burst: settings.source_burst, table: SOURCES };
    let service = Service {
        authority: cells.authority.clone(),
        tokens: cells.tokens.clone(),
        limiter: Mutex::new(Limiter::new(limits)),
        leaf_lifetime: settings.leaf_lifetime,
        metrics: metrics.clone(),
        shutdown: shutdown.clone(),
    };
    let incoming = grpc::incoming(listener, acceptor(&cells.credentials))
        .on_refused({
            let metrics = metrics.clone();
            move |reason| metrics.came_to_nothing(reason)
        })
        .on_accept_error({
            let metrics = metrics.clone();
            move || metrics.accept_failed()
        });
    let places = Places::new(connections::Settings {
        total: usize::try_from(settings.connections)?,
        per_source: usize::try_from(settings.source_connections)?,
    });
    let service = IdentityServer::new(service).max_decoding_message_size(MESSAGE_LIMIT);
    Server { service, places, metrics, shutdown }.serve(incoming).await;
    Ok(())
}

/// Callers have tokens; a certificate is what they come for.
fn acceptor(credentials: &Credentials) -> Acceptor {
    Acceptor::new(credentials.clone(), ClientAuth::Optional, grpc::ALPN)
}

//! Puts the rooms together, runs them, and brings them to their end. The only composition root.
//!
//! Order of a life: listen, certify, ready; SIGTERM: unready, no new inbound connections, GOAWAY and `connection: close`,
//! then outbound the same once inbound is done (the application may need it to answer), the end at the latest after `grace`.

use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mesh_kit::admin::Admin;
use mesh_kit::ready::{Readiness, Status};
use mesh_kit::shutdown::Shutdown;
use mesh_kit::{log, memory};
use mesh_mtls::anchors::Anchors;
use mesh_mtls::credentials::Credentials;
use mesh_mtls::{certify, tls};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};

use crate::admin::{Certified, Sources, follow_certificate};
use crate::balance::Reach;
use crate::config::Config;
use crate::control::{Discovery, Hello};
use crate::inbound::{self, Inbound};
use crate::metrics::{Direction, Metrics};
use crate::net::drain::{self, Drain, Draining};
use crate::net::local::LocalAddresses;
use crate::net::{Connector, listen};
use crate::outbound::{self, Outbound};

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port is taken, or may not be used.
    #[error("{0}")]
    Listen(#[from] io::Error),
    /// The trust anchors cannot be used.
    #[error("MESH_TRUST_ANCHORS={path}: {cause}")]
    Anchors {
        /// The file.
        path: String,
        /// What is wrong with it.
        cause: String,
    },
}

/// What all workers share: handles only, nothing that is locked on the path of a request.
#[derive(Clone)]
struct Shared {
    config: Arc<Config>,
    credentials: Credentials,
    discovery: Discovery,
    local: Arc<LocalAddresses>,
    metrics: Metrics,
}

/// One worker's two sides.
#[derive(Clone)]
struct Worker {
    inbound: Arc<Inbound>,
    outbound: Arc<Outbound>,
    metrics: Metrics,
    sweep_every: Duration,
}

/// One worker's sockets.
struct Listeners {
    inbound: Vec<StdListener>,
    outbound: Vec<StdListener>,
}

/// The hold that connections of each direction have on the process.
#[derive(Clone)]
struct Drains {
    inbound: Drain,
    outbound: Drain,
}

#[derive(Serialize)]
struct WorkerState {
    outbound: outbound::State,
    inbound: inbound::State,
}

const OUTBOUND_RESERVE: Duration = Duration::from_secs(5);
/// Bounds of the time between two sweeps; within them it is the shortest time after which something is idle.
const SWEEP_EVERY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// Runs the proxy in this thread's runtime until it is told to end. True when all connections had finished.
pub async fn run(config: Config, log: log::Handle, shutdown: Shutdown) -> Result<bool, Error> {
    let config = Arc::new(config);
    // Listen first: from here on connections wait in the kernel instead of being refused.
    if config.workers > 1 {
        listen::probe(&config.inbound_listen)?;
        listen::probe(&config.outbound_listen)?;
    }
    let sockets = (0..config.workers).map(|_| Listeners::bind(&config)).collect::<Result<Vec<_>, _>>()?;
    let admin_sockets = listen::bind_all(&config.admin_listen)?;
    let credentials = Credentials::new(read_anchors(&config)?);
    let metrics = Metrics::new(config.metrics);
    let readiness = Readiness::new();
    let listening = readiness.check("listeners");

    tokio::spawn(follow_certificate(readiness.check("certificate"), credentials.clone()));
    let observer = Certified(metrics.identity());
    tokio::spawn(certify::run(config.certify.clone(), credentials.clone(), observer));
    let local = Arc::new(LocalAddresses::new(&config.workload.addresses));
    let connector = tls::Connector::new(credentials.clone(), mesh_mtls::grpc::ALPN);
    let hello = hello(&config, &local);
    let (discovery, driver) =
        Discovery::new(config.control.clone(), hello, connector, credentials.clone(), metrics.discovery());
    tokio::spawn(driver);
    tokio::spawn(memory::upkeep());

    let shared = Shared { config: Arc::clone(&config), credentials, discovery, local, metrics };
    let (mut inbound_end, inbound_drain) = drain::channel();
    let (mut outbound_end, outbound_drain) = drain::channel();
    let workers: Vec<Worker> = sockets.iter().map(|_| Worker::new(&shared)).collect();
    serve_admin(&shared, &workers, readiness.clone(), log, shutdown.clone(), admin_sockets);

    let drains = Drains { inbound: inbound_drain, outbound: outbound_drain };
    for (n, (worker, sockets)) in workers.into_iter().zip(sockets).enumerate() {
        match n {
            0 => worker.accept(sockets, &drains)?,
            _ => spawn_thread(worker, sockets, drains.clone())?,
        }
    }
    drop(drains);
    listening.set(Status::Ready);

    shutdown.requested().await;
    readiness.drain();
    let started = Instant::now();
    tracing::info!(grace = ?config.grace, "draining");
    // Outbound needs some of the grace for itself, however long inbound takes.
    let reserve = (config.grace / 4).min(OUTBOUND_RESERVE);
    let whole = finish(&mut inbound_end, config.grace - reserve).await;
    let left = config.grace.saturating_sub(started.elapsed());
    let whole = finish(&mut outbound_end, left).await && whole;
    tracing::info!(took = ?started.elapsed(), whole, "drained");
    Ok(whole)
}

/// Ends one direction: no new connections, and the open ones come to their end.
async fn finish(end: &mut Draining, within: Duration) -> bool {
    end.start();
    end.finished(within).await
}

fn read_anchors(config: &Config) -> Result<Anchors, Error> {
    let path = config.trust_anchors.display().to_string();
    let pem = std::fs::read(&config.trust_anchors)
        .map_err(|error| Error::Anchors { path: path.clone(), cause: error.to_string() })?;
    Anchors::from_pem(&pem).map_err(|error| Error::Anchors { path, cause: error.to_string() })
}

fn hello(config: &Config, local: &LocalAddresses) -> Hello {
    Hello {
        version: mesh_kit::build::VERSION.into(),
        addresses: local.all(),
        namespace: config.workload.namespace.clone(),
        workload: config.workload.name.clone(),
    }
}

fn serve_admin(
    shared: &Shared,
    workers: &[Worker],
    readiness: Readiness,
    log: log::Handle,
    shutdown: Shutdown,
    sockets: Vec<TcpListener>,
) {
    let workers = workers.to_vec();
    let draining = shutdown.clone();
    let state = Sources {
        credentials: shared.credentials.clone(),
        discovery: shared.discovery.clone(),
        workers: move |now| workers.iter().map(|worker| worker.state(now)).collect(),
        draining: Arc::new(move || draining.is_requested()),
    };
    let metrics = shared.metrics.clone();
    let admin = Admin::new(readiness, move || metrics.render())
        .loopback_get("/state", move || state.render())
        .log_level(log)
        .shutdown(shutdown);
    tokio::spawn(admin.serve(sockets));
}

impl Listeners {
    fn bind(config: &Config) -> io::Result<Self> {
        let bind = |settings| {
            listen::bind_all(settings)?.into_iter().map(TcpListener::into_std).collect::<io::Result<Vec<_>>>()
        };
        Ok(Self { inbound: bind(&config.inbound_listen)?, outbound: bind(&config.outbound_listen)? })
    }
}

impl Worker {
    fn new(shared: &Shared) -> Self {
        let Shared { config, credentials, discovery, local, metrics } = shared.clone();
        let http = Arc::new(config.http.clone());
        let reach = Reach::new(
            Connector::new(config.connect_out.clone()),
            tls::Connector::new(credentials.clone(), crate::http::TUNNEL_ALPN),
            Arc::clone(&http),
            Arc::new(config.balance.clone()),
            metrics.clone(),
        );
        let inbound = Inbound::new(
            config.inbound.clone(),
            Arc::clone(&http),
            discovery.inbound(),
            Arc::clone(&local),
            credentials,
            Connector::new(config.connect_in.clone()),
            metrics.clone(),
        );
        let outbound = Outbound::new(config.outbound.clone(), http, discovery, local, reach, metrics.clone());
        let idle = config.metrics.idle.min(config.outbound.targets.idle);
        Self { inbound, outbound, metrics, sweep_every: idle.clamp(SWEEP_EVERY.0, SWEEP_EVERY.1) }
    }

    fn state(&self, now: Instant) -> WorkerState {
        WorkerState { outbound: self.outbound.state(now), inbound: self.inbound.state() }
    }

    /// Starts to accept, in this thread's runtime.
    fn accept(self, sockets: Listeners, drains: &Drains) -> io::Result<()> {
        for socket in sockets.inbound {
            let inbound = Arc::clone(&self.inbound);
            let serve = move |tcp, drain| Arc::clone(&inbound).serve(tcp, drain);
            let on_error = accept_error(&self.metrics, Direction::Inbound);
            tokio::spawn(accept(TcpListener::from_std(socket)?, drains.inbound.clone(), on_error, serve));
        }
        for socket in sockets.outbound {
            let outbound = Arc::clone(&self.outbound);
            let serve = move |tcp, drain| Arc::clone(&outbound).serve(tcp, drain);
            let on_error = accept_error(&self.metrics, Direction::Outbound);
            tokio::spawn(accept(TcpListener::from_std(socket)?, drains.outbound.clone(), on_error, serve));
        }
        tokio::spawn(sweep(self));
        Ok(())
    }
}

fn accept_error(metrics: &Metrics, direction: Direction) -> impl Fn(&io::Error) + Send + 'static {
    let metrics = metrics.clone();
    move |error| {
        metrics.accept_error(direction);
        tracing::warn!(?direction, %error, "cannot accept");
    }
}

/// Accepts until the drain starts.
async fn accept<F>(
    listener: TcpListener,
    mut drain: Drain,
    on_error: impl Fn(&io::Error),
    serve: impl Fn(TcpStream, Drain) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let for_connections = drain.clone();
    loop {
        tokio::select! {
            (tcp, _) = listen::accept(&listener, &on_error) => {
                tokio::spawn(serve(tcp, for_connections.clone()));
            }
            () = drain.started() => break,
        }
    }
    // The kernel has taken these for us; dropping the listener would reset them.
    while let Some(tcp) = listen::accept_waiting(&listener) {
        tokio::spawn(serve(tcp, for_connections.clone()));
    }
}

/// A worker's runtime. Its threads for looking names up end soon: they are seldom wanted, and have stacks and heaps.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().thread_keep_alive(Duration::from_secs(1)).on_thread_park(memory::at_rest).build()
}

/// Another worker: a thread with a runtime of its own, until the process ends.
fn spawn_thread(worker: Worker, sockets: Listeners, drains: Drains) -> io::Result<()> {
    let runtime = runtime()?;
    thread::Builder::new().name("worker".into()).spawn(move || {
        runtime.block_on(async move {
            if let Err(error) = worker.accept(sockets, &drains) {
                tracing::error!(%error, "a worker cannot accept");
            }
            // Only connections keep a drain from its end.
            drop(drains);
            std::future::pending::<()>().await;
        });
    })?;
    Ok(())
}

async fn sweep(worker: Worker) {
    loop {
        tokio::time::sleep(worker.sweep_every).await;
        let now = Instant::now();
        worker.inbound.sweep(now);
        worker.outbound.sweep(now);
        // Last: what these two let go of is unused now.
        worker.metrics.sweep(now);
    }
}

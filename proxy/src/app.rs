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
use mesh_kit::{log, memory, scheduling};
use mesh_mtls::anchors::Anchors;
use mesh_mtls::credentials::Credentials;
use mesh_mtls::{certify, tls};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};

use crate::admin::{Certified, Sources, follow_certificate};
use crate::balance::{Bulkheads, Reach};
use crate::config::Config;
use crate::control::{Discovery, Hello};
use crate::health;
use crate::inbound::{self, Inbound, Rules};
use crate::metrics::{Direction, Metrics};
use crate::model::InboundPolicy;
use crate::net::admission::{Admission, Refused};
use crate::net::drain::{self, Drain, Draining};
use crate::net::local::LocalAddresses;
use crate::net::stream::abort_on_close;
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
    rules: Arc<Rules>,
    metrics: Metrics,
    bulkheads: Bulkheads,
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

/// What the listeners of one direction have in common, whatever worker they are of.
#[derive(Clone)]
struct Side {
    direction: Direction,
    admission: Arc<Admission>,
    drain: Drain,
    metrics: Metrics,
}

/// Both directions. An end of the inbound one must not take the outbound one's places, nor end with it.
#[derive(Clone)]
struct Sides {
    inbound: Side,
    outbound: Side,
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
    let connector = tls::Connector::new(credentials.clone(), mesh_mtls::messages::ALPN);
    let hello = hello(&config, &local);
    let (discovery, driver) =
        Discovery::new(config.control.clone(), hello, connector, credentials.clone(), metrics.discovery());
    tokio::spawn(driver);
    tokio::spawn(health::run(discovery.inbound(), Arc::clone(&local), discovery.clone(), metrics.clone()));
    tokio::spawn(memory::upkeep());

    let rules = Rules::new(discovery.inbound());
    let bulkheads = Bulkheads::default();
    let shared = Shared { config: Arc::clone(&config), credentials, discovery, local, rules, metrics, bulkheads };
    let (mut inbound_end, inbound_drain) = drain::channel();
    let (mut outbound_end, outbound_drain) = drain::channel();
    let workers: Vec<Worker> = sockets.iter().map(|_| Worker::new(&shared)).collect();
    serve_admin(&shared, &workers, readiness.clone(), log, shutdown.clone(), admin_sockets);

    let side = |direction, drain| Side {
        direction,
        admission: Admission::new(config.max_connections),
        drain,
        metrics: shared.metrics.clone(),
    };
    let sides =
        Sides { inbound: side(Direction::Inbound, inbound_drain), outbound: side(Direction::Outbound, outbound_drain) };
    for (n, (worker, sockets)) in workers.into_iter().zip(sockets).enumerate() {
        match n {
            0 => worker.accept(sockets, &sides)?,
            _ => spawn_thread(worker, sockets, sides.clone())?,
        }
    }
    drop(sides);
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
        let Shared { config, credentials, discovery, local, rules, metrics, bulkheads } = shared.clone();
        let http = Arc::new(config.http.clone());
        let reach = Reach::new(
            Connector::new(config.connect_out.clone()),
            tls::Connector::new(credentials.clone(), crate::http::TUNNEL_ALPN),
            Arc::clone(&http),
            Arc::new(config.balance.clone()),
            metrics.clone(),
            bulkheads,
        );
        // `rules` keeps the subscription alive.
        discovery.inbound().follow(&reach, |reach: &Reach, policy: &InboundPolicy| reach.be_in(&policy.zone));
        let inbound = Inbound::new(
            config.inbound.clone(),
            Arc::clone(&http),
            rules,
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
        WorkerState { outbound: self.outbound.state(now), inbound: self.inbound.state(now) }
    }

    /// Starts to accept, in this thread's runtime.
    fn accept(self, sockets: Listeners, sides: &Sides) -> io::Result<()> {
        for socket in sockets.inbound {
            let inbound = Arc::clone(&self.inbound);
            let serve = move |tcp, drain| Arc::clone(&inbound).serve(tcp, drain);
            tokio::spawn(accept(TcpListener::from_std(socket)?, sides.inbound.clone(), serve));
        }
        for socket in sockets.outbound {
            let outbound = Arc::clone(&self.outbound);
            let serve = move |tcp, drain| Arc::clone(&outbound).serve(tcp, drain);
            tokio::spawn(accept(TcpListener::from_std(socket)?, sides.outbound.clone(), serve));
        }
        tokio::spawn(sweep(self));
        Ok(())
    }
}

impl Side {
    fn cannot_accept(&self, error: &io::Error) {
        self.metrics.accept_error(self.direction);
        tracing::warn!(direction = ?self.direction, %error, "cannot accept");
    }

    /// The hold of an accepted connection; `None` for one that is refused, and must end at once.
    fn admit(&self, tcp: &TcpStream) -> Option<Drain> {
        match self.admission.admit(tcp) {
            Ok(place) => Some(self.drain.of(place)),
            Err(reason) => {
                self.refused(reason);
                abort_on_close(tcp);
                None
            }
        }
    }

    fn refused(&self, reason: Refused) {
        self.metrics.refused(self.direction, reason.word());
        self.metrics.error(self.direction, reason.word());
        tracing::warn!(direction = ?self.direction, reason = reason.word(), "connection refused");
    }
}

/// Accepts until the drain starts.
async fn accept<F>(listener: TcpListener, side: Side, serve: impl Fn(TcpStream, Drain) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut draining = side.drain.clone();
    let admit = |tcp: TcpStream| {
        if let Some(drain) = side.admit(&tcp) {
            tokio::spawn(serve(tcp, drain));
        }
    };
    loop {
        tokio::select! {
            (tcp, _) = listen::accept(&listener, |error| side.cannot_accept(error)) => admit(tcp),
            () = draining.started() => break,
        }
    }
    // The kernel has taken these for us; dropping the listener would reset them.
    while let Some(tcp) = listen::accept_waiting(&listener) {
        admit(tcp);
    }
}

/// A worker's runtime. Its threads for looking names up end soon: they are seldom wanted, and have stacks and heaps.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().thread_keep_alive(Duration::from_secs(1)).on_thread_park(at_rest).build()
}

fn at_rest() {
    memory::at_rest();
    scheduling::at_rest();
}

/// Another worker: a thread with a runtime of its own, until the process ends.
fn spawn_thread(worker: Worker, sockets: Listeners, sides: Sides) -> io::Result<()> {
    let runtime = runtime()?;
    thread::Builder::new().name("worker".into()).spawn(move || {
        runtime.block_on(async move {
            if let Err(error) = worker.accept(sockets, &sides) {
                tracing::error!(%error, "a worker cannot accept");
            }
            // Only connections keep a drain from its end.
            drop(sides);
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

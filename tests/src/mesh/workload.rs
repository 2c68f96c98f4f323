//! A workload: a host with apps, and a sidecar unless it is plain.
//!
//! Invariant: rules first, then the proxy, then the apps, as in a pod.
//! Non-goal: more than one proxy on a host.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::{ADMIN_PORT, Control, Daemon, Mesh, Metrics, PROXY_UID, Port, SOON, manifest};
use crate::bin;
use crate::client;
use crate::netns::{Host, Proc, until};

const DESTINATION_ADDR: &str = "MESH_DESTINATION_ADDR";
const SYSTEM: &str = "spiffe://cluster.local/ns/mesh-system/sa";

/// A program that a workload runs.
#[derive(Clone, Debug)]
pub struct App {
    program: PathBuf,
    args: Vec<String>,
}

impl App {
    /// Any program. It says `listening` when it is ready.
    pub fn new(program: impl Into<PathBuf>, args: &[&str]) -> Self {
        Self { program: program.into(), args: args.iter().map(|&arg| arg.to_owned()).collect() }
    }

    /// One of the demo apps, on a port of all addresses.
    #[must_use]
    pub fn demo(program: &str, port: u16, args: &[&str]) -> Self {
        let mut app = Self::new(bin(program), args);
        app.args.push(format!("--listen=[::]:{port}"));
        app
    }

    /// Runs it in `host`.
    #[must_use]
    pub fn command(&self, host: &Host) -> Command {
        let mut command = host.command(&self.program);
        command.args(&self.args);
        command
    }
}

/// A workload that is being described.
pub struct Spec<'mesh> {
    mesh: &'mesh mut Mesh,
    name: String,
    namespace: String,
    service_account: String,
    labels: Vec<(String, String)>,
    is_meshed: bool,
    ports: Vec<Port>,
    apps: Vec<App>,
    env: Vec<(String, String)>,
    within: Option<Within>,
    program: PathBuf,
    token: Option<PathBuf>,
}

/// Makes one command of another.
type Within = Arc<dyn Fn(&Command) -> Command + Send + Sync>;

impl<'mesh> Spec<'mesh> {
    pub(super) fn new(mesh: &'mesh mut Mesh, name: &str) -> Self {
        Self {
            mesh,
            name: name.to_owned(),
            namespace: "default".to_owned(),
            service_account: "default".to_owned(),
            labels: Vec::new(),
            is_meshed: true,
            ports: Vec::new(),
            apps: Vec::new(),
            env: Vec::new(),
            within: None,
            program: bin("mesh-proxy"),
            token: None,
        }
    }

    /// An endpoint of the service `name`; that is its service account as well.
    #[must_use]
    pub fn of(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service_account);
        self.label("app", name)
    }

    /// A label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The namespace, when it is not `default`.
    #[must_use]
    pub fn namespace(mut self, name: &str) -> Self {
        name.clone_into(&mut self.namespace);
        self
    }

    /// The service account, when it is not the service's name.
    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service_account);
        self
    }

    /// Without a sidecar.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.is_meshed = false;
        self
    }

    /// Declares the protocol of a port.
    #[must_use]
    pub fn port(mut self, number: u16, protocol: &str) -> Self {
        let protocol = Some(protocol.to_owned());
        self.ports.push(Port { number, protocol });
        self
    }

    /// A program on the host.
    #[must_use]
    pub fn app(mut self, app: App) -> Self {
        self.apps.push(app);
        self
    }

    /// A variable of the proxy's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has the proxy wait long for a client's first byte: one that a busy machine makes late is none that waits for its server
    /// to speak, which gets a connection of its own.
    #[must_use]
    pub fn patient(self) -> Self {
        self.env("MESH_DETECT_SILENCE", "2s")
    }

    /// Has the proxy started by another command, which is made of its own: within limits, mostly.
    #[must_use]
    pub fn within(mut self, within: impl Fn(&Command) -> Command + Send + Sync + 'static) -> Self {
        self.within = Some(Arc::new(within));
        self
    }

    /// A program that becomes the proxy, such as a script that ends with `exec`.
    #[must_use]
    pub fn program(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.program);
        self
    }

    /// A token that was made before, of [`Control::token`]: of one that is made now, identity learns within a second only.
    #[must_use]
    pub fn token(mut self, path: &Path) -> Self {
        self.token = Some(path.to_owned());
        self
    }

    /// Adds the workload: its host and its manifest. Its programs start with the mesh, or now if that runs already.
    pub fn add(self) -> Host {
        let host = self.mesh.net.host(&self.name);
        let follows = self.is_meshed && !self.env.iter().any(|(name, _)| name == DESTINATION_ADDR);
        // Before identity starts, if it has not: then it need not notice that its tokens file has changed.
        let sidecar = match self.is_meshed {
            true => {
                let made = || self.mesh.control.proxy_token(&self.namespace, &self.service_account);
                let token = self.token.unwrap_or_else(made);
                Sidecar::Planned(Plan { token, env: self.env, program: self.program, within: self.within })
            }
            false => Sidecar::Absent,
        };
        let manifest = manifest::Workload {
            name: &self.name,
            namespace: &self.namespace,
            service_account: &self.service_account,
            labels: &self.labels,
            addresses: &host.addresses(),
            is_meshed: self.is_meshed,
            ports: &self.ports,
        };
        let workload = Workload {
            manifest: manifest.yaml(),
            name: self.name,
            namespace: self.namespace,
            host: host.clone(),
            sidecar,
            follows,
            planned: self.apps,
            apps: Vec::new(),
        };
        self.mesh.add(workload);
        host
    }
}

/// A workload.
pub struct Workload {
    /// Its name.
    pub name: String,
    namespace: String,
    /// Its manifest.
    pub manifest: String,
    /// Its host.
    pub host: Host,
    sidecar: Sidecar,
    /// Whether its sidecar follows the mesh's own destination.
    follows: bool,
    planned: Vec<App>,
    apps: Vec<Daemon>,
}

enum Sidecar {
    Absent,
    Planned(Plan),
    Running(Daemon),
}

/// How a proxy will be started.
#[derive(Clone)]
struct Plan {
    token: PathBuf,
    env: Vec<(String, String)>,
    program: PathBuf,
    within: Option<Within>,
}

impl Workload {
    pub(super) fn start(&mut self, control: &Control) {
        if let Sidecar::Planned(plan) = &self.sidecar {
            redirect(&self.host);
            self.sidecar = Sidecar::Running(self.start_proxy(control, plan.clone()));
        }
        for app in self.planned.drain(..) {
            let (name, host) = (format!("{} {}", self.name, app.program.display()), self.host.clone());
            self.apps.push(Daemon::start(name, move || app.command(&host)));
        }
    }

    fn start_proxy(&self, control: &Control, plan: Plan) -> Daemon {
        let Plan { token, env, program, within } = plan;
        let (host, name) = (self.host.clone(), self.name.clone());
        let mut variables = vec![
            ("MESH_OUTBOUND_LISTEN", "127.0.0.1:4140,[::1]:4140".to_owned()),
            ("MESH_INBOUND_LISTEN", "0.0.0.0:4143,[::]:4143".to_owned()),
            ("MESH_ADMIN_LISTEN", "0.0.0.0:4191,[::]:4191".to_owned()),
            ("MESH_IDENTITY_ADDR", control.identity_addr().to_string()),
            ("MESH_IDENTITY_ID", format!("{SYSTEM}/identity")),
            (DESTINATION_ADDR, control.destination_addr().to_string()),
            ("MESH_DESTINATION_ID", format!("{SYSTEM}/destination")),
            ("MESH_TRUST_ANCHORS", control.anchors().display().to_string()),
            ("MESH_TOKEN_FILE", token.display().to_string()),
            ("MESH_NAMESPACE", self.namespace.clone()),
            ("MESH_WORKLOAD", name.clone()),
            ("MESH_LOG", "info".to_owned()),
        ];
        variables.retain(|(key, _)| !env.iter().any(|(given, _)| given == key));
        Daemon::start(format!("{name} mesh-proxy"), move || {
            let mut command = host.command_as(PROXY_UID, &program);
            command.envs(variables.iter().cloned());
            command.envs(env.iter().cloned());
            match &within {
                Some(within) => within(&command),
                None => command,
            }
        })
    }

    pub(super) fn until_ready(&self) {
        for app in &self.apps {
            app.wait_for_line("listening", SOON);
        }
        if matches!(self.sidecar, Sidecar::Running(_)) {
            self.until_proxy_ready();
        }
    }

    /// Waits until the sidecar hears destination: before that, its first connections are passed through after a while.
    pub(super) fn until_heard(&self) {
        if self.follows {
            until(SOON, || self.metric("mesh_discovery_connected", &[]) > 0.0);
        }
    }

    /// Waits until the sidecar says that it is ready.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn until_proxy_ready(&self) {
        until(SOON, || self.admin("GET", "/ready").is_ok_and(|(code, _)| code == 200));
    }

    /// A request to the sidecar's admin server, over loopback.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn admin(&self, method: &str, path: &str) -> std::io::Result<(u16, String)> {
        let addr = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), ADMIN_PORT);
        self.host.enter(|| client::request(method, addr, path))
    }

    /// The sidecar's metrics.
    ///
    /// # Panics
    /// When they cannot be read.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let page = self.admin("GET", "/metrics").unwrap_or_else(|error| panic!("{}: metrics: {error}", self.name));
        Metrics::parse(&page.1)
    }

    /// The sum of a metric over the series with these labels.
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().sum(name, labels)
    }

    /// The sidecar's `/state`.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn state(&self) -> serde_json::Value {
        let page = self.admin("GET", "/state").unwrap_or_else(|error| panic!("{}: state: {error}", self.name));
        serde_json::from_str(&page.1).unwrap_or_else(|error| panic!("{}: state: {error}: {}", self.name, page.1))
    }

    /// The sidecar; `None` for a plain workload, or before the mesh has started.
    #[must_use]
    pub fn proxy(&self) -> Option<&Daemon> {
        match &self.sidecar {
            Sidecar::Running(daemon) => Some(daemon),
            _ => None,
        }
    }

    /// The sidecar, to end or restart it.
    ///
    /// # Panics
    /// When it has none that runs.
    pub fn proxy_mut(&mut self) -> &mut Daemon {
        match &mut self.sidecar {
            Sidecar::Running(daemon) => daemon,
            _ => panic!("{} has no sidecar", self.name),
        }
    }

    /// An app by the order in which they were described.
    pub fn app_mut(&mut self, index: usize) -> &mut Daemon {
        &mut self.apps[index]
    }

    /// Kills the sidecar and all apps, as when a host goes away.
    pub fn kill(&mut self) {
        if let Sidecar::Running(daemon) = &mut self.sidecar {
            daemon.kill();
        }
        self.apps.iter_mut().for_each(Daemon::kill);
    }

    /// An address of the host with a port.
    #[must_use]
    pub fn at(&self, port: u16) -> [SocketAddr; 2] {
        self.host.addresses().map(|address| (address, port).into())
    }

    pub(super) fn programs(&self) -> impl Iterator<Item = &Daemon> {
        self.proxy().into_iter().chain(&self.apps)
    }
}

/// Puts the rules of `mesh-init` into the host's namespace.
fn redirect(host: &Host) {
    let mut command = Command::new(bin("mesh-init"));
    command.arg("--netns").arg(host.path()).args(["--ipv6", "on"]);
    let mut init = Proc::spawn(&mut command);
    let status = init.wait(SOON);
    assert!(status.success(), "mesh-init: {status}\n{}", init.output());
}

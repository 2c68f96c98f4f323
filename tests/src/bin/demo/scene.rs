//! Who takes part, the order of the steps, and the verdict on each.
//!
//! Invariant: a step that fails does not keep the next ones from being tried.
//! Non-goal: cleaning up after a death; the first process does.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mesh_tests::mesh::{App, Mesh, Service};
use mesh_tests::netns::Host;

use crate::{Options, more, steer, steps};

/// How long the slow replica takes.
pub(crate) const SLOW: &str = "30ms";

/// A step finds its figures and prints them; `Err` says what did not hold.
pub(crate) type Held = Result<(), String>;

/// The mesh, its services, and a host that sees it from outside.
pub(crate) struct Scene {
    pub(crate) mesh: Mesh,
    pub(crate) web: Service,
    pub(crate) rpc: Service,
    pub(crate) greet: Service,
    pub(crate) legacy: Service,
    /// Three replicas, of which the last fails.
    pub(crate) cart: Service,
    pub(crate) onlooker: Host,
}

type Step = (&'static str, fn(&mut Scene) -> Held);

const STEPS: &[Step] = &[
    ("Traffic is mutual TLS, though every app speaks plainly", steps::encrypted),
    ("HTTP requests are balanced away from a slow replica", steps::balanced),
    ("gRPC calls of one connection are balanced one by one", steps::grpc),
    ("A server that speaks first is not kept waiting", steps::greeting),
    ("A replica is killed, another one added by a manifest", more::rollout),
    ("The control plane is killed, traffic goes on", more::headless),
    ("Trust anchors are rotated under load, nothing restarts", more::rotated),
    ("A new version gets 5 % of the requests, and those who ask for it", steer::canary),
    ("A replica that fails is put out", steer::breaker),
    ("Requests are sent again within a budget", steer::budget),
    ("Memory of each sidecar", more::memory),
];

/// Plays the whole demo.
pub(crate) fn play(dir: &Path, options: &Options) -> ExitCode {
    let start = Instant::now();
    println!("Mesh on one machine: a network namespace for each workload, joined by a bridge.\n");
    let mut scene = Scene::set(dir);
    let count = scene.mesh.workloads().count();
    println!("   {count} workloads and the control plane are ready after {:.1} s\n", start.elapsed().as_secs_f64());
    let mut failed = Vec::new();
    for (number, (title, step)) in STEPS.iter().enumerate() {
        let number = number + 1;
        println!("{number}. {title}");
        let begin = Instant::now();
        match step(&mut scene) {
            Ok(()) => println!("   held ({:.1} s)\n", begin.elapsed().as_secs_f64()),
            Err(why) => {
                println!("   FAILED: {why}\n");
                failed.push(number.to_string());
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    match failed.as_slice() {
        [] => println!("All {} steps held, in {seconds:.0} s.", STEPS.len()),
        _ => println!("Failed: step {}. The rest held, in {seconds:.0} s.", failed.join(", ")),
    }
    if let Some(Err(error)) = options.logs.as_ref().map(|folder| scene.write_logs(folder)) {
        eprintln!("no logs: {error}");
    }
    let verdict = u8::from(!failed.is_empty());
    if options.keep {
        crate::record(dir, verdict);
        scene.keep();
    }
    ExitCode::from(verdict)
}

impl Scene {
    fn set(dir: &Path) -> Self {
        let mut mesh = Mesh::in_folder(dir);
        mesh.workload("client").service_account("client").add();
        for (name, delay) in [("web-1", "0ms"), ("web-2", "0ms"), ("web-3", SLOW)] {
            mesh.workload(name).of("web").app(web(name, delay)).add();
        }
        mesh.workload("next-1").of("next").app(web("next-1", "0ms")).add();
        for (name, more) in [("cart-1", &[][..]), ("cart-2", &[]), ("cart-3", &["--fail"])] {
            let args = [&["--name", name], more].concat();
            mesh.workload(name).of("cart").app(App::demo("demo-http", 8080, &args)).add();
        }
        for name in ["rpc-1", "rpc-2"] {
            let app = App::demo("demo-grpc", 9000, &["--name", name]);
            mesh.workload(name).of("rpc").app(app).add();
        }
        let greeter = |name| App::demo("demo-greet", 2525, &["--name", name]);
        mesh.workload("greet").of("greet").app(greeter("greet")).add();
        let legacy = mesh.workload("legacy").of("legacy").plain();
        legacy.app(web("legacy", "0ms")).app(greeter("legacy")).add();
        mesh.service("next", 80, 8080).add();
        let scene = Self {
            web: mesh.service("web", 80, 8080).add(),
            rpc: mesh.service("rpc", 9000, 9000).add(),
            greet: mesh.service("greet", 2525, 2525).add(),
            legacy: mesh.service("legacy", 80, 8080).add(),
            cart: mesh.service("cart", 80, 8080).add(),
            onlooker: mesh.host("onlooker"),
            mesh,
        };
        scene.ready()
    }

    fn ready(mut self) -> Self {
        self.mesh.start();
        self
    }

    /// The namespace of a workload, as `ip netns` names it.
    fn namespace(&self, name: &str) -> String {
        let path = self.mesh.get(name).host.path();
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn write_logs(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        for (number, program) in self.mesh.programs().enumerate() {
            let name = program.name().replace('/', "_").replace(' ', "-");
            std::fs::write(folder.join(format!("{number:02}-{name}.log")), program.log())?;
        }
        Ok(())
    }

    /// Says what to try, and waits for the first process to end this one.
    fn keep(&self) -> ! {
        let (client, web) = (self.namespace("client"), self.namespace("web-2"));
        let manifests = self.mesh.manifests.path().display();
        println!(
            "\nStill running. To try in another terminal (as root):\n\
             \x20 ip netns exec {client} curl -i http://{}/                 a request, balanced over web-*\n\
             \x20 ip netns exec {client} curl -i http://[{}]/               the same over IPv6\n\
             \x20 ip netns exec {client} curl -s localhost:4191/metrics     what its sidecar counted\n\
             \x20 ip netns exec {client} curl -s localhost:4191/state       what its sidecar knows\n\
             \x20 ip netns exec {web} tcpdump -ni eth0 -X port 4143         the wire\n\
             \x20 ls {manifests}      edit, add or remove manifests\n\
             Ctrl-C here ends it and cleans up.",
            self.web.v4.ip(),
            self.web.v6.ip(),
        );
        loop {
            std::thread::park_timeout(Duration::from_secs(3600));
        }
    }

    /// Adds a replica of the web service, as writing its manifest and starting its programs does.
    pub(crate) fn add_replica(&mut self, name: &str) {
        self.mesh.workload(name).of("web").app(web(name, "0ms")).add();
    }
}

fn web(name: &str, delay: &str) -> App {
    App::demo("demo-http", 8080, &["--name", name, "--delay", delay])
}

/// Waits until something is so, or says that it is not.
pub(crate) fn wait(within: Duration, what: &str, mut so: impl FnMut() -> bool) -> Held {
    let deadline = Instant::now() + within;
    while !so() {
        if Instant::now() > deadline {
            return Err(format!("not within {within:?}: {what}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

//! Network namespaces joined by a bridge: hosts with an IPv4 and an IPv6 address each, and nothing else in common.
//!
//! Invariant: names carry the process and a count, and every device lives in a namespace of its [`Net`], so tests run
//! side by side; dropping the `Net` ends its processes and removes it, and the next one sweeps up after owners that
//! were killed. Whatever leaves for an address that no host has is answered "unreachable" by the bridge.
//! Non-goal: isolating anything but the network.

mod filter;
mod proc;
mod reorder;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

pub use filter::{Attempts, Filter};
pub use proc::{Proc, until};
pub use reorder::Reorder;

const PREFIX: &str = "mesh-test";
const RUN: &str = "/run/netns";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
/// For the kernel to bring a link up, or processes down.
const SETTLE: Duration = Duration::from_secs(10);

/// A bridge and the hosts on it.
pub struct Net {
    name: String,
    /// Names of all namespaces, the bridge's first.
    namespaces: Mutex<Vec<String>>,
}

/// A host on a [`Net`]; a handle, valid as long as the net.
#[derive(Clone, Debug)]
pub struct Host {
    namespace: String,
    /// Its IPv4 address on `eth0`.
    pub v4: Ipv4Addr,
    /// Its IPv6 address on `eth0`.
    pub v6: Ipv6Addr,
}

impl Net {
    /// Makes a bridge without hosts.
    ///
    /// # Panics
    /// Without the right to (root), or without iproute2.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "making namespaces is too much for a default")]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        assert!(geteuid().is_root(), "network namespaces need root");
        SWEEP.call_once(sweep);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let net = Self { name: format!("{PREFIX}-{}-{count}", std::process::id()), namespaces: Mutex::default() };
        let bridge = net.add("bridge");
        enter(&bridge, || {
            set("ipv4/ip_forward", "1");
            set("ipv6/conf/all/forwarding", "1");
        });
        ip(
            &bridge,
            &format!(
                "link set lo up\n\
                 link add br0 type bridge mcast_snooping 0\n\
                 address add {GATEWAY}/16 dev br0\n\
                 address add {GATEWAY_V6}/64 dev br0 nodad\n\
                 link set br0 up\n\
                 route add unreachable default\n\
                 route add unreachable ::/0\n"
            ),
        );
        net
    }

    /// Adds a host. Its default routes lead over `eth0`, so that dials to service addresses pass OUTPUT.
    ///
    /// # Panics
    /// When the host cannot be made or does not come up.
    #[must_use]
    pub fn host(&self, name: &str) -> Host {
        let namespace = self.add(name);
        let (bridge, number) = {
            let namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
            (namespaces[0].clone(), u16::try_from(namespaces.len()).unwrap_or(u16::MAX))
        };
        let [high, low] = number.to_be_bytes();
        let v4 = Ipv4Addr::new(10, 77, high, low);
        let v6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number);
        // Unprivileged servers of tests listen on well-known ports.
        enter(&namespace, || set("ipv4/ip_unprivileged_port_start", "0"));
        ip(
            &bridge,
            &format!(
                "link add port{number} type veth peer name eth0 netns {namespace}\n\
                 link set port{number} master br0 up\n"
            ),
        );
        ip(
            &namespace,
            &format!(
                "link set lo up\n\
                 link set eth0 up\n\
                 address add {v4}/16 dev eth0\n\
                 address add {v6}/64 dev eth0 nodad\n\
                 route add default via {GATEWAY}\n\
                 route add default via {GATEWAY_V6}\n"
            ),
        );
        let host = Host { namespace, v4, v6 };
        host.enter(|| until(SETTLE, || [GATEWAY.into(), GATEWAY_V6.into()].into_iter().all(answers)));
        host
    }

    fn add(&self, name: &str) -> String {
        let namespace = format!("{}-{name}", self.name);
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).push(namespace.clone());
        run(Command::new("ip").args(["netns", "add", &namespace]), "");
        namespace
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let namespaces = self.namespaces.get_mut().unwrap_or_else(PoisonError::into_inner);
        namespaces.iter().for_each(|name| remove(name));
    }
}

impl Host {
    /// Both addresses.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// The namespace as a file, like `--netns` wants it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(RUN).join(&self.namespace)
    }

    /// A command that runs `program` in the namespace, as root.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.nsenter(&[], program.as_ref())
    }

    /// A command that runs `program` in the namespace as user and group `uid`, without privileges.
    #[must_use]
    pub fn command_as(&self, uid: u32, program: impl AsRef<OsStr>) -> Command {
        self.nsenter(&[format!("--setuid={uid}"), format!("--setgid={uid}")], program.as_ref())
    }

    /// Runs `action` in the namespace, on a thread of its own, and waits for it. Sockets belong to the namespace they
    /// are made in, and may be used anywhere.
    ///
    /// # Panics
    /// When `action` does.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        enter(&self.namespace, action)
    }

    /// Like [`Host::enter`], without waiting.
    ///
    /// # Panics
    /// When no thread can be started.
    pub fn run_in_thread<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let host = self.clone();
        thread::spawn(move || {
            join(&host.namespace);
            action()
        })
    }

    /// `nsenter` replaces itself with the program, so signals and exit status are the program's.
    fn nsenter(&self, options: &[String], program: &OsStr) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={RUN}/{}", self.namespace)).args(options).arg("--").arg(program);
        command
    }
}

fn enter<T: Send>(namespace: &str, action: impl FnOnce() -> T + Send) -> T {
    let run = || {
        join(namespace);
        action()
    };
    thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Moves the calling thread.
fn join(namespace: &str) {
    let joined = File::open(Path::new(RUN).join(namespace)).map(|file| setns(file, CloneFlags::CLONE_NEWNET));
    assert!(matches!(joined, Ok(Ok(()))), "entering {namespace}: {joined:?}");
}

/// Sets a value under `net` of the calling thread's namespace.
fn set(key: &str, value: &str) {
    let written = fs::write(format!("/proc/sys/net/{key}"), value);
    assert!(written.is_ok(), "setting {key}: {written:?}");
}

/// Whether `address` is reached: a refusal comes from the other end as well.
fn answers(address: IpAddr) -> bool {
    let discard = SocketAddr::new(address, 9);
    let result = TcpStream::connect_timeout(&discard, Duration::from_millis(200));
    result.is_ok() || result.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

fn ip(namespace: &str, batch: &str) {
    run(Command::new("ip").args(["-n", namespace, "-batch", "-"]), batch);
}

fn run(command: &mut Command, input: &str) {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let output = child.and_then(|mut child| {
        child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()))?;
        child.wait_with_output()
    });
    let failure = match &output {
        Ok(output) if output.status.success() => return,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    panic!("{command:?}: {failure}\n{input}");
}

/// Ends the processes of a namespace and deletes it. Runs while unwinding, so it never panics.
fn remove(namespace: &str) {
    let deadline = std::time::Instant::now() + SETTLE;
    loop {
        let pids = processes(namespace);
        if pids.is_empty() || std::time::Instant::now() > deadline {
            break;
        }
        for pid in pids {
            let _ = kill(pid, Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(2));
    }
    let _ = Command::new("ip").args(["netns", "delete", namespace]).stderr(Stdio::null()).status();
}

/// The processes whose first thread is in the namespace, except for ourselves.
fn processes(namespace: &str) -> Vec<Pid> {
    let output = Command::new("ip").args(["netns", "pids", namespace]).stderr(Stdio::null()).output();
    let listed = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let pids = listed.lines().filter_map(|line| line.trim().parse().ok()).map(Pid::from_raw);
    pids.filter(|pid| *pid != Pid::this() && !is_zombie(*pid)).collect()
}

/// A child of ours that was killed stays listed until its [`Proc`] collects it.
fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// Removes what owners that were killed have left behind. The first [`Net`] of a process does it as well.
pub fn sweep() {
    let entries = fs::read_dir(RUN).into_iter().flatten().flatten();
    for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&name);
        }
    }
}

//! Proves by connecting that both directions are redirected, and that the proxy itself is not.
//!
//! A pair of devices joins this namespace to a scratch one, so that there is a peer: whatever leaves for it without
//! being redirected arrives there and is told apart at once, and whatever comes from it passes PREROUTING like a real
//! client's packets. The peer has a documentation address (RFC 5737, RFC 3849). Without a proxy we listen on its ports
//! and read each connection's original destination; with one, its ports are taken, and the kernel's socket table says
//! whether the connection arrived there.
//! Invariant: the scratch namespace has no name and lives by our file descriptor alone; when we end, by whatever
//! cause, the kernel removes it, the devices and their addresses. No rule is touched.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use mesh_init::args::Ipv6;
use mesh_init::{Family, Ports, Valid};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, setfsuid};

use crate::probe::{self, PATIENCE};
use crate::{info, namespace, xtables};

/// The device in this namespace and the one in the scratch namespace.
const DEVICE: &str = "mesh-verify";
const PEER_DEVICE: &str = "mesh-verify-p";
/// Where to look for a port that no option skips; unlikely to be in use.
const PROBE_PORTS: std::ops::RangeInclusive<u16> = 20000..=65535;

/// Why the redirection is not proved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("making a scratch network namespace: {0} (needs CAP_SYS_ADMIN)")]
    Scratch(#[source] io::Error),
    #[error("making a test device: {0}")]
    Device(#[from] xtables::Error),
    #[error("every probe address ({0}) is in --skip-subnets, so there is nothing to connect to")]
    Address(IpAddr),
    #[error("every {0} port is skipped, so there is nothing to prove")]
    Port(Direction),
    #[error("--ipv6 on, but IPv6 is turned off here (sysctl net.ipv6.conf.default.disable_ipv6)")]
    Ipv6Off,
    #[error("{direction} {target}: {source} ({hint})")]
    Connect { direction: Direction, target: SocketAddr, source: io::Error, hint: &'static str },
    #[error("{direction} {target} was not redirected; run mesh-init with the same arguments, without --verify")]
    NotRedirected { direction: Direction, target: SocketAddr },
    #[error(
        "{direction} {target} was redirected, but its original destination reads {found}; is a second NAT at work?"
    )]
    Destination { direction: Direction, target: SocketAddr, found: SocketAddr },
    #[error("user {uid} (the proxy) is redirected, so its connections would loop; check --proxy-uid against the rules")]
    NotExempt { uid: u32 },
    #[error("acting as user {uid} (the proxy): not permitted, so its exemption is not proved (needs CAP_SETUID)")]
    Impersonation { uid: u32 },
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Which way a connection goes, seen from the workload.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    Inbound,
    Outbound,
}

/// The two ends of the pair of devices.
#[derive(Clone, Copy)]
struct Addresses {
    here: IpAddr,
    peer: IpAddr,
    prefix: u8,
}

/// Two namespaces joined by a pair of devices.
struct Bench {
    here: File,
    scratch: File,
}

/// Who accepts connections on a port of the proxy.
enum Acceptor {
    Ours(TcpListener),
    Proxy(SocketAddr),
}

/// Proves the redirection of each family.
pub(crate) fn run(options: &Valid, ipv6: Ipv6, families: &[Family]) -> Result<(), Failure> {
    let mut probes = Vec::new();
    for family in families {
        if *family == Family::V6 && ipv6_is_off() {
            if ipv6 == Ipv6::On {
                return Err(Failure::Ipv6Off);
            }
            info("IPv6 is turned off here, so it is not verified");
            continue;
        }
        probes.push((*family, Addresses::choose(options, *family)?));
    }
    let bench = Bench::new(&probes)?;
    for (family, addresses) in &probes {
        bench.prove(options, *addresses)?;
        info(&format!("verified {family:?}: inbound and outbound are redirected, user {} is not", options.proxy_uid));
    }
    Ok(())
}

impl Failure {
    fn connect(direction: Direction, target: SocketAddr, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::ConnectionRefused => {
                "redirected to a port where nobody listens, or not redirected at all: \
            do the rules in force have these ports? See mesh-init --dry-run with the same arguments"
            }
            io::ErrorKind::TimedOut => "does a firewall drop it? See iptables -L, nft list ruleset",
            _ => "see ip route, iptables -t nat -S",
        };
        Self::Connect { direction, target, source, hint }
    }
}

impl Addresses {
    fn choose(options: &Valid, family: Family) -> Result<Self, Failure> {
        let v4 = [[192, 0, 2], [198, 51, 100], [203, 0, 113]];
        let v4 = v4.map(|[a, b, c]| [1, 2].map(|host| IpAddr::from(Ipv4Addr::new(a, b, c, host))));
        let v6 = [1, 2].map(|host| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host)));
        let (candidates, prefix): (&[[IpAddr; 2]], u8) = match family {
            Family::V4 => (&v4, 30),
            Family::V6 => (&[v6], 126),
        };
        let skipped = |pair: &[IpAddr; 2]| pair.iter().any(|address| options.skip_subnets.contains(*address));
        let free = candidates.iter().find(|pair| !skipped(pair));
        let [peer, here] = *free.ok_or(Failure::Address(candidates[0][0]))?;
        Ok(Self { here, peer, prefix })
    }
}

impl Bench {
    fn new(probes: &[(Family, Addresses)]) -> Result<Self, Failure> {
        let here = namespace::current()?;
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| Failure::Scratch(errno.into()))?;
        let scratch = namespace::current()?;
        let bench = Self { here, scratch };
        let made = bench.join(probes);
        namespace::enter(&bench.here)?;
        made?;
        Ok(bench)
    }

    /// Makes the devices, starting in the scratch namespace.
    fn join(&self, probes: &[(Family, Addresses)]) -> Result<(), Failure> {
        use std::os::fd::AsRawFd as _;
        let here = format!("/proc/{}/fd/{}", std::process::id(), self.here.as_raw_fd());
        ip(&format!("link add {PEER_DEVICE} type veth peer name {DEVICE} netns {here}\nlink set {PEER_DEVICE} up\n"))?;
        let addresses = |device: &str, end: fn(&Addresses) -> IpAddr| {
            let line = |(_, pair): &(Family, Addresses)| {
                let nodad = if pair.peer.is_ipv6() { "nodad" } else { "" };
                format!("address add {}/{} dev {device} {nodad}\n", end(pair), pair.prefix)
            };
            probes.iter().map(line).collect::<String>()
        };
        namespace::enter(&self.here)?;
        ip(&format!("link set {DEVICE} up\n{}", addresses(DEVICE, |pair| pair.here)))?;
        namespace::enter(&self.scratch)?;
        ip(&addresses(PEER_DEVICE, |pair| pair.peer))
    }

    /// Runs `action` in the scratch namespace; sockets stay where they were made.
    fn at_peer<T>(&self, action: impl FnOnce() -> T) -> io::Result<T> {
        namespace::enter(&self.scratch)?;
        let result = action();
        namespace::enter(&self.here)?;
        Ok(result)
    }

    fn prove(&self, options: &Valid, addresses: Addresses) -> Result<(), Failure> {
        let outbound = probe_port(|port| !options.skip_outbound_ports.contains(port));
        let outbound = SocketAddr::new(addresses.peer, outbound.ok_or(Failure::Port(Direction::Outbound))?);
        let inbound = match options.inbound_ports.is_empty() {
            true => probe_port(|port| options.takes(port)),
            false => options.inbound_ports.find(|port| options.takes(port)),
        };
        let inbound = SocketAddr::new(addresses.here, inbound.ok_or(Failure::Port(Direction::Inbound))?);
        let escaped = self.at_peer(|| probe::listen(outbound))??;

        self.exempt(options.proxy_uid, outbound, &escaped)?;
        let loopback = if outbound.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        let acceptor = Acceptor::on(SocketAddr::new(loopback, options.outbound_port.get()))?;
        let client = connect(Direction::Outbound, outbound)?;
        acceptor.expect(Direction::Outbound, client.local_addr()?, outbound, Some(&escaped))?;

        let acceptor = Acceptor::on(SocketAddr::new(addresses.here, options.inbound_port.get()))?;
        let client = self.at_peer(|| connect(Direction::Inbound, inbound))??;
        acceptor.expect(Direction::Inbound, client.local_addr()?, inbound, None)
    }

    /// The proxy's user must come out at the peer.
    fn exempt(&self, uid: u32, target: SocketAddr, peer: &TcpListener) -> Result<(), Failure> {
        let proxy = Uid::from_raw(uid);
        let ourselves = setfsuid(proxy);
        // It reports no failure, only the user that was in force before the call.
        if setfsuid(proxy) != proxy {
            return Err(Failure::Impersonation { uid });
        }
        let client = connect(Direction::Outbound, target);
        setfsuid(ourselves);
        // Redirected and nobody there: refused.
        let Ok(client) = client else {
            return Err(Failure::NotExempt { uid });
        };
        match probe::accept(peer, client.local_addr()?)? {
            Some(_) => Ok(()),
            None => Err(Failure::NotExempt { uid }),
        }
    }
}

impl Drop for Bench {
    /// The kernel would do it as well, but some time after we are gone.
    fn drop(&mut self) {
        let _ = ip(&format!("link delete {DEVICE}\n"));
    }
}

impl Acceptor {
    fn on(address: SocketAddr) -> Result<Self, Failure> {
        match probe::listen(address) {
            Ok(listener) => Ok(Self::Ours(listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(Self::Proxy(address)),
            Err(error) => Err(error.into()),
        }
    }

    /// Finds the other end of a connection that was made from `client` to `target`.
    fn expect(
        &self,
        direction: Direction,
        client: SocketAddr,
        target: SocketAddr,
        escaped: Option<&TcpListener>,
    ) -> Result<(), Failure> {
        let not_redirected = || Failure::NotRedirected { direction, target };
        if let Some(peer) = escaped {
            // Connected already, so if it went there, it is there.
            if probe::accepted(peer, client)?.is_some() {
                return Err(not_redirected());
            }
        }
        match self {
            Self::Ours(listener) => {
                let stream = probe::accept(listener, client)?.ok_or_else(not_redirected)?;
                let found = probe::original_destination(&stream)?;
                let right = found == target;
                right.then_some(()).ok_or(Failure::Destination { direction, target, found })
            }
            Self::Proxy(address) => {
                let there = probe::poll(|| Ok(probe::established(address.port(), client)?.then_some(())))?;
                there.ok_or_else(not_redirected)
            }
        }
    }
}

fn connect(direction: Direction, target: SocketAddr) -> Result<TcpStream, Failure> {
    probe::connect(target).map_err(|source| Failure::connect(direction, target, source))
}

fn ip(batch: &str) -> Result<(), Failure> {
    xtables::run("ip", &["-batch", "-"], batch, PATIENCE).map(drop).map_err(Failure::Device)
}

fn probe_port(free: impl Fn(u16) -> bool) -> Option<u16> {
    // From the top: servers live low.
    PROBE_PORTS.rev().find(|port| free(*port)).or_else(|| Ports::from_iter([1..=u16::MAX]).find(free))
}

fn ipv6_is_off() -> bool {
    let setting = fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6");
    setting.is_ok_and(|text| text.trim() == "1")
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_avoids_what_is_skipped() {
        let skip = |list: &str| {
            let options = mesh_init::Options { skip_subnets: list.parse().unwrap(), ..Default::default() };
            Addresses::choose(&options.validate().unwrap(), Family::V4).map(|pair| pair.peer.to_string())
        };
        assert_eq!(skip("10.0.0.0/8").unwrap(), "192.0.2.1");
        assert_eq!(skip("192.0.2.0/24").unwrap(), "198.51.100.1");
        assert!(skip("192.0.0.0/2,203.0.113.0/24").is_err());
    }
}

//! Which addresses are the workload's own.
//!
//! Invariant: inbound traffic is only ever delivered to an address for which `LocalAddresses::contains` held. Loopback,
//! unspecified, multicast and link-local addresses never count as own: a peer that names one is lying.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const REREAD_AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// The host's own addresses, read from its interfaces again when an unknown one is asked for.
#[derive(Debug)]
pub struct LocalAddresses {
    fixed: bool,
    known: Mutex<(Instant, HashSet<IpAddr>)>,
}

impl LocalAddresses {
    /// Exactly `addresses`, or what the interfaces have when it is empty.
    pub fn new(addresses: &[IpAddr]) -> Self {
        let fixed = !addresses.is_empty();
        let known = if fixed { addresses.iter().copied().filter(usable).collect() } else { of_interfaces() };
        Self { fixed, known: Mutex::new((Instant::now(), known)) }
    }

    /// Whether `ip` is the workload's own.
    pub fn contains(&self, ip: IpAddr) -> bool {
        if !usable(&ip) {
            return false;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.1.contains(&ip) {
            return true;
        }
        // Interfaces get addresses late (IPv6 above all): look again, but not for each lie.
        if self.fixed || known.0.elapsed() < REREAD_AT_MOST_EVERY {
            return false;
        }
        *known = (Instant::now(), of_interfaces());
        known.1.contains(&ip)
    }

    /// All of them, for the control plane.
    pub fn all(&self) -> Vec<IpAddr> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = known.1.iter().copied().collect();
        all.sort();
        all
    }
}

fn of_interfaces() -> HashSet<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return HashSet::new() };
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(usable)
        .collect()
}

fn usable(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn liars_never_name_an_own_address() {
        let own = LocalAddresses::new(&["10.0.0.7".parse().expect("valid"), "127.0.0.1".parse().expect("valid")]);
        let verdict = |ip: &str| own.contains(ip.parse().expect("valid"));
        assert!(verdict("10.0.0.7"));
        for liar in
            ["10.0.0.8", "127.0.0.1", "::1", "0.0.0.0", "::", "169.254.1.1", "fe80::1", "::ffff:10.0.0.7", "224.0.0.1"]
        {
            assert!(!verdict(liar), "{liar} must not be an own address");
        }
    }
}

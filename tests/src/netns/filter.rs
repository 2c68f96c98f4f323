//! What a host does not hear: packets that nftables drops before anybody sees them.
//!
//! Invariant: nobody is told of a drop, so the other end learns of it by silence alone; all is heard again when the value is
//! dropped. Only what comes in is filtered: a drop on the way out would be an error of the sender's.
//! Non-goal: delay and bandwidth.

use std::process::Command;

use super::{Host, run};

const TABLE: &str = "mesh_test";

/// Rules on a host, until dropped.
pub struct Filter {
    host: Host,
}

impl Filter {
    /// Makes `host` deaf to what the `rules` of nft match, each without its verdict: `ip saddr 10.0.0.1`.
    ///
    /// # Panics
    /// When nft does not take a rule, or is not there.
    #[must_use]
    pub fn drop(host: &Host, rules: &[String]) -> Self {
        let rules: String = rules.iter().map(|rule| format!("    {rule} drop\n")).collect();
        let table = format!(
            "table inet {TABLE} {{\n  chain input {{\n    type filter hook input priority -300; policy accept;\n{rules}  }}\n}}\n"
        );
        run(host.command("nft").args(["-f", "-"]), &table);
        Self { host: host.clone() }
    }

    /// Makes `host` deaf to all that comes from `other`.
    #[must_use]
    pub fn deaf(host: &Host, other: &Host) -> Self {
        Self::drop(host, &[format!("ip saddr {}", other.v4), format!("ip6 saddr {}", other.v6)])
    }

    /// Cuts `one` and `other` off from each other.
    #[must_use]
    pub fn apart(one: &Host, other: &Host) -> [Self; 2] {
        [Self::deaf(one, other), Self::deaf(other, one)]
    }

    /// Loses `percent` of all TCP packets that come to `host` over the network, at random.
    #[must_use]
    pub fn lose(host: &Host, percent: u8) -> Self {
        Self::drop(host, &[format!("iifname eth0 meta l4proto tcp numgen random mod 100 < {percent}")])
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // The namespace may be gone already, and its rules with it.
        let mut command: Command = self.host.command("nft");
        let _ = command.args(["delete", "table", "inet", TABLE]).stderr(std::process::Stdio::null()).status();
    }
}

/// Counts connections that others try to open to a port of a host, also those that nobody takes.
pub struct Attempts {
    host: Host,
    table: String,
}

impl Attempts {
    /// Counts from now on.
    ///
    /// # Panics
    /// When nft is not there.
    #[must_use]
    pub fn count(host: &Host, port: u16) -> Self {
        let table = format!("{TABLE}_{port}");
        let rules = format!(
            "table inet {table} {{\n  chain input {{\n    type filter hook input priority -400; policy accept;\n    \
             iifname eth0 tcp dport {port} tcp flags & (syn | ack) == syn counter\n  }}\n}}\n"
        );
        run(host.command("nft").args(["-f", "-"]), &rules);
        Self { host: host.clone(), table }
    }

    /// How many there were. The same attempt counts again when its first packet is repeated.
    ///
    /// # Panics
    /// When nft does not say.
    #[must_use]
    pub fn so_far(&self) -> u64 {
        let output = self.host.command("nft").args(["list", "table", "inet", &self.table]).output();
        let listed = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let packets = listed.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        packets.unwrap_or_else(|| panic!("no counter in: {listed}"))
    }
}

impl Drop for Attempts {
    fn drop(&mut self) {
        let mut command: Command = self.host.command("nft");
        let _ = command.args(["delete", "table", "inet", &self.table]).stderr(std::process::Stdio::null()).status();
    }
}

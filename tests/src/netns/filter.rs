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

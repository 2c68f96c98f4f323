//! The `nat` table as far as it is ours: what is there, what should be there, and the transaction between the two.
//!
//! Invariant: a transaction names only our chains and the jumps into them, and applying it to `current` gives exactly
//! `wanted`; applying, replacing, cleaning up and rolling back are all this one function. Rules are written the way
//! `iptables-save` prints them, so that "already in place" is a comparison of text.
//! Not here: UDP (passes untouched) and every table but `nat`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::options::{ADMIN_PORT, TAP_PORT};
use crate::{Ports, Valid};

/// Chain for connections that come to the workload.
pub const INBOUND: &str = "MESH_INBOUND";
/// Chain for connections that the workload opens.
pub const OUTBOUND: &str = "MESH_OUTBOUND";

const PREROUTING: &str = "PREROUTING";
const OUTPUT: &str = "OUTPUT";

/// An address family; each has tables of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4, `iptables`.
    V4,
    /// IPv6, `ip6tables`.
    V6,
}

/// Our part of one family's `nat` table. The default is a table that holds nothing of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    chains: BTreeMap<&'static str, Vec<String>>,
    jumps: Vec<Jump>,
}

/// A rule of a built-in chain that leads into one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Jump {
    hook: &'static str,
    /// Rule number in its chain, from 1, all earlier jumps of the list being in place.
    position: usize,
    rule: String,
}

impl Ruleset {
    /// Reads our part out of the output of `iptables-save`.
    #[must_use]
    pub fn parse(save: &str) -> Self {
        let mut found = Self::default();
        let mut positions = BTreeMap::new();
        let nat = save.lines().skip_while(|line| *line != "*nat").take_while(|line| *line != "COMMIT");
        for line in nat {
            if let Some(name) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
                if let Some(chain) = own_chain(name) {
                    found.chains.entry(chain).or_default();
                }
            } else if let Some((name, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) {
                let position = positions.entry(name).or_insert(0);
                *position += 1;
                found.add(name, *position, rule);
            }
        }
        // The order of chains in the listing differs between backends.
        found.jumps.sort_by_key(|jump| jump.hook != PREROUTING);
        found
    }

    /// What `options` ask for, given what is there: a jump that exists stays in its place, a new one goes first, so
    /// that no rewriting of addresses by somebody else hides a connection from the mesh.
    #[must_use]
    pub fn wanted(options: &Valid, family: Family, current: &Self) -> Self {
        let jump = |hook, rule: &str| {
            let there = current.jumps.iter().find(|jump| jump.hook == hook);
            Jump { hook, position: there.map_or(1, |jump| jump.position), rule: rule.to_owned() }
        };
        Self {
            chains: [(INBOUND, inbound(options, family)), (OUTBOUND, outbound(options, family))].into(),
            jumps: vec![
                // Traffic that is only routed through this host is none of the workload's.
                jump(PREROUTING, "-p tcp -m addrtype --dst-type LOCAL -j MESH_INBOUND"),
                jump(OUTPUT, "-p tcp -j MESH_OUTBOUND"),
            ],
        }
    }

    /// Whether nothing of ours is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The input for `iptables-restore --noflush` that turns `self` into `wanted`, or `None` if they are equal.
    #[must_use]
    pub fn transaction(&self, wanted: &Self) -> Option<String> {
        if self == wanted {
            return None;
        }
        let mut text = String::from("*nat\n");
        // Writing to a String cannot fail, so the results are dropped.
        for chain in wanted.chains.keys() {
            // Creates the chain, or empties it if it is there.
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        if self.jumps != wanted.jumps {
            for Jump { hook, rule, .. } in &self.jumps {
                let _ = writeln!(text, "-D {hook} {rule}");
            }
            for Jump { hook, position, rule } in &wanted.jumps {
                let _ = writeln!(text, "-I {hook} {position} {rule}");
            }
        }
        for (chain, rules) in &wanted.chains {
            for rule in rules {
                let _ = writeln!(text, "-A {chain} {rule}");
            }
        }
        let obsolete = || self.chains.keys().filter(|chain| !wanted.chains.contains_key(*chain));
        obsolete().for_each(|chain| text += &format!("-F {chain}\n"));
        obsolete().for_each(|chain| text += &format!("-X {chain}\n"));
        text.push_str("COMMIT\n");
        Some(text)
    }

    fn add(&mut self, chain: &str, position: usize, rule: &str) {
        if let Some(own) = own_chain(chain) {
            self.chains.entry(own).or_default().push(rule.to_owned());
            return;
        }
        let Some(hook) = [PREROUTING, OUTPUT].into_iter().find(|hook| *hook == chain) else {
            return;
        };
        // A jump to a user's chain has no options, so it ends the line; a comment with blanks would end in a quote.
        let ours = [INBOUND, OUTBOUND]
            .iter()
            .any(|target| rule.strip_suffix(target).is_some_and(|rest| rest == "-j " || rest.ends_with(" -j ")));
        if ours {
            self.jumps.push(Jump { hook, position, rule: rule.to_owned() });
        }
    }
}

/// The whole transaction for a table that holds nothing of ours.
#[must_use]
pub fn text(options: &Valid, family: Family) -> String {
    let nothing = Ruleset::default();
    nothing.transaction(&Ruleset::wanted(options, family, &nothing)).unwrap_or_default()
}

fn own_chain(name: &str) -> Option<&'static str> {
    [INBOUND, OUTBOUND].into_iter().find(|own| *own == name)
}

fn inbound(options: &Valid, family: Family) -> Vec<String> {
    let port = options.inbound_port.get();
    let own: Ports = [port, TAP_PORT, ADMIN_PORT].into_iter().map(|port| port..=port).collect();
    let mut rules = per_group(&own, "RETURN");
    rules.extend(per_group(&options.skip_inbound_ports, "RETURN"));
    rules.extend(subnets(options, family).map(|subnet| format!("-s {subnet} -j RETURN")));
    let redirect = format!("REDIRECT --to-ports {port}");
    match options.inbound_ports.is_empty() {
        true => rules.push(format!("-p tcp -j {redirect}")),
        false => rules.extend(per_group(&options.inbound_ports, &redirect)),
    }
    rules
}

fn outbound(options: &Valid, family: Family) -> Vec<String> {
    let mut rules = vec![
        // The proxy's own connections would loop otherwise.
        format!("-m owner --uid-owner {} -j RETURN", options.proxy_uid),
        // A workload that talks to itself stays among itself.
        "-o lo -j RETURN".to_owned(),
    ];
    rules.extend(per_group(&options.skip_outbound_ports, "RETURN"));
    rules.extend(subnets(options, family).map(|subnet| format!("-d {subnet} -j RETURN")));
    rules.push(format!("-p tcp -j REDIRECT --to-ports {}", options.outbound_port));
    rules
}

fn per_group(ports: &Ports, target: &str) -> Vec<String> {
    let rule = |group| format!("-p tcp -m multiport --dports {group} -j {target}");
    ports.groups().into_iter().map(rule).collect()
}

fn subnets(options: &Valid, family: Family) -> impl Iterator<Item = String> {
    let of_family = options.skip_subnets.iter().filter(move |subnet| subnet.is_ipv6() == (family == Family::V6));
    of_family.map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    fn options() -> Valid {
        let options = Options {
            skip_inbound_ports: "22,8000-8100".parse().unwrap(),
            skip_outbound_ports: "25".parse().unwrap(),
            skip_subnets: "10.0.0.0/8,fd00::/8".parse().unwrap(),
            ..Options::default()
        };
        options.validate().unwrap()
    }

    /// What `iptables-save` prints after `text` went into a table with one foreign rule.
    fn saved(text: &str) -> String {
        let rules: String =
            text.lines().filter(|line| line.starts_with("-A")).map(|line| format!("{line}\n")).collect();
        let jumps: String = text
            .lines()
            .filter_map(|line| line.strip_prefix("-I ")?.split_once(" 1 "))
            .map(|(hook, rule)| format!("-A {hook} {rule}\n"))
            .collect();
        format!(
            "# comment\n*filter\n:MESH_INBOUND - [0:0]\n-A OUTPUT -j MESH_INBOUND\nCOMMIT\n*nat\n:OUTPUT ACCEPT [1:2]\n\
             :MESH_INBOUND - [3:4]\n:MESH_OUTBOUND - [0:0]\n{jumps}-A OUTPUT -j DOCKER\n{rules}COMMIT\n"
        )
    }

    #[test]
    fn the_text_lists_the_rules_in_their_order() {
        let expected = "*nat\n:MESH_INBOUND - [0:0]\n:MESH_OUTBOUND - [0:0]\n\
            -I PREROUTING 1 -p tcp -m addrtype --dst-type LOCAL -j MESH_INBOUND\n\
            -I OUTPUT 1 -p tcp -j MESH_OUTBOUND\n\
            -A MESH_INBOUND -p tcp -m multiport --dports 4143,4190:4191 -j RETURN\n\
            -A MESH_INBOUND -p tcp -m multiport --dports 22,8000:8100 -j RETURN\n\
            -A MESH_INBOUND -s 10.0.0.0/8 -j RETURN\n\
            -A MESH_INBOUND -p tcp -j REDIRECT --to-ports 4143\n\
            -A MESH_OUTBOUND -m owner --uid-owner 2102 -j RETURN\n\
            -A MESH_OUTBOUND -o lo -j RETURN\n\
            -A MESH_OUTBOUND -p tcp -m multiport --dports 25 -j RETURN\n\
            -A MESH_OUTBOUND -d 10.0.0.0/8 -j RETURN\n\
            -A MESH_OUTBOUND -p tcp -j REDIRECT --to-ports 4140\nCOMMIT\n";
        assert_eq!(text(&options(), Family::V4), expected);
        assert_eq!(text(&options(), Family::V6), expected.replace("10.0.0.0/8", "fd00::/8"));
    }

    #[test]
    fn listed_inbound_ports_are_the_only_ones_redirected() {
        let only = Options { inbound_ports: "80,443".parse().unwrap(), ..Options::default() }.validate().unwrap();
        let redirects: Vec<String> =
            inbound(&only, Family::V4).into_iter().filter(|r| r.contains("REDIRECT")).collect();
        assert_eq!(redirects, ["-p tcp -m multiport --dports 80,443 -j REDIRECT --to-ports 4143"]);
    }

    #[test]
    fn what_is_in_place_needs_no_transaction() {
        let current = Ruleset::parse(&saved(&text(&options(), Family::V4)));
        assert_eq!(current.transaction(&Ruleset::wanted(&options(), Family::V4, &current)), None);
    }

    #[test]
    fn other_options_replace_the_chains_and_leave_the_jumps() {
        let current = Ruleset::parse(&saved(&text(&options(), Family::V4)));
        let other = Options::default().validate().unwrap();
        let text = current.transaction(&Ruleset::wanted(&other, Family::V4, &current)).unwrap();
        assert!(text.contains(":MESH_INBOUND - [0:0]\n"), "{text}");
        assert!(!text.contains("-D") && !text.contains("-I") && !text.contains("8000:8100"), "{text}");
    }

    #[test]
    fn cleaning_up_names_nothing_but_our_own() {
        let current = Ruleset::parse(&saved(&text(&options(), Family::V4)));
        let expected = "*nat\n-D PREROUTING -p tcp -m addrtype --dst-type LOCAL -j MESH_INBOUND\n\
            -D OUTPUT -p tcp -j MESH_OUTBOUND\n\
            -F MESH_INBOUND\n-F MESH_OUTBOUND\n-X MESH_INBOUND\n-X MESH_OUTBOUND\nCOMMIT\n";
        assert_eq!(current.transaction(&Ruleset::default()).unwrap(), expected);
    }

    #[test]
    fn doubled_and_foreign_forms_of_our_jumps_become_one_in_the_first_place() {
        let save = "*nat\n:MESH_OUTBOUND - [0:0]\n-A OUTPUT -j DOCKER\n-A OUTPUT -j MESH_OUTBOUND\n\
            -A OUTPUT -p tcp -j MESH_OUTBOUND\nCOMMIT\n";
        let current = Ruleset::parse(save);
        let text = current.transaction(&Ruleset::wanted(&options(), Family::V4, &current)).unwrap();
        assert!(text.contains("-D OUTPUT -j MESH_OUTBOUND\n-D OUTPUT -p tcp -j MESH_OUTBOUND\n"), "{text}");
        assert!(text.contains("-I OUTPUT 2 -p tcp -j MESH_OUTBOUND\n"), "{text}");
        let back = Ruleset::parse(&saved(&super::text(&options(), Family::V4))).transaction(&current).unwrap();
        assert!(back.contains("-I OUTPUT 2 -j MESH_OUTBOUND\n-I OUTPUT 3 -p tcp -j MESH_OUTBOUND\n"), "{back}");
    }

    #[test]
    fn rules_of_others_that_only_mention_us_are_theirs() {
        let save = "*nat\n-A OUTPUT -m comment --comment \"see -j MESH_OUTBOUND\" -j ACCEPT\n\
            -A OUTPUT -m comment --comment \"-j MESH_OUTBOUND\"\n-A OUTPUT -j NOT_MESH_OUTBOUND\n\
            -A POSTROUTING -j MESH_OUTBOUND\n:MESH_OUTBOUND_2 - [0:0]\nCOMMIT\n";
        assert!(Ruleset::parse(save).is_empty());
    }
}

//! What `iptables-save` may print: any table, with rules of ours and of others.
//!
//! Oracle: a model of the nat table. Applying, replacing and cleaning up must leave the rules of others as they were, and
//! ours exactly as asked.

use mesh_init::rules::{INBOUND, OUTBOUND};
use mesh_init::{Family, Options, Ruleset, Valid};

/// Chains with their rules, in the order of their making.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Nat(Vec<(String, Vec<String>)>);

/// Applies our rules to any table, and takes them away again.
pub(super) fn save(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Some(mut nat) = Nat::read(&text) else {
        // Nothing of the kernel's making; it must only not panic.
        let _ = Ruleset::parse(&text);
        return;
    };
    let strangers = nat.strangers();
    let valid: Valid = Options::default().validate().expect("the defaults agree");
    let found = Ruleset::parse(&nat.listing());
    let wanted = Ruleset::wanted(&valid, Family::V4, &found);
    if let Some(transaction) = found.transaction(&wanted) {
        nat.restore(&transaction);
    }
    assert_eq!(nat.strangers(), strangers, "rules of others");
    let there = Ruleset::parse(&nat.listing());
    assert_eq!(there.transaction(&Ruleset::wanted(&valid, Family::V4, &there)), None, "not settled: {nat:#?}");
    for (hook, target) in [("PREROUTING", INBOUND), ("OUTPUT", OUTBOUND)] {
        let jumps = nat.rules(hook).iter().filter(|rule| leads_to(rule, target)).count();
        assert_eq!(jumps, 1, "jumps from {hook}: {nat:#?}");
    }
    if let Some(transaction) = there.transaction(&Ruleset::default()) {
        nat.restore(&transaction);
    }
    assert_eq!(nat.strangers(), strangers, "rules of others after the cleanup");
    assert!(Ruleset::parse(&nat.listing()).is_empty(), "left behind: {nat:#?}");
}

fn leads_to(rule: &str, target: &str) -> bool {
    rule.strip_suffix(target).is_some_and(|rest| rest == "-j " || rest.ends_with(" -j "))
}

fn is_ours(rule: &str) -> bool {
    leads_to(rule, INBOUND) || leads_to(rule, OUTBOUND)
}

impl Nat {
    /// The table that `text` lists, if a kernel could have such a one: each chain is declared once, built-in ones among them,
    /// and nothing leads to our chains but the rules of the hooks.
    fn read(text: &str) -> Option<Self> {
        let mut nat = Self(vec![("PREROUTING".into(), Vec::new()), ("OUTPUT".into(), Vec::new())]);
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix(':') {
                let name = rest.split(' ').next()?;
                if name.is_empty() || nat.place(name).is_some() {
                    return None;
                }
                nat.0.push((name.to_owned(), Vec::new()));
            } else if let Some((name, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) {
                let hook = name == "PREROUTING" || name == "OUTPUT";
                let missing = [INBOUND, OUTBOUND].iter().any(|own| leads_to(rule, own) && nat.place(own).is_none());
                // A rule is matched by its text when it is deleted, so two equal ones are one case less to tell apart.
                if rule.is_empty() || missing || (is_ours(rule) && !hook) {
                    return None;
                }
                let place = nat.place(name)?;
                nat.0[place].1.push(rule.to_owned());
            }
        }
        Some(nat)
    }

    /// As `iptables-save` prints it.
    fn listing(&self) -> String {
        let chains = self.0.iter().map(|(name, _)| format!(":{name} - [0:0]\n"));
        let rules = self.0.iter().flat_map(|(name, rules)| rules.iter().map(move |rule| format!("-A {name} {rule}\n")));
        format!("*nat\n{}COMMIT\n", chains.chain(rules).collect::<String>())
    }

    /// What `iptables-restore --noflush` does.
    fn restore(&mut self, transaction: &str) {
        for line in transaction.lines().filter(|line| *line != "*nat" && *line != "COMMIT") {
            let (verb, rest) = line.split_at(line.find(' ').expect("a verb and what it is about"));
            let rest = &rest[1..];
            let (name, rule) = rest.split_once(' ').unwrap_or((rest, ""));
            match verb {
                "-A" => self.rules_of(name).push(rule.to_owned()),
                "-D" => {
                    let at = self.rules_of(name).iter().position(|there| there == rule);
                    self.rules_of(name).remove(at.expect("a rule that is there"));
                }
                "-I" => {
                    let (position, rule) = rule.split_once(' ').expect("a position and a rule");
                    let position: usize = position.parse().expect("a number");
                    self.rules_of(name).insert(position - 1, rule.to_owned());
                }
                "-F" => self.rules_of(name).clear(),
                "-X" => {
                    let used = self.0.iter().any(|(_, rules)| rules.iter().any(|rule| leads_to(rule, name)));
                    assert!(self.rules(name).is_empty() && !used, "{name} is in use: {self:#?}");
                    self.0.retain(|(there, _)| there != name);
                }
                declared => {
                    let name = declared.strip_prefix(':').expect("a chain");
                    match self.place(name) {
                        Some(place) => self.0[place].1.clear(),
                        None => self.0.push((name.to_owned(), Vec::new())),
                    }
                }
            }
        }
    }

    fn strangers(&self) -> Self {
        let others = self.0.iter().filter(|(name, _)| name != INBOUND && name != OUTBOUND);
        let rules = |rules: &[String]| rules.iter().filter(|rule| !is_ours(rule)).cloned().collect();
        Self(others.map(|(name, all)| (name.clone(), rules(all))).collect())
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|(there, _)| there == name)
    }

    fn rules(&self, name: &str) -> &[String] {
        self.place(name).map_or(&[], |place| &self.0[place].1)
    }

    fn rules_of(&mut self, name: &str) -> &mut Vec<String> {
        let place = self.place(name).expect("a chain that is there");
        &mut self.0[place].1
    }
}

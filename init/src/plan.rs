//! From what is there and what is asked to the steps between. Pure.
//!
//! Invariant: at the end of a plan our rules are in one backend at most, since two would capture a connection twice.

use mesh_init::args::{Choice, Ipv6};
use mesh_init::{Family, Ruleset, Valid};

use crate::xtables::{Backend, Error, Found, Tables};

/// One family's tables and what they hold, or why that is unknown.
pub(crate) struct Survey {
    pub(crate) tables: Tables,
    pub(crate) found: Result<Found, Error>,
}

/// A transaction, and what to go back to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) tables: Tables,
    pub(crate) before: Ruleset,
    pub(crate) transaction: String,
}

/// What the kernel can do in this namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Support {
    Present,
    Absent,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("no iptables backend works: {0}; {1}")]
    NoBackend(String, String),
    #[error("{0}")]
    Unreadable(String),
    #[error("{0}; if IPv6 is not needed here, pass --ipv6 off")]
    UnreadableIpv6(String),
    #[error("--ipv6 on, but this kernel has no IPv6; pass --ipv6 auto or off")]
    NoIpv6,
}

/// The families whose traffic is to be redirected.
pub(crate) fn families(ipv6: Ipv6, support: Support) -> Result<Vec<Family>, Refused> {
    match (ipv6, support) {
        (Ipv6::On, Support::Absent) => Err(Refused::NoIpv6),
        (Ipv6::Off, _) | (Ipv6::Auto, Support::Absent) => Ok(vec![Family::V4]),
        (Ipv6::On | Ipv6::Auto, Support::Present) => Ok(vec![Family::V4, Family::V6]),
    }
}

/// The backend to use, and the reason for a reader.
pub(crate) fn backend(choice: Choice, surveys: &[Survey]) -> Result<(Backend, &'static str), Refused> {
    match choice {
        Choice::Nft => return Ok((Backend::Nft, "asked for")),
        Choice::Legacy => return Ok((Backend::Legacy, "asked for")),
        Choice::Auto => {}
    }
    let any = |backend: Backend, holds: fn(&Found) -> bool| {
        let mut of_backend = surveys.iter().filter(|survey| survey.tables.backend == backend);
        of_backend.any(|survey| survey.found.as_ref().is_ok_and(holds))
    };
    type Holds = fn(&Found) -> bool;
    let reasons: [(Holds, &str); 3] = [
        (|found| !found.ours.is_empty(), "our rules are there"),
        (|found| found.rules > 0, "rules are there"),
        (|_| true, "it works and nobody uses the other"),
    ];
    for (holds, reason) in reasons {
        for candidate in [Backend::Nft, Backend::Legacy] {
            if any(candidate, holds) {
                return Ok((candidate, reason));
            }
        }
    }
    let mut causes = surveys.iter().filter_map(|survey| survey.found.as_ref().err()).map(ToString::to_string);
    Err(Refused::NoBackend(causes.next().unwrap_or_default(), causes.next_back().unwrap_or_default()))
}

/// The steps that put `options` in force in `chosen` for `families`, and remove us everywhere else.
pub(crate) fn apply(
    options: &Valid,
    chosen: Backend,
    families: &[Family],
    surveys: &[Survey],
) -> Result<Vec<Step>, Refused> {
    let mut steps = Vec::new();
    for survey in surveys {
        let asked = survey.tables.backend == chosen && families.contains(&survey.tables.family);
        let before = match (&survey.found, asked) {
            (Ok(found), _) => &found.ours,
            (Err(error), true) if survey.tables.family == Family::V6 => {
                return Err(Refused::UnreadableIpv6(error.to_string()));
            }
            (Err(error), true) => return Err(Refused::Unreadable(error.to_string())),
            // A backend that does not work holds no rules that do.
            (Err(_), false) => continue,
        };
        let wanted = if asked { Ruleset::wanted(options, survey.tables.family, before) } else { Ruleset::default() };
        steps.extend(step(survey.tables, before, &wanted));
    }
    // New rules go in before old ones go out, so that nothing slips through in between.
    steps.sort_by_key(|step| step.tables.backend != chosen);
    Ok(steps)
}

/// The steps that remove us from every backend that `choice` covers. Not being able to look is only borne in a backend
/// beside one that can, and in a family that is not asked for.
pub(crate) fn cleanup(choice: Choice, families: &[Family], surveys: &[Survey]) -> Result<Vec<Step>, Refused> {
    let covered = |survey: &&Survey| match choice {
        Choice::Auto => true,
        Choice::Nft => survey.tables.backend == Backend::Nft,
        Choice::Legacy => survey.tables.backend == Backend::Legacy,
    };
    let covered: Vec<&Survey> = surveys.iter().filter(covered).collect();
    let seen = |family| covered.iter().any(|survey| survey.tables.family == family && survey.found.is_ok());
    let mut steps = Vec::new();
    for Survey { tables, found } in &covered {
        match found {
            Ok(found) => steps.extend(step(*tables, &found.ours, &Ruleset::default())),
            Err(error) if families.contains(&tables.family) && !seen(tables.family) => {
                return Err(Refused::Unreadable(error.to_string()));
            }
            Err(_) => {}
        }
    }
    Ok(steps)
}

fn step(tables: Tables, before: &Ruleset, wanted: &Ruleset) -> Option<Step> {
    let transaction = before.transaction(wanted)?;
    Some(Step { tables, before: before.clone(), transaction })
}

#[cfg(test)]
mod tests {
    use mesh_init::{Options, rules};

    use super::*;

    const NOTHING: &str = "";
    const FOREIGN: &str = "*filter\n-A INPUT -j ACCEPT\nCOMMIT\n";
    const OURS: &str = "*nat\n:MESH_OUTBOUND - [0:0]\nCOMMIT\n";
    const BROKEN: &str = "broken";
    const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

    /// nft v4, nft v6, legacy v4, legacy v6
    fn surveys(saves: [&str; 4]) -> Vec<Survey> {
        let all = [Backend::Nft, Backend::Legacy].into_iter().flat_map(|b| FAMILIES.map(|family| (b, family)));
        let survey = |((backend, family), save): ((Backend, Family), &str)| Survey {
            tables: Tables { backend, family, wait_seconds: 1 },
            found: match save {
                BROKEN => Err(Error::Late { program: format!("{backend}-{family:?}"), seconds: 1 }),
                save => Ok(Found { ours: Ruleset::parse(save), rules: save.matches("-A").count() }),
            },
        };
        all.zip(saves).map(survey).collect()
    }

    fn options() -> Valid {
        Options::default().validate().unwrap()
    }

    #[test]
    fn auto_takes_the_backend_that_has_rules_then_nft_then_legacy() {
        let chosen = |saves| backend(Choice::Auto, &surveys(saves)).unwrap().0;
        assert_eq!(chosen([NOTHING; 4]), Backend::Nft);
        assert_eq!(chosen([NOTHING, NOTHING, FOREIGN, NOTHING]), Backend::Legacy);
        assert_eq!(chosen([NOTHING, FOREIGN, FOREIGN, FOREIGN]), Backend::Nft);
        assert_eq!(chosen([FOREIGN, FOREIGN, OURS, NOTHING]), Backend::Legacy);
        assert_eq!(chosen([BROKEN, BROKEN, NOTHING, NOTHING]), Backend::Legacy);
        let message = backend(Choice::Auto, &surveys([BROKEN; 4])).unwrap_err().to_string();
        assert!(message.contains("Nft-V4") || message.contains("nft-V4"), "{message}");
    }

    #[test]
    fn ipv6_is_left_out_without_a_word_from_the_kernel_and_demanded_in_vain() {
        assert_eq!(families(Ipv6::Auto, Support::Absent).unwrap(), [Family::V4]);
        assert_eq!(families(Ipv6::Auto, Support::Present).unwrap(), FAMILIES);
        assert_eq!(families(Ipv6::Off, Support::Present).unwrap(), [Family::V4]);
        assert!(matches!(families(Ipv6::On, Support::Absent), Err(Refused::NoIpv6)));
    }

    #[test]
    fn applying_removes_us_from_the_other_backend_last() {
        let steps = apply(&options(), Backend::Legacy, &FAMILIES, &surveys([OURS, OURS, NOTHING, NOTHING])).unwrap();
        let order: Vec<String> = steps.iter().map(|step| step.tables.to_string()).collect();
        assert_eq!(order, ["iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft"]);
        assert_eq!(steps[0].transaction, rules::text(&options(), Family::V4));
        assert!(steps[2].transaction.contains("-X MESH_OUTBOUND"));
    }

    #[test]
    fn a_family_that_is_left_out_is_cleaned() {
        let steps = apply(&options(), Backend::Nft, &[Family::V4], &surveys([OURS, OURS, BROKEN, BROKEN])).unwrap();
        assert_eq!(steps.len(), 2);
        assert!(steps[1].transaction.contains("-X MESH_OUTBOUND"));
    }

    #[test]
    fn a_family_that_cannot_be_read_is_not_guessed() {
        let surveys = surveys([NOTHING, BROKEN, NOTHING, NOTHING]);
        let message = apply(&options(), Backend::Nft, &FAMILIES, &surveys).unwrap_err().to_string();
        assert!(message.contains("--ipv6 off"), "{message}");
        assert!(cleanup(Choice::Auto, &FAMILIES, &surveys).unwrap().is_empty());
        assert!(cleanup(Choice::Nft, &FAMILIES, &surveys).is_err());
        assert!(cleanup(Choice::Nft, &[Family::V4], &surveys).unwrap().is_empty());
    }
}

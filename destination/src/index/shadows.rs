//! Rules that no request reaches, because what is tried before takes all that they fit.
//!
//! Invariant: a rule is named only when that holds on every port and for every namespace that it is attached for;
//! expressions count as covered by equal ones only. Non-goal: speed; people ask, proxies do not.

use std::collections::{BTreeMap, BTreeSet};

use super::objects::Objects;
use super::routes::Ranked;
use crate::model::Key;
use crate::model::route::{Match, PathMatch, TextMatch};

impl Objects {
    pub(super) fn unreachable(&self) -> Vec<(Key, String)> {
        // None: it is reached somewhere.
        let mut rules: BTreeMap<(Key, usize), Option<String>> = BTreeMap::new();
        for service in self.services.values() {
            let namespaces = self.routes_of.of(&service.name).map(|key| key.name.namespace.as_str());
            let namespaces: BTreeSet<&str> = namespaces.collect();
            for (namespace, port) in namespaces.iter().flat_map(|of| service.ports.iter().map(move |port| (of, port))) {
                let ranked = self.ranked(service, port, namespace);
                for (place, (key, _)) in ranked.rules.iter().enumerate() {
                    let within = ranked.rules[..place].iter().filter(|(other, _)| other == key).count();
                    let found = why(&ranked, place);
                    let known = rules.entry(((*key).clone(), within)).or_insert_with(|| found.clone());
                    if found.is_none() {
                        *known = None;
                    }
                }
            }
        }
        rules.into_iter().filter_map(|((key, _), why)| Some((key, why?))).collect()
    }
}

/// Why a rule is not reached; none when it is.
fn why(ranked: &Ranked<'_>, place: usize) -> Option<String> {
    let mut by = None;
    for (at, (rule, on)) in ranked.matches.iter().enumerate() {
        if *rule != place {
            continue;
        }
        let mut before = ranked.matches[..at].iter();
        let (first, _) = before.find(|(other, earlier)| *other != place && covers(earlier, on))?;
        by.get_or_insert(*first);
    }
    let (key, first) = ranked.rules[by?];
    let named = |name: &str, place: usize| match name {
        "" => format!("rule {}", place + 1),
        name => format!("rule {name}"),
    };
    let within = |place: usize| {
        let (key, _) = ranked.rules[place];
        ranked.rules[..place].iter().filter(|(other, _)| *other == key).count()
    };
    let (own, first) = (named(&ranked.rules[place].1.name, within(place)), named(&first.name, within(by?)));
    Some(format!("{own} is never reached: {first} of {key} takes its requests"))
}

/// Whether `wide` fits all that `narrow` fits.
fn covers(wide: &Match, narrow: &Match) -> bool {
    let has =
        |fields: &[(String, TextMatch)], wanted: &[(String, TextMatch)]| wanted.iter().all(|one| fields.contains(one));
    let method = wide.method.is_none() || wide.method == narrow.method;
    method
        && has(&narrow.headers, &wide.headers)
        && has(&narrow.query, &wide.query)
        && covers_path(&wide.path, &narrow.path)
}

fn covers_path(wide: &PathMatch, narrow: &PathMatch) -> bool {
    match (wide, narrow) {
        (PathMatch::Prefix(prefix), PathMatch::Exact(path) | PathMatch::Prefix(path)) => {
            let rest = path.strip_prefix(prefix.as_str());
            prefix == "/" || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        (
            PathMatch::Grpc { service: of_wide, method: wide },
            PathMatch::Grpc { service: of_narrow, method: narrow },
        ) => (of_wide.is_none() || of_wide == of_narrow) && (wide.is_none() || wide == narrow),
        (wide, narrow) => wide == narrow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_covers_what_it_fits_all_of() {
        let prefix = |path: &str| PathMatch::Prefix(path.to_owned());
        let exact = |path: &str| PathMatch::Exact(path.to_owned());
        let grpc = |service: Option<&str>, method: Option<&str>| {
            let text = |text: Option<&str>| text.map(|text| TextMatch::Exact(text.to_owned()));
            PathMatch::Grpc { service: text(service), method: text(method) }
        };
        for (wide, narrow, covered) in [
            (prefix("/"), prefix("/a"), true),
            (prefix("/a"), prefix("/a"), true),
            (prefix("/a"), exact("/a/b"), true),
            (prefix("/a"), exact("/ab"), false),
            (exact("/a"), prefix("/a"), false),
            (PathMatch::Regex("/a".into()), PathMatch::Regex("/a".into()), true),
            (PathMatch::Regex("/.*".into()), exact("/a"), false),
            (grpc(Some("s"), None), grpc(Some("s"), Some("m")), true),
            (grpc(Some("s"), Some("m")), grpc(Some("s"), None), false),
        ] {
            assert_eq!(covers_path(&wide, &narrow), covered, "{wide:?} {narrow:?}");
        }
        let header = |name: &str| (name.to_owned(), TextMatch::Exact("x".into()));
        let with = |headers: Vec<_>| Match { headers, ..Match::default() };
        assert!(covers(&with(vec![header("a")]), &with(vec![header("a"), header("b")])));
        assert!(!covers(&with(vec![header("a")]), &with(vec![])));
        assert!(!covers(&Match { method: Some("GET".into()), ..Match::default() }, &Match::default()));
    }
}

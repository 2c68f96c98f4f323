//! Routes of the wire to routes of the model.
//!
//! Invariant: what leaves here can be used as it is: patterns are compiled, fields can be sent, places of rules exist, sums of
//! weights fit. A routes table is taken as a whole or not at all.

use http::{HeaderName, HeaderValue, Method, StatusCode};
use mesh_kit::pattern::Pattern;
use mesh_proto::discovery as wire;

use super::{Malformed, policies, port};
use crate::model::route::{
    Filters, HeaderEdit, Match, PathEdit, PathMatch, Redirect, Rewrite, Routes, Rule, RuleBackend, Scheme, TextMatch,
};

/// Most matches and rules of one destination.
const MAX_MATCHES: usize = 4096;
/// Most backends of a rule, fields of an edit, patterns of a match.
const MAX_LIST: usize = 64;
/// Largest relative weight.
const MAX_WEIGHT: u32 = 1_000_000;
/// Longest text of any kind.
const MAX_TEXT: usize = 8 * 1024;

pub(super) fn parse(routes: wire::Routes) -> Result<Routes, Malformed> {
    let refuse = |what: String| Malformed::Route { route: String::new(), what };
    if routes.matches.len() > MAX_MATCHES || routes.rules.len() > MAX_MATCHES {
        return Err(refuse(format!("more than {MAX_MATCHES} matches or rules")));
    }
    let rules = routes.rules.into_iter().map(rule).collect::<Result<Box<[_]>, _>>()?;
    let matches = routes.matches.into_iter().map(|on| one_match(on, &rules)).collect::<Result<_, _>>()?;
    Ok(Routes { matches, rules })
}

fn rule(rule: wire::RouteRule) -> Result<Rule, Malformed> {
    let name = rule.name;
    let in_rule = |what: String| Malformed::Route { route: shortened(&name), what };
    let backends = bounded(rule.backends).and_then(|backends| backends.into_iter().map(backend).collect());
    Ok(Rule {
        filters: filters(rule.filters).map_err(in_rule)?,
        backends: backends.map_err(in_rule)?,
        policy: policies::requests(rule.policy)?,
        session: rule.session.map(policies::session).transpose().map_err(in_rule)?.map(Box::new),
        name: text(name).map_err(|what| Malformed::Route { route: String::new(), what })?.into(),
    })
}

fn backend(backend: wire::RouteBackend) -> Result<RuleBackend, String> {
    if backend.weight > MAX_WEIGHT {
        return Err(format!("weight {} is above {MAX_WEIGHT}", backend.weight));
    }
    let to = match backend.backend {
        Some(id) => Ok(id.try_into().map_err(|malformed: Malformed| malformed.to_string())?),
        None => Err(shortened(&backend.invalid).into()),
    };
    Ok(RuleBackend { to, weight: backend.weight, filters: filters(backend.filters)? })
}

fn one_match(on: wire::RouteMatch, rules: &[Rule]) -> Result<Match, Malformed> {
    let rule = usize::try_from(on.rule).unwrap_or(usize::MAX);
    let Some(named) = rules.get(rule) else {
        return Err(Malformed::Route {
            route: String::new(),
            what: format!("a match leads to rule {rule}, which is not there"),
        });
    };
    fitting(rule, on).map_err(|what| Malformed::Route { route: named.name.to_string(), what })
}

fn fitting(rule: usize, on: wire::RouteMatch) -> Result<Match, String> {
    use wire::route_match::Path;
    let path = match on.path.ok_or("a match without a path")? {
        Path::Exact(path) => PathMatch::Exact(text(path)?),
        Path::Prefix(path) if path.starts_with('/') => PathMatch::Prefix(text(path)?),
        Path::Prefix(path) => return Err(format!("prefix {} does not begin with a slash", shortened(&path))),
        Path::Regex(path) => PathMatch::Regex(pattern(&path)?),
        Path::Grpc(call) => {
            PathMatch::Grpc(call.service.map(text_match).transpose()?, call.method.map(text_match).transpose()?)
        }
    };
    let method = match on.method.as_str() {
        "" => None,
        word => Some(Method::from_bytes(word.as_bytes()).map_err(|_| format!("method {}", shortened(word)))?),
    };
    let headers = bounded(on.headers)?.into_iter().map(header_match).collect::<Result<_, String>>()?;
    let query = |named: wire::NamedMatch| Ok((text(named.name)?, value_of(named.value)?));
    let query = bounded(on.query)?.into_iter().map(query).collect::<Result<_, String>>()?;
    Ok(Match { rule, path, method, headers, query })
}

/// A field that a request has to have.
pub(super) fn header_match(named: wire::NamedMatch) -> Result<(HeaderName, TextMatch), String> {
    Ok((name(&named.name)?, value_of(named.value)?))
}

fn value_of(value: Option<wire::TextMatch>) -> Result<TextMatch, String> {
    text_match(value.ok_or("a name without a value")?)
}

fn text_match(wanted: wire::TextMatch) -> Result<TextMatch, String> {
    use wire::text_match::Kind;
    Ok(match wanted.kind.ok_or("an empty match")? {
        Kind::Exact(exact) => TextMatch::Exact(text(exact)?),
        Kind::Regex(regex) => TextMatch::Regex(pattern(&regex)?),
    })
}

fn filters(filters: Option<wire::Filters>) -> Result<Filters, String> {
    let Some(filters) = filters else { return Ok(Filters::default()) };
    Ok(Filters {
        request_headers: edit(filters.request_headers)?,
        response_headers: edit(filters.response_headers)?,
        redirect: filters.redirect.map(redirect).transpose()?.map(Box::new),
        rewrite: filters.rewrite.map(rewrite).transpose()?.map(Box::new),
        mirrors: bounded(filters.mirrors)?.into_iter().map(policies::mirror).collect::<Result<_, _>>()?,
        cors: filters.cors.map(policies::cors).transpose()?.map(Box::new),
    })
}

fn edit(edit: Option<wire::HeaderEdit>) -> Result<HeaderEdit, String> {
    let Some(edit) = edit else { return Ok(HeaderEdit::default()) };
    let fields = |fields| {
        let field = |field: wire::HeaderField| {
            let value =
                HeaderValue::from_str(&field.value).map_err(|_| format!("value of {}", shortened(&field.name)))?;
            Ok((name(&field.name)?, value))
        };
        bounded(fields)?.into_iter().map(field).collect::<Result<_, String>>()
    };
    let remove = bounded(edit.remove)?.iter().map(|field| name(field)).collect::<Result<_, _>>()?;
    Ok(HeaderEdit { set: fields(edit.set)?, add: fields(edit.add)?, remove })
}

/// What the mesh says of itself is not a route's to change.
pub(super) fn name(field: &str) -> Result<HeaderName, String> {
    let parsed = HeaderName::try_from(field).ok().filter(|name| !name.as_str().starts_with("mesh-"));
    parsed.ok_or_else(|| format!("{} is no field of a route's", shortened(field)))
}

fn redirect(redirect: wire::Redirect) -> Result<Redirect, String> {
    let scheme = match redirect.scheme.as_str() {
        "" => None,
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        other => return Err(format!("scheme {}", shortened(other))),
    };
    let status = u16::try_from(redirect.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    Ok(Redirect {
        scheme,
        hostname: host(redirect.hostname)?,
        port: if redirect.port == 0 { None } else { Some(port(redirect.port).map_err(|error| error.to_string())?) },
        path: redirect.path.map(path_edit).transpose()?,
        status: status
            .filter(StatusCode::is_redirection)
            .ok_or_else(|| format!("{} is no status of a redirect", redirect.status))?,
    })
}

fn rewrite(rewrite: wire::Rewrite) -> Result<Rewrite, String> {
    Ok(Rewrite { hostname: host(rewrite.hostname)?, path: rewrite.path.map(path_edit).transpose()? })
}

fn host(host: String) -> Result<Option<Box<str>>, String> {
    if host.is_empty() {
        return Ok(None);
    }
    let is_host = super::is_name(&host, super::MAX_NAME);
    if is_host { Ok(Some(host.into())) } else { Err(format!("host {}", shortened(&host))) }
}

fn path_edit(edit: wire::PathEdit) -> Result<PathEdit, String> {
    use wire::path_edit::Kind;
    let checked = |path: String| {
        let fits = (path.is_empty() || path.starts_with('/'))
            && path.bytes().all(|byte| byte.is_ascii_graphic())
            && !path.contains(['?', '#']);
        if fits { text(path) } else { Err(format!("path {}", shortened(&path))) }
    };
    Ok(match edit.kind.ok_or("an empty change of a path")? {
        Kind::Full(path) => PathEdit::Full(checked(path)?),
        Kind::Prefix(path) => PathEdit::Prefix(checked(path)?),
    })
}

fn pattern(regex: &str) -> Result<Pattern, String> {
    Pattern::new(regex).map_err(|error| format!("expression {}: {error}", shortened(regex)))
}

pub(super) fn text(text: String) -> Result<Box<str>, String> {
    if text.len() > MAX_TEXT { Err(format!("a text of {} bytes", text.len())) } else { Ok(text.into()) }
}

pub(super) fn bounded<T>(list: Vec<T>) -> Result<Vec<T>, String> {
    if list.len() > MAX_LIST { Err(format!("a list of {}", list.len())) } else { Ok(list) }
}

pub(super) fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

//! Routes to bytes.

use mesh_proto::discovery as wire;

use crate::index::{Backend, RankedMatch, Routed, RoutedMirror, RoutedRule, Routes};
use crate::model::route::{Filters, HeaderEdit, PathEdit, PathMatch, Redirect, Rewrite, TextMatch};

/// Most matches that a proxy takes of a destination.
pub(super) const MAX_MATCHES: usize = 4096;

impl From<&Routes> for wire::Routes {
    fn from(routes: &Routes) -> Self {
        Self {
            matches: routes.matches.iter().take(MAX_MATCHES).map(Into::into).collect(),
            rules: routes.rules.iter().map(Into::into).collect(),
        }
    }
}

impl From<&RankedMatch> for wire::RouteMatch {
    fn from(ranked: &RankedMatch) -> Self {
        use wire::route_match::Path;
        let on = &ranked.on;
        let path = match &on.path {
            PathMatch::Exact(path) => Path::Exact(path.clone()),
            PathMatch::Prefix(path) => Path::Prefix(path.clone()),
            PathMatch::Regex(path) => Path::Regex(path.clone()),
            PathMatch::Grpc { service, method } => Path::Grpc(wire::GrpcMatch {
                service: service.as_ref().map(Into::into),
                method: method.as_ref().map(Into::into),
            }),
        };
        Self {
            rule: u32::try_from(ranked.rule).unwrap_or(u32::MAX),
            path: Some(path),
            method: on.method.clone().unwrap_or_default(),
            headers: on.headers.iter().map(named).collect(),
            query: on.query.iter().map(named).collect(),
        }
    }
}

pub(super) fn named((name, value): &(String, TextMatch)) -> wire::NamedMatch {
    wire::NamedMatch { name: name.clone(), value: Some(value.into()) }
}

impl From<&TextMatch> for wire::TextMatch {
    fn from(text: &TextMatch) -> Self {
        use wire::text_match::Kind;
        let kind = match text {
            TextMatch::Exact(text) => Kind::Exact(text.clone()),
            TextMatch::Regex(text) => Kind::Regex(text.clone()),
        };
        Self { kind: Some(kind) }
    }
}

impl From<&RoutedRule> for wire::RouteRule {
    fn from(rule: &RoutedRule) -> Self {
        Self {
            name: rule.name.clone(),
            filters: filters(&rule.filters, &rule.mirrors),
            backends: rule.backends.iter().map(Into::into).collect(),
            policy: rule.policy.as_deref().map(Into::into),
            session: rule.session.as_ref().map(Into::into),
        }
    }
}

impl From<&Routed> for wire::RouteBackend {
    fn from(routed: &Routed) -> Self {
        let (backend, invalid) = match &routed.to {
            Ok(backend) => (Some(backend.into()), String::new()),
            Err(why) => (None, why.clone()),
        };
        Self { backend, weight: routed.weight, filters: filters(&routed.filters, &routed.mirrors), invalid }
    }
}

impl From<&Backend> for wire::BackendRef {
    fn from(backend: &Backend) -> Self {
        let Backend { service, port } = backend;
        Self { namespace: service.namespace.clone(), service: service.name.clone(), port: u32::from(*port) }
    }
}

/// None when nothing is done.
fn filters(filters: &Filters, mirrors: &[RoutedMirror]) -> Option<wire::Filters> {
    if *filters == Filters::default() {
        return None;
    }
    Some(wire::Filters {
        request_headers: edit(&filters.request_headers),
        response_headers: edit(&filters.response_headers),
        redirect: filters.redirect.as_ref().map(Into::into),
        rewrite: filters.rewrite.as_ref().map(Into::into),
        mirrors: mirrors.iter().map(Into::into).collect(),
        cors: filters.cors.as_ref().map(Into::into),
    })
}

fn edit(edit: &HeaderEdit) -> Option<wire::HeaderEdit> {
    if *edit == HeaderEdit::default() {
        return None;
    }
    let fields = |fields: &[(String, String)]| {
        fields.iter().map(|(name, value)| wire::HeaderField { name: name.clone(), value: value.clone() }).collect()
    };
    Some(wire::HeaderEdit { set: fields(&edit.set), add: fields(&edit.add), remove: edit.remove.clone() })
}

impl From<&Redirect> for wire::Redirect {
    fn from(redirect: &Redirect) -> Self {
        Self {
            scheme: redirect.scheme.clone().unwrap_or_default(),
            hostname: redirect.hostname.clone().unwrap_or_default(),
            port: redirect.port.map_or(0, |port| u32::from(port.get())),
            path: redirect.path.as_ref().map(Into::into),
            status: u32::from(redirect.status),
        }
    }
}

impl From<&Rewrite> for wire::Rewrite {
    fn from(rewrite: &Rewrite) -> Self {
        Self { hostname: rewrite.hostname.clone().unwrap_or_default(), path: rewrite.path.as_ref().map(Into::into) }
    }
}

impl From<&PathEdit> for wire::PathEdit {
    fn from(edit: &PathEdit) -> Self {
        use wire::path_edit::Kind;
        let kind = match edit {
            PathEdit::Full(path) => Kind::Full(path.clone()),
            PathEdit::Prefix(path) => Kind::Prefix(path.clone()),
        };
        Self { kind: Some(kind) }
    }
}

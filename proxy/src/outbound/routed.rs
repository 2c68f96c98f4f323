//! The routes of a destination at work: a rule for a request, a backend by weight, and the changes that the rule asks for.
//!
//! Invariant: a backend that several rules name is one leg, with one balancer. What a rule does to a request is done before
//! an endpoint is chosen, and is done once, however often the request is sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{HOST, HeaderValue, LOCATION, ORIGIN};
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderMap, Method, Response, StatusCode};
use mesh_mtls::clock;

use super::leg::Leg;
use super::mirror::Copied;
use super::session::{Held, Scope};
use super::{Outbound, cors};
use crate::http::answer::Reason;
use crate::http::{Body, BoxedRequest};
use crate::model::BackendId;
use crate::model::policy::RequestPolicy;
use crate::model::route::{Filters, Found, PathMatch, Rewrite, Routes, Rule, RuleBackend, Scheme};

/// See the module.
pub(super) struct Routed {
    routes: Arc<Routes>,
    legs: BTreeMap<BackendId, Arc<Leg>>,
}

/// What becomes of a request.
pub(super) enum Way {
    /// It is sent, changed already.
    Onward(Onward),
    /// It is answered: a redirect, or a preflight.
    Answer(Response<Body>),
    /// It cannot be sent anywhere.
    Refused(Reason, String),
}

/// A request that is sent.
pub(super) struct Onward {
    /// Where to.
    pub(super) leg: Arc<Leg>,
    /// At the same time.
    pub(super) copies: Vec<Copied>,
    /// The endpoint of its session.
    pub(super) stick_to: Option<SocketAddr>,
    /// Its response is to be changed too.
    pub(super) answered: Answered,
}

/// What is done to the response of a request that took a rule.
pub(super) struct Answered {
    routes: Arc<Routes>,
    rule: usize,
    at: usize,
    backend: usize,
    /// Where the request came from, where that matters.
    origin: Option<HeaderValue>,
    held: Option<Held>,
}

impl Routed {
    pub(super) fn new(routes: &Arc<Routes>, leg: impl Fn(&BackendId) -> Arc<Leg>) -> Self {
        let backends = routes.rules.iter().flat_map(|rule| &rule.backends);
        let filters =
            routes.rules.iter().map(|rule| &rule.filters).chain(backends.clone().map(|backend| &backend.filters));
        let mirrors = filters.flat_map(|filters| &filters.mirrors).filter_map(|mirror| mirror.to.as_ref().ok());
        let ids = backends.filter_map(|backend| backend.to.as_ref().ok()).chain(mirrors);
        let mut legs = BTreeMap::new();
        for id in ids {
            legs.entry(id.clone()).or_insert_with(|| leg(id));
        }
        Self { routes: Arc::clone(routes), legs }
    }

    pub(super) fn leg_of(&self, id: &BackendId) -> Option<&Arc<Leg>> {
        self.legs.get(id)
    }

    /// All that its rules lead to.
    pub(super) fn legs(&self) -> impl Iterator<Item = &Arc<Leg>> {
        self.legs.values()
    }

    /// Finds the rule of a request, and changes the request as it says.
    pub(super) fn take(&self, request: &mut BoxedRequest, outbound: &Outbound) -> Way {
        if let Some(answer) = self.preflight(request) {
            return Way::Answer(answer);
        }
        let Some(found) = self.routes.find(request.method(), request.uri(), request.headers()) else {
            return Way::Refused(
                Reason::NoRoute,
                format!("no route fits {} {}", request.method(), request.uri().path()),
            );
        };
        let rule = found.rule;
        if let Some(redirect) = &rule.filters.redirect {
            let location = redirect.location(Scheme::Http, authority(request), request.uri(), &found.on.path);
            return match HeaderValue::try_from(location) {
                Ok(location) => Way::Answer(redirected(redirect.status, location, &rule.filters, request.headers())),
                Err(_) => Way::Refused(Reason::BadRequest, "no place to redirect to".into()),
            };
        }
        let held = self.held(&found, request.headers(), outbound);
        let (place, backend) =
            match held.and_then(|held| kept(rule, &held)).map_or_else(|| pick(rule, fastrand::u64(..)), Ok) {
                Ok(picked) => picked,
                Err(why) => return Way::Refused(Reason::BackendInvalid, why),
            };
        let leg = match &backend.to {
            Ok(id) => self.legs.get(id),
            Err(why) => return Way::Refused(Reason::BackendInvalid, format!("route {}: {why}", rule.name)),
        };
        let Some(leg) = leg else {
            return Way::Refused(Reason::BackendInvalid, format!("route {}: no such backend", rule.name));
        };
        if let (Some(cors), Some(method)) = (&backend.filters.cors, cors::asks_for(request.method(), request.headers()))
        {
            return Way::Answer(cors::preflight(cors, request.headers(), method));
        }
        let is_cross = rule.filters.cors.is_some() || backend.filters.cors.is_some();
        let origin = if is_cross { request.headers().get(ORIGIN).cloned() } else { None };
        let mut copies = Vec::new();
        for filters in [&rule.filters, &backend.filters] {
            filters.request_headers.apply(request.headers_mut());
            if let Some(rewrite) = &filters.rewrite
                && let Err(error) = rewritten(request, rewrite, &found.on.path)
            {
                return Way::Refused(Reason::BadRequest, format!("route {}: rewritten: {error}", rule.name));
            }
            let legs =
                filters.mirrors.iter().map(|mirror| (mirror, mirror.to.as_ref().ok().and_then(|id| self.legs.get(id))));
            copies.extend(legs.filter_map(|(mirror, leg)| outbound.mirrors.copy(mirror, leg, request)));
        }
        let (routes, stick_to) = (Arc::clone(&self.routes), held.map(|held| held.addr));
        let answered = Answered { routes, rule: found.index, at: found.at, backend: place, origin, held };
        Way::Onward(Onward { leg: Arc::clone(leg), copies, stick_to, answered })
    }

    /// The answer to a preflight request. It asks for another method than its own, so it also takes the rule of that method
    /// where no match fits it.
    fn preflight(&self, request: &BoxedRequest) -> Option<Response<Body>> {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        let asked = cors::asks_for(method, headers)?;
        let of_method = || self.routes.find(&Method::from_bytes(asked.as_bytes()).ok()?, uri, headers);
        let found = self.routes.find(method, uri, headers).or_else(of_method)?;
        Some(cors::preflight(found.rule.filters.cors.as_deref()?, headers, asked))
    }

    /// The session that a request belongs to, as long as the rule leads to its backend.
    fn held(&self, found: &Found<'_>, headers: &HeaderMap, outbound: &Outbound) -> Option<Held> {
        let session = found.rule.session.as_deref()?;
        let scope = Scope { session, rule: &found.rule.name, path: &found.on.path };
        let held = outbound.sessions.open(scope, headers, &outbound.reach.anchors(), clock::wall())?;
        kept(found.rule, &held).map(|_| held)
    }
}

impl Answered {
    /// How the rule has its requests treated.
    pub(super) fn policy(&self) -> Option<&Arc<RequestPolicy>> {
        self.routes.rules.get(self.rule)?.policy.as_ref()
    }

    /// Changes the fields of a response: those of the backend first. `served` is the endpoint that it comes from.
    pub(super) fn apply(&self, headers: &mut HeaderMap, served: Option<SocketAddr>, outbound: &Outbound) {
        let Some(rule) = self.routes.rules.get(self.rule) else { return };
        let Some(backend) = rule.backends.get(self.backend) else { return };
        backend.filters.response_headers.apply(headers);
        rule.filters.response_headers.apply(headers);
        if let Some(cors) = backend.filters.cors.as_deref().or(rule.filters.cors.as_deref()) {
            cors::apply(cors, self.origin.as_ref(), headers);
        }
        if let (Some(session), Some(addr), Ok(id)) = (&rule.session, served, &backend.to)
            && let Some(on) = self.routes.matches.get(self.at)
        {
            let scope = Scope { session, rule: &rule.name, path: &on.path };
            let answer = (headers, &outbound.reach.anchors(), clock::wall());
            outbound.sessions.answer(scope, self.held, (id, addr), answer);
        }
    }
}

/// The backend of a session, and its place.
fn kept<'r>(rule: &'r Rule, held: &Held) -> Option<(usize, &'r RuleBackend)> {
    let mut backends = rule.backends.iter().enumerate();
    backends.find(|(_, backend)| backend.to.as_ref().is_ok_and(|id| held.is_with(id)))
}

/// A backend by weight, and its place; `chance` is uniform over all numbers.
fn pick(rule: &Rule, chance: u64) -> Result<(usize, &RuleBackend), String> {
    let total: u64 = rule.backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let Some(mut left) = chance.checked_rem(total) else {
        let what = if rule.backends.is_empty() { "no backends" } else { "backends of weight 0 only" };
        return Err(format!("route {} has {what}", rule.name));
    };
    for (place, backend) in rule.backends.iter().enumerate() {
        match left.checked_sub(u64::from(backend.weight)) {
            Some(rest) => left = rest,
            None => return Ok((place, backend)),
        }
    }
    Err(format!("route {} has no backend", rule.name))
}

/// The authority that the request names; one was settled before.
fn authority(request: &BoxedRequest) -> &str {
    let target = request.uri().authority().map(Authority::as_str);
    target.or_else(|| request.headers().get(HOST)?.to_str().ok()).unwrap_or_default()
}

fn redirected(status: StatusCode, location: HeaderValue, filters: &Filters, asked: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    filters.response_headers.apply(response.headers_mut());
    if let Some(cors) = &filters.cors {
        cors::apply(cors, asked.get(ORIGIN), response.headers_mut());
    }
    response
}

fn rewritten(request: &mut BoxedRequest, rewrite: &Rewrite, on: &PathMatch) -> Result<(), http::Error> {
    let mut parts = request.uri().clone().into_parts();
    if let Some(edit) = &rewrite.path {
        let path = edit.of(request.uri().path(), on);
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        parts.path_and_query = Some(PathAndQuery::try_from(format!("{path}{query}"))?);
    }
    if let Some(hostname) = &rewrite.hostname {
        let authority = Authority::try_from(&**hostname)?;
        if request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, HeaderValue::from_str(hostname)?);
        }
        if parts.authority.is_some() {
            parts.authority = Some(authority);
        }
    }
    *request.uri_mut() = Uri::from_parts(parts)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(weights: &[u32]) -> Rule {
        let backend = |weight: &u32| RuleBackend { to: Err("".into()), weight: *weight, filters: Filters::default() };
        Rule {
            name: "shop/web".into(),
            filters: Filters::default(),
            backends: weights.iter().map(backend).collect(),
            policy: None,
            session: None,
        }
    }

    #[test]
    fn shares_are_those_of_the_weights() {
        let rule = rule(&[70, 0, 30]);
        let mut counts = [0; 3];
        for chance in 0..1000 {
            counts[pick(&rule, chance).unwrap().0] += 1;
        }
        assert_eq!(counts, [700, 0, 300]);
    }

    #[test]
    fn weights_of_zero_only_are_no_backend() {
        assert_eq!(pick(&rule(&[0, 0]), 7).unwrap_err(), "route shop/web has backends of weight 0 only");
        assert_eq!(pick(&rule(&[]), 7).unwrap_err(), "route shop/web has no backends");
    }
}

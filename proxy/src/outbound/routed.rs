//! The routes of a destination at work: a rule for a request, a backend by weight, and the changes that the rule asks for.
//!
//! Invariant: a backend that several rules name is one leg, with one balancer. What a rule does to a request is done before
//! an endpoint is chosen, and is done once, however often the request is sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::{HOST, HeaderValue, LOCATION};
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderMap, Response};

use super::leg::Leg;
use crate::http::answer::Reason;
use crate::http::{Body, BoxedRequest};
use crate::model::BackendId;
use crate::model::policy::RequestPolicy;
use crate::model::route::{Filters, PathMatch, Rewrite, Routes, Rule, RuleBackend, Scheme};

/// See the module.
pub(super) struct Routed {
    routes: Arc<Routes>,
    legs: BTreeMap<BackendId, Arc<Leg>>,
}

/// What becomes of a request.
pub(super) enum Way {
    /// It is sent, changed already; its response is to be changed too.
    Onward(Arc<Leg>, Answered),
    /// It is answered: a redirect.
    Answer(Response<Body>),
    /// It cannot be sent anywhere.
    Refused(Reason, String),
}

/// What is done to the response of a request that took a rule.
pub(super) struct Answered {
    routes: Arc<Routes>,
    rule: usize,
    backend: usize,
}

impl Routed {
    pub(super) fn new(routes: &Arc<Routes>, leg: impl Fn(&BackendId) -> Arc<Leg>) -> Self {
        let backends = routes.rules.iter().flat_map(|rule| &rule.backends);
        let ids = backends.filter_map(|backend| backend.to.as_ref().ok());
        let legs = ids.map(|id| (id.clone(), leg(id))).collect();
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
    pub(super) fn take(&self, request: &mut BoxedRequest) -> Way {
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
                Ok(location) => Way::Answer(redirected(redirect.status, location, &rule.filters)),
                Err(_) => Way::Refused(Reason::BadRequest, "no place to redirect to".into()),
            };
        }
        let (place, backend) = match pick(rule, fastrand::u64(..)) {
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
        for filters in [&rule.filters, &backend.filters] {
            filters.request_headers.apply(request.headers_mut());
            if let Some(rewrite) = &filters.rewrite
                && let Err(error) = rewritten(request, rewrite, &found.on.path)
            {
                return Way::Refused(Reason::BadRequest, format!("route {}: rewritten: {error}", rule.name));
            }
        }
        let answered = Answered { routes: Arc::clone(&self.routes), rule: found.index, backend: place };
        Way::Onward(Arc::clone(leg), answered)
    }
}

impl Answered {
    /// How the rule has its requests treated.
    pub(super) fn policy(&self) -> Option<&Arc<RequestPolicy>> {
        self.routes.rules.get(self.rule)?.policy.as_ref()
    }

    /// Changes the fields of a response: those of the backend first.
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        let Some(rule) = self.routes.rules.get(self.rule) else { return };
        if let Some(backend) = rule.backends.get(self.backend) {
            backend.filters.response_headers.apply(headers);
        }
        rule.filters.response_headers.apply(headers);
    }
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

fn redirected(status: http::StatusCode, location: HeaderValue, filters: &Filters) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    filters.response_headers.apply(response.headers_mut());
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

//! Routes, as `HTTPRoute` and `GRPCRoute` of the Gateway API say them. Plain data.
//!
//! Invariant: patterns compile, header names and values can be sent, times and numbers are within their bounds.
//! Non-goal: which route a request takes (`index::routes` puts them in order, the proxy goes through that order).

use std::num::NonZeroU16;
use std::time::Duration;

use super::Name;
use super::policy::Retries;

/// A route, of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its name.
    pub name: Name,
    /// `metadata.creationTimestamp`, empty when absent. Timestamps of Kubernetes are in order as texts.
    pub created: String,
    /// What it is attached to.
    pub parents: Vec<Parent>,
    /// In the order of the manifest.
    pub rules: Vec<Rule>,
}

/// A Service, or a port of one, that a route acts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The Service.
    pub service: Name,
    /// Only this port of it.
    pub port: Option<NonZeroU16>,
    /// Only its port of this name.
    pub section: Option<String>,
}

/// What happens to requests that one of `matches` fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Empty when it has none.
    pub name: String,
    /// At least one.
    pub matches: Vec<Match>,
    /// What is done to each request.
    pub filters: Filters,
    /// Where requests go; none: nowhere, unless a filter redirects them.
    pub backends: Vec<WeightedBackend>,
    /// `timeouts`.
    pub timeouts: Timeouts,
    /// `retry`
    pub retry: Option<Retries>,
    /// `sessionPersistence`
    pub session: Option<SessionPersistence>,
}

impl Rule {
    /// What it sends requests to, or copies of them.
    pub fn leads_to(&self) -> impl Iterator<Item = &BackendTo> {
        let filters = [&self.filters].into_iter().chain(self.backends.iter().map(|backend| &backend.filters));
        let mirrors = filters.flat_map(|filters| &filters.mirrors).map(|mirror| &mirror.to);
        self.backends.iter().map(|backend| &backend.to).chain(mirrors)
    }
}

/// All of it has to fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Of the request's target, or of the call.
    pub path: PathMatch,
    /// Of the request.
    pub method: Option<String>,
    /// Names are in lower case.
    pub headers: Vec<(String, TextMatch)>,
    /// Parameters of the query.
    pub query: Vec<(String, TextMatch)>,
}

/// How a path is matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// The first segments.
    Prefix(String),
    /// The whole path, by an expression.
    Regex(String),
    /// `/service/method`; a part that is absent is any.
    Grpc {
        /// With its package.
        service: Option<TextMatch>,
        /// Its name alone.
        method: Option<TextMatch>,
    },
}

impl Default for PathMatch {
    /// Any path.
    fn default() -> Self {
        Self::Prefix("/".to_owned())
    }
}

/// How a text is matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextMatch {
    /// The whole text.
    Exact(String),
    /// The whole text, by an expression.
    Regex(String),
}

impl TextMatch {
    /// Bytes of the text or of the expression.
    #[expect(clippy::len_without_is_empty, reason = "how specific it is, not a container")]
    pub fn len(&self) -> usize {
        let (Self::Exact(text) | Self::Regex(text)) = self;
        text.len()
    }
}

/// What is done to requests and their responses. Each at most once, but for mirrors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Fields of requests.
    pub request_headers: HeaderEdit,
    /// Fields of responses.
    pub response_headers: HeaderEdit,
    /// Answered by the mesh, with another place.
    pub redirect: Option<Redirect>,
    /// Another host or path for the backend.
    pub rewrite: Option<Rewrite>,
    /// Requests are sent there as well.
    pub mirrors: Vec<Mirror>,
    /// Who may read answers from other origins.
    pub cors: Option<Cors>,
}

/// `RequestMirror`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where, if there is such a thing.
    pub to: BackendTo,
    /// So many
    pub numerator: u32,
    /// of so many requests; at least 1.
    pub denominator: u32,
}

/// `CORS`; `*` stands for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// Whose pages.
    pub origins: Vec<String>,
    /// With cookies.
    pub credentials: bool,
    /// With these methods.
    pub methods: Vec<String>,
    /// With these fields.
    pub headers: Vec<String>,
    /// They see these fields of answers.
    pub exposed: Vec<String>,
    /// How long browsers remember this, in seconds; 0: not said.
    pub max_age: u32,
}

/// `sessionPersistence`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPersistence {
    /// Of the cookie or field.
    pub name: String,
    /// A field carries it, not a cookie.
    pub is_header: bool,
    /// Zero: never.
    pub absolute: Duration,
    /// Zero: never.
    pub idle: Duration,
    /// The cookie outlives the browser's session.
    pub is_permanent: bool,
}

/// Changes of header fields, in the order set, add, remove. Names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdit {
    /// In place of what is there.
    pub set: Vec<(String, String)>,
    /// Beside what is there.
    pub add: Vec<(String, String)>,
    /// Away.
    pub remove: Vec<String>,
}

/// `RequestRedirect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`; none: that of the request.
    pub scheme: Option<String>,
    /// None: that of the request.
    pub hostname: Option<String>,
    /// None: that of the scheme when there is one, else of the request's destination.
    pub port: Option<NonZeroU16>,
    /// None: that of the request.
    pub path: Option<PathEdit>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// `URLRewrite`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The authority that the backend sees.
    pub hostname: Option<String>,
    /// The path that it sees.
    pub path: Option<PathEdit>,
}

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// All of it is this.
    Full(String),
    /// What the match's prefix fitted is this.
    Prefix(String),
}

/// A share of a rule's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedBackend {
    /// Where they go, if there is such a thing.
    pub to: BackendTo,
    /// Relative; 0 is none at all.
    pub weight: u32,
    /// Done after those of the rule.
    pub filters: Filters,
}

/// What a reference to a backend comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendTo {
    /// A port of a Service, which may not exist.
    Service {
        /// The Service.
        service: Name,
        /// Its port.
        port: NonZeroU16,
    },
    /// Nothing that a request could be sent to: a kind of backend that the mesh does not know.
    Invalid(String),
}

/// None: not bounded by the route; zero: without end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request to the end of its response, all tries together.
    pub request: Option<Duration>,
    /// Of one try.
    pub backend: Option<Duration>,
}

//! The routes of a destination: which rule a request takes, and what the rule does to it. Pure.
//!
//! Invariant: finding a rule allocates nothing; patterns take time linear in what they are held against. The order of
//! matches is the control plane's: the first that fits decides.
//! Non-goal: choosing among a rule's backends, which takes chance; making answers.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use mesh_kit::pattern::Pattern;

use super::BackendId;
use super::policy::{Cors, Mirror, RequestPolicy, SessionPersistence};

/// What requests to a destination meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    /// In the order in which they are tried.
    pub matches: Box<[Match]>,
    /// What they lead to.
    pub rules: Box<[Rule]>,
}

/// All of it has to fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The place of the rule.
    pub rule: usize,
    /// Of the target.
    pub path: PathMatch,
    /// None: any.
    pub method: Option<Method>,
    /// Fields.
    pub headers: Box<[(HeaderName, TextMatch)]>,
    /// Parameters of the query.
    pub query: Box<[(Box<str>, TextMatch)]>,
}

/// How a path is matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(Box<str>),
    /// The first segments; without a slash at the end, but for `/`.
    Prefix(Box<str>),
    /// The whole path.
    Regex(Pattern),
    /// `/service/method` of a gRPC call; `None` is any.
    Grpc(Option<TextMatch>, Option<TextMatch>),
}

/// How a text is matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextMatch {
    /// The whole text.
    Exact(Box<str>),
    /// The whole text.
    Regex(Pattern),
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `namespace/route`, and its own name when it has one.
    pub name: Arc<str>,
    /// What is done to it.
    pub filters: Filters,
    /// Where it goes.
    pub backends: Box<[RuleBackend]>,
    /// How they are treated; `None` is the proxy's defaults.
    pub policy: Option<Arc<RequestPolicy>>,
    /// Requests of a session go to one endpoint.
    pub session: Option<Box<SessionPersistence>>,
}

/// A share of a rule's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleBackend {
    /// Where they go, or why they cannot.
    pub to: Result<BackendId, Box<str>>,
    /// Relative; 0 is none at all.
    pub weight: u32,
    /// Done after those of the rule.
    pub filters: Filters,
}

/// What is done to requests and their responses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Fields of requests.
    pub request_headers: HeaderEdit,
    /// Fields of responses.
    pub response_headers: HeaderEdit,
    /// Answered with another place.
    pub redirect: Option<Box<Redirect>>,
    /// Another host or path for the backend.
    pub rewrite: Option<Box<Rewrite>>,
    /// Sent there as well.
    pub mirrors: Box<[Mirror]>,
    /// Who may read answers from other origins.
    pub cors: Option<Box<Cors>>,
}

/// Changes of header fields, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdit {
    /// In place of what is there.
    pub set: Box<[(HeaderName, HeaderValue)]>,
    /// Beside what is there.
    pub add: Box<[(HeaderName, HeaderValue)]>,
    /// Away.
    pub remove: Box<[HeaderName]>,
}

/// Another place for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// None: that of the request.
    pub scheme: Option<Scheme>,
    /// None: that of the request.
    pub hostname: Option<Box<str>>,
    /// None: that of the scheme when there is one, else of the request.
    pub port: Option<u16>,
    /// None: that of the request.
    pub path: Option<PathEdit>,
    /// 3xx.
    pub status: StatusCode,
}

/// Of a `Location`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Port 80.
    Http,
    /// Port 443.
    Https,
}

/// What the backend sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The authority.
    pub hostname: Option<Box<str>>,
    /// The path.
    pub path: Option<PathEdit>,
}

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// All of it is this.
    Full(Box<str>),
    /// What the match's prefix fitted is this.
    Prefix(Box<str>),
}

/// A rule that a request takes.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The place of the rule.
    pub index: usize,
    /// The rule.
    pub rule: &'a Rule,
    /// The place of the match that fitted.
    pub at: usize,
    /// The match.
    pub on: &'a Match,
}

impl Routes {
    /// The rule that a request takes; none when no match fits.
    pub fn find(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Found<'_>> {
        let (at, on) = self.matches.iter().enumerate().find(|(_, on)| on.fits(method, uri, headers))?;
        self.rules.get(on.rule).map(|rule| Found { index: on.rule, rule, at, on })
    }
}

impl Match {
    fn fits(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
        self.path.fits(uri.path(), headers)
            && self.method.as_ref().is_none_or(|wanted| wanted == method)
            && self.headers.iter().all(|(name, wanted)| header_fits(headers, name, wanted))
            && self.query.iter().all(|(name, wanted)| query_fits(uri.query().unwrap_or_default(), name, wanted))
    }
}

impl PathMatch {
    fn fits(&self, path: &str, headers: &HeaderMap) -> bool {
        match self {
            Self::Exact(wanted) => **wanted == *path,
            Self::Prefix(prefix) => after_prefix(path, prefix).is_some(),
            Self::Regex(pattern) => pattern.fits(path),
            Self::Grpc(service, method) => {
                let parts = path.strip_prefix('/').and_then(|call| call.rsplit_once('/'));
                let fits = |wanted: &Option<TextMatch>, part| wanted.as_ref().is_none_or(|wanted| wanted.fits(part));
                is_grpc(headers) && parts.is_some_and(|(s, m)| fits(service, s) && fits(method, m))
            }
        }
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// What follows a prefix of whole segments.
fn after_prefix<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(prefix)?;
    (prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

impl TextMatch {
    fn fits(&self, text: &str) -> bool {
        match self {
            Self::Exact(wanted) => **wanted == *text,
            Self::Regex(pattern) => pattern.fits(text),
        }
    }
}

/// Whether a field fits. Repeated fields are one, joined by commas (RFC 9110 5.2), so that a second line cannot hide the first. A value that is
/// no text fits nothing.
pub fn header_fits(headers: &HeaderMap, name: &HeaderName, wanted: &TextMatch) -> bool {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return false };
    if values.next().is_none() {
        return first.to_str().is_ok_and(|value| wanted.fits(value));
    }
    let all: Result<Vec<_>, _> = headers.get_all(name).iter().map(HeaderValue::to_str).collect();
    all.is_ok_and(|all| wanted.fits(&all.join(",")))
}

/// Of a parameter that is there twice the first counts, as the Gateway API has it.
fn query_fits(query: &str, name: &str, wanted: &TextMatch) -> bool {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let found = pairs.find(|(key, _)| same_decoded(key, name));
    found.is_some_and(|(_, value)| match wanted {
        TextMatch::Exact(wanted) => same_decoded(value, wanted),
        TextMatch::Regex(pattern) => decoded(value).is_some_and(|value| pattern.fits(&value)),
    })
}

/// Whether a part of a query means `plain`.
fn same_decoded(part: &str, plain: &str) -> bool {
    if !part.contains(['%', '+']) {
        return part == plain;
    }
    decoded(part).is_some_and(|decoded| decoded == plain)
}

/// Percent-encoding undone, `+` as a blank; none when that makes no text.
fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, after) = match (first, tail) {
            (b'+', _) => (b' ', tail),
            (b'%', [high, low, after @ ..]) => (hex(*high)? << 4 | hex(*low)?, after),
            _ => (*first, tail),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

impl HeaderEdit {
    /// Changes `headers`.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

impl PathEdit {
    /// The new path of a request that `on` fitted, without its query.
    pub fn of(&self, path: &str, on: &PathMatch) -> String {
        let new = match (self, on) {
            (Self::Full(path), _) => return path.to_string(),
            (Self::Prefix(new), PathMatch::Prefix(prefix)) => {
                let rest = after_prefix(path, prefix).unwrap_or(path).trim_start_matches('/');
                let new = new.trim_end_matches('/');
                if rest.is_empty() { new.to_owned() } else { format!("{new}/{rest}") }
            }
            // A prefix can only be replaced where one was matched; the control plane's word stands for all else.
            (Self::Prefix(_), _) => path.to_owned(),
        };
        if new.is_empty() { "/".to_owned() } else { new }
    }
}

impl Redirect {
    /// Where a request to `authority` (host and perhaps port) that `on` fitted is sent; `scheme` is the request's own.
    pub fn location(&self, scheme: Scheme, authority: &str, uri: &Uri, on: &PathMatch) -> String {
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port.parse().ok()),
            _ => (authority, None),
        };
        let host = self.hostname.as_deref().unwrap_or(host);
        let to = self.scheme.unwrap_or(scheme);
        // A scheme that is named has its own port unless one is named too.
        let port = self.port.or(if self.scheme.is_some() { None } else { port });
        let port = port.filter(|port| *port != to.port()).map(|port| format!(":{port}")).unwrap_or_default();
        let path = self.path.as_ref().map_or_else(|| uri.path().to_owned(), |edit| edit.of(uri.path(), on));
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}://{host}{port}{path}{query}", to.as_str())
    }
}

impl Scheme {
    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(path: PathMatch) -> Match {
        Match { rule: 0, path, method: None, headers: Box::default(), query: Box::default() }
    }

    fn fits(on: &Match, target: &str, fields: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        on.fits(&Method::GET, &target.parse().unwrap(), &headers)
    }

    #[test]
    fn prefixes_are_of_whole_segments() {
        let v2 = on(PathMatch::Prefix("/v2".into()));
        for (path, expected) in [("/v2", true), ("/v2/", true), ("/v2/a?b", true), ("/v2example", false), ("/", false)]
        {
            assert_eq!(fits(&v2, path, &[]), expected, "{path}");
        }
        assert!(fits(&on(PathMatch::Prefix("/".into())), "/anything", &[]));
    }

    #[test]
    fn repeated_fields_are_held_against_a_match_as_one() {
        let mut one = on(PathMatch::Prefix("/".into()));
        one.headers = [(HeaderName::from_static("version"), TextMatch::Exact("one".into()))].into();
        assert!(fits(&one, "/", &[("version", "one")]));
        assert!(!fits(&one, "/", &[("version", "one"), ("version", "two")]));
        assert!(!fits(&one, "/", &[("version", "one,two")]));
        one.headers = [(HeaderName::from_static("version"), TextMatch::Exact("one,two".into()))].into();
        assert!(fits(&one, "/", &[("version", "one"), ("version", "two")]));
    }

    #[test]
    fn the_first_of_equal_parameters_counts_and_encodings_mean_what_they_encode() {
        let mut animal = on(PathMatch::Prefix("/".into()));
        animal.query = [("animal".into(), TextMatch::Exact("blue whale".into()))].into();
        for (target, expected) in [
            ("/?animal=blue%20whale", true),
            ("/?animal=blue+whale", true),
            ("/?anim%61l=blue%20whale", true),
            ("/?x=1&animal=blue+whale&animal=dog", true),
            ("/?animal=dog&animal=blue+whale", false),
            ("/?animal=blue%2whale", false),
            ("/?animal=%ff", false),
            ("/?animal", false),
            ("/", false),
        ] {
            assert_eq!(fits(&animal, target, &[]), expected, "{target}");
        }
    }

    #[test]
    fn a_call_is_one_of_grpc() {
        let echo = on(PathMatch::Grpc(Some(TextMatch::Exact("demo.Echo".into())), None));
        let grpc = [("content-type", "application/grpc+proto")];
        assert!(fits(&echo, "/demo.Echo/Unary", &grpc));
        assert!(!fits(&echo, "/demo.Echo/Unary", &[]));
        assert!(!fits(&echo, "/demo.Other/Unary", &grpc));
    }

    #[test]
    fn paths_are_replaced_as_the_gateway_api_tabulates() {
        for (path, prefix, new, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/a", "/", "/xyz", "/xyz/a"),
        ] {
            let edit = PathEdit::Prefix(new.into());
            assert_eq!(edit.of(path, &PathMatch::Prefix(prefix.into())), expected, "{path} {prefix} {new}");
        }
    }

    #[test]
    fn a_location_names_a_port_only_where_the_scheme_has_another() {
        let redirect = |scheme, port| Redirect { scheme, hostname: None, port, path: None, status: StatusCode::FOUND };
        let on = PathMatch::Prefix("/".into());
        let location = |redirect: Redirect, authority: &str| {
            redirect.location(Scheme::Http, authority, &"/a?b=c".parse().unwrap(), &on)
        };
        for (scheme, port, authority, expected) in [
            (None, None, "echo", "http://echo/a?b=c"),
            (None, None, "echo:80", "http://echo/a?b=c"),
            (None, None, "echo:8080", "http://echo:8080/a?b=c"),
            (None, Some(8083), "echo:8080", "http://echo:8083/a?b=c"),
            (Some(Scheme::Https), None, "echo:8080", "https://echo/a?b=c"),
            (Some(Scheme::Https), Some(443), "echo", "https://echo/a?b=c"),
            (Some(Scheme::Https), Some(8443), "[::1]:80", "https://[::1]:8443/a?b=c"),
        ] {
            assert_eq!(location(redirect(scheme, port), authority), expected);
        }
    }
}

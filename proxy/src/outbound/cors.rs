//! Cross-origin requests of browsers (the Fetch standard's CORS protocol), as the Gateway API's filter has it.
//!
//! Invariant: what the filter says is all that a browser hears: fields of the application's own are replaced. A preflight
//! never reaches an application. No field lets in an origin that the filter does not name.
//! Non-goal: protecting applications; a client that is no browser need not ask.

use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::{HeaderMap, Method, Response, StatusCode};

use crate::http::Body;
use crate::model::policy::{Allowed, Cors, Origin};

/// How long browsers remember an answer when the filter does not say.
const MAX_AGE: Duration = Duration::from_secs(5);

/// What an answer depends on.
const ASKED: [&str; 3] = ["origin", "access-control-request-method", "access-control-request-headers"];

/// The method that a preflight request asks for; `None`: it is none.
pub(super) fn asks_for<'h>(method: &Method, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
    let asks = *method == Method::OPTIONS && headers.contains_key(ORIGIN);
    asks.then(|| headers.get(ACCESS_CONTROL_REQUEST_METHOD)).flatten()
}

/// The answer to a preflight request with `headers`, which asks for `method`.
pub(super) fn preflight(cors: &Cors, headers: &HeaderMap, method: &HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let answer = response.headers_mut();
    ASKED.iter().for_each(|name| vary(answer, name));
    let Some(origin) = cors.allowed(headers.get(ORIGIN)) else { return response };
    answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if cors.credentials {
        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    let methods = match &cors.methods {
        Allowed::Any => cors.any(Some(method)),
        Allowed::These(methods) => list(methods.iter().map(Method::as_str)),
    };
    let fields = match &cors.headers {
        Allowed::Any => cors.any(headers.get(ACCESS_CONTROL_REQUEST_HEADERS)),
        Allowed::These(names) => list(names.iter().map(HeaderName::as_str)),
    };
    let allow = [(ACCESS_CONTROL_ALLOW_METHODS, methods), (ACCESS_CONTROL_ALLOW_HEADERS, fields)];
    allow.into_iter().for_each(|(name, value)| drop(value.map(|value| answer.insert(name, value))));
    answer.insert(ACCESS_CONTROL_MAX_AGE, cors.max_age.unwrap_or(MAX_AGE).as_secs().into());
    response
}

/// Changes the fields of the response to a request that came from `origin`, if it says so.
pub(super) fn apply(cors: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    if !cors.is_same_for_all() {
        vary(headers, ASKED[0]);
    }
    for own in [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS] {
        headers.remove(own);
    }
    let Some(origin) = cors.allowed(origin) else { return };
    let exposed = match &cors.exposed {
        Allowed::Any if cors.credentials => list(headers.keys().map(HeaderName::as_str)),
        Allowed::Any => Some(HeaderValue::from_static("*")),
        Allowed::These(names) => list(names.iter().map(HeaderName::as_str)),
    };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if cors.credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    if let Some(exposed) = exposed {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

impl Cors {
    /// What an origin is told, if it is allowed.
    fn allowed(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        let origin = origin?;
        let fits = self.origins.iter().any(|allowed| allowed.fits(origin));
        fits.then(|| if self.is_same_for_all() { HeaderValue::from_static("*") } else { origin.clone() })
    }

    /// `*` would be no wildcard where credentials are allowed (Fetch 3.3.4): there what was asked for is said.
    fn any(&self, asked: Option<&HeaderValue>) -> Option<HeaderValue> {
        if self.credentials { asked.cloned() } else { Some(HeaderValue::from_static("*")) }
    }

    fn is_same_for_all(&self) -> bool {
        !self.credentials && self.origins.contains(&Origin::Any)
    }
}

impl Origin {
    fn fits(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        match self {
            Self::Any => true,
            Self::Exact(allowed) => {
                allowed.to_str().is_ok_and(|allowed| plain(allowed).eq_ignore_ascii_case(plain(origin)))
            }
            Self::Within(begin, end) => between(plain(origin), begin, plain_end(begin, end)),
        }
    }
}

/// An origin without the port that its scheme has anyway.
fn plain(origin: &str) -> &str {
    let port = if starts(origin, "https://") { ":443" } else { ":80" };
    origin.strip_suffix(port).unwrap_or(origin)
}

fn plain_end<'e>(begin: &str, end: &'e str) -> &'e str {
    let port = if begin.eq_ignore_ascii_case("https://") { ":443" } else { ":80" };
    end.strip_suffix(port).unwrap_or(end)
}

/// Whether something that can be part of a host stands between both.
fn between(origin: &str, begin: &str, end: &str) -> bool {
    let Some(length) = origin.len().checked_sub(begin.len() + end.len()).filter(|length| *length > 0) else {
        return false;
    };
    let (first, rest) = origin.as_bytes().split_at(begin.len());
    let (middle, last) = rest.split_at(length);
    let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let ends = first.eq_ignore_ascii_case(begin.as_bytes()) && last.eq_ignore_ascii_case(end.as_bytes());
    ends && middle.iter().all(is_host)
}

fn starts(text: &str, begin: &str) -> bool {
    text.get(..begin.len()).is_some_and(|first| first.eq_ignore_ascii_case(begin))
}

/// `None`: there is nothing to list.
fn list<'a>(words: impl Iterator<Item = &'a str>) -> Option<HeaderValue> {
    let words: Vec<_> = words.collect();
    if words.is_empty() { None } else { HeaderValue::try_from(words.join(", ")).ok() }
}

fn vary(headers: &mut HeaderMap, name: &'static str) {
    let values = headers.get_all(VARY).iter().filter_map(|value| value.to_str().ok());
    let has = values
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case(name) || word.trim() == "*");
    if !has {
        headers.append(VARY, HeaderValue::from_static(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[Origin]) -> Cors {
        Cors {
            origins: origins.into(),
            credentials: false,
            methods: Allowed::These([Method::PUT, Method::DELETE].into()),
            headers: Allowed::These([HeaderName::from_static("x-a")].into()),
            exposed: Allowed::These([HeaderName::from_static("x-b"), HeaderName::from_static("x-c")].into()),
            max_age: None,
        }
    }

    fn exact(origin: &'static str) -> Origin {
        Origin::Exact(HeaderValue::from_static(origin))
    }

    fn asked(origin: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, HeaderValue::from_static(origin));
        headers.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT"));
        headers.insert(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static("x-a, x-z"));
        headers
    }

    fn text(headers: &HeaderMap, name: &str) -> Vec<String> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn origins_are_held_against_the_list_as_the_gateway_api_says() {
        let within = |begin: &str, end: &str| Origin::Within(begin.into(), end.into());
        for (allowed, origin, expected) in [
            (exact("https://a.example"), "https://a.example", true),
            (exact("https://a.example"), "https://a.example:443", true),
            (exact("https://a.example:443"), "https://a.example", true),
            (exact("https://a.example"), "https://A.example", true),
            (exact("https://a.example"), "http://a.example", false),
            (exact("https://a.example"), "https://a.example:8443", false),
            (exact("http://a.example:80"), "http://a.example", true),
            (within("https://", ".example.com"), "https://a.example.com", true),
            (within("https://", ".example.com"), "https://a.b.example.com", true),
            (within("https://", ".example.com:443"), "https://a.example.com", true),
            (within("https://", ".example.com"), "https://example.com", false),
            (within("https://", ".example.com"), "https://.example.com", false),
            (within("https://", ".example.com"), "https://evil.com/.example.com", false),
            (within("https://", ".example.com"), "https://a.example.com.evil.com", false),
            (within("https://", ".example.com"), "https://evil-example.com", false),
            (Origin::Any, "null", true),
        ] {
            assert_eq!(allowed.fits(&HeaderValue::from_static(origin)), expected, "{allowed:?} {origin}");
        }
    }

    #[test]
    fn a_preflight_is_answered_with_what_the_filter_allows() {
        let answer = preflight(
            &cors(&[exact("https://a.example")]),
            &asked("https://a.example"),
            &HeaderValue::from_static("PUT"),
        );
        assert_eq!(answer.status(), 204);
        for (name, value) in [
            ("access-control-allow-origin", "https://a.example"),
            ("access-control-allow-methods", "PUT, DELETE"),
            ("access-control-allow-headers", "x-a"),
            ("access-control-max-age", "5"),
        ] {
            assert_eq!(text(answer.headers(), name), [value]);
        }
        assert!(!answer.headers().contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
        assert_eq!(text(answer.headers(), "vary"), ASKED);
    }

    #[test]
    fn a_preflight_of_another_origin_learns_nothing() {
        let answer = preflight(
            &cors(&[exact("https://a.example")]),
            &asked("https://b.example"),
            &HeaderValue::from_static("PUT"),
        );
        assert_eq!((answer.status(), answer.headers().len()), (StatusCode::NO_CONTENT, 3));
        assert_eq!(text(answer.headers(), "vary"), ASKED);
    }

    #[test]
    fn wildcards_are_no_wildcards_where_credentials_are_allowed() {
        let any = Cors { methods: Allowed::Any, headers: Allowed::Any, exposed: Allowed::Any, ..cors(&[Origin::Any]) };
        for (credentials, origin, methods, headers, exposed) in
            [(false, "*", "*", "*", "*"), (true, "https://a.example", "PUT", "x-a, x-z", "x-own, vary")]
        {
            let any = Cors { credentials, ..any.clone() };
            let answer = preflight(&any, &asked("https://a.example"), &HeaderValue::from_static("PUT"));
            assert_eq!(text(answer.headers(), "access-control-allow-origin"), [origin]);
            assert_eq!(text(answer.headers(), "access-control-allow-methods"), [methods]);
            assert_eq!(text(answer.headers(), "access-control-allow-headers"), [headers]);
            let mut simple = HeaderMap::new();
            simple.insert("x-own", HeaderValue::from_static("1"));
            apply(&any, Some(&HeaderValue::from_static("https://a.example")), &mut simple);
            assert_eq!(text(&simple, "access-control-allow-origin"), [origin]);
            assert_eq!(text(&simple, "access-control-expose-headers"), [exposed]);
            assert_eq!(simple.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS), credentials);
            assert_eq!(
                simple.contains_key(VARY),
                credentials,
                "an answer that is the same for all may be cached for all"
            );
        }
    }

    #[test]
    fn a_response_says_what_the_filter_allows_whatever_the_application_says() {
        let cors = cors(&[exact("https://a.example")]);
        let own = || {
            let mut headers = HeaderMap::new();
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            headers.insert(VARY, HeaderValue::from_static("accept, Origin"));
            headers
        };
        let mut allowed = own();
        apply(&cors, Some(&HeaderValue::from_static("https://a.example")), &mut allowed);
        assert_eq!(text(&allowed, "access-control-allow-origin"), ["https://a.example"]);
        assert_eq!(text(&allowed, "access-control-expose-headers"), ["x-b, x-c"]);
        assert_eq!(text(&allowed, "vary"), ["accept, Origin"]);
        for origin in [None, Some(&HeaderValue::from_static("https://b.example"))] {
            let mut other = own();
            apply(&cors, origin, &mut other);
            assert_eq!((other.len(), text(&other, "vary")), (1, vec!["accept, Origin".to_owned()]), "{origin:?}");
        }
    }
}

//! Header fields: what ends at a hop, what is ours, and which authority a request names.
//!
//! Invariant: exactly one authority leaves the proxy (`Authority::of`), and none of our own fields passes from an
//! application to the far side or from the mesh to an application, save `CLIENT_ID` and `ERROR`, which say what they say.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::uri::{Authority as UriAuthority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;

use super::body::Body;
use crate::model::Protocol;

/// Between sidecars: where the application listens (`ip:port`).
pub const DESTINATION: HeaderName = HeaderName::from_static("mesh-destination");
/// Between sidecars: how the application spoke HTTP (`Origin`), where that was not as they do.
pub const ORIGIN: HeaderName = HeaderName::from_static("mesh-origin");
/// Between sidecars, on CONNECT: the protocol that was seen or declared; absent when the bytes shall decide.
pub const PROTOCOL: HeaderName = HeaderName::from_static("mesh-protocol");
/// To the application: the verified SPIFFE id of the client.
pub const CLIENT_ID: HeaderName = HeaderName::from_static("mesh-client-id");
/// From the mesh: why it answered itself.
pub const ERROR: HeaderName = HeaderName::from_static("mesh-error");

/// How a call of gRPC ended: in trailers, or in a head behind which nothing comes.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

const OURS: [HeaderName; 5] = [DESTINATION, ORIGIN, PROTOCOL, CLIENT_ID, ERROR];

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What concerns one connection only, by itself (RFC 9110 7.6.1).
static ENDS_AT_A_HOP: [HeaderName; 6] = [CONNECTION, TE, TRANSFER_ENCODING, UPGRADE, KEEP_ALIVE, PROXY_CONNECTION];

/// Names under which other meshes tell an application who its client is.
const OTHERS: [&str; 2] = ["l5d-client-id", "x-forwarded-client-cert"];

/// Removes all fields that only the mesh may set.
pub fn strip_ours(headers: &mut HeaderMap) {
    strip_all(headers, is_ours);
}

fn is_ours(name: &str) -> bool {
    name.starts_with("mesh") && OURS.iter().any(|ours| is_alike(name, ours.as_str()))
}

/// Removes what else an application may take for a proof of who its client is. Somebody who has proved nothing himself cannot
/// vouch for others.
pub fn strip_identities(headers: &mut HeaderMap) {
    let is_other = |name: &str| name.starts_with(['l', 'x']) && OTHERS.iter().any(|other| is_alike(name, other));
    strip_all(headers, is_other);
}

fn strip_all(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    while let Some(name) = headers.keys().find(|name| unwanted(name.as_str())).cloned() {
        headers.remove(name);
    }
}

/// Applications that get fields as variables (CGI, WSGI) cannot tell `_` from `-`.
fn is_alike(name: &str, other: &str) -> bool {
    let alike = |(a, b): (u8, u8)| a == b || (a == b'_' && b == b'-');
    name.len() == other.len() && name.bytes().zip(other.bytes()).all(alike)
}

/// Removes what has no place behind a body (RFC 9110 6.5.1): what frames, addresses or routes a message,
/// who its sender is, and our own fields.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    strip_ours(trailers);
    strip_identities(trailers);
    let misplaced =
        [CONNECTION, CONTENT_LENGTH, HOST, KEEP_ALIVE, PROXY_CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
    for name in &misplaced {
        trailers.remove(name);
    }
}

/// Removes what concerns one connection only (RFC 9110 7.6.1), with the fields that Connection names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // One look at all names: of most messages nothing is to be removed.
    if !headers.keys().any(|name| ENDS_AT_A_HOP.contains(name)) {
        return;
    }
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            // An application may not strip what frames or addresses the message, or what the mesh says.
            .filter(|name| !OURS.contains(name))
            .filter(|name| *name != HOST && *name != TE && *name != TRAILER && *name != CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    headers.remove(UPGRADE);
    let trailers = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"trailers");
    if headers.contains_key(TE) {
        let wants_trailers = headers.get_all(TE).iter().any(|value| {
            value.to_str().is_ok_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case("trailers")))
        });
        let as_is = headers.get_all(TE).iter().count() == 1 && headers.get(TE).is_some_and(trailers);
        if !wants_trailers {
            headers.remove(TE);
        } else if !as_is {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// Whether an HTTP/1 request asks to leave HTTP: an upgrade or CONNECT.
pub fn leaves_http<B>(request: &Request<B>) -> bool {
    let upgrade = || {
        request.headers().contains_key(UPGRADE)
            && request.headers().get_all(CONNECTION).iter().any(|value| {
                value.to_str().is_ok_and(|v| v.split(',').any(|part| part.trim().eq_ignore_ascii_case("upgrade")))
            })
    };
    request.version() < Version::HTTP_2 && (request.method() == Method::CONNECT || upgrade())
}

/// Whether the request is a gRPC call.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Whether the method may be sent twice (RFC 9110 9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

/// A request that names no authority, or several that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAuthority {
    /// HTTP/1.1 without Host (RFC 9112 3.2).
    #[error("no Host field")]
    Missing,
    /// More than one Host field.
    #[error("more than one Host field")]
    Several,
    /// Not a host with an optional port, or with user information.
    #[error("malformed authority")]
    Malformed,
    /// `:authority` and Host differ.
    #[error(":authority and Host differ")]
    Differ,
    /// Neither a path nor a URI, nor `*` with OPTIONS (RFC 9112 3.2).
    #[error("malformed target")]
    Target,
}

/// Makes the request name exactly one authority: an absolute target wins over Host (RFC 9112 3.2.2), and Host is made to
/// agree with it. HTTP/1.0 may name none.
pub fn settle_authority<B>(request: &mut Request<B>) -> Result<(), BadAuthority> {
    check_target(request)?;
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(BadAuthority::Several);
    }
    let host = host.map(parse_authority).transpose()?;
    let target = request.uri().authority();
    if target.is_some_and(is_malformed) {
        return Err(BadAuthority::Malformed);
    }
    if request.version() >= Version::HTTP_2 {
        return match (target, host) {
            (Some(target), Some(host)) if !target.as_str().eq_ignore_ascii_case(host.as_str()) => {
                Err(BadAuthority::Differ)
            }
            (None, None) => Err(BadAuthority::Missing),
            _ => Ok(()),
        };
    }
    match (target, host) {
        (Some(target), _) => {
            let value = HeaderValue::from_str(target.as_str()).map_err(|_| BadAuthority::Malformed)?;
            request.headers_mut().insert(HOST, value);
            Ok(())
        }
        (None, None) if request.version() == Version::HTTP_11 => Err(BadAuthority::Missing),
        _ => Ok(()),
    }
}

fn parse_authority(value: &HeaderValue) -> Result<UriAuthority, BadAuthority> {
    let authority = UriAuthority::try_from(value.as_bytes()).map_err(|_| BadAuthority::Malformed)?;
    if is_malformed(&authority) { Err(BadAuthority::Malformed) } else { Ok(authority) }
}

/// User information, or a port that is none.
fn is_malformed(authority: &UriAuthority) -> bool {
    let port = authority.as_str().rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map(|(_, port)| port);
    let bad_port = port.is_some_and(|port| !port.is_empty() && port.parse::<u16>().is_err());
    bad_port || authority.as_str().contains('@')
}

/// A host alone is the target of CONNECT only: of other methods nobody could say what path it means. A query may follow the
/// host of an absolute target, but stands for no path in HTTP/2 (RFC 9113 8.3.1).
fn check_target<B>(request: &Request<B>) -> Result<(), BadAuthority> {
    let (uri, connect) = (request.uri(), request.method() == Method::CONNECT);
    let host_alone = uri.authority().is_some() && uri.scheme().is_none();
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let absolute = uri.scheme().is_some() && request.version() < Version::HTTP_2;
    let rooted = path.starts_with('/') || (absolute && path.starts_with('?'));
    let good = rooted || (path == "*" && request.method() == Method::OPTIONS);
    if host_alone == connect && (connect || good) { Ok(()) } else { Err(BadAuthority::Target) }
}

/// How an application spoke HTTP, as told to the far sidecar: its version, and whether its target was in absolute form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// HTTP/1.0, 1.1 or 2.
    pub version: Version,
    /// `GET http://host/path` instead of `GET /path`.
    pub absolute: bool,
}

impl Origin {
    /// What `request` shows.
    pub fn of<B>(request: &Request<B>) -> Self {
        let version = request.version();
        Self { version, absolute: version < Version::HTTP_2 && request.uri().scheme().is_some() }
    }

    /// None for HTTP/2, which is what sidecars speak.
    fn to_value(self) -> Option<HeaderValue> {
        Some(HeaderValue::from_static(match (self.version, self.absolute) {
            (Version::HTTP_10, false) => "1.0",
            (Version::HTTP_10, true) => "1.0 absolute",
            (Version::HTTP_2, _) => return None,
            (_, false) => "1.1",
            (_, true) => "1.1 absolute",
        }))
    }

    fn from_value(value: Option<&HeaderValue>) -> Option<Self> {
        let Some(value) = value else { return Some(Self { version: Version::HTTP_2, absolute: false }) };
        let (version, absolute) = match value.as_bytes() {
            b"1.0" => (Version::HTTP_10, false),
            b"1.0 absolute" => (Version::HTTP_10, true),
            b"1.1" => (Version::HTTP_11, false),
            b"1.1 absolute" => (Version::HTTP_11, true),
            _ => return None,
        };
        Some(Self { version, absolute })
    }
}

/// Readies an application's request for a tunnel to the sidecar in front of `destination`, which is `told` as its
/// [value](address_value).
pub fn into_tunnel<B>(request: &mut Request<B>, destination: SocketAddr, told: HeaderValue) {
    let origin = Origin::of(request);
    strip_hop_by_hop(request.headers_mut());
    into_h2_form(request, destination);
    let headers = request.headers_mut();
    strip_ours(headers);
    if let Some(origin) = origin.to_value() {
        headers.insert(ORIGIN, origin);
    }
    headers.insert(DESTINATION, told);
}

/// An address as the value of a field, in one allocation.
pub fn address_value(addr: SocketAddr) -> HeaderValue {
    // The longest has eight groups, a zone and a port.
    let mut text = [0; 64];
    let mut rest = &mut text[..];
    let written = write!(rest, "{addr}").map(|()| rest.len());
    let length = text.len() - written.expect("room for any address");
    HeaderValue::from_bytes(&text[..length]).expect("an address is made of visible ASCII")
}

/// Readies a request for an HTTP/2 connection: scheme and authority in the URI, no Host field.
pub fn into_h2_form<B>(request: &mut Request<B>, destination: SocketAddr) {
    *request.version_mut() = Version::HTTP_2;
    let host = request.headers_mut().remove(HOST).and_then(|host| UriAuthority::try_from(host.as_bytes()).ok());
    let uri = request.uri();
    let unrooted = uri.path_and_query().filter(|path| path.as_str().starts_with('?'));
    let rooted = unrooted.and_then(|path| PathAndQuery::try_from(path.to_string()).ok());
    if uri.scheme().is_some() && uri.authority().is_some() && rooted.is_none() {
        return;
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.path_and_query = rooted.or(parts.path_and_query);
    parts.scheme.get_or_insert(Scheme::HTTP);
    if parts.authority.is_none() {
        // HTTP/1.0 without Host: the address that was dialed is the only name it has.
        let dialed = || UriAuthority::try_from(destination.to_string()).expect("an address is an authority");
        parts.authority = Some(host.unwrap_or_else(dialed));
    }
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path make a URI");
}

/// What the far sidecar said of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromTunnel {
    /// Where the application listens, unverified.
    pub destination: SocketAddr,
    /// How to speak to it.
    pub origin: Origin,
}

/// Readies a request for an HTTP/1 connection of ours.
pub fn into_h1_hop(request: &mut Request<Body>) {
    if leaves_http(request) {
        // The handshake of an upgrade is made of hop-by-hop fields: they are for the application.
        return;
    }
    strip_hop_by_hop(request.headers_mut());
    let unframed = !request.body().is_end_stream() && !request.headers().contains_key(CONTENT_LENGTH);
    if unframed && request.version() == Version::HTTP_11 {
        // Without it hyper takes a GET for one without a body.
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Takes off a response what only the mesh may say: it came from somebody who is not of the mesh.
pub fn from_stranger(mut response: Response<Body>) -> Response<Body> {
    let leaves = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    strip_ours(response.headers_mut());
    if !leaves {
        strip_hop_by_hop(response.headers_mut());
    }
    response
}

/// Takes off a response that came from a sidecar what ends at this hop.
pub fn from_peer(mut response: Response<Body>) -> Response<Body> {
    let has_ours = response.headers().keys().any(|name| is_ours(name.as_str()));
    let error = if has_ours { response.headers_mut().remove(ERROR) } else { None };
    let mut response = from_stranger(response);
    if let Some(error) = error {
        response.headers_mut().insert(ERROR, error);
    }
    response
}

/// What is told of the bytes of a CONNECT stream.
pub fn protocol_value(protocol: Protocol) -> Option<HeaderValue> {
    match protocol {
        Protocol::Opaque => Some(HeaderValue::from_static("opaque")),
        Protocol::Http1 => Some(HeaderValue::from_static("http1")),
        Protocol::Detect | Protocol::Http2 | Protocol::Grpc => None,
    }
}

/// The inverse of `protocol_value`; what is not understood is left to detection.
pub fn told_protocol(headers: &HeaderMap) -> Protocol {
    match headers.get(PROTOCOL).map(HeaderValue::as_bytes) {
        Some(b"opaque") => Protocol::Opaque,
        Some(b"http1") => Protocol::Http1,
        _ => Protocol::Detect,
    }
}

/// Takes our fields off a request that came through a tunnel; `None` when they are malformed, or do not say where it goes.
pub fn from_tunnel<B>(request: &mut Request<B>) -> Option<FromTunnel> {
    let headers = request.headers_mut();
    let destination = headers.get(DESTINATION)?.to_str().ok()?.parse().ok()?;
    let origin = Origin::from_value(headers.get(ORIGIN))?;
    headers.remove(DESTINATION);
    headers.remove(ORIGIN);
    // Of the others there is none nearly always.
    strip_ours(headers);
    Some(FromTunnel { destination, origin })
}

/// Turns a request in HTTP/2 form back into what the application sent.
pub fn into_origin_form<B>(request: &mut Request<B>, origin: Origin) {
    *request.version_mut() = origin.version;
    if origin.version >= Version::HTTP_2 {
        return;
    }
    if let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(HOST, host);
    }
    join_cookies(request.headers_mut());
    if !origin.absolute && request.method() != Method::CONNECT {
        let path = request.uri_mut().path_and_query().cloned();
        *request.uri_mut() = path.map(Uri::from).unwrap_or_default();
    }
}

/// HTTP/2 may split Cookie into several fields, HTTP/1 may not (RFC 9113 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(http::header::COOKIE).iter().count() < 2 {
        return;
    }
    let parts: Vec<&[u8]> = headers.get_all(http::header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(http::header::COOKIE, joined);
    }
}

/// How long `Retry-After` (RFC 9110 10.2.3) asks to wait from `now` on: seconds, or a date. What is neither says nothing.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, target: &str, hosts: &[&str]) -> Request<()> {
        let mut builder = Request::builder().version(version).uri(target);
        for host in hosts {
            builder = builder.header(HOST, *host);
        }
        builder.body(()).expect("valid request")
    }

    #[test]
    fn the_longest_address_is_a_value() {
        let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535";
        assert_eq!(address_value(longest.parse().expect("an address")), longest);
    }

    /// Target, Host fields -> the one authority that leaves, or the refusal.
    #[test]
    fn r14_exactly_one_authority_leaves_or_the_request_is_refused() {
        type Case = (Version, &'static str, &'static [&'static str], Result<&'static str, BadAuthority>);
        let ok = |host: &'static str| Ok(host);
        let v11 = Version::HTTP_11;
        let cases: [Case; 15] = [
            (v11, "/", &["web"], ok("web")),
            (v11, "/", &["web:8080"], ok("web:8080")),
            (v11, "http://web/", &["web"], ok("web")),
            (v11, "http://web/", &["other"], ok("web")),
            (v11, "http://web:80/", &[], ok("web:80")),
            (v11, "/", &[], Err(BadAuthority::Missing)),
            (v11, "/", &["a", "b"], Err(BadAuthority::Several)),
            (v11, "/", &["a", "a"], Err(BadAuthority::Several)),
            (v11, "/", &["user@web"], Err(BadAuthority::Malformed)),
            (v11, "/", &["a b"], Err(BadAuthority::Malformed)),
            (v11, "/", &["web:x"], Err(BadAuthority::Malformed)),
            (v11, "/", &["web:65536"], Err(BadAuthority::Malformed)),
            (v11, "/", &["[fd00::1]:80"], ok("[fd00::1]:80")),
            (Version::HTTP_2, "http://web/", &["web"], ok("web")),
            (Version::HTTP_2, "http://web/", &["other"], Err(BadAuthority::Differ)),
        ];
        for (version, target, hosts, expected) in cases {
            let mut request = request(version, target, hosts);
            let seen = settle_authority(&mut request).map(|()| {
                into_h2_form(&mut request, ([10, 0, 0, 1], 80).into());
                request.uri().authority().expect("settled").to_string()
            });
            assert_eq!(seen.as_deref().map_err(|e| *e), expected, "{version:?} {target} {hosts:?}");
            assert!(request.headers().get(HOST).is_none() || seen.is_err(), "a second authority is left");
        }
    }

    #[test]
    fn a_request_comes_out_of_a_tunnel_as_it_went_in() {
        let dst: SocketAddr = "10.0.0.5:8080".parse().expect("valid");
        for (version, target) in [
            (Version::HTTP_11, "/a?b=c"),
            (Version::HTTP_11, "http://web/a"),
            (Version::HTTP_10, "/"),
            (Version::HTTP_2, "http://web/x"),
        ] {
            let mut request = request(version, target, if version < Version::HTTP_2 { &["web"] } else { &[] });
            into_tunnel(&mut request, dst, address_value(dst));
            assert_eq!(request.version(), Version::HTTP_2);
            let told = from_tunnel(&mut request).expect("our fields are there");
            into_origin_form(&mut request, told.origin);
            assert_eq!((told.destination, request.version()), (dst, version));
            assert_eq!(request.uri().to_string(), target);
        }
    }

    #[test]
    fn r13_a_query_alone_is_no_path_of_http2_and_gets_one_on_its_way_there() {
        let bare = |version| {
            let mut request = request(version, "/", &["web"]);
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.path_and_query = Some(PathAndQuery::from_static("?x=1"));
            *request.uri_mut() = Uri::from_parts(parts).expect("a target that http can hold");
            request
        };
        for version in [Version::HTTP_11, Version::HTTP_2] {
            assert_eq!(settle_authority(&mut bare(version)), Err(BadAuthority::Target), "{version:?}");
        }
        let mut absolute = request(Version::HTTP_11, "http://web?x=1", &["web"]);
        assert_eq!(settle_authority(&mut absolute), Ok(()));
        let dst = "10.0.0.5:8080".parse().expect("valid");
        into_tunnel(&mut absolute, dst, address_value(dst));
        assert_eq!(absolute.uri().path_and_query().map(PathAndQuery::as_str), Some("/?x=1"));
        assert_eq!(settle_authority(&mut absolute), Ok(()), "at the far sidecar");
    }

    #[test]
    fn what_looks_like_a_field_of_ours_is_taken_off() {
        let mut headers = HeaderMap::new();
        for name in
            ["mesh-error", "mesh_client_id", "mesh-client_id", "mesh-other", "meshed", "x_forwarded_client-cert"]
        {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("spoofed"));
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("again"));
        }
        strip_ours(&mut headers);
        strip_identities(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["mesh-other", "meshed"]);
    }

    #[test]
    fn an_application_does_not_say_how_it_spoke() {
        let dst = "10.0.0.5:8080".parse().expect("valid");
        for (version, hosts) in [(Version::HTTP_2, &[][..]), (Version::HTTP_11, &["web"])] {
            let mut request = request(version, "http://web/", hosts);
            for spoofed in ["1.0 absolute", "1.1"] {
                request.headers_mut().append(ORIGIN, HeaderValue::from_static(spoofed));
            }
            into_tunnel(&mut request, dst, address_value(dst));
            let told = from_tunnel(&mut request).expect("ours");
            assert_eq!(told.origin, Origin { version, absolute: version == Version::HTTP_11 });
        }
    }

    #[test]
    fn spoofed_fields_of_ours_do_not_pass() {
        let mut request = request(Version::HTTP_11, "/", &["web"]);
        request.headers_mut().insert(CLIENT_ID, HeaderValue::from_static("spiffe://evil/ns/a/sa/b"));
        request.headers_mut().append(DESTINATION, HeaderValue::from_static("10.9.9.9:1"));
        let dst = "10.0.0.5:8080".parse().expect("valid");
        into_tunnel(&mut request, dst, address_value(dst));
        assert!(!request.headers().contains_key(CLIENT_ID));
        let told = from_tunnel(&mut request).expect("ours");
        assert_eq!(told.destination, dst);
    }

    #[test]
    fn connection_fields_end_at_the_hop_but_framing_does_not() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("close, x-secret, host"));
        headers.insert("x-secret", HeaderValue::from_static("1"));
        headers.insert(HOST, HeaderValue::from_static("web"));
        headers.insert(TE, HeaderValue::from_static("gzip, trailers"));
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.len(), 2, "{headers:?}");
        assert_eq!(headers[TE], "trailers");
        assert_eq!(headers[HOST], "web");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, expected) in [
            ("120", Some(Duration::from_secs(120))),
            ("0", Some(Duration::ZERO)),
            ("99999999999999999999999", Some(Duration::from_secs(u64::MAX))),
            ("Sun, 06 Nov 1994 08:49:39 GMT", Some(Duration::from_secs(2))),
            ("Sun, 06 Nov 1994 08:49:30 GMT", Some(Duration::ZERO)),
            ("soon", None),
            ("", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            assert_eq!(retry_after(&headers, now), expected, "{text:?}");
        }
    }
}

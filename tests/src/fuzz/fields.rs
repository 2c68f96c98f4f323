//! Header fields on the way through a tunnel: what the far side makes of them, and what anybody may claim in them.
//!
//! Oracles: the far application gets what the near one sent; doing it again changes nothing; exactly one authority is left.

use std::net::SocketAddr;

use http::header::{CONNECTION, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use mesh_proxy::http::headers::{
    self, CLIENT_ID, DESTINATION, ERROR, ORIGIN, PROTOCOL, address_value, from_tunnel, into_origin_form, into_tunnel,
    settle_authority,
};
use mesh_proxy::model::Protocol;

use super::input::Input;

/// A request of an application, there and back.
pub(super) fn headers(data: &[u8]) {
    let mut input = Input(data);
    let dst = addr(&mut input);
    let Some(mut request) = request(&mut input) else { return };
    // CONNECT and upgrades leave HTTP, and take another way.
    if settle_authority(&mut request).is_err() || headers::leaves_http(&request) || request.method() == Method::CONNECT
    {
        return;
    }
    let (version, method) = (request.version(), request.method().clone());
    let named = authority(&request);
    let path = request.uri().path_and_query().map(ToString::to_string);
    into_tunnel(&mut request, dst, address_value(dst));
    in_tunnel(&request, version, named.as_deref().unwrap_or(&dst.to_string()));
    let tunnelled = parts(&request);
    let told = from_tunnel(&mut request).expect("what we say, we understand");
    assert_eq!((told.destination, told.origin.version), (dst, version));
    settle_authority(&mut request).expect("the far side takes what the near side took");
    into_origin_form(&mut request, told.origin);
    assert_eq!((request.version(), request.method()), (version, &method));
    assert_eq!(ours(request.headers()), 0, "{request:?}");
    if let Some(named) = named {
        assert_eq!(authority(&request).map(|host| host.to_ascii_lowercase()), Some(named.to_ascii_lowercase()));
    }
    // An empty path, which authority form has, becomes the root.
    let path = path.filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned());
    assert_eq!(request.uri().path_and_query().map(ToString::to_string).as_deref(), Some(path.as_str()));
    into_tunnel(&mut request, dst, address_value(dst));
    assert_eq!(parts(&request), joined(tunnelled), "the second time");
}

/// What stands in a tunnel, said by whom it may.
fn in_tunnel(request: &Request<()>, origin: Version, authority: &str) {
    assert_eq!(request.version(), Version::HTTP_2);
    let uri = request.uri();
    assert_eq!(uri.authority().map(|it| it.as_str().to_ascii_lowercase()), Some(authority.to_ascii_lowercase()));
    assert!(uri.scheme().is_some() && uri.path_and_query().is_some(), "{uri}");
    let expected = if origin == Version::HTTP_2 { 1 } else { 2 };
    assert_eq!(ours(request.headers()), expected, "{request:?}");
    for name in [HOST, CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        assert!(!request.headers().contains_key(&name), "{name} in a tunnel");
    }
}

/// Our fields in the mouth of a peer, and the authority of its CONNECT.
pub(super) fn tunnel(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut request = Request::new(());
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = Uri::from_static("http://web/");
    for name in [DESTINATION, ORIGIN, PROTOCOL, CLIENT_ID, ERROR] {
        if let Some(Ok(value)) = lines.next().map(HeaderValue::from_bytes) {
            request.headers_mut().append(name, value);
        }
    }
    let told = headers::told_protocol(request.headers());
    assert!(matches!(told, Protocol::Detect | Protocol::Opaque | Protocol::Http1));
    if told != Protocol::Detect {
        assert_eq!(headers::protocol_value(told).as_ref(), request.headers().get(PROTOCOL));
    }
    let origin = request.headers().get(ORIGIN).cloned();
    let Some(told) = from_tunnel(&mut request) else { return };
    assert_eq!(ours(request.headers()), 0, "{request:?}");
    assert_eq!(told.destination.to_string().parse(), Ok(told.destination), "an address that is printed otherwise");
    into_origin_form(&mut request, told.origin);
    into_tunnel(&mut request, told.destination, address_value(told.destination));
    assert_eq!(request.headers().get(ORIGIN), origin.as_ref(), "{:?}", told.origin);
    assert_eq!(from_tunnel(&mut request), Some(told));
}

/// Who is asked for: the target's authority, or else Host.
fn authority(request: &Request<()>) -> Option<String> {
    let host = || Some(String::from_utf8_lossy(request.headers().get(HOST)?.as_bytes()).into_owned());
    request.uri().authority().map(|authority| authority.to_string()).or_else(host)
}

fn ours(headers: &HeaderMap) -> usize {
    [DESTINATION, ORIGIN, PROTOCOL, CLIENT_ID, ERROR].iter().map(|name| headers.get_all(name).iter().count()).sum()
}

type Parts = (String, Vec<(HeaderName, HeaderValue)>);

fn parts(request: &Request<()>) -> Parts {
    let mut fields: Vec<_> = request.headers().iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    // Fields of one name keep their order.
    fields.sort_by(|left, right| left.0.as_str().cmp(right.0.as_str()));
    (request.uri().to_string(), fields)
}

/// HTTP/1 has one Cookie field, so several become one on the way.
fn joined((uri, fields): Parts) -> Parts {
    let h1 = fields.iter().any(|(name, _)| *name == ORIGIN);
    let is_cookie = |name: &HeaderName| *name == http::header::COOKIE;
    let cookies: Vec<&[u8]> = fields.iter().filter(|(name, _)| is_cookie(name)).map(|(_, v)| v.as_bytes()).collect();
    if !h1 || cookies.len() < 2 {
        return (uri, fields);
    }
    let one = HeaderValue::from_bytes(&cookies.join(&b"; "[..])).expect("joined of values");
    let mut seen = false;
    let mut left = fields.clone();
    left.retain(|(name, _)| !is_cookie(name) || !std::mem::replace(&mut seen, true));
    left.iter_mut().filter(|(name, _)| is_cookie(name)).for_each(|(_, value)| *value = one.clone());
    (uri, left)
}

fn addr(input: &mut Input<'_>) -> SocketAddr {
    let port = input.u16();
    match input.byte() % 3 {
        0 => SocketAddr::from(([10, 0, 0, input.byte()], port)),
        1 => SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, input.u16()], port)),
        _ => SocketAddr::from(([0, 0, 0, 0, 0, 0xffff, input.u16(), input.u16()], port)),
    }
}

/// A version, then lines: method and target, then fields.
fn request(input: &mut Input<'_>) -> Option<Request<()>> {
    let version = [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2][input.below(3)];
    let mut lines = input.0.split(|byte| *byte == b'\n');
    let first = std::str::from_utf8(lines.next()?).ok()?;
    let (method, target) = first.split_once(' ')?;
    let mut request = Request::new(());
    *request.version_mut() = version;
    *request.method_mut() = method.parse().ok()?;
    *request.uri_mut() = target.parse().ok()?;
    // The h2 crate takes no request without a scheme and a path, and hyper none in the form of an authority.
    let (scheme, path) = (request.uri().scheme().is_some(), request.uri().path_and_query().is_some());
    if (version == Version::HTTP_2 && !(scheme && path)) || (request.uri().authority().is_some() && !scheme) {
        return None;
    }
    for line in lines.take(100) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
    Some(request)
}

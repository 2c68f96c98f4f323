//! What a request is known by, where a backend is balanced by hash.
//!
//! Invariant: equal keys have equal hashes in every proxy. A client without the cookie that a policy asks for gets one whose
//! value is drawn, and is balanced by it from its first request on. Pure but for that draw.

use std::net::IpAddr;

use http::header::{COOKIE, HeaderValue};
use http::{HeaderMap, Uri};

use crate::model::policy::{HashCookie, HashKey};
use crate::resilience::rendezvous::hash;

/// The key of a request.
#[derive(Debug)]
pub struct Key {
    /// Equal ones go to the same endpoint.
    pub hash: u64,
    /// The cookie that the client is to be given.
    pub set_cookie: Option<HeaderValue>,
}

/// By the first of `keys` that a request has; `None`: it has none, and goes anywhere.
pub(super) fn of(keys: &[HashKey], headers: &HeaderMap, uri: &Uri, source: Option<IpAddr>) -> Option<Key> {
    let known = |bytes: &[u8]| Key { hash: hash(bytes), set_cookie: None };
    keys.iter().find_map(|key| match key {
        HashKey::Header(name) => headers.get(name).map(|value| known(value.as_bytes())),
        HashKey::SourceAddress => source.map(|source| match source {
            IpAddr::V4(ip) => known(&ip.octets()),
            IpAddr::V6(ip) => known(&ip.octets()),
        }),
        HashKey::Query(name) => parameter(uri.query()?, name).map(|value| known(value.as_bytes())),
        HashKey::Cookie(cookie) => sent(headers, &cookie.name).map(known).or_else(|| given(cookie)),
    })
}

/// By the source alone, of a connection of which nothing else is known.
pub(super) fn of_source(keys: &[HashKey], source: Option<IpAddr>) -> Option<u64> {
    let by_source = keys.iter().find(|key| matches!(key, HashKey::SourceAddress))?;
    of(std::slice::from_ref(by_source), &HeaderMap::new(), &Uri::default(), source).map(|key| key.hash)
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// The value of the cookie of this name.
fn sent<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let cookies = headers.get_all(COOKIE).iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    let mut values = cookies.filter_map(|cookie| cookie.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    values.next()
}

fn given(cookie: &HashCookie) -> Option<Key> {
    let (path, max_age) = cookie.set.as_ref()?;
    let value = format!("{:016x}", fastrand::u64(..));
    let max_age = max_age.map(|age| format!("; Max-Age={}", age.as_secs())).unwrap_or_default();
    let set = format!("{}={value}; Path={path}{max_age}; HttpOnly", cookie.name);
    Some(Key { hash: hash(value.as_bytes()), set_cookie: HeaderValue::try_from(set).ok() })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cookie(set: Option<(&str, Option<u64>)>) -> HashKey {
        let set = set.map(|(path, age)| (path.into(), age.map(Duration::from_secs)));
        HashKey::Cookie(HashCookie { name: "sid".into(), set })
    }

    fn hash_of(keys: &[HashKey], fields: &[(&'static str, &str)], uri: &str) -> Option<u64> {
        let field = |(name, value): &(&'static str, &str)| (name.parse().unwrap(), value.parse().unwrap());
        let headers: HeaderMap = fields.iter().map(field).collect();
        of(keys, &headers, &uri.parse().unwrap(), Some(IpAddr::from([10, 0, 0, 1]))).map(|key| key.hash)
    }

    #[test]
    fn the_first_key_that_a_request_has_counts() {
        let keys = [HashKey::Header("x-user".parse().unwrap()), HashKey::Query("user".into()), cookie(None)];
        let alice = Some(hash(b"alice"));
        assert_eq!(hash_of(&keys, &[("x-user", "alice")], "/?user=bob"), alice);
        assert_eq!(hash_of(&keys, &[], "/a?superuser=1&user=alice&user=bob"), alice);
        assert_eq!(hash_of(&keys, &[("cookie", "a=b; sid=alice"), ("cookie", "sid=bob")], "/"), alice);
        assert_eq!(hash_of(&keys, &[("cookie", "xsid=alice; sid2=alice")], "/"), None);
        assert_eq!(hash_of(&[HashKey::SourceAddress], &[], "/"), Some(hash(&[10, 0, 0, 1])));
    }

    #[test]
    fn who_has_no_cookie_is_given_one_and_comes_back_to_the_same_endpoint() {
        let keys = [cookie(Some(("/shop", Some(3600))))];
        let given = of(&keys, &HeaderMap::new(), &Uri::from_static("/"), None).unwrap();
        let set = given.set_cookie.unwrap();
        let (pair, rest) = set.to_str().unwrap().split_once(';').unwrap();
        assert_eq!(rest, " Path=/shop; Max-Age=3600; HttpOnly");
        assert_eq!(hash_of(&keys, &[("cookie", pair)], "/"), Some(given.hash));
    }
}

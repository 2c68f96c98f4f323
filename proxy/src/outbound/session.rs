//! Sessions: requests that bring a token go to the endpoint that it names (GEP-1619).
//!
//! Invariant: a token is sealed, so a client can neither read an address out of it nor make one; what cannot be opened, is over,
//! or names an endpoint that is gone is as good as none. All sidecars that trust the same anchors can open it, so it outlives
//! restarts and counts at each replica of a client; a change of anchors ends sessions.
//! Non-goal: hiding addresses from members of the mesh, who can learn the anchors and the endpoints anyway.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{self, SHA256};
use http::header::{COOKIE, HeaderValue, SET_COOKIE};
use http::{HeaderMap, HeaderName};
use mesh_mtls::anchors::Anchors;

use crate::model::BackendId;
use crate::model::policy::{SessionCarrier, SessionPersistence};
use crate::model::route::PathMatch;

/// Most tokens of a request that are tried: a client may have several cookies of one name.
const MOST_TOKENS: usize = 4;
/// What is sealed: backend, IP address, port, begin, last use.
const PLAIN: usize = 8 + 16 + 2 + 8 + 8;
/// A last use is worth a new token when it is so much later.
const COARSE: Duration = Duration::from_secs(1);

/// A session that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    backend: u64,
    /// Where it is.
    pub(super) addr: SocketAddr,
    /// In milliseconds since 1970, as `used`.
    began: u64,
    used: u64,
}

/// Whose sessions: those of one rule, and of one of its paths, are not another's.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) session: &'a SessionPersistence,
    pub(super) rule: &'a str,
    pub(super) path: &'a PathMatch,
}

/// Seals tokens.
#[derive(Default)]
pub(super) struct Sealer(Mutex<Option<Arc<(Anchors, RandomizedNonceKey)>>>);

impl Sealer {
    /// The session of a request with `headers`, if it belongs to one that is not over.
    pub(super) fn open(
        &self,
        scope: Scope<'_>,
        headers: &HeaderMap,
        anchors: &Anchors,
        now: SystemTime,
    ) -> Option<Held> {
        let mut tokens = tokens(&scope.session.carrier, headers).take(MOST_TOKENS).peekable();
        tokens.peek()?;
        let key = self.key(anchors)?;
        let mut held = tokens.filter_map(|token| Held::open(token, &key.1, &scope));
        held.find(|held| held.is_on(scope.session, millis(now)))
    }

    /// Gives the response to a request, which `backend` served at `addr`, what carries its session, if that is news to the client.
    pub(super) fn answer(
        &self,
        scope: Scope<'_>,
        held: Option<Held>,
        (backend, addr): (&BackendId, SocketAddr),
        (headers, anchors, now): (&mut HeaderMap, &Anchors, SystemTime),
    ) {
        let now = millis(now);
        let stays = held.filter(|held| (held.backend, held.addr) == (hash(backend), addr));
        let new = Held { backend: hash(backend), addr, began: stays.map_or(now, |held| held.began), used: now };
        let worth = u64::try_from(COARSE.as_millis()).unwrap_or(u64::MAX);
        if stays.is_some_and(|held| scope.session.idle.is_none() || now.saturating_sub(held.used) < worth) {
            return;
        }
        let Some(token) = self.key(anchors).and_then(|key| new.seal(&key.1, &scope)) else { return };
        match &scope.session.carrier {
            SessionCarrier::Header(name) => {
                if let Ok(token) = HeaderValue::try_from(token) {
                    headers.insert(name.clone(), token);
                }
            }
            SessionCarrier::Cookie { name, is_permanent } => {
                let age = scope.session.absolute.filter(|_| *is_permanent).map(|absolute| {
                    format!("; Max-Age={}", absolute.saturating_sub(Duration::from_millis(now - new.began)).as_secs())
                });
                let (path, age) = (cookie_path(scope.path), age.unwrap_or_default());
                let cookie = format!("{name}={token}; Path={path}; HttpOnly; SameSite=Lax{age}");
                if let Ok(cookie) = HeaderValue::try_from(cookie) {
                    headers.append(SET_COOKIE, cookie);
                }
            }
        }
    }

    fn key(&self, anchors: &Anchors) -> Option<Arc<(Anchors, RandomizedNonceKey)>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = &*known
            && key.0 == *anchors
        {
            return Some(Arc::clone(key));
        }
        let mut secret = digest::Context::new(&SHA256);
        secret.update(b"mesh session");
        anchors.der().iter().for_each(|anchor| secret.update(anchor));
        let key = RandomizedNonceKey::new(&AES_256_GCM, secret.finish().as_ref()).ok()?;
        Some(Arc::clone(known.insert(Arc::new((anchors.clone(), key)))))
    }
}

impl Held {
    /// Whether it is a session with `backend`.
    pub(super) fn is_with(&self, backend: &BackendId) -> bool {
        self.backend == hash(backend)
    }

    fn is_on(&self, session: &SessionPersistence, now: u64) -> bool {
        let within = |limit: Option<Duration>, since: u64| {
            limit.is_none_or(|limit| u128::from(now.saturating_sub(since)) < limit.as_millis())
        };
        within(session.absolute, self.began) && within(session.idle, self.used)
    }

    fn seal(&self, key: &RandomizedNonceKey, scope: &Scope<'_>) -> Option<String> {
        let ip = match self.addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut sealed = Vec::with_capacity(PLAIN + AES_256_GCM.tag_len());
        sealed.extend(self.backend.to_be_bytes());
        sealed.extend(ip.octets());
        sealed.extend(self.addr.port().to_be_bytes());
        sealed.extend(self.began.to_be_bytes());
        sealed.extend(self.used.to_be_bytes());
        let nonce = key.seal_in_place_append_tag(scope.aad(), &mut sealed).ok()?;
        Some(nonce.as_ref().iter().chain(&sealed).map(|byte| format!("{byte:02x}")).collect())
    }

    fn open(token: &str, key: &RandomizedNonceKey, scope: &Scope<'_>) -> Option<Self> {
        if token.len() != 2 * (NONCE_LEN + PLAIN + AES_256_GCM.tag_len()) || !token.is_ascii() {
            return None;
        }
        let byte = |at: usize| u8::from_str_radix(token.get(at..at + 2)?, 16).ok();
        let mut bytes = (0..token.len()).step_by(2).map(byte).collect::<Option<Vec<_>>>()?;
        let (nonce, sealed) = bytes.split_at_mut(NONCE_LEN);
        let nonce = Nonce::assume_unique_for_key(*nonce.first_chunk()?);
        let plain = key.open_in_place(nonce, scope.aad(), sealed).ok()?;
        let (backend, rest) = plain.split_first_chunk()?;
        let (ip, rest) = rest.split_first_chunk::<16>()?;
        let (port, rest) = rest.split_first_chunk()?;
        let (began, rest) = rest.split_first_chunk()?;
        let addr = SocketAddr::new(IpAddr::V6(Ipv6Addr::from(*ip)).to_canonical(), u16::from_be_bytes(*port));
        let used = u64::from_be_bytes(*rest.first_chunk()?);
        Some(Self { backend: u64::from_be_bytes(*backend), addr, began: u64::from_be_bytes(*began), used })
    }
}

impl Scope<'_> {
    fn aad(&self) -> Aad<Vec<u8>> {
        let carrier = match &self.session.carrier {
            SessionCarrier::Header(name) => name.as_str(),
            SessionCarrier::Cookie { name, .. } => name,
        };
        Aad::from([self.rule, carrier, cookie_path(self.path)].join("\n").into_bytes())
    }
}

/// What the request says of sessions.
fn tokens<'h>(carrier: &'h SessionCarrier, headers: &'h HeaderMap) -> Box<dyn Iterator<Item = &'h str> + 'h> {
    let texts = |name: &HeaderName| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    match carrier {
        SessionCarrier::Header(name) => Box::new(texts(name)),
        SessionCarrier::Cookie { name, .. } => {
            let pairs = texts(&COOKIE).flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
            Box::new(pairs.filter(move |(known, _)| **known == **name).map(|(_, token)| token))
        }
    }
}

/// Of a cookie: what the rule's match of the request says of its path.
fn cookie_path(path: &PathMatch) -> &str {
    match path {
        PathMatch::Exact(path) | PathMatch::Prefix(path)
            if path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';') =>
        {
            path
        }
        _ => "/",
    }
}

fn hash(backend: &BackendId) -> u64 {
    let digest = digest::digest(&SHA256, backend.to_string().as_bytes());
    digest.as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

fn millis(now: SystemTime) -> u64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: PathMatch = PathMatch::Grpc(None, None);

    fn anchors() -> Anchors {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Anchors::from_der(vec![ca.self_signed(&key).unwrap().der().clone()]).unwrap()
    }

    fn cookie(absolute: Option<u64>, idle: Option<u64>, is_permanent: bool) -> SessionPersistence {
        let carrier = SessionCarrier::Cookie { name: "sid".into(), is_permanent };
        SessionPersistence { carrier, absolute: absolute.map(Duration::from_secs), idle: idle.map(Duration::from_secs) }
    }

    fn backend(service: &str) -> BackendId {
        BackendId { namespace: "shop".into(), service: service.into(), port: 80 }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
    }

    /// One client, a rule, and what the sidecar says to both.
    struct World {
        sealer: Sealer,
        anchors: Anchors,
        session: SessionPersistence,
    }

    impl World {
        fn new(session: SessionPersistence) -> Self {
            Self { sealer: Sealer::default(), anchors: anchors(), session }
        }

        fn scope<'a>(&'a self, path: &'a PathMatch) -> Scope<'a> {
            Scope { session: &self.session, rule: "shop/web", path }
        }

        fn open(&self, cookies: &str, seconds: u64) -> Option<Held> {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, cookies.parse().unwrap());
            self.sealer.open(self.scope(&ROOT), &headers, &self.anchors, at(seconds))
        }

        /// What the response says, for a request of `held`.
        fn answer(&self, held: Option<Held>, addr: &str, seconds: u64) -> Option<String> {
            let mut headers = HeaderMap::new();
            let by = (&backend("web"), addr.parse().unwrap());
            let to = (&mut headers, &self.anchors, at(seconds));
            self.sealer.answer(self.scope(&ROOT), held, by, to);
            Some(headers.get(SET_COOKIE)?.to_str().unwrap().to_owned())
        }

        fn new_session(&self, addr: &str, seconds: u64) -> String {
            let said = self.answer(None, addr, seconds).expect("a new session");
            said.split(';').next().unwrap().to_owned()
        }
    }

    #[test]
    fn a_token_leads_back_to_its_endpoint_and_is_said_once() {
        let world = World::new(cookie(None, None, false));
        for addr in ["10.1.2.3:8080", "[fd00::7]:8080"] {
            let sid = world.new_session(addr, 0);
            let held = world.open(&format!("a=b; {sid}; c=d"), 100_000).expect("a session");
            assert_eq!(held.addr, addr.parse().unwrap());
            assert!(held.is_with(&backend("web")) && !held.is_with(&backend("other")));
            assert_eq!(world.answer(Some(held), addr, 100_001), None);
        }
    }

    #[test]
    fn when_its_endpoint_is_gone_a_session_is_renewed_at_another() {
        let world = World::new(cookie(None, None, false));
        let held = world.open(&world.new_session("10.1.2.3:80", 0), 1);
        let renewed = world.answer(held, "10.1.2.4:80", 1).expect("a new token");
        let held = world.open(renewed.split(';').next().unwrap(), 2).expect("a session");
        assert_eq!(held.addr, "10.1.2.4:80".parse().unwrap());
    }

    #[test]
    fn a_token_says_nothing_and_none_can_be_made() {
        let world = World::new(cookie(None, None, false));
        let [one, two] = [0, 0].map(|seconds| world.new_session("10.1.2.3:8080", seconds));
        assert_ne!(one, two, "the same endpoint looks different each time");
        assert!(!one.contains("0a010203"), "{one}");
        for at in 4..one.len() {
            let mut bent = one.clone().into_bytes();
            bent[at] = if bent[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(world.open(&String::from_utf8(bent).unwrap(), 1), None, "bent at {at}");
        }
        for odd in ["sid=", "sid=10.1.2.3:8080", "sid=zz", &one[..one.len() - 2], &format!("{one}00")] {
            assert_eq!(world.open(odd, 1), None);
        }
        assert_eq!(World { anchors: anchors(), ..world }.open(&one, 1), None, "other anchors");
    }

    #[test]
    fn sessions_of_one_path_are_not_those_of_another() {
        let world = World::new(cookie(None, None, false));
        let (a, b) = (PathMatch::Prefix("/a".into()), PathMatch::Prefix("/b".into()));
        let mut headers = HeaderMap::new();
        let by = (&backend("web"), "10.1.2.3:80".parse().unwrap());
        world.sealer.answer(world.scope(&a), None, by, (&mut headers, &world.anchors, at(0)));
        let said = headers[SET_COOKIE].to_str().unwrap().to_owned();
        assert!(said.contains("; Path=/a; HttpOnly; SameSite=Lax") && !said.contains("Max-Age"), "{said}");
        let mut asks = HeaderMap::new();
        asks.insert(COOKIE, said.split(';').next().unwrap().parse().unwrap());
        assert!(world.sealer.open(world.scope(&a), &asks, &world.anchors, at(1)).is_some());
        assert!(world.sealer.open(world.scope(&b), &asks, &world.anchors, at(1)).is_none());
    }

    #[test]
    fn a_session_is_over_when_its_time_is_or_when_it_was_idle() {
        let world = World::new(cookie(Some(60), Some(10), true));
        let said = world.answer(None, "10.1.2.3:80", 0).expect("a new session");
        assert!(said.ends_with("; Max-Age=60"), "{said}");
        let mut sid = said.split(';').next().unwrap().to_owned();
        assert!(world.open(&sid, 9).is_some() && world.open(&sid, 10).is_none());
        for seconds in (9..60).step_by(9) {
            let held = world.open(&sid, seconds).expect("used again and again");
            let said = world.answer(Some(held), "10.1.2.3:80", seconds).expect("a later last use");
            assert!(said.ends_with(&format!("; Max-Age={}", 60 - seconds)), "{said}");
            sid = said.split(';').next().unwrap().to_owned();
        }
        assert!(world.open(&sid, 59).is_some() && world.open(&sid, 60).is_none());
    }

    #[test]
    fn a_header_carries_a_session_too() {
        let carrier = SessionCarrier::Header(HeaderName::from_static("x-session"));
        let world = World::new(SessionPersistence { carrier, absolute: None, idle: None });
        let mut headers = HeaderMap::new();
        let by = (&backend("web"), "10.1.2.3:80".parse().unwrap());
        world.sealer.answer(world.scope(&ROOT), None, by, (&mut headers, &world.anchors, at(0)));
        let held = world.sealer.open(world.scope(&ROOT), &headers, &world.anchors, at(1)).expect("a session");
        assert_eq!(held.addr, "10.1.2.3:80".parse().unwrap());
    }
}

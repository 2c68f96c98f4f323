//! The deadline of a gRPC call, as `grpc-timeout` says it (gRPC over HTTP/2, "Requests").
//!
//! Invariant: what is passed on is what is left when the call goes out, rounded down, and a call with nothing left is not sent.
//! A field that is malformed, or there twice, is none of ours: it passes as it is, and the application judges it.

use std::time::{Duration, Instant};

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};

use super::{Failure, Late, headers};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Most digits that the field may have.
const DIGITS: usize = 8;
/// Nanoseconds of each unit, the finest first.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// When the caller stops waiting. On a request (as an extension) it is told to the next hop as the request goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// That of a request with `headers` which came just now; `None`: it is no gRPC call, or has no deadline.
    pub fn of(headers: &HeaderMap, now: impl FnOnce() -> Instant) -> Option<Self> {
        // First, as most requests are no calls, and a look at the type is made anyway.
        if !headers::is_grpc(headers) {
            return None;
        }
        let mut values = headers.get_all(GRPC_TIMEOUT).iter();
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        now().checked_add(parse(value.as_bytes())?).map(Self)
    }

    /// Writes what is left into `headers`.
    ///
    /// # Errors
    /// When nothing is left.
    pub fn tell(self, headers: &mut HeaderMap, now: Instant) -> Result<(), Failure> {
        let left = self.0.saturating_duration_since(now);
        if left.is_zero() {
            return Err(Failure::Late(Late::Deadline));
        }
        if let Ok(value) = HeaderValue::from_str(&encode(left)) {
            headers.insert(GRPC_TIMEOUT, value);
        }
        Ok(())
    }
}

/// Whether a call may end with a status behind its body. On HTTP/1 that could be lost and the body look whole, and in gRPC-Web
/// it would have to be part of the body.
pub fn has_trailers<B>(call: &Request<B>) -> bool {
    let is_web = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/grpc-web");
    call.version() == Version::HTTP_2 && !call.headers().get(CONTENT_TYPE).is_some_and(is_web)
}

fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u128 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let (_, nanos) = UNITS.iter().find(|(name, _)| name == unit)?;
    Some(Duration::from_nanos(u64::try_from(count * nanos).unwrap_or(u64::MAX)))
}

/// In the finest unit that has room for it.
fn encode(left: Duration) -> String {
    const MOST: u128 = 10_u128.pow(DIGITS as u32) - 1;
    let fits = UNITS.iter().map(|(unit, nanos)| (unit, left.as_nanos() / nanos)).find(|(_, count)| *count <= MOST);
    let (unit, count) = fits.unwrap_or((&b'H', MOST));
    format!("{count}{}", char::from(*unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grpc_allows_is_understood_and_nothing_else() {
        for (text, expected) in [
            ("1S", Some(Duration::from_secs(1))),
            ("100m", Some(Duration::from_millis(100))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("2M", Some(Duration::from_secs(120))),
            ("3H", Some(Duration::from_secs(10_800))),
            ("99999999H", Some(Duration::from_nanos(u64::MAX))),
            ("0S", Some(Duration::ZERO)),
            ("123456789m", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            (" 1S", None),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn any_time_comes_back_no_longer_and_hardly_shorter() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..100_000 {
            let left = Duration::from_nanos(random.u64(..) >> random.u32(0..64));
            let text = encode(left);
            assert!(text.len() <= DIGITS + 1, "{left:?}: {text}");
            let back = parse(text.as_bytes()).expect("of our own form");
            assert!(back <= left && (left - back).as_nanos() * 100_000 <= left.as_nanos(), "{left:?}: {text}");
        }
        assert_eq!(encode(Duration::from_secs(1)), "1000000u");
    }

    #[test]
    fn only_a_call_of_grpc_with_one_field_has_a_deadline() {
        let now = Instant::now();
        let headers = |grpc, fields: &[&'static str]| {
            let mut headers = HeaderMap::new();
            if grpc {
                headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            }
            fields.iter().for_each(|value| _ = headers.append(GRPC_TIMEOUT, HeaderValue::from_static(value)));
            headers
        };
        assert_eq!(Deadline::of(&headers(true, &["1S"]), || now), Some(Deadline(now + Duration::from_secs(1))));
        for none in
            [headers(false, &["1S"]), headers(true, &["1S", "2S"]), headers(true, &["soon"]), headers(true, &[])]
        {
            assert_eq!(Deadline::of(&none, || now), None, "{none:?}");
        }
    }

    #[test]
    fn a_status_comes_behind_the_body_where_the_caller_looks_for_it() {
        let call =
            |version, kind: &str| Request::builder().version(version).header(CONTENT_TYPE, kind).body(()).unwrap();
        assert!(has_trailers(&call(Version::HTTP_2, "application/grpc")));
        assert!(has_trailers(&call(Version::HTTP_2, "application/grpc+proto")));
        assert!(!has_trailers(&call(Version::HTTP_11, "application/grpc")));
        assert!(!has_trailers(&call(Version::HTTP_2, "application/grpc-web+proto")));
    }

    #[test]
    fn what_is_left_is_told_and_a_call_without_anything_left_is_not_sent() {
        let now = Instant::now();
        let mut headers = HeaderMap::new();
        let deadline = Deadline(now + Duration::from_secs(2));
        deadline.tell(&mut headers, now + Duration::from_millis(500)).expect("something is left");
        assert_eq!(headers[GRPC_TIMEOUT], "1500000u");
        let over = deadline.tell(&mut headers, now + Duration::from_secs(2));
        assert!(matches!(over, Err(Failure::Late(Late::Deadline))), "{over:?}");
    }
}

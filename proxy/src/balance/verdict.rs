//! What a policy says of how a try ended: whether it is worth another one, and how long the upstream wants to be left alone.
//!
//! A failure counts as the answer that the mesh would make of it (a lost stream is a 502, a silent upstream a 504, no
//! connection a 503), so `5xx` and `gateway-error` mean what clients see.
//! Not here: attempts, budgets, time.

use std::time::Duration;

use http::{HeaderMap, Response};

use crate::http::headers::{GRPC_STATUS, retry_after};
use crate::http::{Body, Failure};
use crate::model::policy::Retries;

/// A try that is worth another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    word: &'static str,
    /// By the policy, not only because it is safe.
    wanted: bool,
    /// Nothing of it was sent.
    unsent: bool,
    pushback: Pushback,
}

/// How long the upstream wants to be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushback {
    None,
    After(Duration),
    Never,
}

impl Wish {
    /// Why, for metrics.
    pub(super) fn word(&self) -> &'static str {
        self.word
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }

    pub(super) fn is_unsent(&self) -> bool {
        self.unsent
    }

    pub(super) fn pushback(&self) -> Pushback {
        self.pushback
    }
}

/// Of a try without a response; `safe`: it surely did not reach an application, or does no harm twice.
pub(super) fn of_failure(retries: Option<&Retries>, grpc: bool, safe: bool, failure: &Failure) -> Option<Wish> {
    let wanted = retries.is_some_and(|retries| wants(retries, grpc, failure));
    let wish = Wish { word: failure.word(), wanted, unsent: failure.is_connect(), pushback: Pushback::None };
    (wanted || safe).then_some(wish)
}

fn wants(retries: &Retries, grpc: bool, failure: &Failure) -> bool {
    match failure {
        // What we have too little of, we have no more of elsewhere; and time does not come back.
        Failure::Busy(_) | Failure::Late(_) => return false,
        failure if failure.is_connect() && retries.connect_failure => return true,
        Failure::Unprocessed if retries.refused_stream => return true,
        Failure::Silent(_) if retries.timeout => return true,
        Failure::Closed(_) | Failure::Lost(_) | Failure::Reset(_) | Failure::Protocol(_) if retries.reset => {
            return true;
        }
        _ => {}
    }
    let reason = failure.reason();
    has_status(retries, reason.status().as_u16()) || (grpc && has_code(retries, reason.grpc()))
}

/// Of a response; `trailers` are those of one that has nothing else.
pub(super) fn of_response(
    retries: &Retries,
    grpc: bool,
    response: &Response<Body>,
    trailers: Option<&HeaderMap>,
) -> Option<Wish> {
    let wish = |word, pushback| Some(Wish { word, wanted: true, unsent: false, pushback });
    if has_status(retries, response.status().as_u16()) {
        let asked = retry_after(response.headers(), mesh_mtls::clock::wall());
        return wish("status", asked.map_or(Pushback::None, Pushback::After));
    }
    let said = [Some(response.headers()), trailers].into_iter().flatten().filter(|_| grpc);
    let found = said.into_iter().find(|fields| fields.contains_key(&GRPC_STATUS))?;
    let code: u16 = found.get(&GRPC_STATUS)?.to_str().ok()?.parse().ok()?;
    if has_code(retries, code) { wish("grpc_status", grpc_pushback(found)) } else { None }
}

fn has_status(retries: &Retries, status: u16) -> bool {
    retries.statuses.iter().any(|range| range.contains(&status))
}

fn has_code(retries: &Retries, code: u16) -> bool {
    code <= 16 && retries.grpc & (1 << code) != 0
}

/// `grpc-retry-pushback-ms` (gRFC A6): what is no number of 0 or more means not to try again.
fn grpc_pushback(fields: &HeaderMap) -> Pushback {
    let Some(value) = fields.get("grpc-retry-pushback-ms") else { return Pushback::None };
    let millis = value.to_str().ok().and_then(|value| value.parse::<u32>().ok());
    millis.map_or(Pushback::Never, |millis| Pushback::After(Duration::from_millis(millis.into())))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn retries(statuses: &[std::ops::RangeInclusive<u16>], grpc: u32) -> Retries {
        Retries {
            attempts: 1,
            statuses: statuses.into(),
            grpc,
            connect_failure: false,
            reset: false,
            refused_stream: false,
            timeout: false,
            backoff: Duration::from_millis(25),
            least_backoff: Duration::ZERO,
            max_backoff: Duration::from_millis(250),
            max_retry_after: Duration::from_secs(30),
        }
    }

    fn response(status: u16, fields: &[(&'static str, &'static str)]) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
        fields
            .iter()
            .for_each(|(name, value)| _ = response.headers_mut().append(*name, HeaderValue::from_static(value)));
        response
    }

    fn wanted(wish: Option<Wish>) -> Option<bool> {
        wish.map(|wish| wish.wanted)
    }

    #[test]
    fn statuses_count_as_listed() {
        let gateway = retries(&[502..=504], 0);
        for (status, expected) in [(200, None), (500, None), (502, Some(true)), (504, Some(true)), (505, None)] {
            assert_eq!(wanted(of_response(&gateway, false, &response(status, &[]), None)), expected, "{status}");
        }
    }

    #[test]
    fn a_code_of_grpc_counts_in_the_head_and_in_trailers_but_for_calls_only() {
        let unavailable = retries(&[], 1 << 14);
        let only = response(200, &[("grpc-status", "14")]);
        assert_eq!(wanted(of_response(&unavailable, true, &only, None)), Some(true));
        assert_eq!(of_response(&unavailable, false, &only, None), None);
        let (plain, trailers) = (response(200, &[]), response(200, &[("grpc-status", "14")]).headers().clone());
        assert_eq!(wanted(of_response(&unavailable, true, &plain, Some(&trailers))), Some(true));
        for other in ["0", "13", "99", "x"] {
            assert_eq!(
                of_response(&unavailable, true, &response(200, &[("grpc-status", other)]), None),
                None,
                "{other}"
            );
        }
    }

    #[test]
    fn a_failure_counts_as_what_the_client_would_see_and_safe_ones_always() {
        let (silent, reset) = (Failure::Silent(Duration::ZERO), Failure::Reset(h2::Reason::INTERNAL_ERROR));
        let none = retries(&[], 0);
        assert_eq!(wanted(of_failure(Some(&retries(&[504..=504], 0)), false, false, &silent)), Some(true));
        assert_eq!(wanted(of_failure(Some(&retries(&[], 1 << 4)), true, false, &silent)), Some(true));
        assert_eq!(of_failure(Some(&retries(&[502..=502], 0)), false, false, &silent), None);
        let in_time = Retries { timeout: true, ..none.clone() };
        assert_eq!(wanted(of_failure(Some(&in_time), false, false, &silent)), Some(true));
        assert_eq!(of_failure(Some(&in_time), false, false, &reset), None);
        assert_eq!(wanted(of_failure(Some(&retries(&[502..=502], 0)), false, false, &reset)), Some(true));
        assert_eq!(
            wanted(of_failure(Some(&Retries { reset: true, ..none.clone() }), false, false, &reset)),
            Some(true)
        );
        assert_eq!(of_failure(Some(&none), false, false, &reset), None);
        assert_eq!(wanted(of_failure(Some(&none), false, true, &Failure::Unprocessed)), Some(false));
        assert_eq!(wanted(of_failure(None, false, true, &Failure::Unprocessed)), Some(false));
        let refused = Retries { refused_stream: true, ..none };
        assert_eq!(wanted(of_failure(Some(&refused), false, true, &Failure::Unprocessed)), Some(true));
        let all = retries(&[500..=599], u32::MAX);
        for own in [Failure::Busy("memory"), Failure::Late(crate::http::Late::Deadline)] {
            assert_eq!(of_failure(Some(&all), true, false, &own), None, "{own}");
        }
    }

    #[test]
    fn an_upstream_says_when_it_wants_to_be_asked_again() {
        let gateway = retries(&[502..=504], 0);
        for (text, expected) in [("120", Pushback::After(Duration::from_secs(120))), ("soon", Pushback::None)] {
            let wish = of_response(&gateway, false, &response(503, &[("retry-after", text)]), None);
            assert_eq!(wish.map(|wish| wish.pushback), Some(expected), "{text:?}");
        }
        for (text, expected) in
            [("100", Pushback::After(Duration::from_millis(100))), ("-1", Pushback::Never), ("x", Pushback::Never)]
        {
            assert_eq!(grpc_pushback(response(200, &[("grpc-retry-pushback-ms", text)]).headers()), expected, "{text}");
        }
    }
}

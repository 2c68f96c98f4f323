//! What a response says of the endpoint that gave it.
//!
//! Invariant: a refusal of this one request (4xx, PERMISSION_DENIED, "not implemented") is a success: another endpoint would
//! say the same. Pure.

use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};

use crate::http::answer::Reason;
use crate::http::headers::{ERROR, GRPC_STATUS, is_grpc, retry_after};
use crate::resilience::breaker::Outcome;

/// See [`of_head`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// `None`: the trailers will tell.
    pub(super) outcome: Option<Outcome>,
    /// The endpoint asks to be left alone for so long.
    pub(super) pause: Option<Duration>,
}

/// An endpoint that is overloaded and does not say for how long.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// By the head of a response.
pub(super) fn of_head<B>(response: &Response<B>) -> Verdict {
    let headers = response.headers();
    let outcome = if is_from_shedding(headers) { Some(Outcome::Overload) } else { of(response.status(), headers) };
    let asked = || retry_after(headers, mesh_mtls::clock::wall()).map(|pause| pause.min(LONGEST_PAUSE));
    let pause = match outcome {
        Some(Outcome::Overload) => asked().or(Some(PAUSE)),
        Some(Outcome::Failure) => asked(),
        _ => None,
    };
    Verdict { outcome, pause }
}

fn of(status: StatusCode, headers: &HeaderMap) -> Option<Outcome> {
    if status.is_success() && is_grpc(headers) {
        let code = headers.get(&GRPC_STATUS)?;
        return Some(code.to_str().ok().and_then(|code| code.parse().ok()).map_or(Outcome::Failure, of_grpc));
    }
    Some(match status {
        StatusCode::TOO_MANY_REQUESTS => Outcome::Overload,
        StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => Outcome::Success,
        status if status.is_server_error() => Outcome::Failure,
        _ => Outcome::Success,
    })
}

/// By a `grpc-status`.
pub(super) fn of_grpc(code: u16) -> Outcome {
    match code {
        // UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS
        2 | 4 | 13 | 14 | 15 => Outcome::Failure,
        // RESOURCE_EXHAUSTED
        8 => Outcome::Overload,
        _ => Outcome::Success,
    }
}

/// How long an endpoint is spared that says in its trailers that it has too much to do.
pub(super) fn pause_after(outcome: Outcome) -> Option<Duration> {
    (outcome == Outcome::Overload).then_some(PAUSE)
}

/// The far sidecar sheds load in front of its application.
fn is_from_shedding(headers: &HeaderMap) -> bool {
    let said = headers.get(ERROR).map(|said| said.as_bytes());
    said.is_some_and(|said| said.starts_with(Reason::Overload.word().as_bytes()))
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;

    use super::Outcome::{Failure, Overload, Success};
    use super::*;

    fn response(status: u16, fields: &[(&'static str, &str)]) -> Response<()> {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        response.body(()).unwrap()
    }

    #[test]
    fn statuses_of_http_are_told_apart() {
        for (status, outcome) in [
            (200, Success),
            (302, Success),
            (404, Success),
            (403, Success),
            (500, Failure),
            (502, Failure),
            (503, Failure),
            (504, Failure),
            (501, Success),
            (505, Success),
            (429, Overload),
        ] {
            assert_eq!(of_head(&response(status, &[])).outcome, Some(outcome), "{status}");
        }
    }

    #[test]
    fn statuses_of_grpc_are_told_apart_and_those_of_trailers_waited_for() {
        let grpc = (CONTENT_TYPE.as_str(), "application/grpc");
        assert_eq!(of_head(&response(200, &[grpc])).outcome, None);
        for code in 0..=16 {
            let outcome = match code {
                2 | 4 | 13 | 14 | 15 => Failure,
                8 => Overload,
                _ => Success,
            };
            assert_eq!(of_head(&response(200, &[grpc, ("grpc-status", &code.to_string())])).outcome, Some(outcome));
        }
        assert_eq!(of_head(&response(503, &[grpc])).outcome, Some(Failure));
    }

    #[test]
    fn what_retry_after_says_is_bounded() {
        let pause = |status, after: &str| of_head(&response(status, &[("retry-after", after)])).pause;
        assert_eq!(pause(429, "7"), Some(Duration::from_secs(7)));
        assert_eq!(pause(503, "86400"), Some(LONGEST_PAUSE));
        assert_eq!(pause(200, "7"), None);
        assert_eq!(of_head(&response(429, &[])).pause, Some(PAUSE));
    }

    #[test]
    fn a_far_sidecar_that_sheds_load_is_overload() {
        let shed = response(503, &[("mesh-error", "overload; the proxy's memory is nearly used up")]);
        assert_eq!(of_head(&shed).outcome, Some(Overload));
    }
}

//! Faults that a policy injects: a share of requests is delayed, a share is answered in place of a backend.
//!
//! Invariant: it happens before an endpoint is chosen, so no endpoint is blamed; the answer, the log and the metric say that it
//! was injected (`Reason::Fault`).
//! Non-goal: faults of connections.

use std::time::Instant;

use http::{HeaderMap, Response};

use crate::http::Body;
use crate::http::answer::{AskedAs, Reason};
use crate::http::headers::GRPC_STATUS;
use crate::metrics::{Direction, Metrics};
use crate::model::policy::{Abort, Fault, RequestPolicy};
use crate::model::route::header_fits;

const MILLION: u32 = 1_000_000;

/// Does to a request with `headers`, which is over at `end`, what `policy` says; an answer is in place of the backend's.
pub(super) async fn inject(
    policy: &RequestPolicy,
    headers: &HeaderMap,
    end: Option<Instant>,
    metrics: &Metrics,
) -> Option<Response<Body>> {
    let fault = policy.faults.iter().find(|fault| fits(fault, headers))?;
    let drawn = |share: u32| fastrand::u32(..MILLION) < share;
    let delay = fault.delay.filter(|(share, _)| drawn(*share));
    let abort = fault.abort.filter(|(share, _)| drawn(*share));
    if let Some((_, delay)) = delay {
        metrics.fault("delay");
        tracing::debug!(policy = %policy.name, ?delay, "fault injected");
        let left = end.map_or(delay, |end| end.saturating_duration_since(Instant::now()));
        tokio::time::sleep(delay.min(left)).await;
    }
    let (_, abort) = abort?;
    metrics.fault("abort");
    Some(aborted(policy, abort, AskedAs::of(headers), metrics))
}

fn fits(fault: &Fault, headers: &HeaderMap) -> bool {
    fault.headers.iter().all(|(name, wanted)| header_fits(headers, name, wanted))
}

fn aborted(policy: &RequestPolicy, abort: Abort, asked_as: AskedAs, metrics: &Metrics) -> Response<Body> {
    let (reason, detail) = (Reason::Fault, format!("injected by policy {}", policy.name));
    metrics.error(Direction::Outbound, reason.word());
    tracing::info!(reason = reason.word(), %detail, "answered by the mesh");
    let mut response = asked_as.answer(reason, &detail);
    match asked_as {
        AskedAs::Http => *response.status_mut() = abort.status,
        AskedAs::Grpc => {
            let code = abort.grpc.unwrap_or_else(|| meant(abort.status.as_u16()));
            response.headers_mut().insert(GRPC_STATUS, u16::from(code).into());
        }
    }
    response
}

/// What a status of HTTP means to a gRPC client (the protocol's table).
fn meant(status: u16) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderName, HeaderValue, StatusCode};
    use tokio::time::Instant;

    use super::*;
    use crate::metrics;
    use crate::model::route::TextMatch;

    fn policy(faults: &[Fault]) -> RequestPolicy {
        RequestPolicy { name: "shop/chaos".into(), faults: faults.into(), ..RequestPolicy::default() }
    }

    fn abort(share: u32, status: StatusCode) -> Fault {
        Fault { headers: Box::default(), delay: None, abort: Some((share, Abort { status, grpc: None })) }
    }

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    async fn outcome(policy: &RequestPolicy, headers: &HeaderMap) -> Option<Response<Body>> {
        inject(policy, headers, None, &Metrics::new(metrics::Settings::default())).await
    }

    #[tokio::test]
    async fn the_first_fault_that_fits_counts() {
        let mut chosen = abort(MILLION, StatusCode::NOT_FOUND);
        chosen.headers = [(HeaderName::from_static("x-chaos"), TextMatch::Exact("yes".into()))].into();
        let policy = policy(&[chosen, abort(MILLION, StatusCode::BAD_GATEWAY)]);
        for (headers, status) in [(fields(&[("x-chaos", "yes")]), 404), (fields(&[("x-chaos", "no")]), 502)] {
            let answer = outcome(&policy, &headers).await.expect("all are aborted");
            assert_eq!(answer.status(), status);
            assert_eq!(answer.headers()["mesh-error"], "fault; injected by policy shop/chaos");
        }
        assert!(outcome(&self::policy(&[]), &fields(&[])).await.is_none());
    }

    #[tokio::test]
    async fn a_call_gets_the_code_that_is_named_or_what_the_status_means() {
        let call = fields(&[("content-type", "application/grpc")]);
        for (grpc, status, code) in [(Some(8), 503, "8"), (None, 503, "14"), (None, 404, "12"), (None, 500, "2")] {
            let mut fault = abort(MILLION, StatusCode::from_u16(status).unwrap());
            fault.abort.as_mut().unwrap().1.grpc = grpc;
            let answer = outcome(&policy(&[fault]), &call).await.expect("all are aborted");
            assert_eq!((answer.status(), &answer.headers()["grpc-status"]), (StatusCode::OK, &code.parse().unwrap()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn shares_of_delays_and_aborts_are_drawn_each_by_itself() {
        const COUNT: u32 = 20_000;
        let mut fault = abort(100_000, StatusCode::SERVICE_UNAVAILABLE);
        fault.delay = Some((300_000, Duration::from_secs(1)));
        let policy = policy(&[fault]);
        let (began, mut aborted) = (Instant::now(), 0);
        for _ in 0..COUNT {
            aborted += u32::from(outcome(&policy, &HeaderMap::new()).await.is_some());
        }
        let delayed = u32::try_from(began.elapsed().as_secs()).unwrap();
        assert!(delayed.abs_diff(COUNT * 3 / 10) < COUNT / 50, "{delayed} of {COUNT} delayed");
        assert!(aborted.abs_diff(COUNT / 10) < COUNT / 50, "{aborted} of {COUNT} aborted");
    }
}

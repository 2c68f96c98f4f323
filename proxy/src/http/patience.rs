//! How long the head of a response is waited for.
//!
//! Invariant: the wait begins when all of the request has been sent, so a long upload is never cut. gRPC calls are exempt: a stream
//! may be silent until there is news, and a call has a deadline of its own.

use std::pin::{Pin, pin};
use std::time::Duration;

use http::HeaderMap;

use super::{Failure, Settings, headers};

/// For how long the response to a request with `headers` is waited for; `None`: as long as the caller does.
pub fn limit(settings: &Settings, headers: &HeaderMap) -> Option<Duration> {
    (!headers::is_grpc(headers)).then_some(settings.response_timeout)
}

/// `answer`, or [`Failure::Silent`]. `out_for` says since how long all of the request has been sent.
pub async fn within<T>(
    limit: Option<Duration>,
    out_for: impl Fn() -> Option<Duration>,
    mut answer: Pin<&mut impl Future<Output = Result<T, Failure>>>,
) -> Result<T, Failure> {
    let Some(limit) = limit else { return answer.await };
    let mut timer = pin!(tokio::time::sleep(limit));
    loop {
        tokio::select! {
            biased;
            result = &mut answer => return result,
            () = &mut timer => {}
        }
        let left = limit.saturating_sub(out_for().unwrap_or_default());
        if left.is_zero() {
            return Err(Failure::Silent(limit));
        }
        timer.as_mut().reset(tokio::time::Instant::now() + left);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn silence_ends_after_the_limit_once_the_request_is_out() {
        let start = Instant::now();
        let sent_after = Duration::from_secs(35);
        let result = within::<()>(Some(LIMIT), || start.elapsed().checked_sub(sent_after), pin!(pending())).await;
        assert!(matches!(result, Err(Failure::Silent(_))), "{result:?}");
        assert_eq!(start.elapsed(), sent_after + LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_grpc_call_has_as_long_as_its_caller_waits() {
        let waited = tokio::time::timeout(1000 * LIMIT, within::<()>(None, || Some(LIMIT), pin!(pending()))).await;
        assert!(waited.is_err());
    }
}

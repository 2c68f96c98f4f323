//! Both sidecars with mutual TLS and sockets between them, and an application in threads of its own: its time is in the
//! figure, its allocations are not.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_proxy::balance::Terms;
use mesh_proxy::model::policy::{RequestPolicy, Retries, Timeouts};
use mesh_tests::pair::{BODY, Pair};

use crate::meter::Meter;

const MESSAGE: usize = 64;

/// A request, without and with a policy of its own; a message on an open byte stream; a byte stream with one message.
pub(crate) fn all(meter: &mut Meter, pair: &Pair) {
    meter.waiting_step("pair/request", async || {
        assert_eq!(pair.request().await.expect("an answer"), BODY);
    });
    let policy = policy();
    meter.waiting_step("pair/request-with-policy", async || {
        let terms = Terms::new(Instant::now(), Some(Arc::clone(&policy)), None, Arc::new(|_| ()));
        assert_eq!(pair.request_under(&terms).await.expect("an answer"), BODY);
    });
    let mut held = meter.runtime.block_on(pair.open()).expect("a byte stream");
    meter.waiting_step("pair/echo", async || {
        let mut echo = [1; MESSAGE];
        held.write_all(&[0; MESSAGE]).await.expect("a stream that takes bytes");
        held.read_exact(&mut echo).await.expect("an echo");
    });
    meter.waiting_step("pair/byte-stream", async || {
        let mut stream = pair.open().await.expect("a byte stream");
        let mut echo = [1; MESSAGE];
        stream.write_all(&[0; MESSAGE]).await.expect("a stream that takes bytes");
        stream.read_exact(&mut echo).await.expect("an echo");
    });
}

/// Limits for its time and each of its tries, and retries of what fails.
fn policy() -> Arc<RequestPolicy> {
    let limit = Some(Some(Duration::from_secs(10)));
    let retries = Retries {
        attempts: 2,
        statuses: [500..=599].into(),
        grpc: 0,
        connect_failure: true,
        reset: true,
        refused_stream: true,
        timeout: true,
        backoff: Duration::from_millis(25),
        least_backoff: Duration::ZERO,
        max_backoff: Duration::from_millis(250),
        max_retry_after: Duration::from_secs(30),
    };
    let timeouts = Timeouts { request: limit, backend: limit, ..Timeouts::default() };
    Arc::new(RequestPolicy {
        name: "micro".into(),
        timeouts,
        retries: Some(retries),
        budget: None,
        faults: Box::default(),
    })
}

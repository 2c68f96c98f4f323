//! Our half of an HTTP/2 stream that we opened: sends the request's body in the background, and stays at hand to reset the
//! stream with the caller's own code, before, while and after the body is sent.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use h2::{Reason, SendStream};
use mesh_mtls::cork::Queue;

use super::body::Body;
use super::pump::pump;

/// The half; dropped, it leaves the stream alone.
pub enum RequestHalf {
    /// The request is out.
    Sent(SendStream<Bytes>),
    /// Its body is on the way.
    Sending(Arc<Sending>),
}

/// What the sending task and the exchange share.
pub struct Sending {
    given_up: AtomicU32,
    waker: AtomicWaker,
    sent: Mutex<Option<SendStream<Bytes>>>,
}

const NOT_GIVEN_UP: u32 = u32::MAX;

impl RequestHalf {
    /// Sends `body` on `stream` of the connection that `queue` belongs to.
    pub fn send(stream: SendStream<Bytes>, body: Body, queue: Queue) -> Self {
        let sending = Arc::new(Sending {
            given_up: AtomicU32::new(NOT_GIVEN_UP),
            waker: AtomicWaker::new(),
            sent: Mutex::default(),
        });
        tokio::spawn(run(stream, body, queue, Arc::clone(&sending)));
        RequestHalf::Sending(sending)
    }

    /// Ends the stream in both directions.
    pub fn reset(self, reason: Reason) {
        match self {
            RequestHalf::Sent(mut stream) => stream.send_reset(reason),
            RequestHalf::Sending(sending) => sending.give_up(reason),
        }
    }
}

impl Sending {
    fn give_up(&self, reason: Reason) {
        self.given_up.store(reason.into(), Ordering::Release);
        self.waker.wake();
        if let Some(mut stream) = self.sent().take() {
            stream.send_reset(reason);
        }
    }

    fn reason(&self) -> Option<Reason> {
        let code = self.given_up.load(Ordering::Acquire);
        (code != NOT_GIVEN_UP).then(|| code.into())
    }

    async fn is_given_up(&self) -> Reason {
        std::future::poll_fn(|cx| {
            self.waker.register(cx.waker());
            self.reason().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    fn sent(&self) -> std::sync::MutexGuard<'_, Option<SendStream<Bytes>>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(mut stream: SendStream<Bytes>, body: Body, queue: Queue, sending: Arc<Sending>) {
    let given_up = tokio::select! {
        biased;
        reason = sending.is_given_up() => Some(reason),
        // How long an application takes to read is its own affair.
        _ = pump(&mut stream, body, &queue, None) => sending.reason(),
    };
    match given_up {
        Some(reason) => stream.send_reset(reason),
        None => *sending.sent() = Some(stream),
    }
}

//! The side that made a request, as the upstream's code sees it: takes interim responses (1xx), and tells with which code a
//! caller gave up.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{Response, StatusCode};
use mesh_kit::pressure::{self, Level};

use super::framing::Bad;
use super::h1_io;

/// A cheap handle on the caller.
#[derive(Clone, Debug)]
pub enum Caller {
    /// HTTP/1: hyper sends 100 itself, when the body is asked for; the others go out between messages.
    H1(Arc<h1_io::Shared>),
    /// HTTP/2.
    H2(Arc<H2Caller>),
    /// Nobody who could take an interim response (HTTP/1.0).
    Deaf,
}

/// An HTTP/2 caller's stream until it is answered.
#[derive(Debug)]
pub struct H2Caller {
    respond: Mutex<SendResponse<Bytes>>,
    reset: AtomicU32,
    /// How many streams its connection had open when this one came, this one included.
    streams: usize,
}

const NOT_RESET: u32 = u32::MAX;

impl Caller {
    /// Passes a 1xx response on. Failing is no failure: interim responses are advice.
    pub fn interim(&self, mut response: Response<()>) {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        super::headers::strip_hop_by_hop(response.headers_mut());
        match self {
            Caller::H1(shared) if response.status() != StatusCode::CONTINUE => shared.interim(&response),
            Caller::H2(caller) => {
                let _ = caller.lock().send_informational(response);
            }
            Caller::H1(_) | Caller::Deaf => {}
        }
    }

    /// What is wrong with the body that the caller sends; whoever asks says so in his answer.
    pub fn blame(&self) -> Option<Bad> {
        match self {
            Caller::H1(shared) => shared.blame(),
            Caller::H2(_) | Caller::Deaf => None,
        }
    }

    /// Whether memory is too short for one more request of it: near the limit for any, before that for one whose connection
    /// has more than a few already, so that who asks for much does not keep out who asks for little.
    pub fn asks_too_much(&self) -> bool {
        const FEW: usize = 8;
        match pressure::look() {
            Level::Calm => false,
            Level::High => matches!(self, Caller::H2(caller) if caller.streams > FEW),
            Level::Critical => true,
        }
    }

    /// The code with which the caller has reset its stream, if it has.
    pub fn reset(&self) -> Option<Reason> {
        match self {
            Caller::H2(caller) => match caller.reset.load(Ordering::Relaxed) {
                NOT_RESET => None,
                code => Some(code.into()),
            },
            Caller::H1(_) | Caller::Deaf => None,
        }
    }
}

impl H2Caller {
    /// A caller that waits for its answer on `respond`, one of so many streams.
    pub fn new(respond: SendResponse<Bytes>, streams: usize) -> Arc<Self> {
        Arc::new(Self { respond: Mutex::new(respond), reset: AtomicU32::new(NOT_RESET), streams })
    }

    /// The stream to answer on.
    pub fn lock(&self) -> std::sync::MutexGuard<'_, SendResponse<Bytes>> {
        self.respond.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when the caller has given up; its code is kept for `Caller::reset`.
    pub fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.lock().poll_reset(cx).map(|result| {
            let reason = result.unwrap_or_else(|error| error.reason().unwrap_or(Reason::CANCEL));
            self.reset.store(reason.into(), Ordering::Relaxed);
        })
    }
}

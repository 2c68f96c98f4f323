//! A request that may have to be sent more than once.
//!
//! Invariant: it is sent a second time at most once, from its first byte, or not at all.

use http::{Request, Version};
use http_body::Body as _;

use crate::http::replay::Replay;
use crate::http::{Body, headers};

/// A request, before and between its tries.
pub(super) struct Repeatable {
    version: Version,
    next: Option<Request<Body>>,
    spare: Option<(Request<()>, Option<Replay>)>,
    harmless: bool,
}

impl Repeatable {
    pub(super) fn new(request: Request<Body>) -> Self {
        let harmless = headers::is_idempotent(request.method()) && request.body().is_end_stream();
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.version_mut() = request.version();
        *head.headers_mut() = request.headers().clone();
        let (parts, body) = request.into_parts();
        let (body, replay) = if body.is_end_stream() {
            (body, None)
        } else {
            let (replay, reader) = Replay::new(body);
            (Body::replayed(reader), Some(replay))
        };
        Self {
            version: parts.version,
            next: Some(Request::from_parts(parts, body)),
            spare: Some((head, replay)),
            harmless,
        }
    }

    /// The application's HTTP version.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Idempotent and without a body: a second copy does no harm.
    pub(super) fn is_harmless(&self) -> bool {
        self.harmless
    }

    /// The request, to be sent now.
    pub(super) fn take(&mut self) -> Option<Request<Body>> {
        self.next.take()
    }

    /// Makes it ready to be sent again; false when that cannot be.
    pub(super) fn restore(&mut self) -> bool {
        if self.next.is_some() {
            return true;
        }
        let Some((head, replay)) = self.spare.take() else { return false };
        let body = match replay.map(|replay| replay.again()) {
            None => Body::empty(),
            Some(Some(reader)) => Body::replayed(reader),
            Some(None) => return false,
        };
        self.next = Some(head.map(|()| body));
        true
    }
}

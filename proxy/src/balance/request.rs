//! A request that may have to be sent more than once.
//!
//! Invariant: it is sent again from its first byte, or not at all: without a policy that asks for more, once.

use std::time::Duration;

use http::Version;

use crate::http::deadline::Deadline;
use crate::http::replay::{Passing, Spare};
use crate::http::{BoxedRequest, Failure, Settings, headers};

/// A request, before and between its tries.
pub(super) struct Repeatable {
    version: Version,
    next: Option<BoxedRequest>,
    spare: Option<Spare>,
    /// How far its body is; `None`: it has none.
    passing: Option<Passing>,
    harmless: bool,
    grpc: bool,
}

impl Repeatable {
    pub(super) fn new(request: BoxedRequest) -> Self {
        let (version, harmless) = (request.version(), headers::is_idempotent(request.method()));
        let grpc = headers::is_grpc(request.headers());
        let (request, spare) = Spare::of(request);
        let passing = spare.passing();
        Self { version, next: Some(request), spare: Some(spare), passing, harmless, grpc }
    }

    /// The application's HTTP version.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// For how long all of it has been passed on; `None`: some is still to come.
    pub(super) fn out_for(&self) -> Option<Duration> {
        self.passing.as_ref().map_or(Some(Duration::MAX), Passing::over_for)
    }

    /// Whether a second copy does no harm, once the first has failed so.
    pub(super) fn is_safe_after(&self, failure: &Failure) -> bool {
        failure.is_unprocessed() || (failure.is_lost() && self.harmless)
    }

    /// A call of gRPC.
    pub(super) fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// For how long the head of its response is waited for when nobody says otherwise; `None`: as long as the caller does.
    pub(super) fn patience(&self, settings: &Settings) -> Option<Duration> {
        (!self.grpc).then_some(settings.response_timeout)
    }

    /// The request, to be sent now.
    pub(super) fn take(&mut self) -> Option<BoxedRequest> {
        self.next.take()
    }

    /// Makes it ready to be sent again; false when that cannot be.
    pub(super) fn restore(&mut self) -> bool {
        if self.next.is_none() {
            self.next = self.spare.take().as_ref().and_then(Spare::again);
        }
        self.next.is_some()
    }

    /// Whether it could be sent again.
    pub(super) fn is_whole(&self) -> bool {
        self.next.is_some() || self.spare.as_ref().is_some_and(Spare::is_whole)
    }

    /// Makes it ready to be sent again, as often as its body allows; an earlier try gets no more of it. False when it does not.
    pub(super) fn rewind(&mut self) -> bool {
        if self.next.is_none() {
            self.next = self.spare.as_ref().and_then(Spare::again);
        }
        self.next.is_some()
    }

    /// Says when its caller stops waiting, to whoever gets it next.
    pub(super) fn tell(&mut self, deadline: Deadline) {
        if let Some(next) = &mut self.next {
            next.extensions_mut().insert(deadline);
        }
    }
}

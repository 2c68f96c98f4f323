//! A request that may have to be sent more than once.
//!
//! Invariant: it is sent a second time at most once, from its first byte, or not at all.

use http::Version;

use crate::http::replay::{Passing, Spare};
use crate::http::{BoxedRequest, headers};

/// A request, before and between its tries.
pub(super) struct Repeatable {
    version: Version,
    next: Option<BoxedRequest>,
    spare: Option<Spare>,
    /// How far its body is; `None`: it has none.
    passing: Option<Passing>,
    harmless: bool,
}

impl Repeatable {
    pub(super) fn new(request: BoxedRequest) -> Self {
        let (version, harmless) = (request.version(), headers::is_idempotent(request.method()));
        let (request, spare) = Spare::of(request);
        let passing = spare.passing();
        Self { version, next: Some(request), spare: Some(spare), passing, harmless }
    }

    /// The application's HTTP version.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// All of it has come from the application and been passed on.
    pub(super) fn is_out(&self) -> bool {
        self.passing.as_ref().is_none_or(Passing::is_over)
    }

    /// A second copy does no harm.
    pub(super) fn is_harmless(&self) -> bool {
        self.harmless
    }

    /// The request, to be sent now.
    pub(super) fn take(&mut self) -> Option<BoxedRequest> {
        self.next.take()
    }

    /// Makes it ready to be sent again; false when that cannot be.
    pub(super) fn restore(&mut self) -> bool {
        if self.next.is_none() {
            self.next = self.spare.take().and_then(Spare::again);
        }
        self.next.is_some()
    }
}

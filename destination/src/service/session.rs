//! What one stream has asked for, and what it has been told.
//!
//! Invariant: a stream says Hello once, before anything else; ids of live subscriptions differ; their number is bounded.
//! A subscription holds no snapshot, only its place in the index, so that what is sent is the newest at that moment.
//! Synchronous; `now` is an argument. Non-goal: the stream (`connection`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;
use mesh_mtls::spiffe;
use mesh_proto::discovery::WatchRequest;

use super::by_id::ById;
use super::message::Message;
use super::pace::{Marked, Pace};
use super::wire::{self, Malformed, Request, Wanted};
use super::{Shared, health};
use crate::index::{Backend, Dialed, Marks, Proxy, Reported, Reporter, Resource, Snapshot, Watch};
use crate::metrics::{Resource as Label, Service as Metrics};

/// Snapshots whose acknowledgement is waited for; of more, only the older ones are measured.
const UNACKNOWLEDGED: usize = 8;

/// Why a proxy is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("Hello has to come first")]
    HelloMissing,
    #[error("Hello came twice")]
    HelloTwice,
    #[error("Hello has more than {0} addresses")]
    TooManyAddresses(usize),
    #[error("subscription {0} is there already")]
    DuplicateSubscription(u64),
    #[error("more than {0} subscriptions")]
    TooManySubscriptions(usize),
    #[error("no Hello in time")]
    HelloLate,
}

impl Refusal {
    /// For metrics and logs.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(Malformed::Missing(_)) => "empty_request",
            Self::Malformed(Malformed::Address(_)) => "bad_address",
            Self::Malformed(Malformed::Port(_)) => "bad_port",
            Self::Malformed(Malformed::Name(_)) => "bad_name",
            Self::HelloMissing => "hello_missing",
            Self::HelloTwice => "hello_twice",
            Self::HelloLate => "hello_late",
            Self::TooManyAddresses(_) => "too_many_addresses",
            Self::DuplicateSubscription(_) => "duplicate_subscription",
            Self::TooManySubscriptions(_) => "too_many_subscriptions",
        }
    }
}

#[derive(Debug)]
pub(super) struct Session {
    shared: Arc<Shared>,
    id: spiffe::Id,
    proxy: Option<Arc<Proxy>>,
    marks: Arc<Marks>,
    subscriptions: ById<Subscription>,
    pace: Pace,
    /// Once it has said how its workload is.
    reporter: Option<Reporter>,
}

impl Drop for Session {
    fn drop(&mut self) {
        for subscription in self.subscriptions.values() {
            self.shared.metrics.unsubscribed(subscription.label());
        }
        let Some(reporter) = self.reporter else { return };
        if self.shared.index().departed(reporter, Instant::now()) {
            health::forget_later(&self.shared);
        }
    }
}

#[derive(Debug)]
struct Subscription {
    watch: Watch,
    /// The version sent last; 0 is none.
    sent: u64,
    /// Changes sent and not acknowledged: version, and when the change was seen.
    #[expect(clippy::box_collection, reason = "a word, for mostly there are none")]
    awaited: Option<Box<Vec<(u64, Instant)>>>,
}

impl Subscription {
    /// For metrics.
    fn label(&self) -> Label {
        match self.watch.resource() {
            Resource::Outbound(_) => Label::Outbound,
            Resource::Endpoints(_) => Label::Endpoints,
            Resource::Inbound(_) => Label::Inbound,
        }
    }
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, id: spiffe::Id) -> Self {
        let pace = Pace::new(shared.settings.interval);
        let (marks, subscriptions) = (Arc::default(), ById::new());
        Self { shared, id, proxy: None, marks, subscriptions, pace, reporter: None }
    }

    /// Who it is for.
    pub(super) fn id(&self) -> &spiffe::Id {
        &self.id
    }

    pub(super) fn is_greeted(&self) -> bool {
        self.proxy.is_some()
    }

    /// A request came.
    pub(super) fn receive(&mut self, request: WatchRequest, now: Instant) -> Result<(), Refusal> {
        match (Request::try_from(request)?, &self.proxy) {
            (Request::Hello { .. }, Some(_)) => Err(Refusal::HelloTwice),
            (Request::Hello { addresses, version, namespace, workload }, None) => {
                if addresses.len() > self.shared.settings.addresses {
                    return Err(Refusal::TooManyAddresses(self.shared.settings.addresses));
                }
                let id = self.id.clone();
                if !namespace.is_empty() && namespace != id.namespace() {
                    // Its certificate says who it is; the environment of the proxy is wrong.
                    tracing::warn!(%id, namespace, "a proxy names another namespace than its certificate");
                }
                tracing::debug!(%id, version, workload, ?addresses, "hello");
                let addresses = BTreeSet::from_iter(addresses).into_iter().collect();
                self.proxy = Some(Arc::new(Proxy { addresses, id }));
                Ok(())
            }
            (_, None) => Err(Refusal::HelloMissing),
            (Request::Subscribe { id, to }, Some(proxy)) => {
                let resource = match to {
                    Wanted::Outbound(addr) => {
                        let namespace = proxy.id.namespace().into();
                        Resource::Outbound(Dialed { addr, namespace })
                    }
                    Wanted::Endpoints(backend) => Resource::Endpoints(backend),
                    Wanted::Inbound => Resource::Inbound(Arc::clone(proxy)),
                };
                self.subscribe(id, resource, now)
            }
            (Request::Unsubscribe { id }, Some(_)) => {
                if let Some(subscription) = self.subscriptions.remove(id) {
                    self.shared.metrics.unsubscribed(subscription.label());
                }
                self.pace.remove(id);
                Ok(())
            }
            (Request::Health { healthy, detail }, Some(proxy)) => {
                let proxy = Arc::clone(proxy);
                self.reported(&proxy, healthy, &detail);
                Ok(())
            }
            (Request::Ack { id, version, error }, Some(_)) => {
                self.acknowledged(id, version, &error, now);
                Ok(())
            }
        }
    }

    fn reported(&mut self, proxy: &Proxy, is_healthy: bool, detail: &str) {
        let outcome = {
            let mut index = self.shared.index();
            let reporter = *self.reporter.get_or_insert_with(|| index.reporter());
            index.report(proxy, reporter, is_healthy, detail)
        };
        self.shared.metrics.health_reported(match outcome {
            Reported::Nobody => "nobody",
            _ if is_healthy => "healthy",
            _ => "unhealthy",
        });
        if outcome == Reported::Changed {
            tracing::info!(id = %self.id, addresses = ?proxy.addresses, is_healthy, detail, "health of a workload");
            health::publish_soon(&self.shared);
        }
    }

    fn subscribe(&mut self, id: u64, resource: Resource, now: Instant) -> Result<(), Refusal> {
        if self.subscriptions.contains(id) {
            return Err(Refusal::DuplicateSubscription(id));
        }
        if self.subscriptions.len() >= self.shared.settings.subscriptions {
            return Err(Refusal::TooManySubscriptions(self.shared.settings.subscriptions));
        }
        let watch = self.shared.index().watch(resource, &self.marks, id);
        let subscription = Subscription { watch, sent: 0, awaited: None };
        self.shared.metrics.subscribed(subscription.label());
        self.subscriptions.insert(id, subscription);
        self.pace.add(id);
        self.pace.mark(id, now);
        Ok(())
    }

    /// Of a subscription that is gone, or of a version that was overtaken, an answer is no surprise.
    fn acknowledged(&mut self, id: u64, version: u64, error: &str, now: Instant) {
        if !error.is_empty() {
            self.shared.metrics.refused();
            tracing::warn!(proxy = %self.id, subscription = id, version, error, "a proxy refuses a snapshot");
        }
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return;
        };
        let awaited = subscription.awaited.as_deref_mut();
        let seen = awaited.map(|awaited| {
            let overtaken = awaited.iter().take_while(|(sent, _)| *sent <= version).count();
            awaited.drain(..overtaken).collect::<Vec<_>>()
        });
        let seen = seen.unwrap_or_default();
        subscription.awaited.take_if(|awaited| awaited.is_empty());
        if !error.is_empty() {
            return;
        }
        if seen.is_empty() {
            self.shared.metrics.applied(None);
        }
        for (_, seen) in seen {
            self.shared.metrics.applied(Some(now.saturating_duration_since(seen)));
        }
    }

    /// Notes what changed and whose time has come. `waker` is woken by the next change.
    pub(super) fn look(&mut self, now: Instant, waker: &Waker) {
        self.pace.advance(now);
        let marked = self.marks.take(waker);
        let mut coalesced = marked.repeated;
        for id in marked.ids {
            coalesced += u64::from(self.pace.mark(id, now) == Marked::WaitedAlready);
        }
        self.shared.metrics.coalesced(coalesced);
    }

    /// When [`Self::look`] will find something that is not marked yet.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.pace.wake_at()
    }

    /// The next snapshot to send, the newest of its resource; counts as sent.
    pub(super) fn next(&mut self, now: Instant) -> Option<Message> {
        while let Some(id) = self.pace.next(now) {
            let Some(subscription) = self.subscriptions.get_mut(id) else {
                continue;
            };
            let snapshot = subscription.watch.latest();
            if snapshot.version == subscription.sent {
                continue; // marked for what the last one said already
            }
            let is_change = subscription.sent != 0;
            subscription.sent = snapshot.version;
            if let Some(seen) = snapshot.changed_at.filter(|_| is_change) {
                let awaited = subscription.awaited.get_or_insert_default();
                if awaited.len() < UNACKNOWLEDGED {
                    awaited.push((snapshot.version, seen));
                }
            }
            self.shared.metrics.sent(subscription.label());
            let encode = |snapshot: &Snapshot| encode(snapshot, &subscription.watch, &self.shared.metrics);
            if let Some(message) = Message::snapshot(id, snapshot.encoded(encode)) {
                return Some(message);
            }
        }
        None
    }
}

/// Happens once for each snapshot, whoever asks.
fn encode(snapshot: &Snapshot, watch: &Watch, metrics: &Metrics) -> Bytes {
    let (bytes, omitted) = wire::encode(snapshot);
    if omitted > 0 {
        metrics.truncated();
        if let Resource::Endpoints(Backend { service, port }) = watch.resource() {
            tracing::error!(%service, port, omitted, "more endpoints than a proxy takes: the last by address are left out");
        }
    }
    bytes
}

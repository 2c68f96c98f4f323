//! All that is known and wanted, behind one lock: values, subscriptions, and how the stream is.
//!
//! Invariant: a cell and its line in the ledger come and go together; a refused update changes nothing but the counter.
//! Not here: locks and wake-ups (`mod`), the stream (`driver`). No I/O; `now` is an argument.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mesh_proto::discovery as wire;

use super::cells::{Cell, Cells, News};
use super::ledger::{Answer, Ledger, Line, Resource};
use super::parse::{Malformed, Snapshot};
use super::status::{Known, Status};
use crate::model::{BackendId, EndpointSet, Health, InboundPolicy, Target};

#[derive(Debug)]
pub(super) struct Table {
    ledger: Ledger,
    targets: Cells<Target>,
    backends: Cells<EndpointSet>,
    inbound: Cells<InboundPolicy>,
    /// What was found of the own application, and whether destination has yet to hear of it.
    health: Option<(Health, bool)>,
    link: Link,
    /// Most cells of a kind.
    limit: usize,
}

/// How the stream is.
#[derive(Debug)]
struct Link {
    connected: bool,
    since: Instant,
    last_error: Option<String>,
    rejected: u64,
    over_limit: u64,
}

/// A resource as a holder gets it: the subscription's id on the wire, and the value.
type Held<T> = (u64, Arc<Cell<T>>);

/// What became of an update.
pub(super) enum Outcome {
    /// It is the newest state, once the news are told.
    Applied(&'static str, News),
    /// It is malformed or was never asked for; what was known stays.
    Refused(String),
    /// Nobody wants it any more.
    Dropped,
}

impl Table {
    pub(super) fn new(limit: usize, now: Instant) -> Self {
        let link = Link { connected: false, since: now, last_error: None, rejected: 0, over_limit: 0 };
        Table {
            ledger: Ledger::default(),
            targets: Cells::default(),
            backends: Cells::default(),
            inbound: Cells::default(),
            health: None,
            link,
            limit,
        }
    }

    /// One more holder of what is behind `addr`; `None` above the limit.
    pub(super) fn hold_target(&mut self, addr: SocketAddr) -> Option<Held<Target>> {
        let id = self.hold(Resource::Outbound(addr), self.limit)?;
        Some((id, self.targets.hold(id)))
    }

    /// One more holder of the endpoints of `backend`; `None` above the limit.
    pub(super) fn hold_endpoints(&mut self, backend: &BackendId) -> Option<Held<EndpointSet>> {
        let id = self.hold(Resource::Endpoints(backend.clone()), self.limit)?;
        Some((id, self.backends.hold(id)))
    }

    /// One more holder of the workload's own policy, which no limit can refuse.
    pub(super) fn hold_inbound(&mut self) -> Option<Held<InboundPolicy>> {
        let id = self.hold(Resource::Inbound, 1)?;
        Some((id, self.inbound.hold(id)))
    }

    fn hold(&mut self, resource: Resource, limit: usize) -> Option<u64> {
        if self.held(&resource) >= limit && self.ledger.find(&resource).is_none() {
            self.link.over_limit += 1;
            return None;
        }
        Some(self.ledger.hold(resource))
    }

    /// One holder less of what subscription `id` is about, and what that is.
    pub(super) fn release(&mut self, id: u64) -> Option<Resource> {
        let resource = self.ledger.resource(id)?.clone();
        if self.ledger.release(id) {
            match &resource {
                Resource::Outbound(_) => self.targets.remove(id),
                Resource::Endpoints(_) => self.backends.remove(id),
                Resource::Inbound => self.inbound.remove(id),
            }
        }
        Some(resource)
    }

    /// How many resources of this one's kind are held.
    pub(super) fn held(&self, resource: &Resource) -> usize {
        match resource {
            Resource::Outbound(_) => self.targets.len(),
            Resource::Endpoints(_) => self.backends.len(),
            Resource::Inbound => self.inbound.len(),
        }
    }

    /// A snapshot has come for subscription `id`.
    pub(super) fn apply(
        &mut self,
        id: u64,
        version: u64,
        snapshot: Result<Snapshot, Malformed>,
        now: Instant,
    ) -> Outcome {
        let resource = match self.ledger.answers(id) {
            Answer::Live(resource) => resource,
            Answer::Ended => return Outcome::Dropped,
            Answer::NeverAsked => return self.refuse(format!("no subscription {id}")),
        };
        match snapshot.and_then(|snapshot| self.news(id, &resource, snapshot)) {
            Ok(None) => Outcome::Dropped,
            Ok(Some(news)) => {
                self.ledger.applied(id, version, now);
                Outcome::Applied(resource.kind(), news)
            }
            Err(malformed) => {
                self.ledger.refused(id, version, malformed.to_string());
                self.refuse(format!("{resource}, version {version}: {malformed}"))
            }
        }
    }

    fn news(&self, id: u64, resource: &Resource, snapshot: Snapshot) -> Result<Option<News>, Malformed> {
        Ok(match (resource, snapshot) {
            (Resource::Outbound(_), Snapshot::Outbound(target)) => self.targets.news(id, target),
            (Resource::Endpoints(_), Snapshot::Endpoints(set)) => self.backends.news(id, set),
            (Resource::Inbound, Snapshot::Inbound(policy)) => self.inbound.news(id, policy),
            _ => return Err(Malformed::OtherKind),
        })
    }

    fn refuse(&mut self, why: String) -> Outcome {
        self.link.rejected += 1;
        self.link.last_error = Some(why.clone());
        Outcome::Refused(why)
    }

    /// A stream begins, knowing nothing.
    pub(super) fn restart(&mut self) {
        self.ledger.restart();
        if let Some((_, is_due)) = &mut self.health {
            *is_due = true;
        }
    }

    /// Destination has answered on the new stream.
    pub(super) fn connected(&mut self, now: Instant) {
        (self.link.connected, self.link.since) = (true, now);
    }

    /// The stream has ended, or could not be opened. Every value stays.
    pub(super) fn disconnected(&mut self, why: String, now: Instant) {
        if std::mem::take(&mut self.link.connected) {
            self.link.since = now;
        }
        self.link.last_error = Some(why);
    }

    /// Whether there is something to say on the stream.
    pub(super) fn is_due(&self) -> bool {
        self.ledger.is_due() || matches!(self.health, Some((_, true)))
    }

    /// The next thing to say.
    pub(super) fn next_request(&mut self) -> Option<wire::WatchRequest> {
        self.ledger.next().or_else(|| self.next_report())
    }

    fn next_report(&mut self) -> Option<wire::WatchRequest> {
        let (health, is_due) = self.health.as_mut()?;
        let report = wire::Health { healthy: health.is_healthy, detail: health.detail.clone() };
        let request = wire::WatchRequest { kind: Some(wire::watch_request::Kind::Health(report)) };
        std::mem::take(is_due).then_some(request)
    }

    /// The newest of the own application.
    pub(super) fn report(&mut self, health: Health) {
        if self.health().is_none_or(|known| *known != health) {
            self.health = Some((health, true));
        }
    }

    pub(super) fn health(&self) -> Option<&Health> {
        self.health.as_ref().map(|(health, _)| health)
    }

    pub(super) fn status(&self, now: Instant) -> Status {
        let Link { connected, since, rejected, over_limit, .. } = self.link;
        let of_kind = |kind| {
            let lines = self.ledger.lines().filter(move |line| line.resource.kind() == kind);
            lines.map(|line| known(line, now)).collect()
        };
        Status {
            connected,
            since_seconds: now.saturating_duration_since(since).as_secs(),
            last_error: self.link.last_error.clone(),
            rejected,
            over_limit,
            health: self.health().cloned(),
            outbound: of_kind("outbound"),
            endpoints: of_kind("endpoints"),
            inbound: of_kind("inbound"),
        }
    }
}

fn known(line: &Line, now: Instant) -> Known {
    Known {
        resource: line.resource.to_string(),
        version: line.applied.map(|(version, _)| version),
        age_seconds: line.applied.map(|(_, at)| now.saturating_duration_since(at).as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(table: &mut Table) -> Option<bool> {
        match table.next_request()?.kind? {
            wire::watch_request::Kind::Health(health) => Some(health.healthy),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn health_is_said_once_for_each_change_and_again_on_each_new_stream() {
        let mut table = Table::new(1, Instant::now());
        assert!(!table.is_due());
        let health = |is_healthy| Health { is_healthy, detail: String::new() };
        for is_healthy in [true, false] {
            table.report(health(is_healthy));
            assert!(table.is_due());
            assert_eq!((said(&mut table), said(&mut table)), (Some(is_healthy), None));
        }
        table.report(health(false));
        assert!(!table.is_due(), "nothing is new");
        table.restart();
        assert_eq!((said(&mut table), said(&mut table)), (Some(false), None));
    }
}

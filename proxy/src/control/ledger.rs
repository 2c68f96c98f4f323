//! The wire side of all subscriptions: which the destination has been told of, and what it is still to be told.
//!
//! Invariant: what is to be said is state, not a queue: a subscription that came and went unsent leaves nothing, of several
//! acknowledgements only the newest is sent, and `next` empties `gone` before it subscribes to anything more, so the ledger's
//! size follows the number of live subscriptions even if the stream takes nothing. An id is never used twice.
//! Not here: values (`table`), the stream itself (`driver`). No clock and no I/O: `now` is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use hashbrown::HashTable;
use mesh_proto::discovery as wire;

use crate::model::BackendId;

/// Something that destination can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Resource {
    Outbound(SocketAddr),
    Endpoints(BackendId),
    Inbound,
}

/// Every subscription and what is due on the wire.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Boxed, since a third of a tree's places are empty.
    live: BTreeMap<u64, Box<Line>>,
    /// Those of live ones, found by their resource, which only the line has.
    ids: HashTable<u64>,
    hasher: RandomState,
    /// Live ones with something to say.
    due: BTreeSet<u64>,
    /// Told on this stream, wanted no more.
    gone: Vec<u64>,
    last_id: u64,
}

/// One live subscription.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) resource: Resource,
    /// The newest snapshot that was taken: its version, and when.
    pub(super) applied: Option<(u64, Instant)>,
    /// Who share the subscription.
    holders: u32,
    /// Whether destination has been told on the current stream.
    told: bool,
    ack: Option<Box<wire::Ack>>,
}

/// What an incoming subscription id stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A live subscription.
    Live(Resource),
    /// One that has ended: the snapshot and the unsubscription crossed on the wire.
    Ended,
    /// None that this stream was asked for.
    NeverAsked,
}

impl Ledger {
    /// One more holder of `resource`: the subscription's id. The first one starts it.
    pub(super) fn hold(&mut self, resource: Resource) -> u64 {
        let id = self.find(&resource).unwrap_or_else(|| self.add(resource));
        if let Some(line) = self.live.get_mut(&id) {
            line.holders += 1;
        }
        id
    }

    /// One holder less; whether it was the last one, with whom the subscription ends.
    pub(super) fn release(&mut self, id: u64) -> bool {
        let Some(line) = self.live.get_mut(&id) else { return false };
        line.holders = line.holders.saturating_sub(1);
        let is_over = line.holders == 0;
        if is_over {
            self.remove(id);
        }
        is_over
    }

    /// The live subscription of `resource`.
    pub(super) fn find(&self, resource: &Resource) -> Option<u64> {
        let is_its = |id: &u64| self.resource(*id) == Some(resource);
        self.ids.find(self.hasher.hash_one(resource), is_its).copied()
    }

    fn add(&mut self, resource: Resource) -> u64 {
        self.last_id += 1;
        let hash = self.hasher.hash_one(&resource);
        let line = Line { resource, applied: None, holders: 0, told: false, ack: None };
        self.live.insert(self.last_id, Box::new(line));
        let Self { live, ids, hasher, .. } = self;
        let hash_of = |id: &u64| live.get(id).map_or(0, |line| hasher.hash_one(&line.resource));
        ids.insert_unique(hash, self.last_id, hash_of);
        self.due.insert(self.last_id);
        self.last_id
    }

    /// What a live subscription is about.
    pub(super) fn resource(&self, id: u64) -> Option<&Resource> {
        self.live.get(&id).map(|line| &line.resource)
    }

    fn remove(&mut self, id: u64) {
        self.due.remove(&id);
        let Some(line) = self.live.remove(&id) else { return };
        if let Ok(found) = self.ids.find_entry(self.hasher.hash_one(&line.resource), |known| *known == id) {
            found.remove();
        }
        if line.told {
            self.gone.push(id);
        }
    }

    /// A new stream: it knows nothing, so every live subscription is due, and what the old one was owed is void.
    pub(super) fn restart(&mut self) {
        self.gone.clear();
        for line in self.live.values_mut() {
            (line.told, line.ack) = (false, None);
        }
        self.due = self.live.keys().copied().collect();
    }

    /// Whether `next` has something.
    pub(super) fn is_due(&self) -> bool {
        !self.gone.is_empty() || !self.due.is_empty()
    }

    /// The next thing to say; once taken it counts as said.
    pub(super) fn next(&mut self) -> Option<wire::WatchRequest> {
        use wire::watch_request::Kind;
        let kind = match self.gone.pop() {
            Some(id) => Kind::Unsubscribe(wire::Unsubscribe { id }),
            None => self.next_of_live()?,
        };
        Some(wire::WatchRequest { kind: Some(kind) })
    }

    fn next_of_live(&mut self) -> Option<wire::watch_request::Kind> {
        use wire::watch_request::Kind;
        while let Some(id) = self.due.pop_first() {
            let Some(line) = self.live.get_mut(&id) else {
                continue;
            };
            if !line.told {
                line.told = true;
                let resource = Some(wire::Resource::from(&line.resource));
                return Some(Kind::Subscribe(wire::Subscribe { id, resource }));
            }
            if let Some(ack) = line.ack.take() {
                return Some(Kind::Ack(*ack));
            }
        }
        None
    }

    /// What a snapshot for `id` answers.
    pub(super) fn answers(&self, id: u64) -> Answer {
        match self.live.get(&id) {
            Some(line) if line.told => Answer::Live(line.resource.clone()),
            None if (1..=self.last_id).contains(&id) => Answer::Ended,
            _ => Answer::NeverAsked,
        }
    }

    /// Version `version` was taken: acknowledges it.
    pub(super) fn applied(&mut self, id: u64, version: u64, now: Instant) {
        if let Some(line) = self.live.get_mut(&id) {
            line.applied = Some((version, now));
            self.acknowledge(id, version, String::new());
        }
    }

    /// Version `version` was refused: says why.
    pub(super) fn refused(&mut self, id: u64, version: u64, error: String) {
        self.acknowledge(id, version, error);
    }

    fn acknowledge(&mut self, id: u64, version: u64, error: String) {
        if let Some(line) = self.live.get_mut(&id) {
            line.ack = Some(Box::new(wire::Ack { id, version, error }));
            self.due.insert(id);
        }
    }

    /// Every live subscription, oldest first.
    pub(super) fn lines(&self) -> impl Iterator<Item = &Line> {
        self.live.values().map(|line| &**line)
    }
}

impl Resource {
    /// The word for metrics and status.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Resource::Outbound(_) => "outbound",
            Resource::Endpoints(_) => "endpoints",
            Resource::Inbound => "inbound",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resource::Outbound(addr) => addr.fmt(f),
            Resource::Endpoints(backend) => backend.fmt(f),
            Resource::Inbound => f.write_str("inbound"),
        }
    }
}

impl From<&Resource> for wire::Resource {
    fn from(resource: &Resource) -> Self {
        use wire::resource::Kind;
        let kind = match resource {
            Resource::Outbound(addr) => {
                let (ip, port) = (octets(addr.ip()).into(), addr.port().into());
                Kind::Outbound(wire::SocketAddress { ip, port })
            }
            Resource::Endpoints(backend) => Kind::Endpoints(wire::BackendRef {
                namespace: backend.namespace.to_string(),
                service: backend.service.to_string(),
                port: backend.port.into(),
            }),
            Resource::Inbound => Kind::Inbound(wire::Inbound {}),
        };
        wire::Resource { kind: Some(kind) }
    }
}

/// An IP as the wire has it: 4 or 16 bytes, an IPv4-mapped one as the IPv4 address that it names.
pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::watch_request::Kind;

    fn outbound(last: u8) -> Resource {
        Resource::Outbound(SocketAddr::from(([10, 0, 0, last], 80)))
    }

    /// Everything that is due, in short: `+1` subscribes, `-1` unsubscribes, `a1@7` acknowledges.
    fn drain(ledger: &mut Ledger) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(request) = ledger.next() {
            said.push(match request.kind.expect("a kind") {
                Kind::Hello(_) => "hello".to_owned(),
                Kind::Subscribe(s) => format!("+{}", s.id),
                Kind::Unsubscribe(u) => format!("-{}", u.id),
                Kind::Ack(a) => format!("a{}@{}{}", a.id, a.version, a.error),
                Kind::Health(health) => format!("healthy: {}", health.healthy),
            });
        }
        assert!(!ledger.is_due());
        said
    }

    #[test]
    fn subscriptions_are_told_once_and_in_order() {
        let mut ledger = Ledger::default();
        assert!(!ledger.is_due());
        ledger.add(outbound(1));
        ledger.add(Resource::Inbound);
        assert!(ledger.is_due());
        assert_eq!(drain(&mut ledger), ["+1", "+2"]);
        assert_eq!(drain(&mut ledger), [""; 0]);
    }

    #[test]
    fn one_that_came_and_went_unsent_leaves_nothing() {
        let mut ledger = Ledger::default();
        for _ in 0..10_000 {
            let id = ledger.add(outbound(1));
            ledger.remove(id);
        }
        assert!(!ledger.is_due());
        assert!(ledger.live.is_empty() && ledger.gone.is_empty());
    }

    #[test]
    fn what_is_gone_is_told_before_anything_new_and_ids_are_not_used_again() {
        let mut ledger = Ledger::default();
        let first = ledger.add(outbound(1));
        drain(&mut ledger);
        ledger.remove(first);
        ledger.remove(first);
        ledger.add(outbound(1));
        assert_eq!(drain(&mut ledger), ["-1", "+2"]);
    }

    #[test]
    fn of_several_acknowledgements_the_newest_is_sent() {
        let mut ledger = Ledger::default();
        let (id, now) = (ledger.add(outbound(1)), Instant::now());
        drain(&mut ledger);
        for version in 1..=1000 {
            ledger.applied(id, version, now);
        }
        assert_eq!(drain(&mut ledger), ["a1@1000"]);
        ledger.refused(id, 1001, " bad".to_owned());
        assert_eq!(drain(&mut ledger), ["a1@1001 bad"]);
        assert_eq!(ledger.lines().next().and_then(|l| l.applied), Some((1000, now)));
    }

    #[test]
    fn a_new_stream_is_told_everything_that_lives_and_nothing_else() {
        let mut ledger = Ledger::default();
        let (a, b, c) = (ledger.add(outbound(1)), ledger.add(outbound(2)), ledger.add(outbound(3)));
        drain(&mut ledger);
        ledger.applied(a, 5, Instant::now());
        ledger.remove(b);
        ledger.restart();
        ledger.remove(c);
        ledger.add(outbound(4));
        assert_eq!(drain(&mut ledger), ["+1", "+4"]);
    }

    #[test]
    fn an_id_is_live_ended_or_never_asked() {
        let mut ledger = Ledger::default();
        let (a, b) = (ledger.add(outbound(1)), ledger.add(outbound(2)));
        assert_eq!(ledger.answers(a), Answer::NeverAsked, "not told yet");
        drain(&mut ledger);
        ledger.remove(b);
        let answers = [0, a, b, 3, u64::MAX].map(|id| ledger.answers(id));
        let expected = [Answer::NeverAsked, Answer::Live(outbound(1)), Answer::Ended];
        assert_eq!(answers[..3], expected);
        assert_eq!(answers[3..], [Answer::NeverAsked, Answer::NeverAsked]);
        ledger.restart();
        assert_eq!(ledger.answers(a), Answer::NeverAsked, "the new stream was not asked yet");
    }

    #[test]
    fn an_ipv4_mapped_address_goes_out_as_ipv4() {
        let mapped = Resource::Outbound("[::ffff:10.0.0.1]:80".parse().expect("an address"));
        assert_eq!(wire::Resource::from(&mapped), wire::Resource::from(&outbound(1)));
    }
}

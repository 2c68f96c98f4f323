//! A pair of sidecars of one contestant, from exec to the end.
//!
//! Invariant: [`Pair::start`] returns when both say that they are ready, and knows how long each took.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use mesh_tests::client;
use mesh_tests::mesh::ADMIN_PORT;
use mesh_tests::netns::Host;

use super::{Counters, Peer, Side, Work};
use crate::process::{Program, User, command};
use crate::rig::Rig;
use crate::usage::{self, Memory, Pss, Spent};

const SOON: Duration = Duration::from_secs(20);

/// Both sidecars of a pair.
pub struct Pair {
    /// With the clients.
    pub client: Sidecar,
    /// With the application.
    pub server: Sidecar,
}

/// A running sidecar.
pub struct Sidecar {
    program: Program,
    peer: Peer,
    side: Side,
    host: Host,
    metrics: &'static str,
    /// From exec to readiness.
    pub ready_after: Duration,
}

impl Pair {
    /// Starts both, the server's first.
    ///
    /// # Errors
    /// When one does not get ready.
    pub fn start(peer: Peer, rig: &Rig, work: Work) -> anyhow::Result<Self> {
        let server = Sidecar::start(peer, rig, Side::Server, work)?;
        let client = Sidecar::start(peer, rig, Side::Client, work)?;
        Ok(Self { client, server })
    }

    /// Both, the client's first.
    #[must_use]
    pub fn both(&self) -> [&Sidecar; 2] {
        [&self.client, &self.server]
    }

    /// Their process ids.
    #[must_use]
    pub fn pids(&self) -> [u32; 2] {
        self.both().map(|sidecar| sidecar.program.id())
    }

    /// What each has spent.
    ///
    /// # Errors
    /// When one has ended.
    pub fn spent(&self) -> anyhow::Result<[Spent; 2]> {
        let [client, server] = self.both().map(|sidecar| usage::spent(sidecar.program.id()).context(sidecar.name()));
        Ok([client?, server?])
    }

    /// The memory of each.
    ///
    /// # Errors
    /// When one has ended.
    pub fn memory(&self) -> anyhow::Result<[Memory; 2]> {
        let of = |sidecar: &Sidecar| usage::memory(sidecar.program.id(), Pss::Counted).context(sidecar.name());
        Ok([of(&self.client)?, of(&self.server)?])
    }

    /// What each has counted.
    ///
    /// # Errors
    /// When one does not answer.
    pub fn counters(&self) -> anyhow::Result<[Counters; 2]> {
        Ok([self.client.counters()?, self.server.counters()?])
    }
}

impl Sidecar {
    fn start(peer: Peer, rig: &Rig, side: Side, work: Work) -> anyhow::Result<Self> {
        let plan = peer.plan(rig, side, work, rig.folder())?;
        let host = rig.host(side).clone();
        let mut command = command(&host, User::Proxy, &plan.program);
        command.args(&plan.args).envs(plan.env.iter().cloned());
        let name = format!("{}-{}", peer.name(), side.name());
        let program = Program::start(&name, command, rig.folder())?;
        let mut sidecar = Self { program, peer, side, host, metrics: plan.metrics, ready_after: Duration::ZERO };
        sidecar.ready_after = sidecar.until_ready(plan.comm, plan.ready)?;
        Ok(sidecar)
    }

    fn name(&self) -> String {
        format!("{} of the {}", self.peer.name(), self.side.name())
    }

    /// From the exec of the program to its first good answer.
    fn until_ready(&mut self, comm: &str, path: &str) -> anyhow::Result<Duration> {
        let deadline = Instant::now() + SOON;
        // The process is `nsenter` first, and becomes the program.
        let file = format!("/proc/{}/comm", self.program.id());
        while fs::read_to_string(&file).is_ok_and(|name| name.trim_end() != comm) {
            let said = || self.program.said();
            ensure!(Instant::now() < deadline, "{} is not started within {SOON:?}; it said: {}", self.name(), said());
        }
        let exec = Instant::now();
        let is_ready = self.host.enter(|| {
            while Instant::now() < deadline {
                if client::request("GET", admin(), path).is_ok_and(|(code, _)| code == 200) {
                    return true;
                }
                if !std::path::Path::new(&format!("/proc/{}/fd/1", self.program.id())).exists() {
                    return false;
                }
            }
            false
        });
        if !is_ready {
            bail!("{} is not ready; it said: {}", self.name(), self.program.said());
        }
        Ok(exec.elapsed())
    }

    fn counters(&self) -> anyhow::Result<Counters> {
        let page = self.host.enter(|| client::request("GET", admin(), self.metrics));
        let (code, page) = page.with_context(|| format!("{}: {}", self.name(), self.metrics))?;
        ensure!(code == 200, "{}: {code} for {}", self.name(), self.metrics);
        Ok(self.peer.counters(self.side, &page))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.program.id()
    }
}

fn admin() -> SocketAddr {
    ([127, 0, 0, 1], ADMIN_PORT).into()
}

impl Side {
    /// The client's first, as everywhere.
    pub const BOTH: [Self; 2] = [Self::Client, Self::Server];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

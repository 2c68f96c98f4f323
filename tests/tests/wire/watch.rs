//! What every row asks for besides its own: a polite client beside the attack, and a process that is none the worse for it.

use mesh_tests::mesh::Daemon;
use mesh_tests::yardstick::{Bystander, Front, Vitals};

use super::Wire;

/// The most memory that one hostile connection may cost, KiB.
const MEMORY: u64 = 8 << 10;

/// A front that is watched.
pub(crate) struct Watch<'a> {
    front: &'a Front,
    proxy: &'a Daemon,
    bystander: Bystander,
    vitals: Vitals,
    before: u64,
}

impl<'a> Watch<'a> {
    /// Starts the bystander, who asks for `/`.
    pub(crate) fn begin(wire: &'a Wire, front: &'a Front) -> Self {
        let workload = if front.way == "inbound" { "web" } else { "client" };
        let proxy = wire.mesh.mesh.get(workload).proxy().expect("a sidecar");
        let bystander = Bystander::start(&front.client, front.addr);
        let vitals = Vitals::of(proxy);
        front.proxy.forget_peak();
        Self { front, proxy, bystander, vitals, before: front.proxy.resident() }
    }

    /// Judges both. The figure in words.
    pub(crate) fn finish(self) -> String {
        let bystander = self.bystander.finish();
        let more = self.front.proxy.peak().saturating_sub(self.before);
        assert!(more <= MEMORY, "{}: {more} KiB more at the peak", self.front.way);
        self.vitals.finish(self.proxy, &[]);
        format!("peak +{more} KiB; {bystander}")
    }
}

//! What has to be in the `nat` table so that a workload's TCP traffic meets its sidecar.
//!
//! Pure, but for [`args`], which opens what a path names: [`Options`] go in, the text for `iptables-restore --noflush`
//! comes out, one transaction per address family.
//! Invariant: a text only ever touches our own two chains and the jumps that lead into them; whatever else the table
//! holds stays as it is. Not here: running anything; the `mesh-init` binary does that.

#![forbid(unsafe_code)]

pub mod args;
pub mod options;
pub mod ports;
pub mod rules;
pub mod subnets;

pub use options::{Conflict, Options, Valid};
pub use ports::Ports;
pub use rules::{Family, Ruleset};
pub use subnets::Subnets;

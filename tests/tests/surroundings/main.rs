//! What a machine does to its programs: clocks that are wrong or jump, disks that are full, names that nobody knows.
//!
//! Invariant: the real programs on a real system that misbehaves: faketime, tmpfs, dnsmasq. What goes wrong is named, nothing
//! spins, and all is well again when the machine is.

mod clock;
mod disk;
mod names;

/// Where the app listens.
const HTTP: u16 = 8000;

//! The control plane's bench: what `destination` costs per proxy and per change, and what `identity` issues per core.
//!
//! Read in this order: [`plane`] (release programs in a namespace of their own), [`manifests`] (1,000 services, and their
//! changes), [`subscriber`] (a proxy as far as destination can tell), [`board`] (who heard of which change, and when),
//! [`destination`] and [`identity`] (the two stories), [`usage`] and [`report`] (figures and their bars).
//!
//! Invariant: a figure is of the programs as they are shipped, over real mutual TLS; a run in which a subscriber failed or
//! a change went unheard says so and misses its bar. Non-goal: comparing with others.

pub mod board;
pub mod destination;
pub mod identity;
pub mod manifests;
pub mod plane;
pub mod report;
pub mod subscriber;
pub mod usage;

use std::time::Duration;

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Services, ten endpoints each.
    pub services: usize,
    /// Connected proxies, step by step.
    pub proxies: Vec<usize>,
    /// Of changes at each step, and of Certify calls.
    pub load: Duration,
}

impl Scale {
    /// What the figures of the documentation are of.
    #[must_use]
    pub fn full() -> Self {
        Self { services: 1000, proxies: vec![1000, 5000], load: Duration::from_secs(20) }
    }

    /// A look at whether all works, and a first impression.
    #[must_use]
    pub fn quick() -> Self {
        Self { services: 1000, proxies: vec![500], load: Duration::from_secs(5) }
    }
}

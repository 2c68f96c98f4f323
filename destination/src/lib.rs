//! `destination`: tells proxies who is where and how to speak to them, from manifests.
//!
//! Read in this order: [`model`] (objects), [`manifest`] (text to objects), [`index`] (objects to snapshots), [`source`]
//! (feeds the index), [`service`] (snapshots to proxies), [`validate`] (the same checks for people), [`app`] (all together).
//!
//! Invariant: what was known stays known: a broken manifest or a lost directory takes nothing away. Wire types live in
//! [`service`] only, files in [`source`] only; [`manifest`] and [`index`] know neither clock nor runtime.
//! Non-goal: carrying traffic; and storing anything, for the manifests are the store.

#![forbid(unsafe_code)]

pub mod app;
pub mod cli;
pub mod index;
pub mod manifest;
pub mod metrics;
pub mod model;
pub mod service;
pub mod source;
pub mod validate;

//! The sidecar: captures a workload's TCP traffic, speaks mutual TLS to other sidecars, balances each request and measures.
//!
//! Rooms import only downward (ARCHITECTURE.md has the table, `tests/tests/tidy.rs` holds it). Read `outbound` or `inbound`
//! for the life of a connection, `app` for how the rooms are put together.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::duplicate_mod, reason = "models load the code that they check once more"))]

pub mod admin;
pub mod app;
pub mod balance;
pub mod config;
pub mod control;
pub mod detect;
pub mod health;
pub mod http;
pub mod inbound;
pub mod metrics;
pub mod model;
pub mod net;
pub mod outbound;
pub mod resilience;
pub mod sniff;

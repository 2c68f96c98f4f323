//! The sidecar: captures a workload's TCP traffic, speaks mutual TLS to other sidecars, balances each request and measures.
//!
//! Rooms import only downward (ARCHITECTURE.md has the table, `tests/tests/tidy.rs` holds it). Read `outbound` or `inbound`
//! for the life of a connection, `app` for how the rooms are put together.

#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod balance;
pub mod config;
pub mod control;
pub mod detect;
pub mod http;
pub mod inbound;
pub mod metrics;
pub mod model;
pub mod net;
pub mod outbound;
pub mod resilience;
pub mod sniff;

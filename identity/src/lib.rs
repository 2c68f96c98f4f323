//! The mesh's certificate authority.
//!
//! Read in this order: [`cli`] (what was asked), [`app`] (how the parts are put together), [`server`] (the life
//! of a connection), [`service`] (the story of one request). The decisions are pure and stand alone: [`tokens`] (who
//! asks), [`csr`] (what is asked), [`issuer`] (what is given), [`authority`] (which files come into force), [`limiter`]
//! (how often). [`init`] makes a CA for a first start.
//!
//! Invariant: a certificate comes from our template alone; a CSR contributes its key and nothing else.
//! Non-goal: revocation. Leaves are short-lived, and anchors can be replaced live.

#![forbid(unsafe_code)]

pub mod app;
pub mod authority;
pub mod cli;
pub mod connections;
pub mod csr;
pub mod files;
pub mod init;
pub mod issuer;
pub mod limiter;
pub mod metrics;
pub mod server;
pub mod service;
pub mod tokens;

#[cfg(test)]
mod testing;

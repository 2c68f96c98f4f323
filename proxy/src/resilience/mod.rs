//! State machines that keep trouble small: backoff now, rates, breakers and budgets beside it as they come.
//!
//! Invariant: nothing here waits, spawns or asks the clock; callers bring the time and act on the answers.

pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod gcra;
pub mod idle_cache;
pub mod rendezvous;
pub mod turns;

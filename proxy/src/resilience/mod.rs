//! State machines that keep trouble small: backoff now, breakers, budgets and limiters beside it as they come.
//!
//! Invariant: nothing here waits, spawns or asks the clock; callers bring the time and act on the answers.

pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod idle_cache;
pub mod rendezvous;
pub mod turns;

//! Policies and routes on their way from manifests to proxies, and what becomes of those that cannot be used.
//!
//! Invariant: what is rejected is rejected alone, and says so where an operator looks: in `/state`, in a metric, in
//! `validate`. Non-goal: what proxies do about policies.

mod health;
mod status;
mod wire;

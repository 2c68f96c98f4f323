//! What somebody meets who runs a mesh: admin ports, metric pages, and the demo's good manners.
//!
//! Invariant: a claim about an end is proved by what is left: processes, namespaces, files.
//! Non-goal: the admin server by itself; `mesh-kit` has those tests.

mod admin;
mod demo;

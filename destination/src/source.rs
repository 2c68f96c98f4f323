//! Sources of objects. Each feeds the index through `apply`, `delete` and `publish`, and nothing else.
//!
//! Invariant: a source that loses its origin takes nothing away from the index. Non-goal: what objects mean.

pub mod directory;

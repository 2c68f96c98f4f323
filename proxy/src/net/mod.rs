//! Sockets: listen, original destination, streams, connect, copy.
//!
//! Invariant: the only room that touches raw sockets. It knows bytes and addresses, neither protocols nor policy.

pub mod admission;
pub mod connect;
pub mod copy;
pub mod drain;
pub mod h2io;
pub mod listen;
pub mod local;
pub mod stream;

pub use connect::Connector;
pub use drain::Drain;
pub use stream::{MOST_READ, Stream};

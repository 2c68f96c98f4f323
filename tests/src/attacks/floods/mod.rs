//! Floods of HTTP/2 frames, mostly on one connection: R1 to R7.
//!
//! Invariant: a flood says what was seen and what its row allows; whose proxy it was, and what that counts, it does not know.

mod flood;
mod held;
mod rounds;
mod rows;

pub use flood::{Flood, Outcome};
pub use held::{Held, STREAMS, crowd, hold_answers};
pub use rows::{bombs, continuation, control, made_resets, resets, tiny};

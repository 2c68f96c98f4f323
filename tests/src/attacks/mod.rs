//! What a hostile or careless peer does, as functions of a [`crate::yardstick::Front`]: they say what was seen, and judge nobody.

pub mod authority;
pub mod connections;
pub mod downgrade;
pub mod endless;
pub mod floods;
pub mod h2spec;
pub mod http1;
pub mod negatives;
pub mod slow;
pub mod truncated;

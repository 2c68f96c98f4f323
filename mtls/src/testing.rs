//! What the unit tests share.

pub(crate) mod authority;
mod ca;

use std::fmt::Debug;
use std::time::Duration;

use tokio::sync::watch;

pub(crate) use ca::{Ca, Issued, Template, id, uri};

/// Waits until `fact` holds; fails with what is there instead after a time that is long for any machine.
pub(crate) async fn until<T: Debug>(seen: &mut watch::Receiver<T>, fact: impl Fn(&T) -> bool) {
    let limit = Duration::from_secs(30);
    if tokio::time::timeout(limit, seen.wait_for(fact)).await.is_err() {
        panic!("not within {limit:?}; seen: {:?}", *seen.borrow());
    }
}

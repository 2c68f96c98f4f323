//! What travels: text that can be found on the wire, and echo messages that say whether they are the last.
//!
//! Invariant: each body and each message of 100 bytes or less carries [`MARKER`] whole, as long as it fits.
//! Non-goal: content that compresses badly; no contestant compresses.

/// In every body and message: a capture that shows it has seen plaintext.
pub const MARKER: &str = "mesh-bench-plaintext;";

/// Length of an echo message.
pub const LENGTH: usize = 64;

/// First byte of an echo message after which more may follow. Neither it nor [`LAST`] begins HTTP or TLS.
pub const MORE: u8 = 0;

/// First byte of an echo message after which the server closes. It closes first so that TIME_WAIT stays on the side
/// whose port is fixed; a client that closes first runs out of ports within seconds.
pub const LAST: u8 = 1;

/// An echo message.
#[must_use]
pub fn echo(first: u8) -> [u8; LENGTH] {
    let mut message = [b'.'; LENGTH];
    message[0] = first;
    message[1..=MARKER.len()].copy_from_slice(MARKER.as_bytes());
    message
}

/// `length` bytes of markers.
#[must_use]
pub fn text(length: usize) -> Vec<u8> {
    MARKER.bytes().cycle().take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_is_in_every_message_and_body() {
        let has = |bytes: &[u8]| bytes.windows(MARKER.len()).any(|window| window == MARKER.as_bytes());
        assert!(has(&echo(MORE)) && has(&echo(LAST)) && has(&text(100)));
        assert_eq!(text(100).len(), 100);
    }
}

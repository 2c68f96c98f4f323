//! Whether the end of an HTTP/2 connection was its peer's doing.
//!
//! Invariant: a word of the program, never of the peer. Non-goal: streams, which end by themselves.

use h2::Reason;

/// The code that a peer was told when its connection was ended because of what it did; `None` for other ends.
pub fn reason(error: &h2::Error) -> Option<&'static str> {
    // Ours alone is neither of a stream nor of the library.
    let ours = error.reason() == Some(Reason::ENHANCE_YOUR_CALM) && !error.is_remote() && !error.is_reset();
    let theirs = error.is_library() && error.is_go_away();
    if !ours && !theirs {
        return None;
    }
    Some(match error.reason()? {
        Reason::ENHANCE_YOUR_CALM => "enhance_your_calm",
        Reason::PROTOCOL_ERROR => "protocol_error",
        Reason::FLOW_CONTROL_ERROR => "flow_control_error",
        Reason::FRAME_SIZE_ERROR => "frame_size_error",
        Reason::COMPRESSION_ERROR => "compression_error",
        Reason::STREAM_CLOSED => "stream_closed",
        _ => "other",
    })
}

//! HTTP/2 frame by frame, in the test's hands: writes any bytes, reads what comes with a deadline.
//!
//! Invariant: nothing happens by itself. No frame is answered, no window is minded, nothing is checked that is sent.
//! Non-goal: being HTTP/2; [`Connection::begin`] makes an honest start for those who want one.
//!
//! ```no_run
//! # use mesh_tests::{frames::{Connection, Frame, GET, Read, code, flag, hpack}, netns::Net};
//! # let (net, addr) = (Net::new(), "10.0.0.1:80".parse().unwrap());
//! let mut peer = Connection::dial(&net.host("client"), addr).unwrap();
//! peer.begin(&[]).unwrap();
//! peer.send(&Frame::headers(1, flag::END_HEADERS | flag::END_STREAM, &hpack::literal(GET)));
//! peer.send(&Frame::window(1, 0));
//! let seen = peer.until(|frame| frame.is_reset(1, code::PROTOCOL_ERROR));
//! assert!(matches!(seen, Read::Frame(_)), "{seen:?}");
//! ```

mod connection;
mod frame;
pub mod hpack;
mod member;

pub use connection::{Connection, Listener, Read, through_tls};
pub use frame::{Frame, PREFACE, code, flag, header, kind, setting};
pub use member::Member;

/// Fields of a plain request.
pub const GET: &[(&str, &str)] = &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "web")];

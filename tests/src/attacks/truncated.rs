//! Answers that break off (R58): a server that cuts them anywhere, and a client that has to see it.
//!
//! Invariant: each answer is cut at 20 offsets from its first byte to its last but one, by FIN and by RST.
//! Non-goal: which error the client sees; a library has a name of its own for each.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::client::http::{Version, fetch};
use crate::client::within;
use crate::netns::Host;
use crate::raw::{Conversation, Server};

const OFFSETS: usize = 20;
/// Of so many pieces an answer is made.
pub const PIECES: usize = 6;
/// A piece of a body.
pub const PIECE: [u8; 1000] = [b'x'; 1000];
const PREFACE: usize = 24;

/// How an answer says where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By its length.
    Length,
    /// By its last chunk.
    Chunked,
    /// By the flag of a frame.
    Http2,
    /// By the end of the connection.
    Close,
}

/// How a connection breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// In order.
    Fin,
    /// By a reset.
    Rst,
}

/// What the server does next.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The answer's framing.
    pub framing: Framing,
    /// After so many of its bytes.
    pub offset: usize,
    /// How.
    pub cut: Cut,
}

impl Framing {
    /// A whole answer.
    #[must_use]
    pub fn answer(self) -> Vec<u8> {
        let mut answer = match self {
            Self::Length => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", PIECES * PIECE.len()).into_bytes(),
            Self::Chunked => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(),
            Self::Close => b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec(),
            // HEADERS with END_HEADERS, `:status: 200` from the static table of HPACK.
            Self::Http2 => frame(1, 0x4, &[0x88]),
        };
        for n in 1..=PIECES {
            match self {
                Self::Length | Self::Close => answer.extend(PIECE),
                Self::Chunked => answer.extend([b"3e8\r\n", &PIECE[..], b"\r\n"].concat()),
                Self::Http2 => answer.extend(frame(0, u8::from(n == PIECES), &PIECE)),
            }
        }
        if self == Self::Chunked {
            answer.extend(b"0\r\n\r\n");
        }
        answer
    }

    fn version(self) -> Version {
        if self == Self::Http2 { Version::H2 } else { Version::H1 }
    }
}

/// A frame of HTTP/2 on stream 1, which is a connection's first.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

/// Reads a request without a body in HTTP/2, and greets as the protocol wants.
fn http2_request(conversation: &mut Conversation) -> io::Result<()> {
    const HEADERS: u8 = 1;
    conversation.take(PREFACE)?;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let acknowledged = [0, 0, 0, 4, 1, 0, 0, 0, 0];
    conversation.say(&[settings, acknowledged].concat())?;
    loop {
        let head = conversation.take(9)?;
        conversation.take(usize::from(head[1]) << 8 | usize::from(head[2]))?;
        if head[3] == HEADERS {
            return Ok(());
        }
    }
}

fn serve(mut conversation: Conversation, plan: Plan) -> io::Result<()> {
    match plan.framing {
        Framing::Http2 => http2_request(&mut conversation)?,
        _ => drop(conversation.head()?),
    }
    conversation.say(&plan.framing.answer()[..plan.offset])?;
    match plan.cut {
        Cut::Rst => conversation.reset(),
        Cut::Fin => {
            conversation.stream.shutdown(Shutdown::Write)?;
            // Closing a socket with unread bytes would send a reset: read to the end.
            while !conversation.read()?.is_empty() {}
            Ok(())
        }
    }
}

/// A server that follows the plan of the moment.
///
/// # Panics
/// When the port is taken.
#[must_use]
pub fn server(host: &Host, port: u16) -> (Server, Arc<Mutex<Plan>>) {
    let plan = Arc::new(Mutex::new(Plan { framing: Framing::Length, offset: 0, cut: Cut::Fin }));
    let followed = Arc::clone(&plan);
    let server = Server::start(host, port, move |conversation| {
        let plan = *followed.lock().unwrap_or_else(PoisonError::into_inner);
        serve(conversation, plan)
    });
    (server, plan)
}

/// The offsets to cut at, the first byte and the last among them.
pub fn offsets(length: usize) -> impl Iterator<Item = usize> {
    (0..OFFSETS).map(move |n| n * (length - 1) / (OFFSETS - 1))
}

/// Each framing is cut at all offsets both ways: how many tries, and which were not errors.
///
/// # Panics
/// When the client does.
pub fn cut_everywhere(
    client: &Host,
    addr: SocketAddr,
    plan: &Mutex<Plan>,
    framings: &[Framing],
) -> (usize, Vec<String>) {
    let mut findings = Vec::new();
    let mut tried = 0;
    for &framing in framings {
        for (cut, offset) in offsets(framing.answer().len()).flat_map(|offset| [(Cut::Fin, offset), (Cut::Rst, offset)])
        {
            let next = Plan { framing, offset, cut };
            *plan.lock().unwrap_or_else(PoisonError::into_inner) = next;
            let answer = within(client, fetch(addr, framing.version(), "/"));
            tried += 1;
            match answer {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => findings.push(format!("{next:?}: hangs")),
                Ok(answer) if answer.status.as_u16() < 500 => {
                    findings.push(format!("{next:?}: {} and {} bytes", answer.status, answer.body.len()));
                }
                _ => {}
            }
        }
    }
    (tried, findings)
}

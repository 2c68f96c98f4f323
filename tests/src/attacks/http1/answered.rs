//! A back end that answers before a body is over, and takes what is left of the body for requests.
//!
//! Source of the class: Pingora CVE-2025-4366, and the desynchronisations by `0.CL` and `Expect` of 2025.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use super::oracle;
use crate::client::PATIENCE;
use crate::netns::Host;
use crate::raw::{Conversation, Server};
use crate::yardstick::Front;

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: web\r\n\r\n";
/// Bytes of a body that no back end of ours reads to its end.
const LARGE: usize = 64 << 20;

/// Answers each head that it finds, wherever it is, with its target; one for `/close` with 413 and the end.
///
/// # Panics
/// When the port is taken.
#[must_use]
pub fn careless(host: &Host, port: u16) -> Server {
    Server::start(host, port, |mut conversation: Conversation| {
        loop {
            let head = conversation.head()?;
            let target = head.split(' ').nth(1).unwrap_or_default();
            if target == "/close" {
                return conversation.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
            let length = target.len();
            conversation.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}").as_bytes())?;
        }
    })
}

/// One client's connection for harmless requests, each of which wants its own answer.
struct Victim(TcpStream);

fn dial(front: &Front) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&front.addr, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Reads one whole answer.
fn answer(stream: &mut TcpStream) -> io::Result<(u16, Vec<u8>)> {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let n = stream.read(&mut chunk)?;
        bytes.extend_from_slice(&chunk[..n]);
        match oracle::whole_answer(&bytes) {
            Some(whole) => return Ok(whole),
            None if n == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            None => {}
        }
    }
}

impl Victim {
    /// What it got in place of its own answer.
    fn ask(&mut self, target: &str) -> Option<String> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: web\r\n\r\n");
        let got = self.0.write_all(request.as_bytes()).and_then(|()| answer(&mut self.0));
        match got {
            Ok((200, body)) if body == target.as_bytes() => None,
            other => Some(format!("{target} got {other:?}")),
        }
    }
}

/// So many bodies are answered before their end, and after each a victim asks; then the victim asks as often again. What it
/// got that was not its own.
///
/// # Errors
/// When the proxy cannot be reached.
pub fn contaminate(front: &Front, rounds: usize) -> io::Result<Vec<String>> {
    front.client.enter(|| {
        let mut victim = Victim(dial(front)?);
        let mut got = Vec::new();
        for round in 0..rounds {
            // The body ends with a request of its own, after the answer has come.
            let mut attacker = dial(front)?;
            let body = SMUGGLED.len() + 1;
            attacker
                .write_all(format!("POST /a HTTP/1.1\r\nHost: web\r\nContent-Length: {body}\r\n\r\nx").as_bytes())?;
            let early = answer(&mut attacker);
            // A proxy may have ended the connection by now.
            let _ = attacker.write_all(SMUGGLED.as_bytes());
            got.extend(early.err().map(|error| format!("the attacker in round {round}: {error}")));
            got.extend(victim.ask(&format!("/v{round}")));
        }
        got.extend((0..rounds).filter_map(|round| victim.ask(&format!("/w{round}"))));
        Ok(got)
    })
}

/// A body that the back end declines: the answer, and how many of its bytes went on their way until the connection ended; none
/// when it did not end.
///
/// # Errors
/// When the proxy cannot be reached.
pub fn decline(front: &Front) -> io::Result<(Option<u16>, Option<usize>)> {
    front.client.enter(|| {
        let mut stream = dial(front)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(format!("POST /close HTTP/1.1\r\nHost: web\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes())?;
        let status = answer(&mut stream).ok().map(|(status, _)| status);
        let chunk = vec![b'x'; 16 << 10];
        let mut sent = 0;
        while sent < LARGE {
            match stream.write(&chunk) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((status, None)),
                Err(_) => return Ok((status, Some(sent))),
            }
        }
        Ok((status, None))
    })
}

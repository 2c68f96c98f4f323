//! One case on a connection of its own: what is answered, what arrives, and whether the next client gets its own answer.
//!
//! Invariant: the attacker's direction stays open until the proxy has answered as often as it has to, so a connection that
//! ends before was ended by the proxy.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::{Arrived, Case, Recorder, Right};
use crate::client::PATIENCE;
use crate::raw;
use crate::yardstick::Front;

/// What became of a case.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Status codes of all final answers, in their order.
    pub statuses: Vec<u16>,
    /// All that was answered.
    pub answers: String,
    /// The proxy ended the connection while the attacker could have said more.
    pub closed: bool,
    /// What the back end read.
    pub arrived: Vec<Arrived>,
    /// What the next client got in place of its own answer.
    pub contaminated: Option<String>,
}

/// A judgement by what the case says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Refused with this status, and closed.
    Refused(u16),
    /// Served as it has to be.
    Served,
    /// Neither: why.
    Wrong(String),
}

/// Sends `case` to the proxy, then asks for something harmless on another connection.
#[must_use]
pub fn attempt(front: &Front, recorder: &Recorder, case: &Case) -> Seen {
    const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    let (answers, closed) = front.client.enter(|| converse(front.addr, &case.bytes, &case.right));
    let probe = raw::send(&front.client, front.addr, PROBE);
    let probe = probe.map_or_else(|error| error.to_string(), |answer| String::from_utf8_lossy(&answer).into_owned());
    let contaminated = (!probe.starts_with("HTTP/1.1 200 ") || !probe.ends_with("\r\n\r\n/probe")).then_some(probe);
    let mut arrived = recorder.take();
    let harmless = |arrived: &Arrived| matches!(arrived, Arrived::Clean(request) if request.target == "/probe");
    arrived.retain(|arrived| !harmless(arrived));
    Seen { statuses: statuses(&answers), answers, closed, arrived, contaminated }
}

/// What is answered, and whether the proxy ended the connection.
fn converse(addr: SocketAddr, bytes: &[u8], right: &Right) -> (String, bool) {
    let mut answers = Vec::new();
    let Ok(mut stream) = TcpStream::connect_timeout(&addr, PATIENCE) else { return (String::new(), false) };
    let _ = stream.set_read_timeout(Some(PATIENCE / 2));
    // A proxy that has refused need not take the rest.
    let _ = stream.write_all(bytes);
    let (awaited, mut closed) = (awaited(right), false);
    let mut half_closed = awaited == 0;
    if half_closed {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(n @ 1..) => answers.extend_from_slice(&chunk[..n]),
            // Silent for too long: what is open now stays open.
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                break;
            }
            Ok(0) | Err(_) => {
                closed = !half_closed;
                break;
            }
        }
        let statuses = statuses(&String::from_utf8_lossy(&answers));
        // After a refusal the proxy has to close by itself; after answers it does so when nothing more can come.
        let refused = statuses.iter().any(|status| *status >= 400);
        if !half_closed && !refused && statuses.len() >= awaited {
            half_closed = true;
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        }
    }
    (String::from_utf8_lossy(&answers).into_owned(), closed)
}

/// How many final answers there have to be before the connection may end by our will.
fn awaited(right: &Right) -> usize {
    match right {
        Right::Refuse(before) => before.len() + 1,
        Right::Serve(all) | Right::Either(all) => all.len(),
        Right::Cut => 0,
    }
}

/// Final status codes; no body of ours holds a status line.
fn statuses(answers: &str) -> Vec<u16> {
    let status = |rest: &str| rest.get(2..5).and_then(|status| status.parse().ok());
    answers.split("HTTP/1.").skip(1).filter_map(status).filter(|status| *status >= 200).collect()
}

impl Seen {
    /// Whether proxy and back end have read the same requests, whichever these are: nothing arrived that is no clean request, no
    /// answer is without its request, and the next client got its own answer.
    #[must_use]
    pub fn is_in_step(&self) -> bool {
        let clean = |arrived: &Arrived| matches!(arrived, Arrived::Clean(_));
        let answered = self.statuses.iter().filter(|status| **status == 200).count();
        self.contaminated.is_none() && self.arrived.iter().all(clean) && answered <= self.arrived.len()
    }

    /// What the case itself says of it.
    #[must_use]
    pub fn outcome(&self, case: &Case) -> Outcome {
        let Case { right, carries, .. } = case;
        // A proxy may turn a target into its origin form (RFC 9112, 3.2.2).
        let origin = |name: String| name.strip_prefix("http://web").map(str::to_owned).unwrap_or(name);
        let arrived: Vec<_> = self.arrived.iter().map(|arrived| origin(arrived.name())).collect();
        if let Some(contaminated) = &self.contaminated {
            return Outcome::Wrong(format!("the next client got {contaminated:?}"));
        }
        if let (Some((name, values)), Some(Arrived::Clean(request))) = (carries, self.arrived.first())
            && request.all(name) != *values
        {
            return Outcome::Wrong(format!("{name} arrived as {:?}", request.all(name)));
        }
        let served = |wanted: &[&str]| {
            arrived.iter().eq(wanted.iter().map(|target| target.strip_prefix("http://web").unwrap_or(target)))
                && self.statuses.len() == wanted.len()
                && self.statuses.iter().all(|status| *status == 200)
        };
        let refused_after = |wanted: &[&str]| match self.statuses.split_last() {
            Some((status @ (400..=499 | 501 | 505), before))
                if self.closed && before.len() == wanted.len() && arrived == wanted =>
            {
                Some(Outcome::Refused(*status))
            }
            _ => None,
        };
        let found = match right {
            Right::Serve(wanted) => served(wanted).then_some(Outcome::Served),
            Right::Refuse(wanted) => refused_after(wanted),
            Right::Either(wanted) => served(wanted)
                .then_some(Outcome::Served)
                .or_else(|| refused_after(&wanted[..wanted.len().saturating_sub(1)])),
            Right::Cut => arrived.is_empty().then_some(Outcome::Served),
        };
        found.unwrap_or_else(|| {
            let closed = if self.closed { "closed" } else { "open" };
            Outcome::Wrong(format!(
                "answered {:?} and {closed}, arrived {arrived:?}; {:?}",
                self.statuses, self.answers
            ))
        })
    }
}

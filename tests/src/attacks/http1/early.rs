//! Bytes behind an upgrade or CONNECT that nobody has agreed to yet.
//!
//! Source of the class: Pingora CVE-2026-2833, Envoy CVE-2025-64763 and CVE-2024-23326, nginx CVE-2026-42926.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::client::PATIENCE;
use crate::netns::{Host, until};
use crate::raw::{self, Conversation, Server};
use crate::yardstick::Front;

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: web\r\n\r\n";
const UPGRADE: &str = "GET /up HTTP/1.1\r\nHost: web\r\nConnection: upgrade\r\nUpgrade: far\r\n\r\n";
const CONNECT: &str = "CONNECT far:80 HTTP/1.1\r\nHost: far:80\r\n\r\n";
const POST: &str =
    "POST /up HTTP/1.1\r\nHost: web\r\nConnection: upgrade\r\nUpgrade: far\r\nContent-Length: 2\r\n\r\nok";
const PLAIN: &str = "GET /up HTTP/1.1\r\nHost: web\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: far\r\n\r\n";
const FOUND: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
/// For how long the back end makes up its mind, once all that comes too early has been sent.
const LATE: Duration = Duration::from_millis(100);

/// A request, when the bytes behind it come, and the answer.
#[derive(Clone, Copy, Debug)]
pub struct Early {
    /// In words.
    pub name: &'static str,
    request: &'static str,
    /// The bytes come in a packet of their own.
    apart: bool,
    answer: &'static str,
    /// The answer agrees to leave HTTP.
    pub agreed: bool,
}

impl Early {
    /// Nobody wants to leave HTTP: what follows is the next request, and may be served.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.request == PLAIN
    }
}

const fn case(name: &'static str, request: &'static str, apart: bool, answer: &'static str, agreed: bool) -> Early {
    Early { name, request, apart, answer, agreed }
}

/// All of them.
pub const CASES: [Early; 10] = [
    case("upgrade, 200", UPGRADE, false, FOUND, false),
    case("upgrade, 404", UPGRADE, false, NOT_FOUND, false),
    case("upgrade, bytes apart, 200", UPGRADE, true, FOUND, false),
    case("upgrade with a body, 200", POST, false, FOUND, false),
    case("upgrade, late 101", UPGRADE, false, SWITCH, true),
    case("upgrade, bytes apart, late 101", UPGRADE, true, SWITCH, true),
    case("CONNECT, 404", CONNECT, false, NOT_FOUND, false),
    case("CONNECT, bytes apart, 404", CONNECT, true, NOT_FOUND, false),
    case("CONNECT, late 200", CONNECT, false, FOUND, true),
    case("no upgrade, 101", PLAIN, false, SWITCH, false),
];

/// What became of a case.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The final status of the first answer.
    pub status: Option<u16>,
    /// What the back end got before it had answered.
    pub early: Vec<u8>,
    /// What it got afterwards on that connection.
    pub later: Vec<u8>,
    /// A request of somebody else's came on that connection.
    pub pooled: bool,
    /// The bytes came to it as a request of their own.
    pub served: bool,
}

impl Seen {
    /// Whether nothing went onward before it was agreed to, and the connection is nobody else's afterwards. What was agreed to
    /// may go on or not: not all proxies pass upgrades on.
    #[must_use]
    pub fn is_clean(&self, case: &Early) -> bool {
        self.early.is_empty() && !self.pooled && (case.agreed || !self.passed())
    }

    /// Whether the bytes went onward after the answer.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.later.windows(9).any(|bytes| bytes == b"/smuggled")
    }
}

/// A back end that keeps apart what comes before its answer and after it.
pub struct Switch {
    _server: Server,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    answer: &'static str,
    /// The client has said all that it has to say.
    sent: bool,
    early: Vec<u8>,
    later: Vec<u8>,
    served: bool,
}

impl Switch {
    /// Listens on `port` of `host`.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn start(host: &Host, port: u16) -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        let serve = move |mut conversation: Conversation| {
            loop {
                let head = conversation.head()?;
                if !head.contains(" far:80 ") && !head.contains(" /up ") {
                    lock(&shared).served |= head.contains(" /smuggled ");
                    conversation.say(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother")?;
                    continue;
                }
                if head.starts_with("POST") {
                    conversation.take(2)?;
                }
                // What came after the answer would be the next request.
                until(PATIENCE, || lock(&shared).sent);
                let answer = lock(&shared).answer;
                conversation.stream.set_read_timeout(Some(LATE))?;
                let early = conversation.read().unwrap_or_default();
                lock(&shared).early.extend(early);
                conversation.say(answer.as_bytes())?;
                conversation.stream.set_read_timeout(Some(PATIENCE))?;
                loop {
                    let later = conversation.read()?;
                    if later.is_empty() {
                        return Ok(());
                    }
                    lock(&shared).later.extend(later);
                }
            }
        };
        Self { _server: Server::start(host, port, serve), state }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tries one case, then asks for something else.
#[must_use]
pub fn attempt(front: &Front, switch: &Switch, case: &Early) -> Seen {
    *lock(&switch.state) = State { answer: case.answer, ..State::default() };
    let answer = front.client.enter(|| converse(front, switch, case)).unwrap_or_default();
    let other = b"GET /other HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    let other = raw::send(&front.client, front.addr, other).unwrap_or_default();
    let State { early, later, served, .. } = std::mem::take(&mut *lock(&switch.state));
    Seen { status: raw::status(&answer), early, later, pooled: !other.ends_with(b"other"), served }
}

fn converse(front: &Front, switch: &Switch, case: &Early) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&front.addr, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    if case.apart {
        stream.write_all(case.request.as_bytes())?;
        std::thread::sleep(LATE / 4);
        stream.write_all(SMUGGLED.as_bytes())?;
    } else {
        stream.write_all([case.request, SMUGGLED].concat().as_bytes())?;
    }
    lock(&switch.state).sent = true;
    let mut answer = vec![0; 4096];
    let n = stream.read(&mut answer)?;
    answer.truncate(n);
    // The rest is of interest at the back end only.
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
    Ok(answer)
}

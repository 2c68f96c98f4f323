//! Many connections that are held.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Host;
use crate::raw;
use crate::yardstick::{Front, Process, Stopwatch, count};

/// Held connections; they end with the value.
#[derive(Default)]
pub struct Held {
    /// All that came about, and did not end at once.
    pub open: Vec<TcpStream>,
    /// How many were refused, at the handshake or by a reset after it.
    pub refused: usize,
}

/// Opens `count` connections from `host`, says `hello` on each, and holds them.
///
/// # Panics
/// When this process may not have so many files.
#[must_use]
pub fn hold(host: &Host, addr: SocketAddr, count: usize, hello: &[u8]) -> Held {
    host.enter(|| {
        let mut held = Held::default();
        for _ in 0..count {
            match connect(addr) {
                Ok(mut stream) => match stream.write_all(hello) {
                    Ok(()) => held.open.push(stream),
                    Err(_) => held.refused += 1,
                },
                Err(error) if error.raw_os_error() == Some(24) => panic!("this test needs more files: {error}"),
                Err(_) => held.refused += 1,
            }
        }
        held
    })
}

fn connect(addr: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // So many ends in TIME_WAIT would use up the ports.
    socket.set_linger(Some(Duration::ZERO))?;
    // What is not read stays with the far end.
    socket.set_recv_buffer_size(4096)?;
    socket.connect_timeout(&addr.into(), Duration::from_secs(10))?;
    Ok(socket.into())
}

impl Held {
    /// Lets go of those that the far end has closed meanwhile, and counts them as refused. What comes to the others is read
    /// and dropped.
    pub fn look(&mut self) -> usize {
        let before = self.open.len();
        self.open.retain_mut(|stream| !has_ended(stream));
        self.refused += before - self.open.len();
        self.refused
    }
}

fn has_ended(stream: &mut TcpStream) -> bool {
    let mut chunk = [0; 4096];
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}

/// The cap: a connection whose client is silent has one to the app as well.
#[must_use]
pub fn cap() -> usize {
    count(100, Process::most_connections(10_000, 2))
}

/// How many come.
#[must_use]
pub fn flood() -> usize {
    count(400, 50_000)
}

/// As the row has it: 50,000 in 30 s.
pub const EACH: Duration = Duration::from_micros(600);
/// As fast as they can: where connections that say nothing are ended after 10 s, which shall not be mixed with refusals.
pub const AT_ONCE: Duration = Duration::ZERO;
/// So many at a time.
const STEP: usize = 100;
/// So many in a row, so that those that were refused need neither a file nor a port for long.
const WAVE: usize = 2000;

/// All that come, one after `each`, without those that were ended meanwhile; and how many never came about, of which no proxy knows.
///
/// # Panics
/// When this process may not have so many files.
#[must_use]
pub fn come(front: &Front, addr: SocketAddr, each: Duration) -> (Held, usize) {
    let (mut held, mut lost, begin) = (Held::default(), 0, Instant::now());
    for begun in (0..flood()).step_by(STEP) {
        let due = each * u32::try_from(begun).unwrap_or(u32::MAX);
        std::thread::sleep(due.saturating_sub(begin.elapsed()));
        let some = hold(&front.client, addr, STEP.min(flood() - begun), b"");
        held.open.extend(some.open);
        lost += some.refused;
        if begun % WAVE == 0 {
            held.look();
        }
    }
    held.look();
    (held, lost)
}

/// A request of one who behaves, after which the connection ends.
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";

/// How long it takes until a new connection is answered with 200, on a machine of its own; half a minute stands for never.
#[must_use]
pub fn recovery(host: &Host, addr: SocketAddr) -> Duration {
    const NEVER: Duration = Duration::from_secs(30);
    let watch = Stopwatch::start();
    let answered = || raw::send(host, addr, GET).is_ok_and(|answer| raw::status(&answer) == Some(200));
    while !answered() {
        if watch.all() >= NEVER {
            return NEVER;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    watch.apart()
}

/// A second, and more beside other tests.
#[must_use]
pub fn soon() -> Duration {
    Duration::from_secs(count(10, 1))
}

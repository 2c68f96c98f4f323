//! A network that delivers packets out of order: the kernel hands those that come to a host to this process, which lets later ones
//! go first.
//!
//! Invariant: nothing is lost or changed; a packet is held for [`HOLD`] at most, and none once it is over. Non-goal: IPv6.
//! Netfilter's queue, by its messages (`linux/netfilter/nfnetlink_queue.h`).

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use socket2::Socket;

use super::{Host, run};

/// One of so many packets is held, until so many others have come.
const ONE_OF: u8 = 5;
const OVERTAKEN_BY: u64 = 3;
/// And no longer than this.
const HOLD: Duration = Duration::from_millis(5);
const QUEUE: u16 = 21;
const RULE: [&str; 11] =
    ["INPUT", "-i", "eth0", "-p", "tcp", "-j", "NFQUEUE", "--queue-num", "21", "--queue-bypass", "-w"];

const SUBSYSTEM: u16 = 3 << 8;
const PACKET: u16 = SUBSYSTEM;
const VERDICT: u16 = SUBSYSTEM | 1;
const CONFIG: u16 = SUBSYSTEM | 2;
const REQUEST: u16 = 1;
const ACCEPT: u32 = 1;

/// The disorder on a host, until dropped.
pub struct Reorder {
    host: Host,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reorder {
    /// Begins to disorder the TCP packets that come to `host` over the network.
    ///
    /// # Panics
    /// When the kernel has no queues for packets.
    #[must_use]
    pub fn of(host: &Host) -> Self {
        let queue = host.enter(open).unwrap_or_else(|error| panic!("a queue of packets: {error}"));
        run(host.command("iptables").args(["-t", "mangle", "-I"]).args(RULE), "");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || disorder(queue, &stopped));
        Self { host: host.clone(), stop, thread: Some(thread) }
    }

    /// How many packets TCP has put in order on `host`, by the kernel's count.
    ///
    /// # Panics
    /// When the kernel does not say.
    #[must_use]
    pub fn put_in_order(host: &Host) -> u64 {
        let page = host.enter(|| std::fs::read_to_string("/proc/thread-self/net/netstat")).unwrap_or_default();
        let mut lines = page.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_whitespace);
        let (names, values) = (lines.next().into_iter().flatten(), lines.next().into_iter().flatten());
        let value =
            names.zip(values).find(|(name, _)| *name == "TCPOFOQueue").and_then(|(_, value)| value.parse().ok());
        value.unwrap_or_else(|| panic!("no TCPOFOQueue in {page}"))
    }
}

impl Drop for Reorder {
    fn drop(&mut self) {
        // The namespace may be gone already, and its rules with it.
        let mut command = self.host.command("iptables");
        let _ = command.args(["-t", "mangle", "-D"]).args(RULE).stderr(std::process::Stdio::null()).status();
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The calling thread's namespace's queue.
fn open() -> io::Result<Socket> {
    let fd: OwnedFd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    let mut queue = Socket::from(fd);
    queue.set_recv_buffer_size(4 << 20)?;
    queue.set_read_timeout(Some(HOLD / 2))?;
    // Bind to the queue, of IPv4; then: what is queued, not its bytes.
    queue.write_all(&message(CONFIG, 1, &[1, 0, 0, 2]))?;
    queue.write_all(&message(CONFIG, 2, &[0, 0, 0, 0, 1]))?;
    Ok(queue)
}

/// A message with one attribute.
fn message(kind: u16, attribute: u16, value: &[u8]) -> Vec<u8> {
    let mut attributes = u16::try_from(4 + value.len()).unwrap_or(u16::MAX).to_ne_bytes().to_vec();
    attributes.extend(attribute.to_ne_bytes());
    attributes.extend(value);
    attributes.resize(attributes.len().next_multiple_of(4), 0);
    let length = u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX);
    let head = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &REQUEST.to_ne_bytes(), &[0; 8]].concat();
    // No family, version 0, the queue.
    [&head[..], &[0, 0], &QUEUE.to_be_bytes(), &attributes].concat()
}

struct Held {
    packet: [u8; 4],
    goes_at: u64,
    since: Instant,
}

fn disorder(mut queue: Socket, stop: &AtomicBool) {
    let (mut buffer, mut held, mut seen) = (vec![0; 64 << 10], Vec::<Held>::new(), 0);
    while !(stop.load(Ordering::Relaxed) && held.is_empty()) {
        // Nothing in time, or so much that some of it was let go.
        let length = queue.read(&mut buffer).unwrap_or(0);
        for packet in packets(&buffer[..length]) {
            seen += 1;
            match fastrand::u8(..ONE_OF) {
                0 => held.push(Held { packet, goes_at: seen + OVERTAKEN_BY, since: Instant::now() }),
                _ => accept(&mut queue, packet),
            }
        }
        let goes = |held: &Held| held.goes_at <= seen || held.since.elapsed() >= HOLD;
        for held in held.extract_if(.., |held| goes(held)) {
            accept(&mut queue, held.packet);
        }
    }
}

fn accept(queue: &mut Socket, packet: [u8; 4]) {
    // A packet that the kernel has let go needs no verdict.
    let _ = queue.write_all(&message(VERDICT, 2, &[ACCEPT.to_be_bytes(), packet].concat()));
}

/// The ids of the packets in what was read.
fn packets(mut messages: &[u8]) -> Vec<[u8; 4]> {
    let mut ids = Vec::new();
    while let [a, b, c, d, kind, kind_high, ..] = *messages {
        let length = (u32::from_ne_bytes([a, b, c, d]) as usize).clamp(16, messages.len());
        // The first attribute is the packet's head, which begins with its id.
        if u16::from_ne_bytes([kind, kind_high]) == PACKET
            && let Some(id) = messages.get(24..28)
        {
            ids.extend(<[u8; 4]>::try_from(id));
        }
        messages = &messages[length.next_multiple_of(4).min(messages.len())..];
    }
    ids
}

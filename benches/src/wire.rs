//! A look at the wire between the sidecars: TLS and nothing else.
//!
//! Invariant: a connection whose first bytes are no TLS record, or a packet with plain words of HTTP or of the back
//! end in it, is told as plaintext. What the kernel drops under load is not missed: one packet is enough to tell.
//! Non-goal: putting streams together.

use std::collections::HashMap;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mesh_tests::netns::Host;
use socket2::{Domain, Protocol, Socket, Type};

use crate::load::message;
use crate::rig;

/// `ETH_P_ALL`, in network order as the kernel wants it.
const EVERYTHING: i32 = 0x0003_u16.to_be() as i32;
const PATIENCE: Duration = Duration::from_millis(20);
/// To read what was queued when a look ends.
const QUEUED: Duration = Duration::from_secs(1);
/// Packets of a veth pair come as large as the sender made them.
const LARGEST: usize = 1 << 17;
const QUEUE: usize = 8 << 20;
/// TLS_AES_128_GCM_SHA256, which all contestants use.
const AES_128_GCM: [u8; 2] = [0x13, 1];
/// Words that only plaintext has: heads of HTTP, and what bodies of the back end are filled with.
const WORDS: [&[u8]; 3] = [b"HTTP/1.", b"PRI * HTTP/2.0", message::MARKER.as_bytes()];

/// A running look.
pub struct Look {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Sight>,
}

/// What was seen.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Directions of connections that began with a record of TLS.
    pub tls: u64,
    /// Those that began with something else.
    pub other: u64,
    /// Packets with plain words.
    pub words: u64,
    /// Handshakes that settled on another cipher suite than TLS_AES_128_GCM_SHA256.
    pub suites: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Segment<'a> {
    addresses: [Ipv4Addr; 2],
    ports: [u8; 4],
    number: u32,
    syn: bool,
    payload: &'a [u8],
}

impl Look {
    /// Begins to look at what passes over the pair, on one of its hosts.
    ///
    /// # Errors
    /// Without the right to.
    pub fn start(host: &Host) -> anyhow::Result<Self> {
        let mut socket = host.enter(|| {
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(EVERYTHING)))?;
            socket.set_recv_buffer_size(QUEUE)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok::<_, std::io::Error>(socket)
        });
        let socket = socket.as_mut().map_err(|error| anyhow::anyhow!("{error}")).context("looking at the wire")?;
        let socket = socket.try_clone()?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || look(socket, &stop)
        });
        Ok(Self { stop, thread })
    }

    /// Ends it.
    #[must_use]
    pub fn stop(self) -> Sight {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn look(mut socket: Socket, stop: &AtomicBool) -> Sight {
    let (mut sight, mut opening) = (Sight::default(), HashMap::new());
    let mut frame = vec![0; LARGEST];
    let mut last = None;
    loop {
        if stop.load(Ordering::Relaxed) {
            // What has passed already is still in the queue, and more may follow without end.
            let begun = last.get_or_insert_with(Instant::now);
            if begun.elapsed() > QUEUED {
                break;
            }
        }
        let length = match socket.read(&mut frame) {
            Ok(length) => length,
            Err(_) if last.is_some() => break,
            Err(_) => continue,
        };
        if let Some(segment) = segment(&frame[..length]).filter(|segment| segment.is_on_the_pair()) {
            sight.add(&segment, &mut opening);
        }
    }
    sight
}

impl Sight {
    /// `opening` holds the number that the first byte of each connection will have.
    fn add(&mut self, segment: &Segment, opening: &mut HashMap<([Ipv4Addr; 2], [u8; 4]), u32>) {
        let key = (segment.addresses, segment.ports);
        if segment.syn {
            opening.insert(key, segment.number.wrapping_add(1));
            return;
        }
        if segment.payload.is_empty() {
            return;
        }
        if opening.get(&key) == Some(&segment.number) {
            opening.remove(&key);
            match segment.payload {
                [0x16, 3, ..] => self.tls += 1,
                _ => self.other += 1,
            }
            self.suites += u64::from(suite(segment.payload).is_some_and(|suite| suite != AES_128_GCM));
        }
        let has = |word: &[u8]| segment.payload.windows(word.len()).any(|window| window == word);
        self.words += u64::from(WORDS.into_iter().any(has));
    }
}

/// The cipher suite of a ServerHello that a record begins with (RFC 8446 4.1.3).
fn suite(record: &[u8]) -> Option<[u8; 2]> {
    // Record and message heads, version, random, then the session id with its length.
    let hello = record.strip_prefix(&[0x16])?.get(4..)?.strip_prefix(&[2])?.get(37..)?;
    let (length, rest) = hello.split_first()?;
    rest.get(usize::from(*length)..)?.first_chunk().copied()
}

impl Segment<'_> {
    /// What passes between an application and its sidecar has an address of another kind at one end.
    fn is_on_the_pair(&self) -> bool {
        self.addresses.into_iter().all(rig::is_on_the_pair)
    }
}

/// A frame of Ethernet with TCP over IPv4.
fn segment(frame: &[u8]) -> Option<Segment<'_>> {
    let packet = frame.get(14..)?;
    let (version, head) = (packet.first()? >> 4, usize::from(packet.first()? & 15) * 4);
    if version != 4 || *packet.get(9)? != 6 {
        return None;
    }
    let end = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    // A length of zero is that of a packet above 64 KiB.
    let end = if end == 0 { packet.len() } else { end.min(packet.len()) };
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let tcp = packet.get(head..end)?;
    Some(Segment {
        addresses: [address(12)?, address(16)?],
        ports: tcp.get(..4)?.try_into().ok()?,
        number: u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?),
        syn: tcp.get(13)? & 2 != 0,
        payload: tcp.get(usize::from(tcp[12] >> 4) * 4..)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame from the first end to the second.
    fn frame(number: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let total = u16::try_from(40 + payload.len()).unwrap();
        let mut frame = vec![0; 14];
        frame.extend([0x45, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 78, 0, 1, 10, 78, 0, 2]);
        frame.extend([0x80, 1, 0x10, 0x2f]);
        frame.extend(number.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    }

    fn sight(frames: &[Vec<u8>]) -> Sight {
        let (mut sight, mut opening) = (Sight::default(), HashMap::new());
        for frame in frames {
            let segment = segment(frame).unwrap();
            assert!(segment.is_on_the_pair());
            sight.add(&segment, &mut opening);
        }
        sight
    }

    #[test]
    fn tls_is_told_by_the_first_record() {
        let frames = [frame(7, 2, b""), frame(8, 16, &[0x16, 3, 1, 0, 0]), frame(13, 16, &[0x17, 3, 3, 0, 0])];
        assert_eq!(sight(&frames), Sight { tls: 1, other: 0, words: 0, suites: 0 });
    }

    #[test]
    fn a_connection_that_begins_otherwise_is_plaintext() {
        let frames = [frame(7, 2, b""), frame(8, 16, b"hello"), frame(13, 16, b"world")];
        assert_eq!(sight(&frames), Sight { tls: 0, other: 1, words: 0, suites: 0 });
    }

    #[test]
    fn words_are_seen_without_the_beginning() {
        assert_eq!(sight(&[frame(99, 16, b"..HTTP/1.1 200 OK..")]), Sight { tls: 0, other: 0, words: 1, suites: 0 });
    }

    #[test]
    fn another_cipher_suite_is_told() {
        let mut hello = vec![0x16, 3, 3, 0, 76, 2, 0, 0, 72, 3, 3];
        hello.extend([7; 32]);
        hello.push(32);
        hello.extend([9; 32]);
        for (suite, others) in [([0x13, 1], 0), ([0x13, 2], 1)] {
            let record = [&hello[..], &suite, &[0, 0, 0]].concat();
            assert_eq!(sight(&[frame(7, 2, b""), frame(8, 16, &record)]).suites, others);
        }
        assert_eq!(suite(&hello), None);
    }

    #[test]
    fn the_applications_side_is_none_of_the_wire() {
        let mut frame = frame(8, 16, b"HTTP/1.1");
        frame[30..34].copy_from_slice(&[127, 0, 0, 1]);
        assert!(!segment(&frame).unwrap().is_on_the_pair());
    }

    #[test]
    fn other_frames_are_passed_over() {
        assert!(segment(&[0; 60]).is_none());
        assert!(segment(&frame(1, 2, b"")[..40]).is_none());
    }
}

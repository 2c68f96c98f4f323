//! A look at the wire: what tcpdump caught, put together as the byte streams of its TCP connections.
//!
//! Invariant: bytes are put in order by their sequence numbers; a hole ends what is said of a stream.
//! Non-goal: a decoder; records of TLS are told by their heads, and a marker is searched for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_tests::netns::{Host, Proc, until};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(5);
/// tcpdump writes each packet at once, but is told of it by the kernel when that suits both.
const QUIET: Duration = Duration::from_millis(200);

/// A running capture.
pub(crate) struct Capture {
    tcpdump: Proc,
    path: PathBuf,
}

/// One direction of a connection.
struct Segments {
    /// Sequence number -> payload.
    by_number: BTreeMap<u32, Vec<u8>>,
    first: u32,
}

/// What a capture tells.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    /// Directions of connections that carried bytes.
    pub(crate) streams: usize,
    /// Bytes in all.
    pub(crate) bytes: usize,
    /// Streams whose first byte begins a TLS handshake record.
    pub(crate) tls: usize,
    /// Records of TLS: handshakes, and application data.
    pub(crate) handshakes: usize,
    pub(crate) application: usize,
    /// How often the marker was found in plain sight.
    pub(crate) markers: usize,
}

impl Capture {
    /// Starts to catch what a host exchanges on a port of its peers.
    pub(crate) fn start(host: &Host, dir: &Path, port: u16) -> Self {
        let path = dir.join(format!("capture-{port}.pcap"));
        let mut command = host.command("tcpdump");
        command.args(["-Z", "root", "-i", "eth0", "-s", "0", "-U", "--immediate-mode", "-B", "65536", "-w"]).arg(&path);
        let tcpdump = Proc::spawn(command.args(["tcp", "port", &port.to_string()]));
        tcpdump.wait_for_line("listening on", SOON);
        Self { tcpdump, path }
    }

    /// Ends it, once nothing new has come for a while, and looks for `marker`.
    pub(crate) fn look(mut self, marker: &[u8]) -> Sight {
        let mut seen = (0, Instant::now());
        until(SOON, || {
            let size = fs::metadata(&self.path).map_or(0, |file| file.len());
            if size != seen.0 {
                seen = (size, Instant::now());
            }
            seen.1.elapsed() > QUIET
        });
        self.tcpdump.signal(Signal::SIGINT);
        self.tcpdump.wait(SOON);
        let mut sight = Sight::default();
        for segments in streams(&fs::read(&self.path).unwrap_or_default()).into_values() {
            let bytes = segments.in_order();
            if !bytes.is_empty() {
                sight.add(&bytes, marker);
            }
        }
        sight
    }
}

impl Sight {
    fn add(&mut self, bytes: &[u8], marker: &[u8]) {
        self.streams += 1;
        self.bytes += bytes.len();
        self.markers += bytes.windows(marker.len()).filter(|window| *window == marker).count();
        self.tls += usize::from(matches!(bytes, [0x16, 3, ..]));
        let mut rest = bytes;
        while let [kind @ 20..=23, 3, _, high, low, after @ ..] = rest {
            self.handshakes += usize::from(*kind == 0x16);
            self.application += usize::from(*kind == 0x17);
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            rest = after.get(length..).unwrap_or_default();
        }
    }
}

impl Segments {
    fn in_order(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut next = self.first;
        while let Some(payload) = self.by_number.get(&next).filter(|payload| !payload.is_empty()) {
            bytes.extend_from_slice(payload);
            next = next.wrapping_add(u32::try_from(payload.len()).unwrap_or_default());
        }
        bytes
    }
}

/// The directions of all connections in a pcap file, by their addresses and ports as they stand in the packets.
fn streams(file: &[u8]) -> BTreeMap<Vec<u8>, Segments> {
    let mut streams = BTreeMap::new();
    // The file's head has 24 bytes, a packet's 16: seconds, fraction, bytes kept, bytes sent.
    let mut rest = file.get(24..).unwrap_or_default();
    while let [_, _, _, _, _, _, _, _, a, b, c, d, _, _, _, _, after @ ..] = rest {
        let kept = u32::from_ne_bytes([*a, *b, *c, *d]) as usize;
        let Some((frame, after)) = after.split_at_checked(kept) else { break };
        if let Some((key, number, syn, payload)) = segment(frame) {
            let segments: &mut Segments = streams.entry(key).or_insert_with(|| {
                let first = number.wrapping_add(u32::from(syn));
                Segments { by_number: BTreeMap::new(), first }
            });
            if !payload.is_empty() {
                segments.by_number.insert(number, payload);
            }
        }
        rest = after;
    }
    streams
}

/// Addresses and ports, sequence number, whether it opens, payload.
fn segment(frame: &[u8]) -> Option<(Vec<u8>, u32, bool, Vec<u8>)> {
    let packet = frame.get(14..)?;
    let (addresses, head, end) = match packet.first()? >> 4 {
        4 => {
            let total = u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]);
            (12..20, usize::from(packet[0] & 15) * 4, usize::from(total))
        }
        6 => (8..40, 40, 40 + usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]))),
        _ => return None,
    };
    let tcp = packet.get(head..end.min(packet.len()))?;
    let number = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
    let payload = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?;
    let key = [packet.get(addresses)?, tcp.get(..4)?].concat();
    Some((key, number, tcp[13] & 2 != 0, payload.to_vec()))
}

#[cfg(test)]
mod tests {
    use mesh_tests::client::{self, tcp};
    use mesh_tests::netns::Net;

    use super::*;

    const MARKER: &[u8] = b"for your eyes only";

    /// What is seen of a conversation with a server in this mode.
    fn sight(mode: &str) -> Sight {
        let (net, dir) = (Net::new(), tempfile::tempdir().unwrap());
        let (left, right) = (net.host("left"), net.host("right"));
        let mut server = right.command(mesh_tests::bin("demo-greet"));
        let server = Proc::spawn(server.args(["--listen=[::]:7000", "--mode", mode]));
        server.wait_for_line("listening", SOON);
        let capture = Capture::start(&left, dir.path(), 7000);
        let echo = client::within(&left, async {
            let addr = (right.v6, 7000).into();
            match mode {
                "tls" => tcp::exchange(tcp::tls(addr, "x").await?.0, MARKER).await,
                _ => tcp::exchange(tcp::connect(addr).await?, MARKER).await,
            }
        });
        assert_eq!(echo.unwrap(), MARKER);
        capture.look(MARKER)
    }

    #[test]
    fn plain_text_is_seen_in_both_directions() {
        let sight = sight("echo");
        assert_eq!((sight.streams, sight.tls, sight.markers), (2, 0, 2), "{sight:?}");
        assert_eq!(sight.bytes, 2 * MARKER.len());
    }

    #[test]
    fn tls_shows_its_records_and_no_words() {
        let sight = sight("tls");
        assert_eq!((sight.streams, sight.tls, sight.markers), (2, 2, 0), "{sight:?}");
        assert!(sight.handshakes >= 2 && sight.application >= 4, "{sight:?}");
    }
}

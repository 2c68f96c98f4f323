//! Protocol detection: of bytes, of a live connection, and of server names.
//!
//! Oracles: a verdict never changes with more bytes and does not depend on how they come; no byte is lost; rustls, another
//! reader of the same ClientHello, sees the same name.

use std::cell::RefCell;
use std::io::Write as _;
use std::net::{Shutdown, TcpListener as StdListener, TcpStream as StdStream};
use std::time::Duration;

use mesh_proxy::detect::{self, MAX, Verdict};
use mesh_proxy::net::Stream;
use mesh_proxy::sniff::{self, Seen};
use rustls::server::Acceptor;
use socket2::SockRef;
use tokio::io::AsyncReadExt as _;
use tokio::runtime::Runtime;

use super::input::Input;

/// Verdicts on all prefixes: "need more" up to one byte, and then always the same.
pub(super) fn detect(data: &[u8]) {
    // Longer ones would take their square in time and say nothing new: 8 KiB decide.
    let data = &data[..data.len().min(9 * 1024)];
    let last = detect::detect(data);
    let step = data.len() / 512 + 1;
    let mut decided: Option<Verdict> = None;
    for end in (0..=data.len()).step_by(step) {
        let verdict = detect::detect(&data[..end]);
        match &decided {
            Some(before) => assert_eq!(verdict, *before, "changed at {end}"),
            None if verdict != Verdict::NeedMore => decided = Some(verdict),
            None => {}
        }
    }
    assert!(decided.is_none_or(|decided| decided == last), "the whole is {last:?}");
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    assert_eq!(last == Verdict::Http2, data.starts_with(PREFACE));
    match last {
        Verdict::Tls { .. } => assert_eq!(data[0], 22),
        Verdict::Http1 => {
            let text = String::from_utf8_lossy(data);
            let first = text.trim_start_matches("\r\n").chars().next();
            assert!(first.is_some_and(|first| first.is_ascii_uppercase()), "HTTP that begins with {first:?}");
        }
        Verdict::NeedMore => assert!(data.len() < MAX),
        Verdict::Http2 | Verdict::Opaque => {}
    }
    let filled = [data, &vec![b'a'; MAX]].concat();
    assert_ne!(detect::detect(&filled), Verdict::NeedMore, "undecided after {MAX} bytes");
}

/// The same bytes over a connection, in pieces: the same verdict, and all of them can be read afterwards.
pub(super) fn sniff(data: &[u8]) {
    let pieces = Input(data).pieces();
    let whole = pieces.concat();
    let pieces = if pieces.len() > 64 { vec![whole.as_slice()] } else { pieces };
    WORLD.with_borrow_mut(|world| {
        let World { runtime, listener } = world.get_or_insert_with(World::new);
        let addr = listener.local_addr().expect("bound");
        let client = StdStream::connect(addr).expect("loopback");
        let (server, _) = listener.accept().expect("connected");
        let abort = SockRef::from(&client).set_linger(Some(Duration::ZERO));
        abort.expect("a live socket");
        server.set_nonblocking(true).expect("a live socket");
        let (seen, read) = runtime.block_on(async {
            let writer = async {
                for piece in &pieces {
                    (&client).write_all(piece).expect("room in the socket's buffer");
                    tokio::task::yield_now().await;
                }
                client.shutdown(Shutdown::Write).expect("a live socket");
            };
            tokio::join!(look(server), writer).0
        });
        assert_eq!(read, whole, "bytes were lost");
        let expected = match Option::<Seen>::from(detect::detect(&whole)) {
            Some(seen) => Some(seen),
            None if whole.is_empty() => None,
            // It ended before anything was decided.
            None => Some(Seen::Opaque),
        };
        assert_eq!(seen, expected, "{}", whole.escape_ascii());
    });
}

async fn look(server: StdStream) -> (Option<Seen>, Vec<u8>) {
    const SETTINGS: sniff::Settings =
        sniff::Settings { silence: Duration::from_secs(5), decide: Duration::from_secs(5) };
    let mut stream = Stream::from(tokio::net::TcpStream::from_std(server).expect("non-blocking"));
    let seen = sniff::client(&mut stream, &SETTINGS).await.expect("a client that does not break");
    let mut read = Vec::new();
    stream.read_to_end(&mut read).await.expect("a client that does not break");
    (seen, read)
}

struct World {
    runtime: Runtime,
    listener: StdListener,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let listener = StdListener::bind("127.0.0.1:0");
        Self { runtime: runtime.expect("a runtime"), listener: listener.expect("loopback") }
    }
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// A ClientHello made of the bytes, in records of any size: what rustls reads in it, detection reads too.
pub(super) fn sni(data: &[u8]) {
    let mut input = Input(data);
    let bytes = if input.byte().is_multiple_of(2) { input.0.to_vec() } else { hello(&mut input) };
    let bytes = &bytes[..bytes.len().min(MAX)];
    let verdict = detect::detect(bytes);
    let mut acceptor = Acceptor::default();
    let mut unread = bytes;
    while !unread.is_empty() && acceptor.read_tls(&mut unread).is_ok_and(|read| read > 0) {
        let Ok(accepted) = acceptor.accept() else { return };
        let Some(accepted) = accepted else { continue };
        let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
        // rustls takes any legacy_version; RFC 8446 4.1.2 has 3.3 there, and all before it began with 3 as well.
        if legacy_major(bytes) != Some(3) {
            return;
        }
        let Verdict::Tls { sni } = verdict else { panic!("rustls takes it for TLS, detection for {verdict:?}") };
        if let Some(name) = name {
            assert_eq!(sni.as_deref(), Some(name.as_str()), "{}", bytes.escape_ascii());
        }
        return;
    }
}

/// The first byte of `legacy_version`, behind the message's type and length, in whichever record.
fn legacy_major(mut records: &[u8]) -> Option<u8> {
    let mut before = 4;
    loop {
        let (head, rest) = records.split_at_checked(5)?;
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        if before < length {
            return rest.get(before).copied();
        }
        before -= length;
        records = rest.get(length..)?;
    }
}

/// A well-formed hello with extensions, of which some are server names.
fn hello(input: &mut Input<'_>) -> Vec<u8> {
    let record = usize::from(input.u16()).max(1);
    let mut extensions = Vec::new();
    for _ in 0..input.byte() % 6 {
        let kind = if input.byte().is_multiple_of(2) { 0 } else { input.u16() };
        let length = usize::from(input.byte());
        let body = input.take(length);
        let body = if kind == 0 { server_name(body) } else { body.to_vec() };
        extensions.extend(kind.to_be_bytes());
        extensions.extend(length_of(&body));
        extensions.extend(body);
    }
    // supported_versions and signature_algorithms, without which rustls reads no further.
    extensions.extend([0, 43, 0, 3, 2, 3, 4, 0, 13, 0, 4, 0, 2, 4, 3]);
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(length_of(&extensions));
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend(length_of(&body));
    message.extend(body);
    let mut records = Vec::new();
    for part in message.chunks(record.min(16 * 1024)) {
        records.extend([22, 3, 1]);
        records.extend(length_of(part));
        records.extend(part);
    }
    records
}

fn server_name(name: &[u8]) -> Vec<u8> {
    let entry = [&[0][..], &length_of(name), name].concat();
    [&length_of(&entry)[..], &entry].concat()
}

fn length_of(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).expect("made of few bytes").to_be_bytes()
}

//! An application's bytes through both sidecars, to a back end that takes HTTP to the letter.
//!
//! Oracles: what arrives is HTTP/1.1 without a second reading; it names one authority and our identity, whatever was sent; a
//! message that a strict reader understands arrives as it is; every connection comes to its end.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::discovery as wire;
use mesh_proxy::http::h1;
use mesh_proxy::http::h2_server::{self, Side};
use mesh_proxy::net::Stream;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::discovery;
use super::input::Input;
use super::recorder::{self, Recorded, Tape};
use crate::pair::Pair;

/// A conversation that takes longer hangs. Far below the proxy's own limits for slow clients.
const PATIENCE: Duration = Duration::from_secs(8);
const ID: &str = "spiffe://cluster.local/ns/test/sa/web";

/// A pair of sidecars between a client and the recorder, for as long as the thread lives.
struct World {
    runtime: Runtime,
    pair: Arc<Pair>,
    tape: Tape,
    listener: TcpListener,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// What came of a conversation: bytes to the client, and requests to the back end.
struct Outcome {
    answered: Vec<u8>,
    recorded: Vec<Recorded>,
}

/// The head of a request, or several requests with bodies: any bytes that are taken for HTTP/1.
pub(super) fn h1_head(data: &[u8]) {
    let pieces = Input(data).pieces();
    let sent = pieces.concat();
    let whole = [&sent[..]];
    let outcome = converse(Speaks::Http1, if pieces.len() > 32 { &whole } else { &pieces });
    as_sent(&sent, &outcome);
}

/// A request with a chunked body, of which only the head is given.
pub(super) fn h1_chunked(data: &[u8]) {
    const HEAD: &[u8] = b"POST /echo HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n";
    let pieces = Input(data).pieces();
    let sent = [HEAD, &pieces.concat()].concat();
    let pieces = if pieces.len() > 32 { vec![sent.as_slice()] } else { [vec![HEAD], pieces].concat() };
    let outcome = converse(Speaks::Http1, &pieces);
    as_sent(&sent, &outcome);
    // A body that is not whole to the letter is not passed on as whole.
    let mut unread = sent.clone();
    if let (Err(what), Some(first)) = (recorder::read(&mut unread, |_| false), outcome.recorded.first()) {
        panic!("{what}: passed on as {first:?}: {}", sent.escape_ascii());
    }
}

/// Frames after the preface: well-formed ones with any content and in any order, now and then any bytes.
pub(super) fn h2_frames(data: &[u8]) {
    let mut input = Input(data);
    let mut bytes = preface();
    while !input.0.is_empty() && bytes.len() < 64 * 1024 {
        let (kind, flags, stream) = (input.byte(), input.byte(), input.byte());
        if kind == 0xff {
            let raw = usize::from(flags);
            bytes.extend(input.take(raw));
            continue;
        }
        let length = usize::from(input.byte());
        let payload = input.take(length);
        bytes.extend(frame(kind % 11, flags, u32::from(stream % 16), payload));
    }
    speak_http2(&bytes);
}

/// A block of header fields, cut into CONTINUATION frames as the first byte says, and a plain request after it.
pub(super) fn hpack(data: &[u8]) {
    let block: Vec<&[u8]> = Input(&data[..data.len().min(4096)]).pieces();
    let mut bytes = preface();
    let last = block.len().saturating_sub(1);
    for (n, part) in block.into_iter().enumerate().take(200) {
        // HEADERS with END_STREAM, then CONTINUATION; END_HEADERS on the last.
        let (kind, flags) = if n == 0 { (1, 1) } else { (9, 0) };
        bytes.extend(frame(kind, flags | if n == last.min(199) { 4 } else { 0 }, 1, part));
    }
    // GET http / with the authority "web", not indexed.
    bytes.extend(frame(1, 5, 3, b"\x82\x86\x84\x01\x03web"));
    speak_http2(&bytes);
}

fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The stream of the request that follows all else.
const LAST: u32 = 1001;

fn speak_http2(bytes: &[u8]) {
    // GET http:///last with the authority "web", nothing of it indexed.
    let last = frame(1, 5, LAST, b"\x82\x86\x04\x05/last\x01\x03web");
    let outcome = converse(Speaks::Http2, &[bytes, &last]);
    let mut answered = frames(&outcome.answered).peekable();
    assert!(answered.peek().is_none_or(|first| first.kind == 4), "the first frame is not SETTINGS");
    let mut refused = false;
    for frame in answered {
        assert!(frame.kind < 10 && frame.length <= 1 << 14, "a frame of type {}, {} long", frame.kind, frame.length);
        // GOAWAY, or the stream's reset.
        refused |= frame.kind == 7 || (frame.kind == 3 && frame.stream == LAST);
        if frame.stream == LAST && frame.kind == 1 && !refused {
            let last = outcome.recorded.iter().filter(|request| request.target == "/last").count();
            assert!(last >= 1, "answered, but not by the back end: {}", bytes.escape_ascii());
        }
    }
}

/// If a strict reader understands all that was sent, all of it has arrived, as it was and in order.
fn as_sent(sent: &[u8], outcome: &Outcome) {
    let mut unread = sent.to_vec();
    let mut expected = Vec::new();
    while !unread.is_empty() {
        match recorder::read(&mut unread, |_| false) {
            Ok(Some(request)) if is_plain(&request) => expected.push(request),
            _ => return,
        }
    }
    let plain = |all: &[Recorded]| -> Vec<_> {
        all.iter().map(|it| (it.method.clone(), it.target.clone(), it.body.clone())).collect()
    };
    assert_eq!(plain(&outcome.recorded), plain(&expected), "{}", sent.escape_ascii());
    let answers = outcome.answered.windows(10).filter(|window| window.eq_ignore_ascii_case(b"x-recorded")).count();
    assert_eq!(answers, expected.len(), "{}", outcome.answered.escape_ascii());
}

/// Nothing that has a meaning for a proxy, and no method or target that ends or bends a connection.
fn is_plain(request: &Recorded) -> bool {
    let known = ["host", "content-length", "transfer-encoding", "accept", "user-agent", "cookie", "x-a"];
    let fields = request.fields.iter().all(|(name, _)| known.contains(&name.as_str()));
    let host = request.values("host").collect::<Vec<_>>() == ["web"];
    let target = request.target.starts_with('/')
        && request.target.bytes().all(|b| b.is_ascii_alphanumeric() || b"/?=&._-".contains(&b));
    let method = ["GET", "POST", "PUT", "DELETE", "PATCH"].contains(&request.method.as_str());
    fields && host && target && method && request.fields.len() < 50 && request.body.len() < 4096
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http2,
}

fn converse(speaks: Speaks, pieces: &[&[u8]]) -> Outcome {
    WORLD.with_borrow_mut(|world| {
        let world = world.get_or_insert_with(World::new);
        let outcome = world.runtime.block_on(async {
            let talk = Box::pin(talk(world, speaks, pieces));
            timeout(PATIENCE, talk).await
        });
        let Ok(answered) = outcome else { panic!("it hangs after {}", pieces.concat().escape_ascii()) };
        let recorded: Result<Vec<Recorded>, String> = recorder::take(&world.tape).into_iter().collect();
        let recorded =
            recorded.unwrap_or_else(|what| panic!("let through: {what} of {}", pieces.concat().escape_ascii()));
        recorded.iter().for_each(speaks_for_us);
        Outcome { answered, recorded }
    })
}

/// Fields that only the mesh may set.
fn speaks_for_us(request: &Recorded) {
    let ids: Vec<&str> = request.values("mesh-client-id").collect();
    assert_eq!(ids, [ID], "{request:?}");
    for ours in ["mesh-destination", "mesh-origin", "mesh-protocol", "mesh-error"] {
        assert_eq!(request.values(ours).count(), 0, "{request:?}");
    }
    // HTTP/1.0 may name none.
    assert!(request.values("host").count() <= 1, "{request:?}");
}

async fn talk(world: &World, speaks: Speaks, pieces: &[&[u8]]) -> Vec<u8> {
    let addr = world.listener.local_addr().expect("bound");
    let (client, accepted) = tokio::join!(TcpStream::connect(addr), world.listener.accept());
    let (mut client, (server, _)) = (client.expect("loopback"), accepted.expect("connected"));
    client.set_nodelay(true).expect("a live socket");
    // No port waits for its end after thousands of conversations.
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("a live socket");
    let serve = serve(world, speaks, server.into());
    let speak = async {
        let (mut reader, mut writer) = client.split();
        let mut answered = Vec::new();
        let write = async {
            for piece in pieces {
                // The proxy may have closed; what it said is read all the same.
                if writer.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            if speaks == Speaks::Http1 {
                let _ = writer.shutdown().await;
            }
        };
        let read = async {
            match speaks {
                Speaks::Http1 => drop(reader.read_to_end(&mut answered).await),
                Speaks::Http2 => until_last(&mut reader, &mut answered).await,
            }
        };
        tokio::join!(write, read);
        drop(client);
        answered
    };
    tokio::join!(serve, speak).1
}

/// Reads until the last request is answered, the connection ends, or nothing comes: then the frames before have taken the last
/// request for something else.
async fn until_last(reader: &mut (impl AsyncRead + Unpin), answered: &mut Vec<u8>) {
    const QUIET: Duration = Duration::from_millis(100);
    while let Ok(Ok(1..)) = timeout(QUIET, reader.read_buf(answered)).await {
        if frames(answered).any(|frame| frame.stream == LAST && frame.ends) {
            return;
        }
    }
}

/// A frame of the proxy's, without its payload.
struct Frame {
    kind: u8,
    length: usize,
    stream: u32,
    ends: bool,
}

/// The whole frames in `bytes`.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = Frame> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_at_checked(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        bytes = rest.get(length..)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        // The end of a message, or of the stream.
        let ends = (head[3] <= 1 && head[4] & 1 == 1) || head[3] == 3;
        Some(Frame { kind: head[3], length, stream, ends })
    })
}

async fn serve(world: &World, speaks: Speaks, stream: Stream) {
    let pair = &world.pair;
    let target = pair.outbound.target(pair.app);
    let handler = Arc::clone(&pair.outbound).handler(target, pair.drain.clone());
    match speaks {
        Speaks::Http1 => drop(h1::serve(stream, &pair.config.http, pair.drain.clone(), handler).await),
        Speaks::Http2 => {
            let never = poll_fn(|_| std::task::Poll::Pending);
            drop(h2_server::serve(stream, &pair.config.http, Side::Application, never, handler).await);
        }
    }
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (app, tape) = recorder::start(own_ip()).expect("a back end");
        let pair = Pair::start_with(&runtime, app).expect("a pair of sidecars");
        let target = pair.outbound.target(app);
        let id = discovery::asked(&pair.discovery).expect("the target is asked for");
        let address = match app.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let endpoint = wire::Endpoint {
            address: Some(wire::SocketAddress { ip: address.into(), port: app.port().into() }),
            identity: ID.to_owned(),
            tunnel_port: pair.config.inbound.tunnel_port.into(),
            ..wire::Endpoint::default()
        };
        let workload = wire::Workload { endpoint: Some(endpoint), protocol: wire::Protocol::Detect.into() };
        let kind = Some(wire::outbound_target::Kind::Workload(workload));
        let snapshot = Some(wire::watch_response::Snapshot::Outbound(wire::OutboundTarget { kind }));
        pair.discovery.take(wire::WatchResponse { id, version: 1, snapshot });
        let status = pair.discovery.status();
        assert_eq!(status.rejected, 0, "{status:?}");
        // Held as long as the thread lives, for its subscription.
        std::mem::forget(target);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("loopback");
        Self { runtime, pair: Arc::new(pair), tape, listener }
    }
}

/// An address of this host that a workload may have: not loopback, not link-local.
fn own_ip() -> IpAddr {
    let all = mesh_proxy::net::local::LocalAddresses::new(&[]).all();
    all.into_iter().next().expect("an address beside loopback: the target needs a network device")
}

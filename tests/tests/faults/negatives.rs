//! HTTP/2 back ends that do what the protocol lets them, at bad moments and under load: GOAWAY, resets before, in and after a
//! body, pings, and few streams at a time. After gRPC's negative interop cases.
//!
//! Invariant: an idempotent call that can be made again is answered; one whose answer has begun ends with the back end's
//! code; no other call suffers.
//! Non-goal: frames that break the protocol.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::server::SendResponse;
use h2::{Ping, Reason, RecvStream};
use http::{Request, Response};
use mesh_tests::mesh::Mesh;
use mesh_tests::netns::Host;
use mesh_tests::raw::{Conversation, Server};
use mesh_tests::streams;
use mesh_tests::yardstick::{Who, count, record};

use super::HTTP;

const BODY: &[u8] = b"good";
/// Calls at a time, on so many connections.
const TOGETHER: usize = 16;
const CONNECTIONS: usize = 4;
/// After so many calls a connection is told to end.
const CALLS_PER_CONNECTION: u32 = 50;
const MOST_STREAMS: usize = 2;

/// What came of calls: how often each path ended in each way.
type Ends = BTreeMap<(&'static str, String), usize>;

/// Makes `all` calls from the client, the paths in turns.
fn calls(mesh: &Mesh, addr: SocketAddr, all: usize, paths: &'static [&'static str]) -> Ends {
    let client = mesh.get("client").host.clone();
    let calls = async move {
        let senders = join_all((0..CONNECTIONS).map(|_| streams::connect(addr))).await;
        let senders: Vec<_> = senders.into_iter().map(|sender| sender.expect("a connection to the sidecar")).collect();
        let clients = (0..TOGETHER).map(|client| {
            let sender = senders[client % CONNECTIONS].clone();
            tokio::spawn(async move {
                let mut ends = Vec::new();
                for call in (client..all).step_by(TOGETHER) {
                    let path = paths[call / TOGETHER % paths.len()];
                    let limit = Duration::from_secs(20);
                    let ended = tokio::time::timeout(limit, one(sender.clone(), path)).await;
                    ends.push((path, ended.unwrap_or_else(|_| "hung".to_owned())));
                }
                ends
            })
        });
        let mut ends = Ends::new();
        for end in join_all(clients).await.into_iter().flat_map(|ends| ends.expect("no panic")) {
            *ends.entry(end).or_default() += 1;
        }
        ends
    };
    let runtime = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime in a test").block_on(calls)
    };
    client.enter(runtime)
}

/// How one call ended, in a word.
async fn one(sender: h2::client::SendRequest<Bytes>, path: &str) -> String {
    let ended = async {
        let request = Request::get(format!("http://web{path}")).body(()).expect("a path");
        let mut sender = sender.ready().await.map_err(|error| streams::code(&error))?;
        let (response, _) = sender.send_request(request, true).map_err(|error| streams::code(&error))?;
        let (head, body) = response.await.map_err(|error| streams::code(&error))?.into_parts();
        let body = streams::body(body).await?;
        Ok::<_, Reason>(if body == BODY { "ok".to_owned() } else { format!("{} {body:?}", head.status) })
    };
    ended.await.unwrap_or_else(|reason| format!("{reason:?}"))
}

/// All calls to `path` ended like this.
fn all_ended(ends: &Ends, path: &'static str, how: &str) {
    let (right, wrong): (Vec<_>, Vec<_>) =
        ends.iter().filter(|(end, _)| end.0 == path).partition(|(end, _)| end.1 == how);
    assert!(wrong.is_empty() && !right.is_empty(), "{path} did not always end with {how}: {ends:#?}");
}

/// The two ways to a back end: through its sidecar, and without one.
struct Scene {
    mesh: Mesh,
    ways: [(&'static str, SocketAddr, Host); 2],
}

/// Services over one endpoint, or over another one that is good as well.
fn scene(with_a_good_one: bool) -> Scene {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    let bad = [("meshed", true), ("plain", false)].map(|(name, meshed)| {
        let spec = mesh.workload(name).of(name);
        let host = if meshed { spec.add() } else { spec.plain().add() };
        if with_a_good_one {
            let spec = mesh.workload(&format!("{name}-good")).of(name);
            let good = if meshed { spec.add() } else { spec.plain().add() };
            streams::serve(&good, HTTP, |_, respond| respond_well(respond));
        }
        (name, mesh.service(name, 80, HTTP).add().v4, host)
    });
    mesh.start();
    Scene { mesh, ways: bad }
}

async fn respond_well(mut respond: SendResponse<Bytes>) {
    // Slower than the other endpoint, which so gets its share.
    tokio::time::sleep(Duration::from_millis(2)).await;
    if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
        let _ = stream.send_data(Bytes::from_static(BODY), true);
    }
}

/// Answers, says after a while that it takes no more, and ignores what comes after that.
fn goes_away(conversation: &mut Conversation, told: &AtomicUsize) -> io::Result<()> {
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const ACK: u8 = 1;
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
        [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    conversation.take(PREFACE)?;
    conversation.say(&frame(SETTINGS, 0, 0, &[]))?;
    let mut calls = 0;
    loop {
        let head = conversation.take(9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags, stream) = (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        let payload = conversation.take(length)?;
        match kind {
            SETTINGS if flags & ACK == 0 => conversation.say(&frame(SETTINGS, ACK, 0, &[]))?,
            PING if flags & ACK == 0 => conversation.say(&frame(PING, ACK, 0, &payload))?,
            HEADERS if calls < CALLS_PER_CONNECTION => {
                calls += 1;
                // END_HEADERS with `:status: 200` of the static table; then DATA with END_STREAM.
                conversation.say(&[frame(HEADERS, 4, stream, &[0x88]), frame(0, 1, stream, BODY)].concat())?;
                if calls == CALLS_PER_CONNECTION {
                    told.fetch_add(1, Ordering::Relaxed);
                    conversation.say(&frame(GOAWAY, 0, 0, &[stream.to_be_bytes(), [0; 4]].concat()))?;
                }
            }
            _ => {}
        }
    }
}

#[test]
fn r59_f13_goaway_under_load_costs_no_call() {
    let Scene { mesh, ways } = scene(true);
    for (way, addr, host) in ways {
        let told = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&told);
        let _server = Server::start(&host, HTTP, move |mut conversation| goes_away(&mut conversation, &counted));
        let all = count(2_000, 100_000);
        let ends = calls(&mesh, addr, all, &["/"]);
        let told = told.load(Ordering::Relaxed);
        println!("{way}: {ends:?}, {told} GOAWAY");
        all_ended(&ends, "/", "ok");
        assert!(told >= all / 1000, "{way}: only {told} connections were told");
        record(59, &format!("goaway, {way}"), Who::Mesh, true, &format!("0 of {all} failed, {told} GOAWAY"));
    }
}

/// Answers as the path says; at most so many streams at a time.
async fn answers(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, load: Arc<[AtomicUsize; 2]>) {
    /// For what was said to be on its way.
    const SENT: Duration = Duration::from_millis(10);
    let [now, most] = &*load;
    most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
    let path = request.uri().path().to_owned();
    let Ok(mut stream) = respond.send_response(Response::new(()), false) else { return };
    tokio::time::sleep(SENT).await;
    if path == "/reset-after-header" {
        stream.send_reset(Reason::INTERNAL_ERROR);
    } else {
        let _ = stream.send_data(Bytes::from_static(&BODY[..2]), false);
        tokio::time::sleep(SENT).await;
        if path == "/reset-in-data" {
            stream.send_reset(Reason::INTERNAL_ERROR);
        } else if path == "/reset-after-data" {
            let _ = stream.send_data(Bytes::from_static(&BODY[2..]), false);
            tokio::time::sleep(SENT).await;
            stream.send_reset(Reason::INTERNAL_ERROR);
        } else {
            let _ = stream.send_data(Bytes::from_static(&BODY[2..]), true);
        }
    }
    now.fetch_sub(1, Ordering::Relaxed);
}

#[test]
fn r59_a_reset_ends_its_own_call_with_its_code_and_no_other() {
    let Scene { mesh, ways } = scene(false);
    for (way, addr, host) in ways {
        let load = Arc::default();
        streams::serve(&host, HTTP, move |request, respond| answers(request, respond, Arc::clone(&load)));
        let all = count(800, 20_000);
        let ends = calls(&mesh, addr, all, &["/", "/reset-after-header", "/reset-in-data", "/reset-after-data"]);
        println!("{way}: {ends:?}");
        all_ended(&ends, "/", "ok");
        for path in ["/reset-after-header", "/reset-in-data", "/reset-after-data"] {
            all_ended(&ends, path, "INTERNAL_ERROR");
        }
        let figure = format!("{} of {all} reset with their code, 0 others failed", all * 3 / 4);
        record(59, &format!("rst after header, in and after data, {way}"), Who::Mesh, true, &figure);
    }
}

#[test]
fn r59_no_more_streams_are_opened_than_the_back_end_takes() {
    let Scene { mesh, ways } = scene(false);
    for (way, addr, host) in ways {
        let load: Arc<[AtomicUsize; 2]> = Arc::default();
        let shared = Arc::clone(&load);
        let mut settings = h2::server::Builder::new();
        settings.max_concurrent_streams(u32::try_from(MOST_STREAMS).unwrap_or(1));
        streams::serve_with(settings, &host, HTTP, move |request, respond| {
            answers(request, respond, Arc::clone(&shared))
        });
        let all = count(800, 20_000);
        let ends = calls(&mesh, addr, all, &["/"]);
        println!("{way}: {ends:?}, at most {:?} streams on all connections", load[1]);
        all_ended(&ends, "/", "ok");
        let refused = mesh.get("client").metric("mesh_retries_total", &[("reason", "unprocessed")]);
        assert_eq!(refused, 0.0, "{way}: streams beyond the limit");
        record(59, &format!("max_streams, {way}"), Who::Mesh, true, &format!("0 of {all} failed, 0 refused"));
    }
}

/// Serves, and pings all the time; counts the answers.
fn pings(host: &Host, pongs: &Arc<AtomicUsize>) {
    let listener = host.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, HTTP))).expect("a port");
    let pongs = Arc::clone(pongs);
    host.run_in_thread(move || -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        listener.set_nonblocking(true)?;
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                let pongs = Arc::clone(&pongs);
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    let mut ping = connection.ping_pong().expect("asked once");
                    tokio::spawn(async move {
                        while ping.ping(Ping::opaque()).await.is_ok() {
                            pongs.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    });
                    while let Some(Ok((_, respond))) = connection.accept().await {
                        tokio::spawn(respond_well(respond));
                    }
                });
            }
        })
    });
}

#[test]
fn r59_pings_of_the_back_end_are_answered_under_load() {
    let Scene { mesh, ways } = scene(false);
    for (way, addr, host) in ways {
        let pongs = Arc::default();
        pings(&host, &pongs);
        let all = count(2_000, 50_000);
        let ends = calls(&mesh, addr, all, &["/"]);
        let pongs = pongs.load(Ordering::Relaxed);
        println!("{way}: {ends:?}, {pongs} pings answered");
        all_ended(&ends, "/", "ok");
        assert!(pongs >= 20, "{way}: {pongs} answers");
        record(59, &format!("ping, {way}"), Who::Mesh, true, &format!("0 of {all} failed, {pongs} pings answered"));
    }
}

//! HTTP/2 back ends that do what the protocol lets them, at bad moments and under load (R59): GOAWAY, resets in and after a
//! body, pings, and few streams at a time. After gRPC's negative interop cases.
//!
//! Invariant: what came of each call is counted, and nobody is judged. Servers run until the process ends.
//! Non-goal: frames that break the protocol.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::server::SendResponse;
use h2::{Ping, Reason, RecvStream};
use http::{Request, Response};

use crate::netns::Host;
use crate::raw::{Conversation, Server};
use crate::streams;

const BODY: &[u8] = b"good";
/// Calls at a time, on so many connections.
const TOGETHER: usize = 16;
const CONNECTIONS: usize = 4;
/// After so many calls a connection is told to end.
const CALLS_PER_CONNECTION: u32 = 50;
const MOST_STREAMS: u32 = 2;

/// The path of a call that is answered in full.
pub const GOOD: &str = "/";
/// Those of calls that end with a reset, of the code `INTERNAL_ERROR`.
pub const RESETS: [&str; 3] = ["/reset-after-header", "/reset-in-data", "/reset-after-data"];
/// All of them, as [`calls`] takes them.
pub const PATHS: [&str; 4] = [GOOD, RESETS[0], RESETS[1], RESETS[2]];

/// What came of calls: how often each path ended in each way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends(BTreeMap<(&'static str, String), usize>);

impl Ends {
    /// How many calls to `path` have ended in any way that `how` takes; `ok` is a whole answer, a name in capitals a code.
    pub fn count(&self, path: &str, how: impl Fn(&str) -> bool) -> usize {
        self.0.iter().filter(|((of, end), _)| *of == path && how(end)).map(|(_, calls)| calls).sum()
    }

    /// How many calls to `path` were not answered in full.
    #[must_use]
    pub fn failed(&self, path: &str) -> usize {
        self.count(path, |end| end != "ok")
    }
}

/// Makes `all` calls from the client, the paths in turns.
///
/// # Panics
/// When the proxy cannot be reached.
#[must_use]
pub fn calls(client: &Host, addr: SocketAddr, all: usize, paths: &'static [&'static str]) -> Ends {
    let calls = async move {
        let senders = join_all((0..CONNECTIONS).map(|_| streams::connect(addr))).await;
        let senders: Vec<_> = senders.into_iter().map(|sender| sender.expect("a connection to the proxy")).collect();
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
        let mut ends = Ends::default();
        for end in join_all(clients).await.into_iter().flat_map(|ends| ends.expect("no panic")) {
            *ends.0.entry(end).or_default() += 1;
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
        Ok::<_, Reason>(if body == BODY {
            "ok".to_owned()
        } else {
            format!("{} {}", head.status, String::from_utf8_lossy(&body))
        })
    };
    ended.await.unwrap_or_else(|reason| format!("{reason:?}"))
}

/// Serves well.
///
/// # Panics
/// When the port is taken.
pub fn good(host: &Host, port: u16) {
    streams::serve(host, port, |_, respond| respond_well(respond));
}

async fn respond_well(mut respond: SendResponse<Bytes>) {
    // Slower than the other endpoint, which so gets its share.
    tokio::time::sleep(Duration::from_millis(2)).await;
    if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
        let _ = stream.send_data(Bytes::from_static(BODY), true);
    }
}

/// A server that answers, says after a while that it takes no more, and ignores what comes after that; and how many connections
/// it has told so.
///
/// # Panics
/// When the port is taken.
#[must_use]
pub fn leaving(host: &Host, port: u16) -> (Server, Arc<AtomicUsize>) {
    let told = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&told);
    let server = Server::start(host, port, move |mut conversation| goes_away(&mut conversation, &counted));
    (server, told)
}

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

/// A server that resets as the path says.
///
/// # Panics
/// When the port is taken.
pub fn resetting(host: &Host, port: u16) {
    streams::serve(host, port, answers);
}

/// The same, which takes two streams at a time on each connection.
///
/// # Panics
/// When the port is taken.
pub fn narrow(host: &Host, port: u16) {
    let mut settings = h2::server::Builder::new();
    settings.max_concurrent_streams(MOST_STREAMS);
    streams::serve_with(settings, host, port, answers);
}

/// Answers as the path says.
async fn answers(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    /// For what was said to be on its way.
    const SENT: Duration = Duration::from_millis(10);
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
}

/// A server that pings all the time; how often it was answered.
///
/// # Panics
/// When the port is taken.
#[must_use]
pub fn pinging(host: &Host, port: u16) -> Arc<AtomicUsize> {
    let pongs = Arc::default();
    pings(host, port, &pongs);
    pongs
}

fn pings(host: &Host, port: u16, pongs: &Arc<AtomicUsize>) {
    let pongs = Arc::clone(pongs);
    streams::accept(host, port, move |stream| {
        let pongs = Arc::clone(&pongs);
        async move {
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
        }
    });
}

//! Allocations of both sidecars together, per request and per message, once everything is warm.
//!
//! Invariant: only the sidecars run on the thread that counts, but for the channels that wake a client. The figures are
//! those of a debug build, in which tokio boxes tasks over 2 KiB once more; `cargo bench` prints those of a release.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use mesh_tests::pair::{BODY, Pair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;

use crate::with_pair;

/// Enough for buffers to have grown and for pools to be filled.
const WARM_UP: u64 = 200;
const COUNTED: u64 = 500;

/// Allocations, bytes.
type Budget = (u64, u64);

/// A request from `Backend::send` to the application and back.
const REQUEST: Budget = (36, 15_000);
/// The same with the client's HTTP/1.1 connection before it.
const HTTP1_REQUEST: Budget = (29, 14_100);
/// A message of 64 bytes on an open byte stream, and its echo.
const ECHO: Budget = (3, 300);

#[test]
fn a_request_through_both_sidecars_keeps_to_its_allocations() {
    with_pair(|runtime, pair| {
        let each = counted(runtime, async || {
            let length = pair.request().await.expect("an answer");
            assert_eq!(length, BODY);
        });
        judge("a request", each, REQUEST);
    });
}

#[test]
fn a_request_on_a_clients_connection_keeps_to_its_allocations() {
    with_pair(|runtime, pair| {
        let mut client = client(runtime, &pair);
        let each = counted(runtime, async || client.ask().await);
        judge("a request over HTTP/1.1", each, HTTP1_REQUEST);
    });
}

#[test]
fn a_message_on_a_byte_stream_keeps_to_its_allocations() {
    with_pair(|runtime, pair| {
        let mut stream = runtime.block_on(pair.open()).expect("a byte stream");
        let (message, mut echo) = ([0; 64], [1; 64]);
        let each = counted(runtime, async || {
            stream.write_all(&message).await.expect("a stream that takes bytes");
            stream.flush().await.expect("a stream that takes bytes");
            stream.read_exact(&mut echo).await.expect("an echo");
            assert_eq!(echo, message);
        });
        judge("an echo", each, ECHO);
    });
}

/// Allocations and bytes of one `operation`, rounded up.
fn counted(runtime: &Runtime, mut operation: impl AsyncFnMut()) -> Budget {
    let mut repeat = |times: u64| {
        runtime.block_on(async {
            for _ in 0..times {
                operation().await;
            }
        });
    };
    repeat(WARM_UP);
    let info = allocation_counter::measure(|| repeat(COUNTED));
    (info.count_total.div_ceil(COUNTED), info.bytes_total.div_ceil(COUNTED))
}

fn judge(what: &str, (count, bytes): Budget, budget: Budget) {
    println!("{what}: {count} allocations, {bytes} bytes");
    assert!(count <= budget.0 && bytes <= budget.1, "{what}: {count} allocations, {bytes} bytes; budget: {budget:?}");
}

/// A client in a thread of its own, which makes a request whenever it is told to.
struct Client {
    told: tokio::sync::mpsc::Sender<()>,
    answered: tokio::sync::mpsc::Receiver<()>,
}

impl Client {
    async fn ask(&mut self) {
        self.told.send(()).await.expect("a client that lives");
        self.answered.recv().await.expect("a client that lives");
    }
}

fn client(runtime: &Runtime, pair: &Arc<Pair>) -> Client {
    let _inside = runtime.enter();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let (told, mut tell) = tokio::sync::mpsc::channel(1);
    let (answer, answered) = tokio::sync::mpsc::channel(1);
    thread::spawn(move || {
        let mut stream = TcpStream::connect(addr).expect("a connection");
        while let Some(()) = tell.blocking_recv() {
            get(&mut stream);
            if answer.blocking_send(()).is_err() {
                return;
            }
        }
    });
    let (accepted, _) = listener.accept().expect("a client");
    accepted.set_nonblocking(true).expect("a socket");
    let accepted = tokio::net::TcpStream::from_std(accepted).expect("a socket of this runtime");
    tokio::spawn(Arc::clone(pair).serve(accepted.into()));
    Client { told, answered }
}

/// One request; an answer that is not whole, or not 200, ends the thread and so the test.
fn get(stream: &mut TcpStream) {
    stream.write_all(b"GET /b/100 HTTP/1.1\r\nhost: web\r\n\r\n").expect("a connection that takes requests");
    let (mut answer, mut filled) = ([0; 4096], 0);
    loop {
        let read = stream.read(&mut answer[filled..]).expect("an answer");
        assert!(read > 0, "closed before the answer was whole");
        filled += read;
        let text = str::from_utf8(&answer[..filled]).expect("text");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        if text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.len() == BODY) {
            return;
        }
    }
}

//! Back-pressure: what the receiver does not take stays with the sender, not in the sidecars.
//!
//! Invariant: the transfer has come to rest before memory is looked at, and goes on to its whole length afterwards.
//! Non-goal: how much the kernels hold.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mesh_tests::client::PATIENCE;
use mesh_tests::mesh::{Mesh, SOON};
use mesh_tests::netns::until;
use mesh_tests::raw::Server;
use mesh_tests::yardstick::Stopwatch;

use super::{APP, mesh};

const SIZE: u64 = 100 << 20;
/// A transfer that has not moved for so long rests.
const REST: Duration = Duration::from_millis(500);
/// By which a sidecar's memory may grow, KiB. One stream's windows and buffers are a few hundred.
const GROWTH: u64 = 4 << 10;

/// Writes [`SIZE`] bytes, and counts them as the kernel takes them.
fn push(stream: &mut TcpStream, count: &AtomicU64) -> io::Result<()> {
    let piece = [b'x'; 16 << 10];
    while count.load(Ordering::Relaxed) < SIZE {
        stream.write_all(&piece)?;
        count.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Waits until `count` has begun to move and then come to rest; where.
fn rest(count: &AtomicU64) -> u64 {
    let (mut last, mut since) = (0, Instant::now());
    until(SOON, || {
        let now = count.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        last > 0 && since.elapsed() >= REST
    });
    last
}

fn memory(mesh: &Mesh) -> [u64; 2] {
    ["client", "web"].map(|name| mesh.get(name).proxy().and_then(|proxy| proxy.memory()).expect("a sidecar").rss)
}

fn bounded(mesh: &Mesh, before: [u64; 2], count: &AtomicU64) {
    let rested = rest(count);
    let after = memory(mesh);
    println!("at rest after {} KiB; the sidecars' KiB before {before:?}, now {after:?}", rested >> 10);
    assert!(rested < SIZE, "nobody held the sender back");
    for (before, after) in before.into_iter().zip(after) {
        assert!(after <= before + GROWTH, "grew from {before} to {after} KiB while {rested} bytes were under way");
    }
}

fn connect(mesh: &Mesh, addr: SocketAddr) -> TcpStream {
    let stream = mesh.get("client").host.enter(|| TcpStream::connect_timeout(&addr, PATIENCE)).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// `hello` makes the server send; what is before its bytes.
fn slow_reader(hello: &[u8], head: &str) {
    let (mut mesh, addr) = mesh();
    let count = Arc::new(AtomicU64::new(0));
    let (pushed, begin) = (Arc::clone(&count), head.to_owned());
    let _server = Server::start(&mesh.get("web").host, APP, move |mut conversation| {
        let asked = conversation.read()?;
        conversation.say(begin.as_bytes())?;
        // A first connection shows how much memory any takes.
        if asked.starts_with(b"warm") || asked.starts_with(b"HEAD") {
            return Ok(());
        }
        push(&mut conversation.stream, &pushed)
    });
    mesh.start();
    let warm: &[u8] =
        if head.is_empty() { b"warm up\n" } else { b"HEAD / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n" };
    let mut first = connect(&mesh, addr);
    first.write_all(warm).expect("a live connection");
    let _ = first.read_to_end(&mut Vec::new());
    let before = memory(&mesh);
    let mut stream = connect(&mesh, addr);
    stream.write_all(hello).expect("a live connection");
    let mut begun = [0; 4];
    stream.read_exact(&mut begun).expect("the beginning");
    bounded(&mesh, before, &count);
    let (mut chunk, mut read, mut begin) = (vec![0; 1 << 20], begun.len() as u64, begun.to_vec());
    let mut length = None;
    while length.is_none_or(|length| read < length) {
        let n = stream.read(&mut chunk).expect("the rest");
        assert!(n > 0, "ended after {read} bytes");
        read += n as u64;
        if length.is_none() {
            begin.extend_from_slice(&chunk[..n]);
            let end = begin.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
            length = if head.is_empty() { Some(SIZE) } else { end.map(|end| SIZE + end as u64) };
        }
    }
    assert_eq!(Some(read), length);
}

#[test]
fn a_slow_reader_of_http_holds_the_server_back_and_the_sidecars_stay_small() {
    slow_reader(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n", &format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n"));
}

#[test]
fn a_slow_reader_of_plain_bytes_holds_the_server_back_and_the_sidecars_stay_small() {
    slow_reader(b"\x00send\n", "");
}

#[test]
fn a_slow_server_holds_the_client_back_and_the_sidecars_stay_small() {
    let (mut mesh, addr) = mesh();
    let (go, wait) = std::sync::mpsc::sync_channel::<()>(1);
    let wait = std::sync::Mutex::new(wait);
    let _server = Server::start(&mesh.get("web").host, APP, move |mut conversation| {
        let head = conversation.head()?;
        if head.starts_with("POST") {
            let _ = wait.lock().expect("no panic").recv();
            let (mut chunk, mut left) = (vec![0; 1 << 20], SIZE - conversation.buffered());
            while left > 0 {
                let n = conversation.stream.read(&mut chunk)?;
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                left -= n as u64;
            }
        }
        conversation.say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    });
    mesh.start();
    let mut first = connect(&mesh, addr);
    first.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").expect("a live connection");
    first.read_to_end(&mut Vec::new()).expect("an answer");
    let before = memory(&mesh);
    let mut stream = connect(&mesh, addr);
    write!(stream, "POST / HTTP/1.1\r\nhost: web\r\nconnection: close\r\ncontent-length: {SIZE}\r\n\r\n")
        .expect("a live connection");
    let count = Arc::new(AtomicU64::new(0));
    let sender = std::thread::spawn({
        let (mut stream, count) = (stream.try_clone().expect("a socket"), Arc::clone(&count));
        move || push(&mut stream, &count)
    });
    bounded(&mesh, before, &count);
    go.send(()).expect("a server that waits");
    sender.join().expect("no panic").expect("all is sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    assert_eq!(mesh_tests::raw::status(&answer), Some(200), "{}", String::from_utf8_lossy(&answer));
}

/// All of them share the way between the two sidecars with everybody else.
#[test]
fn many_slow_readers_keep_nobody_else_waiting() {
    const READERS: u64 = 40;
    let (mut mesh, addr) = mesh();
    let count = Arc::new(AtomicU64::new(0));
    let pushed = Arc::clone(&count);
    let _server = Server::start(&mesh.get("web").host, APP, move |mut conversation| {
        let asked = conversation.read()?;
        if asked.starts_with(b"GET /small") {
            return conversation.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        }
        conversation.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").as_bytes())?;
        let piece = [b'x'; 16 << 10];
        for _ in 0..SIZE / piece.len() as u64 {
            conversation.say(&piece)?;
            pushed.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    });
    mesh.start();
    let before = memory(&mesh);
    let readers: Vec<_> = (0..READERS)
        .map(|n| {
            let mut stream = connect(&mesh, addr);
            // Every other one speaks no HTTP; it gets the same answer.
            let hello: &[u8] = if n % 2 == 0 { b"GET /large HTTP/1.1\r\nhost: web\r\n\r\n" } else { b"\x00large" };
            stream.write_all(hello).expect("a live connection");
            stream.read_exact(&mut [0; 4]).expect("the beginning");
            stream
        })
        .collect();
    let rested = rest(&count);
    println!("{READERS} at rest after {} KiB; KiB before {before:?}, now {:?}", rested >> 10, memory(&mesh));
    for _ in 0..5 {
        let watch = Stopwatch::start();
        let request = b"GET /small HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
        let answer = mesh_tests::raw::send(&mesh.get("client").host, addr, request);
        let status = answer.as_ref().ok().and_then(|answer| mesh_tests::raw::status(answer));
        assert_eq!(status, Some(200), "after {:?}: {answer:?}", watch.all());
        assert!(watch.apart() < Duration::from_secs(1), "waited for {:?}", watch.all());
    }
    drop(readers);
}

/// Writes what the kernel takes, round and round, until nothing has been taken for [`REST`].
fn stuff(streams: &mut [TcpStream]) -> usize {
    let (piece, mut sum, mut since) = ([b'x'; 16 << 10], 0, Instant::now());
    until(SOON, || {
        for stream in &mut *streams {
            while let Ok(n) = stream.write(&piece) {
                (sum, since) = (sum + n, Instant::now());
            }
        }
        since.elapsed() >= REST
    });
    sum
}

#[test]
fn many_uploads_to_a_slow_app_keep_nobody_else_waiting() {
    const UPLOADS: usize = 40;
    let (mut mesh, addr) = mesh();
    let (end, ended) = std::sync::mpsc::sync_channel::<()>(1);
    let ended = std::sync::Mutex::new(ended);
    let _server = Server::start(&mesh.get("web").host, APP, move |mut conversation| {
        if conversation.head()?.starts_with("POST /small") {
            conversation.take(2)?;
            return conversation.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        }
        // Reads no more until the test is over.
        let _ = ended.lock().expect("no panic").recv();
        Ok(())
    });
    mesh.start();
    let mut uploads: Vec<_> = (0..UPLOADS).map(|_| connect(&mesh, addr)).collect();
    for stream in &mut uploads {
        write!(stream, "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: {SIZE}\r\n\r\n").expect("a live connection");
        stream.set_nonblocking(true).expect("a socket");
    }
    println!("{UPLOADS} at rest after {} KiB; KiB now {:?}", stuff(&mut uploads) >> 10, memory(&mesh));
    for _ in 0..5 {
        let watch = Stopwatch::start();
        let request = b"POST /small HTTP/1.1\r\nhost: web\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
        let answer = mesh_tests::raw::send(&mesh.get("client").host, addr, request);
        let status = answer.as_ref().ok().and_then(|answer| mesh_tests::raw::status(answer));
        assert_eq!(status, Some(200), "after {:?}: {answer:?}", watch.all());
        assert!(watch.apart() < Duration::from_secs(1), "waited for {:?}", watch.all());
    }
    drop(end);
}

//! R19: bodies without end, and a far end that takes next to nothing.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use mesh_tests::client::PATIENCE;
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Bystander, Front, Mesh, Process, Source, count, record};

use crate::{APP, LATE};

/// What the sidecars may grow by, KiB.
const GROWTH: u64 = 2 << 10;
/// What is declared, and never sent whole.
const SIZE: u64 = 10 << 30;
/// What has not moved for so long is held back.
const REST: Duration = Duration::from_secs(1);

fn connect(front: &Front, request: &str) -> TcpStream {
    let stream = front.client.enter(|| TcpStream::connect_timeout(&front.addr, PATIENCE)).expect("a connection");
    (&stream).write_all(request.as_bytes()).expect("a live connection");
    stream
}

/// Waits until `moved` has begun and grows no faster than a sink takes; what it is then.
fn rest(mut moved: impl FnMut() -> u64) -> u64 {
    const SINK: u64 = 256 << 10;
    let (mut last, mut since) = (0, Instant::now());
    until(LATE, || {
        let now = moved();
        if now > last + SINK {
            (last, since) = (now, Instant::now());
        }
        last > 0 && since.elapsed() >= REST
    });
    last
}

/// The source is at the app, and the client takes 1 KiB of it ten times a second.
fn down(front: &Front, app: &Source) -> u64 {
    let before = app.counts.pushed.load(Relaxed);
    let mut stream = connect(front, "GET /endless HTTP/1.1\r\nhost: web\r\n\r\n");
    let end = Instant::now() + Duration::from_secs(count(3, 60));
    let reader = thread::spawn(move || {
        while Instant::now() < end && stream.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {
            thread::sleep(Duration::from_millis(100));
        }
    });
    let rested = rest(|| app.counts.pushed.load(Relaxed) - before);
    reader.join().expect("a reader that ends");
    rested
}

/// The source is the client, and the app takes 1 KiB of it ten times a second.
fn up(front: &Front) -> u64 {
    let head = format!("POST /sink HTTP/1.1\r\nhost: web\r\ncontent-length: {SIZE}\r\n\r\n");
    let mut stream = connect(front, &head);
    stream.set_nonblocking(true).expect("a socket");
    let mut sent = 0;
    rest(|| {
        while let Ok(n) = stream.write(&[b'x'; 16 << 10]) {
            sent += n as u64;
        }
        sent
    })
}

#[test]
fn r19_endless_bodies_are_held_back_at_their_source() {
    let mesh = Mesh::start(|_| {});
    let app = Source::start(&mesh.mesh.get("web").host, APP);
    for front in &mesh.fronts {
        let sidecars =
            ["client", "web"].map(|name| mesh.mesh.get(name).proxy().and_then(|proxy| proxy.pid()).map(Process));
        let sidecars = sidecars.map(|process| process.expect("a sidecar"));
        let bystander = Bystander::start(&front.client, front.addr);
        for (way, transfer) in [("down", 0), ("up", 1)] {
            let idle = sidecars.map(|process| {
                process.forget_peak();
                process.resident()
            });
            let rested = if transfer == 0 { down(front, &app) } else { up(front) };
            let grown = [0, 1].map(|n| sidecars[n].peak().saturating_sub(idle[n]));
            let case = format!("{way}, {}", front.way);
            println!("r19 {case}: held back after {} KiB, the sidecars grew by {grown:?} KiB", rested >> 10);
            assert!(rested < SIZE / 8, "{case}: nobody held the source back");
            assert!(grown.iter().all(|grown| *grown <= GROWTH), "{case}: the sidecars grew by {grown:?} KiB");
            let figure = format!("held back after {} KiB, the sidecars grew by {grown:?} KiB", rested >> 10);
            record(19, &case, front.who, true, &figure);
        }
        println!("{}: {}", front.way, bystander.finish());
    }
}

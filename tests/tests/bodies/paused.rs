//! R57: who takes nothing for long, and lives, is no black hole.
//!
//! Invariant: the pause is longer than data may stay unacknowledged, and a window of zero is what it comes to. Non-goal: slow
//! HTTP clients that never go on; `limits` has those.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use mesh_tests::client::PATIENCE;
use mesh_tests::raw::{Conversation, Server};
use mesh_tests::yardstick::{Front, Mesh, Who, count, record};

use super::APP;

/// What fits into the buffers of the kernel, so that nobody waits to write it; and what does not.
const SIZES: [usize; 2] = [512 << 10, 24 << 20];

/// Three times what the sidecars are told, or their default and half of it more.
fn pause() -> Duration {
    Duration::from_secs(count(6, 32))
}

/// `GET`, `POST` and, of plain bytes, the same words behind a byte that begins no protocol.
const ASKED: [&str; 4] = ["GET", "POST", "\u{1}get", "\u{1}post"];

fn hello(asked: &str, size: usize) -> String {
    match asked {
        "GET" => format!("GET /{size} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n"),
        "POST" => format!("POST /{size} HTTP/1.1\r\nhost: web\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n"),
        plain => format!("{plain} /{size} \r\n\r\n"),
    }
}

/// The app: sends at once, and reads after the pause.
fn serve(mut conversation: Conversation) -> io::Result<()> {
    let head = conversation.head()?;
    let size: usize = head.split(['/', ' ']).find_map(|word| word.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let is_http = !head.starts_with('\u{1}');
    let takes = head.to_lowercase().contains("post ");
    if takes {
        thread::sleep(pause()); // the provocation
        let left = size.saturating_sub(usize::try_from(conversation.buffered()).unwrap_or(size));
        drain(&mut conversation.stream, left)?;
    }
    let answer = if takes { 2 } else { size };
    if is_http {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {answer}\r\nconnection: close\r\n\r\n");
        conversation.say(head.as_bytes())?;
    }
    conversation.say(&vec![b'x'; answer])
}

fn drain(stream: &mut TcpStream, mut left: usize) -> io::Result<()> {
    let mut chunk = vec![0; 1 << 20];
    while left > 0 {
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => left -= n.min(left),
        }
    }
    Ok(())
}

/// What the client had of the body of the answer; it reads after the pause, or sends what is read after it.
fn paused(front: &Front, asked: &str, size: usize) -> io::Result<usize> {
    let mut stream = front.client.enter(|| TcpStream::connect_timeout(&front.addr, PATIENCE))?;
    stream.set_read_timeout(Some(3 * PATIENCE + pause()))?;
    stream.write_all(hello(asked, size).as_bytes())?;
    match asked.to_lowercase().ends_with("post") {
        true => stream.write_all(&vec![b'x'; size])?,
        false => thread::sleep(pause()), // the provocation
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer.iter().rev().take_while(|byte| **byte == b'x').count())
}

#[test]
fn r57_who_takes_nothing_for_long_and_lives_is_not_cut_off() {
    let told = count("2s", "20s");
    let mesh = Mesh::start_with(|_, spec| spec.env("MESH_TCP_USER_TIMEOUT", told), |_| {});
    let _app = Server::start(&mesh.mesh.get("web").host, APP, serve);
    let cases: Vec<_> = (mesh.fronts.iter())
        .flat_map(|front| ASKED.iter().flat_map(move |asked| SIZES.map(|size| (front, *asked, size))))
        .collect();
    let broken: Vec<String> = thread::scope(|scope| {
        let running: Vec<_> =
            cases.iter().map(|&(front, asked, size)| scope.spawn(move || paused(front, asked, size))).collect();
        let ended = running.into_iter().zip(&cases).map(|(case, &(front, asked, size))| {
            let wanted = if asked.to_lowercase().ends_with("post") { 2 } else { size };
            let got = case.join().expect("no panic");
            (!got.as_ref().is_ok_and(|got| *got == wanted))
                .then(|| format!("{asked:?} of {size} bytes, {}: {got:?} of {wanted}", front.way))
        });
        ended.flatten().collect()
    });
    super::verdict(cases.len(), &broken);
    let figure = format!(
        "{} of {} whole after {:?} in which nothing was taken, {told} allowed",
        cases.len(),
        cases.len(),
        pause()
    );
    record(57, "a window of zero", Who::Mesh, true, &figure);
}

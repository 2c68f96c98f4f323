//! HTTP/1 connections that an app closes in place of an answer.
//!
//! Invariant: only what does no harm twice is sent twice, and only if the connection had been used before, for then the
//! app may have closed it without having seen the request.
//! Non-goal: HTTP/2, whose GOAWAY says what was processed.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use mesh_tests::client::PATIENCE;
use mesh_tests::netns::Host;
use mesh_tests::raw::{Conversation, Server};

use super::{APP, Arrivals, REPLAYABLE, SLOW, mesh, verdict};

/// What an app does with a request for `/lost..` that it has not seen before. The second time it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Closes when it has read all of it.
    Silent,
    /// Closes after some bytes of an answer.
    Begun,
}

/// What becomes of the connection before the request in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connection {
    Fresh,
    Reused,
}

struct Case {
    method: &'static str,
    body: usize,
    connection: Connection,
    end: End,
    /// How often it arrives; more than once: the client sees 200.
    arrives: usize,
}

const fn case(method: &'static str, body: usize, connection: Connection, end: End, arrives: usize) -> Case {
    Case { method, body, connection, end, arrives }
}

const CASES: &[Case] = &[
    case("GET", 0, Connection::Reused, End::Silent, 2),
    case("DELETE", 0, Connection::Reused, End::Silent, 2),
    case("OPTIONS", 0, Connection::Reused, End::Silent, 2),
    case("PUT", 100, Connection::Reused, End::Silent, 2),
    case("PUT", REPLAYABLE + 4096, Connection::Reused, End::Silent, 1),
    case("PUT", 100, Connection::Fresh, End::Silent, 1),
    case("GET", 0, Connection::Fresh, End::Silent, 1),
    case("GET", 0, Connection::Reused, End::Begun, 1),
    case("POST", 0, Connection::Reused, End::Silent, 1),
    case("POST", 100, Connection::Reused, End::Silent, 1),
    case("POST", 100, Connection::Fresh, End::Silent, 1),
    case("PATCH", 100, Connection::Reused, End::Silent, 1),
    case("POST", 100, Connection::Reused, End::Begun, 1),
];

/// Reads a request: method, path and length of the body.
fn request(conversation: &mut Conversation) -> io::Result<(String, String, usize)> {
    let head = conversation.head()?;
    let mut words = head.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let body = conversation.take(length.unwrap_or_default())?.len();
    Ok((method, path, body))
}

/// Answers `/begin` and keeps the connection; does with the first `/lost..` as its path says.
fn app(host: &Host) -> (Server, Arrivals) {
    let arrivals = Arrivals::default();
    let noted = arrivals.clone();
    let server = Server::start(host, APP, move |mut conversation| {
        loop {
            let (method, path, body) = request(&mut conversation)?;
            noted.note(&method, &path, body);
            if path == "/begin" {
                conversation.say(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nbegun")?;
                continue;
            }
            if noted.of(&path).len() > 1 {
                return conversation.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
            }
            if path.contains("Begun") {
                conversation.say(b"HTTP/1.1 20")?;
            }
            return Ok(());
        }
    });
    (server, arrivals)
}

/// Requests one after the other on one connection; the status of each answer that came whole.
fn ask(host: &Host, addr: SocketAddr, requests: &[String]) -> io::Result<Vec<u16>> {
    let mut stream = host.enter(|| TcpStream::connect_timeout(&addr, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut statuses = Vec::new();
    for request in requests {
        stream.write_all(request.as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        statuses.push(mesh_tests::raw::status(&head).unwrap_or_default());
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        stream.read_exact(&mut vec![0; length.unwrap_or_default()])?;
    }
    Ok(statuses)
}

fn text(method: &str, path: &str, body: usize) -> String {
    let length = if body > 0 { format!("content-length: {body}\r\n") } else { String::new() };
    format!("{method} {path} HTTP/1.1\r\nhost: web\r\n{length}\r\n{}", "x".repeat(body))
}

#[test]
fn a_connection_closed_in_place_of_an_answer_sends_again_only_what_does_no_harm() {
    let (mut mesh, pairs) = mesh();
    let apps = pairs.each_ref().map(|pair| app(&pair.good));
    // One endpoint each: the second connection goes where the first one went.
    mesh.withdraw("bad");
    mesh.withdraw("plain-bad");
    mesh.start();
    let client = &mesh.get("client").host;
    let mut findings = Vec::new();
    for (pair, (_, arrivals)) in pairs.iter().zip(&apps) {
        for (number, Case { method, body, connection, end, arrives }) in CASES.iter().enumerate() {
            let path = format!("/lost/{end:?}/{number}");
            let begin = (*connection == Connection::Reused).then(|| text("GET", "/begin", 0));
            let requests: Vec<_> = begin.into_iter().chain([text(method, &path, *body)]).collect();
            let statuses = ask(client, pair.addr, &requests);
            let last = statuses.as_ref().ok().and_then(|all| all.last().copied()).unwrap_or_default();
            let at_app = arrivals.of(&path);
            let status_held = if *arrives > 1 { last == 200 } else { matches!(last, 502 | 503) };
            if at_app != vec![*body; *arrives] || !status_held {
                findings.push(format!(
                    "{} {method} with {body} bytes, {connection:?}, {end:?}: {statuses:?}, arrived {at_app:?}",
                    pair.name
                ));
            }
        }
    }
    verdict(2 * CASES.len(), &findings);
}

#[test]
fn a_post_that_an_app_has_read_is_not_sent_to_another_endpoint() {
    const REQUESTS: usize = 10;
    let (mut mesh, pairs) = mesh();
    let ends = pairs.each_ref().map(|pair| {
        let arrivals = Arrivals::default();
        let noted = arrivals.clone();
        let good = Server::start(&pair.good, APP, move |mut conversation| {
            let (method, path, body) = request(&mut conversation)?;
            noted.note(&method, &path, body);
            std::thread::sleep(SLOW);
            conversation.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
        });
        (app(&pair.bad), (good, arrivals))
    });
    mesh.start();
    let client = &mesh.get("client").host;
    for (pair, ((_, at_bad), (_, at_good))) in pairs.iter().zip(&ends) {
        let mut lost = 0;
        for number in 0..REQUESTS {
            let path = format!("/lost/Silent/{number}");
            let statuses = ask(client, pair.addr, &[text("POST", &path, 100)]).expect("an answer");
            let (bad, good) = (at_bad.of(&path), at_good.of(&path));
            let what = format!("{} {path}: {statuses:?}, arrived {bad:?} and {good:?}", pair.name);
            assert_eq!(bad.len() + good.len(), 1, "{what}");
            assert_eq!(statuses == [200], bad.is_empty(), "{what}");
            lost += bad.len();
        }
        println!("{}: {lost} of {REQUESTS} lost", pair.name);
        assert!(lost > 0, "{}: the bad endpoint was never asked", pair.name);
    }
}

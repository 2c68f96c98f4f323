//! Answers in parts: an informational one before the final one, and a head that breaks off.
//!
//! Invariant: the app's next step waits for what the client has seen.
//! Non-goal: bodies that break off; `bodies` has those.

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use mesh_tests::client::PATIENCE;
use mesh_tests::raw::Server;

use super::{APP, Route, dial, head, mesh};

#[test]
fn early_hints_arrive_before_the_final_answer_is_there() {
    let (mut mesh, routes) = mesh();
    let (go, gone) = mpsc::sync_channel(1);
    let gone = Arc::new(Mutex::new(gone));
    let _servers = ["web", "legacy"].map(|name| {
        let gone = Arc::clone(&gone);
        Server::start(&mesh.get(name).host, APP, move |mut conversation| {
            conversation.head()?;
            conversation.say(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n")?;
            // A client that has not seen the hints is without an answer, not without the hints.
            let _ = gone.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(2 * PATIENCE);
            conversation.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        })
    });
    mesh.start();
    for Route { client, addr } in routes {
        let mut stream = dial(&mesh.get(client).host, addr);
        stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").expect("a live connection");
        let hints = head(&mut stream);
        let is_hint = |head: &String| head.starts_with("http/1.1 103 ") && head.contains("\r\nlink: </style.css>");
        assert!(hints.as_ref().is_ok_and(is_hint), "{client} to {addr}: {hints:?}");
        go.send(()).expect("a server");
        let last = head(&mut stream);
        assert!(last.as_ref().is_ok_and(|head| head.starts_with("http/1.1 200 ")), "{client} to {addr}: {last:?}");
        stream.read_exact(&mut [0; 2]).expect("a body");
    }
}

/// How far an answer comes before the app closes.
const BEGINNINGS: [&str; 4] = ["H", "HTTP/1.1 20", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nx-done: yes"];

#[test]
fn a_request_whose_answer_has_begun_is_not_repeated() {
    let (mut mesh, routes) = mesh();
    // Which of the beginnings is next, and the connections that the requests to delete have come on.
    let (next, deleted) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<usize>>>::default());
    let _servers = ["web", "legacy"].map(|name| {
        let (next, deleted) = (Arc::clone(&next), Arc::clone(&deleted));
        Server::start(&mesh.get(name).host, APP, move |mut conversation| {
            loop {
                let head = conversation.head()?;
                if head.starts_with("DELETE ") {
                    deleted.lock().unwrap_or_else(PoisonError::into_inner).push(conversation.number);
                    return conversation.say(BEGINNINGS[next.load(Ordering::Relaxed)].as_bytes());
                }
                let number = conversation.number;
                conversation.say(format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{number:03}").as_bytes())?;
            }
        })
    });
    mesh.start();
    for (Route { client, addr }, number) in
        routes.iter().flat_map(|route| (0..BEGINNINGS.len()).map(move |n| (route, n)))
    {
        let case = format!("{client} to {addr}, {:?}", BEGINNINGS[number]);
        next.store(number, Ordering::Relaxed);
        deleted.lock().expect("no panic").clear();
        let mut stream = dial(&mesh.get(client).host, *addr);
        stream.write_all(b"GET /before HTTP/1.1\r\nhost: web\r\n\r\n").expect("a live connection");
        head(&mut stream).expect("an answer");
        let mut used = [0; 3];
        stream.read_exact(&mut used).expect("a body");
        stream.write_all(b"DELETE /it HTTP/1.1\r\nhost: web\r\n\r\n").expect("a live connection");
        let answer = head(&mut stream);
        assert!(answer.as_ref().is_ok_and(|head| head.starts_with("http/1.1 502 ")), "{case}: {answer:?}");
        // Only a connection that was used before makes it a question at all.
        let used: usize = String::from_utf8_lossy(&used).parse().expect("a number of this app");
        assert_eq!(*deleted.lock().expect("no panic"), [used], "{case}: the connections that it came on");
    }
}

//! Upgrades and byte streams under a policy: who gets them by hash, and how long an upgrade may take.
//!
//! Invariant: a key leads a request to its endpoint whether or not the request leaves HTTP, and a policy's time holds until both
//! sides have agreed to leave. Non-goal: what holds without a policy; `protocols` has that.

use std::collections::BTreeSet;
use std::io;

use mesh_tests::mesh::SOON;
use mesh_tests::netns::until;
use mesh_tests::raw::{self, Conversation, Server};

use crate::World;

const HTTP: u16 = 8001;
const BYTES: u16 = 8002;

#[test]
fn what_leaves_http_goes_by_its_key_and_has_no_longer_than_a_policy_says() {
    let (mut world, []) = World::start(4, []);
    let servers: Vec<_> = (1..=4)
        .map(crate::name)
        .map(|name| {
            let host = world.mesh.get(&name).host.clone();
            let greets = name.clone();
            let bytes = Server::start(&host, BYTES, move |mut conversation| conversation.say(greets.as_bytes()));
            (Server::start(&host, HTTP, move |conversation| upgrades(conversation, &name)), bytes)
        })
        .collect();
    let chat = world.mesh.service("chat", 80, HTTP).over("web").add().v4;
    let bytes = world.mesh.service("bytes", 80, BYTES).over("web").protocol("mesh.internal/opaque").add().v4;
    let hash = "  balancing: {policy: ConsistentHash, hash: [{header: x-user}, {sourceAddress: true}]}\n";
    world.policy("chat", &format!("{hash}  timeouts: {{request: 4s}}\n"));
    world.policy("bytes", hash);
    let client = world.mesh.get("client").host.clone();
    let ask = |fields: &str, path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: chat\r\n{fields}\r\n");
        String::from_utf8_lossy(&raw::send(&client, chat, request.as_bytes()).expect("an answer")).into_owned()
    };
    until(SOON, || {
        drop(raw::send(&client, bytes, b""));
        drop(raw::send(&client, chat, b"GET / HTTP/1.1\r\nhost: chat\r\nconnection: close\r\n\r\n"));
        [chat, bytes].iter().all(|to| world.state(*to)["balancing"] == "ConsistentHash")
    });
    let who = |answer: &str| answer.rsplit_once("\r\n\r\n").expect("a head").1.to_owned();
    let mut places = BTreeSet::new();
    for user in 0..16 {
        let plain = ask(&format!("x-user: {user}\r\nconnection: close\r\n"), "/");
        let left = ask(&format!("x-user: {user}\r\nconnection: upgrade\r\nupgrade: echo\r\n"), "/");
        assert!(left.starts_with("HTTP/1.1 101 "), "{left}");
        assert_eq!(who(&left), who(&plain), "user {user}");
        places.insert(who(&left));
    }
    assert!(places.len() > 1, "{places:?}");
    let greeted: BTreeSet<_> = (0..16).map(|_| raw::send(&client, bytes, b"").expect("a greeting")).collect();
    assert_eq!(greeted.len(), 1, "connections from one address: {greeted:?}");
    let counted = |name: &str, label: (&str, &str)| world.mesh.get("client").metric(name, &[label]);
    let silent = ask("connection: upgrade\r\nupgrade: echo\r\n", "/silent");
    assert!(silent.starts_with("HTTP/1.1 504 ") && silent.contains("mesh-error: request_timeout; "), "{silent}");
    assert!(counted("mesh_timeouts_total", ("kind", "request")) > 0.5);
    // The answer says no, and never ends.
    let endless = ask("connection: upgrade\r\nupgrade: echo\r\n", "/endless");
    assert!(endless.starts_with("HTTP/1.1 200 ") && endless.ends_with("first"), "{endless}");
    until(SOON, || counted("mesh_errors_total", ("reason", "request_timeout")) > 1.5);
    drop(servers);
}

/// Agrees to leave HTTP, and says who it is; `/silent` has no answer, `/endless` half of one.
fn upgrades(mut conversation: Conversation, name: &str) -> io::Result<()> {
    loop {
        let head = conversation.head()?.to_lowercase();
        if head.starts_with("get /silent ") || head.starts_with("get /endless ") {
            if head.starts_with("get /endless ") {
                conversation.say(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst")?;
            }
            while !conversation.read()?.is_empty() {}
            return Ok(());
        }
        if head.contains("upgrade: echo") {
            let agreed = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
            return conversation.say(format!("{agreed}{name}").as_bytes());
        }
        conversation.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len()).as_bytes())?;
    }
}

//! Endpoints that take a stream and then say that they did not: REFUSED_STREAM, GOAWAY with no stream processed.
//!
//! Invariant: the other endpoint gets each request once and whole, unless too much of its body is gone.
//! Non-goal: other codes; those may come from an app that has done its work.

use std::io;

use h2::Reason;
use http::Method;
use mesh_tests::client::within;
use mesh_tests::netns::Host;
use mesh_tests::raw::{Conversation, Server};
use mesh_tests::streams;

use super::{APP, Arrivals, Pair, REPLAYABLE, ask, good, mesh, verdict};

const ROUNDS: usize = 5;
/// Method, and length of the body.
const REPEATABLE: [(Method, usize); 5] =
    [(Method::GET, 0), (Method::POST, 0), (Method::POST, 100), (Method::PUT, 100), (Method::POST, REPLAYABLE - 4096)];

/// Refuses each stream before it reads, or once the body is there.
fn refuse(host: &Host, after_body: bool) -> Arrivals {
    let arrivals = Arrivals::default();
    let noted = arrivals.clone();
    streams::serve(host, APP, move |request, mut respond| {
        let arrivals = noted.clone();
        async move {
            let (head, body) = request.into_parts();
            let length = if after_body { streams::body(body).await.map_or(0, |body| body.len()) } else { 0 };
            arrivals.note(head.method.as_str(), head.uri.path(), length);
            respond.send_reset(Reason::REFUSED_STREAM);
        }
    });
    arrivals
}

/// Reads the first request of each connection to its end, and says that none was processed.
fn go_away(host: &Host) -> (Server, Arrivals) {
    let arrivals = Arrivals::default();
    let noted = arrivals.clone();
    let server = Server::start(host, APP, move |mut conversation| {
        let body = first_request(&mut conversation)?;
        noted.note("", "", body);
        // GOAWAY: last stream 0, NO_ERROR.
        conversation.say(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
        // Were it closed with something unread, a reset would overtake the frame.
        while !conversation.read()?.is_empty() {}
        Ok(())
    });
    (server, arrivals)
}

/// Takes frames until a stream ends; the length of its body.
fn first_request(conversation: &mut Conversation) -> io::Result<usize> {
    const PREFACE: usize = 24;
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const END_STREAM: u8 = 1;
    conversation.take(PREFACE)?;
    // SETTINGS with INITIAL_WINDOW_SIZE 1 MiB, and WINDOW_UPDATE of the connection by as much.
    conversation.say(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 16, 0, 0])?;
    conversation.say(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 16, 0, 0])?;
    let mut body = 0;
    loop {
        let head = conversation.take(9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        conversation.take(length)?;
        let (kind, flags) = (head[3], head[4]);
        body += if kind == DATA { length } else { 0 };
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            return Ok(body);
        }
    }
}

/// Each request that can be sent again, some times: answered, and once at the good endpoint.
async fn all_arrive_once(pair: &Pair, what: &str, arrived: &Arrivals) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    let sender = streams::connect(pair.addr).await?;
    for (method, body) in &REPEATABLE {
        for round in 0..ROUNDS {
            let path = format!("/{what}/{method}/{body}/{round}");
            let answer = ask(&sender, method.clone(), &path, *body).await;
            let at_good = arrived.of(&path);
            if answer != Ok((200, "good".to_owned())) || at_good != [*body] {
                findings.push(format!("{} {path}: {answer:?}, at the good one {at_good:?}", pair.name));
            }
        }
    }
    Ok(findings)
}

/// A POST that is too long to be sent again, some times: the client learns that it was refused.
async fn none_arrives(pair: &Pair, what: &str, arrived: &Arrivals, refused: &Arrivals) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    let sender = streams::connect(pair.addr).await?;
    let body = REPLAYABLE + 4096;
    for round in 0..ROUNDS {
        let (path, before) = (format!("/{what}/too-long/{round}"), refused.count());
        let answer = ask(&sender, Method::POST, &path, body).await;
        let (at_good, at_bad) = (arrived.of(&path), refused.count() - before);
        let held = match at_bad {
            // It went to the good one at first.
            0 => answer == Ok((200, "good".to_owned())) && at_good == [body],
            1 => answer == Err(Reason::REFUSED_STREAM) && at_good.is_empty(),
            _ => false,
        };
        if !held {
            findings
                .push(format!("{} {path}: {answer:?}, at the good one {at_good:?}, at the bad {at_bad}", pair.name));
        }
    }
    Ok(findings)
}

#[test]
fn a_refused_stream_is_sent_elsewhere_once() {
    let (mut mesh, pairs) = mesh();
    let ends = pairs.each_ref().map(|pair| (refuse(&pair.bad, false), good(&pair.good)));
    mesh.start();
    let mut findings = Vec::new();
    for (pair, (refused, arrived)) in pairs.iter().zip(&ends) {
        let found = within(&mesh.get("client").host, all_arrive_once(pair, "refused", arrived));
        findings.extend(found.expect("a connection to the sidecar"));
        println!("{}: {} refused, {} arrived", pair.name, refused.count(), arrived.count());
        assert!(refused.count() > 0, "{}: the bad endpoint was never asked", pair.name);
    }
    verdict(2 * ROUNDS * REPEATABLE.len(), &findings);
}

#[test]
fn a_stream_refused_after_its_body_is_sent_elsewhere_only_if_the_body_is_kept() {
    let (mut mesh, pairs) = mesh();
    let ends = pairs.each_ref().map(|pair| (refuse(&pair.bad, true), good(&pair.good)));
    mesh.start();
    let mut findings = Vec::new();
    for (pair, (refused, arrived)) in pairs.iter().zip(&ends) {
        let found = within(&mesh.get("client").host, async {
            let mut found = all_arrive_once(pair, "refused-late", arrived).await?;
            let before = refused.count();
            found.extend(none_arrives(pair, "refused-late", arrived, refused).await?);
            anyhow::ensure!(refused.count() > before, "{}: the bad endpoint was never asked", pair.name);
            Ok(found)
        });
        findings.extend(found.expect("a connection to the sidecar, and a bad endpoint"));
    }
    verdict(2 * ROUNDS * (REPEATABLE.len() + 1), &findings);
}

#[test]
fn a_stream_that_goaway_leaves_out_is_sent_elsewhere_once() {
    let (mut mesh, pairs) = mesh();
    let ends = pairs.each_ref().map(|pair| (go_away(&pair.bad), good(&pair.good)));
    mesh.start();
    let mut findings = Vec::new();
    for (pair, ((_, refused), arrived)) in pairs.iter().zip(&ends) {
        let found = within(&mesh.get("client").host, async {
            let mut found = all_arrive_once(pair, "goaway", arrived).await?;
            let before = refused.count();
            found.extend(none_arrives(pair, "goaway", arrived, refused).await?);
            anyhow::ensure!(refused.count() > before, "{}: the bad endpoint was never asked", pair.name);
            Ok(found)
        });
        findings.extend(found.expect("a connection to the sidecar, and a bad endpoint"));
    }
    verdict(2 * ROUNDS * (REPEATABLE.len() + 1), &findings);
}

/// Nobody takes it: it has been at each endpoint at most once, and the client may send it again.
#[test]
fn a_stream_that_all_refuse_is_refused() {
    let (mut mesh, pairs) = mesh();
    let ends = pairs.each_ref().map(|pair| (refuse(&pair.bad, false), refuse(&pair.good, false)));
    mesh.start();
    for (pair, (one, other)) in pairs.iter().zip(&ends) {
        for path in ["/1", "/2", "/3"] {
            let answer = within(&mesh.get("client").host, async {
                let sender = streams::connect(pair.addr).await.expect("a connection to the sidecar");
                ask(&sender, Method::POST, path, 100).await
            });
            assert_eq!(answer, Err(Reason::REFUSED_STREAM), "{} {path}", pair.name);
            let tries = (one.of(path).len(), other.of(path).len());
            assert_eq!(tries, (1, 1), "{} {path}", pair.name);
        }
    }
}

//! Sessions: a token leads back to its endpoint, from wherever it is brought, for as long as both live.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mesh_tests::client::http::Answer;
use mesh_tests::client::{rpc, within};
use mesh_tests::echo::EchoRequest;
use mesh_tests::mesh::{Mesh, SOON};
use mesh_tests::netns::until;

use super::{APP, GRPC, ask, replica, route, values};

fn mesh(rule: &str) -> (Mesh, SocketAddr) {
    let mut mesh = Mesh::new();
    for client in ["client", "other"] {
        mesh.workload(client).service_account(client).add();
    }
    for name in ["web-1", "web-2", "web-3"] {
        replica(&mut mesh, name, "web", &[]);
    }
    let web = mesh.service("web", 80, APP).add().v4;
    replica(&mut mesh, "next-1", "next", &[]);
    mesh.service("next", 80, APP).add();
    mesh.manifests.write("route", &route("web", rule));
    mesh.start();
    (mesh, web)
}

fn served(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{:?}", answer.headers);
    values(answer, "x-served-by").concat()
}

/// The cookie of a response as a client sends it back, and the whole line.
fn cookie(answer: &Answer) -> Option<(String, String)> {
    let line = values(answer, "set-cookie").pop()?;
    Some((line.split(';').next().unwrap_or_default().to_owned(), line))
}

#[test]
fn a_cookie_leads_to_the_endpoint_that_it_was_given_for_until_that_is_gone() {
    let rule = "sessionPersistence: {sessionName: sid, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}\n    \
                matches: [{path: {value: /}}]\n    \
                backendRefs: [{name: web, port: 80, weight: 3}, {name: next, port: 80, weight: 1}]";
    let (mesh, web) = mesh(rule);
    let (client, other) = (mesh.get("client"), mesh.get("other"));
    for from in [client, other] {
        until(SOON, || cookie(&ask(from, web, "/", &[])).is_some());
    }
    // Without a cookie, requests go everywhere: three endpoints, and another backend.
    let mut sessions = BTreeMap::new();
    until(SOON, || {
        let answer = ask(client, web, "/", &[]);
        let (cookie, line) = cookie(&answer).expect("a new session");
        assert!(line.starts_with("sid=") && line.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"), "{line}");
        sessions.insert(served(&answer), cookie);
        sessions.len() == 4
    });
    for (name, sid) in &sessions {
        for from in [client, other] {
            for _ in 0..15 {
                let answer = ask(from, web, "/", &[("cookie", &format!("a=b; {sid}"))]);
                assert_eq!(&served(&answer), name);
                assert_eq!(cookie(&answer), None, "it has one");
            }
        }
    }
    // What nobody gave leads nowhere in particular, and is answered with a session.
    let forged = format!("sid={}", "0".repeat(sessions["web-1"].len() - 4));
    let by: BTreeSet<_> = (0..40)
        .map(|_| {
            let answer = ask(client, web, "/", &[("cookie", &forged)]);
            assert!(cookie(&answer).is_some());
            served(&answer)
        })
        .collect();
    assert!(by.len() > 1, "{by:?}");

    mesh.withdraw("web-1");
    let gone = sessions["web-1"].clone();
    until(SOON, || served(&ask(client, web, "/", &[("cookie", &gone)])) != "web-1");
    let moved = ask(client, web, "/", &[("cookie", &gone)]);
    let (sid, _) = cookie(&moved).expect("a session elsewhere");
    for _ in 0..15 {
        assert_eq!(served(&ask(client, web, "/", &[("cookie", &sid)])), served(&moved));
    }
    for (name, sid) in sessions.iter().filter(|(name, _)| *name != "web-1") {
        assert_eq!(&served(&ask(client, web, "/", &[("cookie", sid)])), name);
    }
}

#[test]
fn a_header_carries_a_session_and_an_idle_one_ends() {
    let rule = "sessionPersistence: {sessionName: X-Session, type: Header, idleTimeout: 8s}\n    \
                backendRefs: [{name: web, port: 80}]";
    let (mesh, web) = mesh(rule);
    let client = mesh.get("client");
    let token = |answer: &Answer| values(answer, "x-session").pop();
    until(SOON, || token(&ask(client, web, "/", &[])).is_some());
    let first = ask(client, web, "/", &[]);
    let (name, mut current) = (served(&first), token(&first).expect("a token"));
    let old = current.clone();
    // Used again and again it lives on, though the first token is over.
    until(SOON, || {
        let answer = ask(client, web, "/", &[("x-session", &current)]);
        assert_eq!(served(&answer), name);
        current = token(&answer).unwrap_or(std::mem::take(&mut current));
        let by_old = ask(client, web, "/", &[("x-session", &old)]);
        served(&by_old) != name
    });
}

#[test]
fn a_session_ends_with_its_absolute_time_however_much_it_is_used() {
    let rule = "sessionPersistence: {sessionName: X-Session, type: Header, absoluteTimeout: 3s}\n    \
                backendRefs: [{name: web, port: 80}]";
    let (mesh, web) = mesh(rule);
    let client = mesh.get("client");
    let token = |answer: &Answer| values(answer, "x-session").pop();
    until(SOON, || token(&ask(client, web, "/", &[])).is_some());
    let began = Instant::now();
    let first = ask(client, web, "/", &[]);
    let given = token(&first).expect("a token");
    loop {
        let answer = ask(client, web, "/", &[("x-session", &given)]);
        let Some(next) = token(&answer) else {
            assert_eq!(served(&answer), served(&first), "while it is on");
            assert!(began.elapsed() < SOON, "it never ends");
            continue;
        };
        // Over: what comes is another one, wherever it leads.
        assert!(began.elapsed() >= Duration::from_secs(3), "after {:?}", began.elapsed());
        assert_ne!(next, given);
        assert_eq!(served(&ask(client, web, "/", &[("x-session", &next)])), served(&answer));
        break;
    }
}

#[test]
fn calls_of_grpc_have_sessions_by_a_field_of_metadata() {
    let (mut mesh, _) = mesh("backendRefs: [{name: web, port: 80}]");
    let rpc = mesh.service("rpc", 80, GRPC).over("web").protocol("grpc").add().v4;
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: rpc}\nspec:\n  \
                 parentRefs: [{group: \"\", kind: Service, name: rpc}]\n  rules:\n  \
                 - sessionPersistence: {sessionName: x-session, type: Header}\n    backendRefs: [{name: rpc, port: 80}]\n";
    mesh.manifests.write("calls", route);
    // Who answered, and the token that came with it; none where the Service is not known yet.
    let call = |token: Option<&str>| {
        within(&mesh.get("client").host, async {
            let mut client = rpc::connect(rpc).await.ok()?;
            let mut request = tonic::Request::new(EchoRequest::default());
            if let Some(token) = token {
                request.metadata_mut().insert("x-session", token.parse().expect("a token"));
            }
            let reply = client.unary(request).await.ok()?;
            let token = reply.metadata().get("x-session").map(|token| token.to_str().expect("text").to_owned());
            Some((reply.into_inner().server, token))
        })
    };
    until(SOON, || call(None).is_some_and(|(_, token)| token.is_some()));
    let mut sessions = BTreeMap::new();
    until(SOON, || {
        let (server, token) = call(None).expect("an answer");
        sessions.insert(server, token.expect("a new session"));
        sessions.len() == 3
    });
    for (server, token) in &sessions {
        for _ in 0..10 {
            assert_eq!(call(Some(token)), Some((server.clone(), None)));
        }
    }
}

//! Reset codes of HTTP/2 streams, from either end to the other.
//!
//! Invariant: the code that one end sends is the code that the other end sees, before an answer and in the midst of it.
//! Non-goal: resets of whole connections.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use mesh_tests::client::{PATIENCE, within};
use mesh_tests::netns::Host;
use mesh_tests::streams;
use tokio::sync::Notify;

use super::{APP, mesh, verdict};

/// With codes that no RFC names, as applications may have them.
const CODES: [u32; 8] = [0x0, 0x2, 0x5, 0x7, 0x8, 0xb, 0xd, 0x1234];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    BeforeTheAnswer,
    AmidTheAnswer,
}

/// What the two ends tell each other beside the mesh.
#[derive(Default)]
struct Aside {
    /// The server has got the request.
    arrived: Notify,
    /// The client has got the beginning of the answer.
    begun: Notify,
    /// The code that the server saw.
    seen: Mutex<Option<Reason>>,
    saw: Notify,
}

/// Resets with the code that the path names, or waits to be reset: `/server/BeforeTheAnswer/8`, `/client/..`.
async fn serve(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, aside: Arc<Aside>) {
    let path = request.uri().path().to_owned();
    let words: Vec<_> = path.split('/').collect();
    let code = Reason::from(words[3].parse::<u32>().expect("a path of this test"));
    aside.arrived.notify_one();
    let mut answer = None;
    if words[2] == "AmidTheAnswer" {
        let mut stream = respond.send_response(Response::new(()), false).expect("an open stream");
        stream.send_data("the beginning".into(), false).expect("an open stream");
        answer = Some(stream);
    }
    if words[1] == "client" {
        let seen = match &mut answer {
            Some(stream) => std::future::poll_fn(|cx| stream.poll_reset(cx)).await,
            None => std::future::poll_fn(|cx| respond.poll_reset(cx)).await,
        };
        let seen = seen.unwrap_or_else(|error| streams::code(&error));
        *aside.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        aside.saw.notify_one();
        return;
    }
    match answer {
        Some(mut stream) => {
            // A reset discards what has not left yet.
            aside.begun.notified().await;
            stream.send_reset(code);
        }
        None => respond.send_reset(code),
    }
}

fn start(host: &Host) -> Arc<Aside> {
    let aside = Arc::<Aside>::default();
    let shared = Arc::clone(&aside);
    streams::serve(host, APP, move |request, respond| serve(request, respond, Arc::clone(&shared)));
    aside
}

/// Has the server reset; the code that comes.
async fn by_server(addr: SocketAddr, when: When, code: u32, aside: &Aside) -> anyhow::Result<Reason> {
    let mut sender = streams::connect(addr).await?;
    let request = Request::builder().method("POST").uri(format!("http://web/server/{when:?}/{code}")).body(())?;
    let (response, _stream) = sender.send_request(request, false)?;
    let mut body = match response.await {
        Err(error) => return Ok(streams::code(&error)),
        Ok(response) if response.status() == 200 => response.into_body(),
        Ok(response) => anyhow::bail!("answered {} {:?}", response.status(), response.headers().get("mesh-error")),
    };
    let begin = body.data().await;
    anyhow::ensure!(matches!(&begin, Some(Ok(data)) if data == "the beginning"), "began with {begin:?}");
    aside.begun.notify_one();
    streams::body(body).await.map_or_else(Ok, |rest| anyhow::bail!("ended cleanly after {} bytes", rest.len()))
}

/// Resets; the code that the server sees.
async fn by_client(addr: SocketAddr, when: When, code: u32, aside: &Aside) -> anyhow::Result<Reason> {
    let mut sender = streams::connect(addr).await?;
    let request = Request::builder().method("POST").uri(format!("http://web/client/{when:?}/{code}")).body(())?;
    let (response, mut stream) = sender.send_request(request, false)?;
    aside.arrived.notified().await;
    let mut answer = None;
    if when == When::AmidTheAnswer {
        let mut body = response.await?.into_body();
        let begin = body.data().await;
        anyhow::ensure!(matches!(&begin, Some(Ok(data)) if data == "the beginning"), "began with {begin:?}");
        answer = Some(body);
    }
    stream.send_reset(Reason::from(code));
    aside.saw.notified().await;
    drop(answer);
    let seen = aside.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    seen.ok_or_else(|| anyhow::anyhow!("the server saw nothing"))
}

#[test]
fn a_reset_arrives_with_its_code_whoever_sends_it() {
    let (mut mesh, addr) = mesh();
    let aside = start(&mesh.get("web").host);
    mesh.start();
    let mut findings = Vec::new();
    let cases =
        [When::BeforeTheAnswer, When::AmidTheAnswer].into_iter().flat_map(|when| CODES.map(|code| (when, code)));
    let cases: Vec<_> = cases.collect();
    for (when, code) in &cases {
        let client = &mesh.get("client").host;
        let timed = |sender: &str, seen: Result<anyhow::Result<Reason>, tokio::time::error::Elapsed>| match seen {
            Ok(Ok(seen)) if seen == Reason::from(*code) => None,
            Ok(seen) => Some(format!("{code:#x} by the {sender}, {when:?}: {seen:?}")),
            Err(_) => Some(format!("{code:#x} by the {sender}, {when:?}: nothing within {PATIENCE:?}")),
        };
        let seen =
            within(client, async { tokio::time::timeout(PATIENCE, by_server(addr, *when, *code, &aside)).await });
        findings.extend(timed("server", seen));
        // A permit that the server's part of a case has left.
        let aside = &aside;
        let seen = within(client, async move {
            let _ = tokio::time::timeout(std::time::Duration::ZERO, aside.arrived.notified()).await;
            tokio::time::timeout(PATIENCE, by_client(addr, *when, *code, aside)).await
        });
        findings.extend(timed("client", seen));
    }
    verdict(2 * cases.len(), &findings);
}

/// RFC 9113 8.1: a server that has answered in full may say with NO_ERROR that it wants no more of the request.
#[test]
fn an_answer_before_the_end_of_the_request_arrives_whole() {
    let (mut mesh, addr) = mesh();
    // The h2 crate says NO_ERROR when the server lets go of the stream.
    streams::serve(&mesh.get("web").host, APP, |_, mut respond| async move {
        if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
            let _ = stream.send_data("enough".into(), true);
        }
    });
    mesh.start();
    let seen = within(&mesh.get("client").host, async {
        let mut sender = streams::connect(addr).await?;
        let request = Request::builder().method("POST").uri("http://web/").body(())?;
        let (response, mut stream) = sender.send_request(request, false)?;
        stream.send_data("some of it".into(), false)?;
        let body = streams::body(response.await?.into_body()).await;
        Ok::<_, anyhow::Error>(body.map(|body| String::from_utf8_lossy(&body).into_owned()))
    });
    assert!(matches!(&seen, Ok(Ok(body)) if body == "enough"), "{seen:?}");
}

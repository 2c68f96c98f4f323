//! Requests that an endpoint did not process: sent elsewhere, whole and once, or not at all.
//!
//! Invariant: what counts is what arrived at the back ends, request by request; the client's view comes second.
//! Non-goal: failures that happen by themselves; `lifecycle` makes those, and counts.

mod lost;
mod refused;
mod unreachable;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Method, Request, Response};
use mesh_tests::mesh::Mesh;
use mesh_tests::netns::Host;
use mesh_tests::streams;

/// Where the apps listen.
const APP: u16 = 8000;
/// What a body may have at most to be sent again.
const REPLAYABLE: usize = 64 << 10;
/// The good endpoint is slow, so that the balancer prefers the bad one as soon as it knows.
const SLOW: Duration = Duration::from_millis(60);

/// Requests that arrived whole: method, path and length of the body.
#[derive(Clone, Default)]
struct Arrivals(Arc<Mutex<Vec<(String, String, usize)>>>);

/// A service over a bad endpoint and a good one.
struct Pair {
    name: &'static str,
    addr: SocketAddr,
    bad: Host,
    good: Host,
}

impl Arrivals {
    fn note(&self, method: &str, path: &str, body: usize) {
        let arrival = (method.to_owned(), path.to_owned(), body);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
    }

    /// Lengths of the bodies that came with `path`.
    fn of(&self, path: &str) -> Vec<usize> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|(_, to, _)| to == path).map(|(_, _, body)| *body).collect()
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// A client and two pairs of endpoints, the first with sidecars and the second without. Not started.
fn mesh() -> (Mesh, [Pair; 2]) {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    let bad = mesh.workload("bad").of("web").add();
    let good = mesh.workload("good").of("web").add();
    let addr = mesh.service("web", 80, APP).add().v4;
    let meshed = Pair { name: "meshed", addr, bad, good };
    let bad = mesh.workload("plain-bad").of("plain").plain().add();
    let good = mesh.workload("plain-good").of("plain").plain().add();
    let addr = mesh.service("plain", 80, APP).add().v4;
    (mesh, [meshed, Pair { name: "plain", addr, bad, good }])
}

/// An HTTP/2 app that takes each request whole, notes it, and answers after a while.
fn good(host: &Host) -> Arrivals {
    let arrivals = Arrivals::default();
    let noted = arrivals.clone();
    streams::serve(host, APP, move |request, respond| answer(request, respond, noted.clone()));
    arrivals
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, arrivals: Arrivals) {
    let (head, body) = request.into_parts();
    let Ok(body) = streams::body(body).await else { return };
    arrivals.note(head.method.as_str(), head.uri.path(), body.len());
    tokio::time::sleep(SLOW).await;
    if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
        let _ = stream.send_data("good".into(), true);
    }
}

/// One request on an HTTP/2 connection: the status and the body of its answer, or the code that it was reset with.
async fn ask(sender: &SendRequest<Bytes>, method: Method, path: &str, body: usize) -> Result<(u16, String), Reason> {
    let request = Request::builder().method(method).uri(format!("http://web{path}")).body(()).expect("a path");
    let mut sender = sender.clone().ready().await.map_err(|error| streams::code(&error))?;
    let (response, mut stream) = sender.send_request(request, body == 0).map_err(|error| streams::code(&error))?;
    if body > 0 {
        stream.send_data(vec![b'x'; body].into(), true).map_err(|error| streams::code(&error))?;
    }
    let (head, body) = response.await.map_err(|error| streams::code(&error))?.into_parts();
    let body = streams::body(body).await?;
    Ok((head.status.as_u16(), String::from_utf8_lossy(&body).into_owned()))
}

/// All findings at once.
fn verdict(tried: usize, findings: &[String]) {
    println!("{} of {tried} as they should be", tried - findings.len());
    assert!(findings.is_empty(), "{} of {tried} failed:\n{}", findings.len(), findings.join("\n"));
}

//! The application: HTTP/2, with answers that its paths ask for, and a note of each try.
//!
//! Invariant: `/what-N/rest` fails the first N tries of that path, over all replicas, and then echoes the body.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use mesh_tests::netns::Host;
use mesh_tests::raw::Server;
use mesh_tests::streams;

use super::APP;

/// A try as the application saw it: when its head came.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) path: String,
    pub(super) grpc_timeout: Option<String>,
    /// Whole, or not there.
    pub(super) body: Option<Vec<u8>>,
}

/// All tries, at any replica.
#[derive(Clone, Default)]
pub(super) struct Arrivals(Arc<Mutex<Vec<Arrival>>>);

impl Arrivals {
    pub(super) fn of(&self, path: &str) -> Vec<Arrival> {
        self.lock().iter().filter(|arrival| arrival.path == path).cloned().collect()
    }

    /// How many paths begin so.
    pub(super) fn count(&self, prefix: &str) -> usize {
        self.lock().iter().filter(|arrival| arrival.path.starts_with(prefix)).count()
    }

    /// Notes a try; which one of its path it is, from 1 on, and its place.
    fn begin(&self, request: &Request<RecvStream>) -> (usize, usize) {
        let path = request.uri().path().to_owned();
        let grpc_timeout =
            request.headers().get("grpc-timeout").and_then(|value| Some(value.to_str().ok()?.to_owned()));
        let mut all = self.lock();
        all.push(Arrival { path: path.clone(), grpc_timeout, body: None });
        (all.iter().filter(|arrival| arrival.path == path).count(), all.len() - 1)
    }

    fn whole(&self, place: usize, body: &[u8]) {
        self.lock()[place].body = Some(body.to_vec());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arrival>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until what is returned is dropped.
pub(super) fn serve(host: &Host, arrivals: &Arrivals) -> Server {
    let noted = arrivals.clone();
    streams::serve(host, APP, move |request, respond| answer(request, respond, noted.clone()));
    Server::start(host, super::RAW, |mut conversation| {
        while !conversation.read()?.is_empty() {}
        // Half-closed by the client: this side stays open.
        std::thread::sleep(Duration::from_secs(60));
        Ok(())
    })
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, arrivals: Arrivals) {
    let (nth, place) = arrivals.begin(&request);
    let path = request.uri().path().to_owned();
    let what = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let (kind, failures) = what.rsplit_once('-').map_or((what, usize::MAX), |(kind, n)| (kind, n.parse().unwrap_or(0)));
    let fails = nth <= failures && kind != "ok";
    // An overloaded application does not wait for the body.
    if fails && kind == "early" {
        let _ = respond.send_response(status(503, &[]), true);
        return;
    }
    // One that answers while it is asked.
    if kind == "duplex" {
        return drip(&mut respond).await;
    }
    let Ok(body) = streams::body(request.into_body()).await else { return };
    arrivals.whole(place, &body);
    match kind {
        _ if !fails => echo(&mut respond, body),
        "status" => long_failure(&mut respond).await,
        "later" => drop(respond.send_response(status(503, &[("retry-after", "1")]), true)),
        "much-later" => drop(respond.send_response(status(503, &[("retry-after", "3600")]), true)),
        "reset" => respond.send_reset(Reason::INTERNAL_ERROR),
        "refused" => respond.send_reset(Reason::REFUSED_STREAM),
        "grpc" => drop(respond.send_response(call(&[("grpc-status", "14")]), true)),
        "pushback" => {
            let fields = [("grpc-status", "14"), ("grpc-retry-pushback-ms", "-1")];
            drop(respond.send_response(call(&fields), true));
        }
        "trailers" => {
            let Ok(mut stream) = respond.send_response(call(&[]), false) else { return };
            let _ = stream.send_trailers(fields(&[("grpc-status", "14")]));
        }
        "drip" => drip(&mut respond).await,
        // Silent.
        _ => drop(streams::reset(&mut respond).await),
    }
}

/// An answer that begins, and goes on until somebody has enough.
async fn drip(respond: &mut SendResponse<Bytes>) {
    let Ok(mut stream) = respond.send_response(call(&[]), false) else { return };
    let _ = stream.send_data("first".into(), false);
    std::future::poll_fn(|cx| stream.poll_reset(cx)).await.ok();
}

/// More than anybody should read who does not want it: the stream is open until it is reset.
async fn long_failure(respond: &mut SendResponse<Bytes>) {
    let Ok(mut stream) = respond.send_response(status(503, &[]), false) else { return };
    let _ = stream.send_data(vec![b'x'; 1000].into(), false);
    std::future::poll_fn(|cx| stream.poll_reset(cx)).await.ok();
}

fn echo(respond: &mut SendResponse<Bytes>, body: Vec<u8>) {
    let Ok(mut stream) = respond.send_response(Response::new(()), false) else { return };
    let _ = stream.send_data(body.into(), false);
    let _ = stream.send_trailers(fields(&[("grpc-status", "0")]));
}

fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn status(status: u16, extra: &[(&'static str, &'static str)]) -> Response<()> {
    let mut response = Response::builder().status(status).body(()).expect("a response");
    response.headers_mut().extend(fields(extra));
    response
}

fn call(extra: &[(&'static str, &'static str)]) -> Response<()> {
    let mut response = status(200, extra);
    response.headers_mut().extend(fields(&[("content-type", "application/grpc")]));
    response
}

/// What a client got.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) status: u16,
    pub(super) error: String,
    pub(super) grpc: Option<String>,
    /// Or the code that it was broken off with.
    pub(super) body: Result<Vec<u8>, Reason>,
}

pub(super) async fn ask(
    sender: &SendRequest<Bytes>,
    path: &str,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Result<Seen, Reason> {
    let uri = format!("http://web{path}");
    let request = Request::builder().method(Method::POST).uri(uri);
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let request = request.body(()).expect("a request that a test wrote");
    let mut sender = sender.clone().ready().await.map_err(|error| streams::code(&error))?;
    let (response, mut stream) =
        sender.send_request(request, body.is_empty()).map_err(|error| streams::code(&error))?;
    if !body.is_empty() {
        stream.send_data(Bytes::copy_from_slice(body), true).map_err(|error| streams::code(&error))?;
    }
    let (head, mut recv) = response.await.map_err(|error| streams::code(&error))?.into_parts();
    let text = |headers: &HeaderMap, name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
    let (error, mut grpc) = (text(&head.headers, "mesh-error").unwrap_or_default(), text(&head.headers, "grpc-status"));
    let mut all = Vec::new();
    let body = loop {
        match recv.data().await {
            Some(Ok(chunk)) => {
                let _ = recv.flow_control().release_capacity(chunk.len());
                all.extend_from_slice(&chunk);
            }
            Some(Err(error)) => break Err(streams::code(&error)),
            None => match recv.trailers().await {
                Ok(trailers) => {
                    grpc = trailers.and_then(|trailers| text(&trailers, "grpc-status")).or(grpc);
                    break Ok(all);
                }
                Err(error) => break Err(streams::code(&error)),
            },
        }
    };
    Ok(Seen { status: head.status.as_u16(), error, grpc, body })
}

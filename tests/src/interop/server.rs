//! The service of the cases in tonic.
//!
//! Invariant: a call counts as open until it is answered to its end or given up by its client, exactly once.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::BodyExt as _;
use prost::Message as _;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::metadata::MetadataValue;
use tonic::server::NamedService;
use tonic::{Code, Request, Response, Status, Streaming};

use super::proto::cases_server::{Cases, CasesServer};
use super::proto::{Answer, Ask, Census, Load, Nothing};
use crate::netns::Host;
use crate::streams;

/// Response fields that begin so are moved behind the body, without this prefix: tonic's services have no trailers to set.
const LATE: &str = "late-";

/// Serves on `port` of all addresses of `host` until the process ends.
///
/// # Panics
/// When the port is taken.
pub fn serve(host: &Host, port: u16) {
    let server = Server { counts: Arc::default(), load: watch::channel(Load::default()).0.into() };
    let service = WithTrailers(CasesServer::new(server));
    streams::serve_calls(host, port, tonic::transport::Server::builder().add_service(service));
}

struct Server {
    counts: Arc<Counts>,
    load: Arc<watch::Sender<Load>>,
}

#[derive(Default)]
struct Counts {
    open: AtomicU32,
    given_up: AtomicU32,
}

/// An open call. Dropped unfinished, it was given up.
struct Call {
    counts: Arc<Counts>,
    done: bool,
}

impl Call {
    fn begin(counts: &Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Ordering::SeqCst);
        Self { counts: Arc::clone(counts), done: false }
    }

    fn finish(&mut self) {
        self.done = true;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.counts.given_up.fetch_add(u32::from(!self.done), Ordering::SeqCst);
        self.counts.open.fetch_sub(1, Ordering::SeqCst);
    }
}

type Answers<T = Answer> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Cases for Server {
    async fn empty(&self, _: Request<Nothing>) -> Result<Response<Nothing>, Status> {
        Ok(Response::new(Nothing {}))
    }

    async fn unary(&self, request: Request<Ask>) -> Result<Response<Answer>, Status> {
        let mut call = Call::begin(&self.counts);
        let metadata = request.metadata().clone();
        let ask = request.into_inner();
        let obeyed = obey(&ask, &self.load);
        call.finish();
        obeyed?;
        let size = ask.sizes.iter().sum::<u32>();
        let mut response = Response::new(Answer { payload: zeros(size), received: ask.payload.len() as u64 });
        echo(&metadata, response.metadata_mut());
        if let Some(load) = ask.per_call {
            let value = MetadataValue::from_bytes(&load.encode_to_vec());
            for name in ["late-endpoint-load-metrics-bin", "late-x-case-load-bin"] {
                response.metadata_mut().insert_bin(name, value.clone());
            }
        }
        Ok(response)
    }

    async fn collect(&self, request: Request<Streaming<Ask>>) -> Result<Response<Answer>, Status> {
        let mut call = Call::begin(&self.counts);
        let (mut asks, mut received) = (request.into_inner(), 0);
        while let Some(ask) = asks.message().await? {
            received += ask.payload.len() as u64;
        }
        call.finish();
        Ok(Response::new(Answer { received, ..Answer::default() }))
    }

    type SplitStream = Answers;

    async fn split(&self, request: Request<Ask>) -> Result<Response<Answers>, Status> {
        let sizes = request.into_inner().sizes;
        let answers = sizes.into_iter().map(|size| Ok(Answer { payload: zeros(size), ..Answer::default() }));
        Ok(Response::new(until_end(Call::begin(&self.counts), futures_util::stream::iter(answers))))
    }

    type DuplexStream = Answers;

    async fn duplex(&self, request: Request<Streaming<Ask>>) -> Result<Response<Answers>, Status> {
        let call = Call::begin(&self.counts);
        let (metadata, load) = (request.metadata().clone(), Arc::clone(&self.load));
        let mut received = 0;
        let answers = request.into_inner().map(move |ask| {
            let ask = ask?;
            obey(&ask, &load)?;
            received += ask.payload.len() as u64;
            Ok((ask.sizes, received))
        });
        let answers = answers.flat_map(|step: Result<(Vec<u32>, u64), Status>| {
            let step = match step {
                Ok((sizes, received)) => {
                    sizes.into_iter().map(|size| Ok(Answer { payload: zeros(size), received })).collect()
                }
                Err(status) => vec![Err(status)],
            };
            futures_util::stream::iter(step)
        });
        let mut response = Response::new(until_end(call, answers));
        echo(&metadata, response.metadata_mut());
        Ok(response)
    }

    type WatchStream = Answers<Load>;

    async fn watch(&self, _: Request<Nothing>) -> Result<Response<Answers<Load>>, Status> {
        let loads = WatchStream::new(self.load.subscribe()).map(Ok);
        Ok(Response::new(until_end(Call::begin(&self.counts), loads)))
    }

    async fn calls(&self, _: Request<Nothing>) -> Result<Response<Census>, Status> {
        let count = |counter: &AtomicU32| counter.load(Ordering::SeqCst);
        Ok(Response::new(Census { open: count(&self.counts.open), given_up: count(&self.counts.given_up) }))
    }
}

/// What a message asks for besides payloads; fails as it wants.
fn obey(ask: &Ask, load: &watch::Sender<Load>) -> Result<(), Status> {
    if let Some(report) = &ask.out_of_band {
        load.send_replace(report.clone());
    }
    match &ask.failure {
        Some(failure) => {
            let code = i32::try_from(failure.code).map_or(Code::Unknown, Code::from_i32);
            Err(Status::new(code, failure.message.clone()))
        }
        None => Ok(()),
    }
}

fn echo(asked: &tonic::metadata::MetadataMap, answer: &mut tonic::metadata::MetadataMap) {
    if let Some(value) = asked.get("x-case-initial") {
        answer.insert("x-case-initial", value.clone());
    }
    if let Some(value) = asked.get_bin("x-case-trailing-bin") {
        answer.insert_bin("late-x-case-trailing-bin", value.clone());
    }
}

fn zeros(size: u32) -> Bytes {
    vec![0; size as usize].into()
}

/// `stream`, which ends `call` with its own end; a failure of its client's making leaves it unfinished.
fn until_end<T: Send + 'static>(
    mut call: Call,
    stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> Answers<T> {
    let mut stream = Box::pin(stream);
    Box::pin(futures_util::stream::poll_fn(move |cx| {
        let polled = stream.as_mut().poll_next(cx);
        match &polled {
            Poll::Ready(None) => call.finish(),
            Poll::Ready(Some(Err(status))) if status.code() != Code::Cancelled => call.finish(),
            _ => {}
        }
        polled
    }))
}

/// A service whose response fields with the prefix [`LATE`] become trailers.
#[derive(Clone)]
struct WithTrailers(CasesServer<Server>);

impl NamedService for WithTrailers {
    const NAME: &'static str = <CasesServer<Server> as NamedService>::NAME;
}

impl tonic::codegen::Service<http::Request<tonic::body::Body>> for WithTrailers {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let answered = self.0.call(request);
        Box::pin(async move {
            let mut response = answered.await?;
            let late = take_late(response.headers_mut());
            Ok(response.map(|body| {
                tonic::body::Body::new(body.map_frame(move |frame| match frame.into_trailers() {
                    Ok(mut trailers) => {
                        trailers.extend(late.clone());
                        Frame::trailers(trailers)
                    }
                    Err(frame) => frame,
                }))
            }))
        })
    }
}

fn take_late(headers: &mut HeaderMap) -> HeaderMap {
    let names: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with(LATE)).cloned().collect();
    let moved = names.into_iter().filter_map(|name| {
        let value = headers.remove(&name)?;
        Some((name.as_str().trim_start_matches(LATE).parse().ok()?, value))
    });
    moved.collect::<Vec<(http::HeaderName, http::HeaderValue)>>().into_iter().collect()
}

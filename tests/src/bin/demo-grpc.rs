//! `demo-grpc`: the echo service of `proto/echo.proto` over h2c, in all four call kinds.
//!
//! Invariant: request metadata whose name begins with `x-echo-` comes back as response metadata, also with a failure.
//! Non-goal: TLS; that is the mesh's part.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use futures_util::{Stream, StreamExt};
use mesh_tests::app;
use mesh_tests::echo::echo_server::{Echo, EchoServer};
use mesh_tests::echo::{EchoReply, EchoRequest};
use tokio::task::JoinSet;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};

#[derive(Parser)]
#[command(about = "gRPC echo server of the demo and the tests")]
struct Options {
    /// Address to listen on; may be given several times
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: Vec<SocketAddr>,
    /// The name that replies carry
    #[arg(long, default_value = "demo-grpc")]
    name: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let listeners = app::bind(&options.listen).await?;
    let service = EchoServer::new(Server { name: options.name.into() })
        .max_decoding_message_size(64 << 20)
        .max_encoding_message_size(64 << 20);
    let mut serving = JoinSet::new();
    for listener in listeners {
        let service = service.clone();
        serving.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))).await
        });
    }
    app::run(Vec::new(), |_| std::future::ready(())).await?;
    Ok(())
}

struct Server {
    name: Arc<str>,
}

type Replies = Pin<Box<dyn Stream<Item = Result<EchoReply, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Server {
    async fn unary(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        let metadata = echoed(request.metadata());
        let reply = reply(&self.name, request.into_inner(), 1).await;
        finish(reply, metadata)
    }

    type ServerStreamStream = Replies;

    async fn server_stream(&self, request: Request<EchoRequest>) -> Result<Response<Replies>, Status> {
        let metadata = echoed(request.metadata());
        let (name, request) = (Arc::clone(&self.name), request.into_inner());
        let replies = futures_util::stream::iter(1..=request.replies.max(1)).then(move |number| {
            let (name, mut request) = (Arc::clone(&name), request.clone());
            // A failure on request comes after the last reply, so that a stream with content fails too.
            if number < request.replies {
                request.code = 0;
            }
            async move { reply(&name, request, number).await }
        });
        let replies: Replies = Box::pin(replies);
        finish(Ok(replies), metadata)
    }

    async fn client_stream(&self, request: Request<Streaming<EchoRequest>>) -> Result<Response<EchoReply>, Status> {
        let metadata = echoed(request.metadata());
        let mut incoming = request.into_inner();
        let (mut last, mut number, mut received) = (EchoRequest::default(), 0, 0);
        while let Some(request) = incoming.message().await? {
            number += 1;
            received += request.payload.len() as u64;
            last = request;
        }
        let reply = reply(&self.name, last, number).await.map(|reply| EchoReply { received, ..reply });
        finish(reply, metadata)
    }

    type BidiStream = Replies;

    async fn bidi(&self, request: Request<Streaming<EchoRequest>>) -> Result<Response<Replies>, Status> {
        let metadata = echoed(request.metadata());
        let name = Arc::clone(&self.name);
        let numbered = request.into_inner().enumerate();
        let replies = numbered.then(move |(index, request)| {
            let name = Arc::clone(&name);
            async move { reply(&name, request?, u32::try_from(index + 1).unwrap_or(u32::MAX)).await }
        });
        let replies: Replies = Box::pin(replies);
        finish(Ok(replies), metadata)
    }
}

/// One reply to one message, after its delay; or the failure that it asks for.
async fn reply(name: &str, request: EchoRequest, number: u32) -> Result<EchoReply, Status> {
    tokio::time::sleep(Duration::from_millis(request.delay_ms.into())).await;
    if request.code != 0 {
        let code = i32::try_from(request.code).map_or(Code::Unknown, Code::from_i32);
        return Err(Status::new(code, request.message));
    }
    let received = request.payload.len() as u64;
    Ok(EchoReply { message: request.message, payload: request.payload, server: name.to_owned(), number, received })
}

fn echoed(metadata: &MetadataMap) -> MetadataMap {
    let mut echoed = MetadataMap::new();
    for pair in metadata.iter() {
        match pair {
            KeyAndValueRef::Ascii(key, value) if key.as_str().starts_with("x-echo-") => {
                echoed.append(key.clone(), value.clone());
            }
            KeyAndValueRef::Binary(key, value) if key.as_str().starts_with("x-echo-") => {
                echoed.append_bin(key.clone(), value.clone());
            }
            _ => {}
        }
    }
    echoed
}

fn finish<T>(result: Result<T, Status>, metadata: MetadataMap) -> Result<Response<T>, Status> {
    match result {
        Ok(reply) => {
            let mut response = Response::new(reply);
            *response.metadata_mut() = metadata;
            Ok(response)
        }
        Err(mut status) => {
            *status.metadata_mut() = metadata;
            Err(status)
        }
    }
}

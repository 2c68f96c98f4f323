//! The echo service of the demo's `echo.proto`, without its delays and failures on request.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use mesh_tests::echo::echo_server::{Echo, EchoServer};
use mesh_tests::echo::{EchoReply, EchoRequest};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

struct Server;

type Replies = Pin<Box<dyn Stream<Item = Result<EchoReply, Status>> + Send>>;

pub(super) async fn serve(
    listener: TcpListener,
    stopped: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder().add_service(EchoServer::new(Server));
    server.serve_with_incoming_shutdown(incoming, stopped).await
}

#[tonic::async_trait]
impl Echo for Server {
    async fn unary(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        Ok(Response::new(reply(request.into_inner(), 1)))
    }

    type ServerStreamStream = Replies;

    async fn server_stream(&self, request: Request<EchoRequest>) -> Result<Response<Replies>, Status> {
        let request = request.into_inner();
        let replies = (1..=request.replies.max(1)).map(move |number| Ok(reply(request.clone(), number)));
        Ok(Response::new(Box::pin(futures_util::stream::iter(replies))))
    }

    async fn client_stream(&self, request: Request<Streaming<EchoRequest>>) -> Result<Response<EchoReply>, Status> {
        let mut requests = request.into_inner();
        let mut last = EchoReply::default();
        while let Some(request) = requests.message().await? {
            let (number, received) = (last.number + 1, last.received);
            last = reply(request, number);
            last.received += received;
        }
        Ok(Response::new(last))
    }

    type BidiStream = Replies;

    async fn bidi(&self, request: Request<Streaming<EchoRequest>>) -> Result<Response<Replies>, Status> {
        let mut number = 0;
        let replies = request.into_inner().map(move |request| {
            number += 1;
            Ok(reply(request?, number))
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

fn reply(request: EchoRequest, number: u32) -> EchoReply {
    let received = request.payload.len() as u64;
    EchoReply { message: request.message, payload: request.payload, server: String::new(), number, received }
}

//! A tunnel without TLS and sockets: what HTTP/2 itself and our server of it cost, over a pipe in memory.

use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Response};
use mesh_proxy::config;
use mesh_proxy::http::answer::Reason;
use mesh_proxy::http::h2_server::{self, Side, Tunnel};
use mesh_proxy::http::{Abort, Body, BoxedRequest, Caller, Handler};
use mesh_proxy::net::Stream;
use mesh_proxy::net::h2io::H2Io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::meter::Meter;

const PIPE: usize = 256 << 10;
const BODY: usize = 100;
const MESSAGE: usize = 64;
const BULK: usize = 16 << 10;

/// A request with an answer of 100 bytes; messages on a byte stream.
pub(crate) fn all(meter: &mut Meter) -> anyhow::Result<()> {
    let settings = mesh_tests::pair::settings(([127, 0, 0, 1], 4143).into())?;
    let sender = meter.runtime.block_on(connect(settings))?;
    let request = Request::get("http://web/b/100").body(()).context("a request")?;
    meter.waiting_step("framing/request", async || {
        let mut sender = sender.clone().ready().await.expect("a connection that lives");
        let (response, _) = sender.send_request(request.clone(), true).expect("a stream");
        let mut body = response.await.expect("a response").into_body();
        let mut length = 0;
        while let Some(chunk) = body.data().await {
            length += chunk.expect("a whole body").len();
        }
        assert_eq!(length, BODY);
    });
    for (name, length) in [("framing/echo-64", MESSAGE), ("framing/echo-16k", BULK)] {
        let mut stream = meter.runtime.block_on(open(sender.clone()))?;
        let (message, mut echo) = (vec![7; length], vec![0; length]);
        meter.waiting_step(name, async || {
            stream.write_all(&message).await.expect("a stream that takes bytes");
            stream.read_exact(&mut echo).await.expect("an echo");
        });
    }
    Ok(())
}

async fn connect(config: config::Config) -> anyhow::Result<SendRequest<Bytes>> {
    let (near, far) = tokio::io::duplex(PIPE);
    tokio::spawn(async move {
        let served = h2_server::serve(far, &config.http, Side::Tunnel, std::future::pending(), Arc::new(Answers)).await;
        served.expect("a tunnel that ends in order");
    });
    let (sender, connection) = h2::client::handshake(near).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn open(sender: SendRequest<Bytes>) -> anyhow::Result<Stream> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = "10.0.0.1:80".parse()?;
    let (response, send) = sender.ready().await?.send_request(request, false)?;
    Ok(H2Io::new(send, response.await?.into_body()).into())
}

/// Answers with [`BODY`] bytes, and echoes.
struct Answers;

impl Handler for Answers {
    async fn handle(&self, _: BoxedRequest, _: Caller) -> Result<Response<Body>, Abort> {
        Ok(Response::new(Body::full(Bytes::from_static(&[b'x'; BODY]))))
    }

    fn too_slow(&self) {}

    fn refuse(&self, reason: Reason, headers: &HeaderMap, detail: &str) -> Response<Body> {
        reason.answer(headers, detail)
    }

    async fn connect(&self, tunnel: Tunnel) {
        let Some(stream) = tunnel.accept() else { return };
        let (mut reader, mut writer) = tokio::io::split(stream);
        drop(tokio::io::copy(&mut reader, &mut writer).await);
    }
}

//! The conversations of the table: what each side says, and what must come of it.
//!
//! Invariant: each looks at what the app saw, not only at what came back.
//! Non-goal: setting anything up.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request};
use mesh_tests::body;
use mesh_tests::client::http::{Connection, Version, get};
use mesh_tests::client::{rpc, tcp, websocket};
use mesh_tests::echo::EchoRequest;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio_tungstenite::tungstenite::Message;
use tonic::Code;

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Conversation {
    Http1,
    Http2,
    Grpc,
    WebSocket,
    ServerFirst,
    ClientFirst,
    ForeignTls,
}

pub(crate) const TABLE: [Conversation; 7] = [
    Conversation::Http1,
    Conversation::Http2,
    Conversation::Grpc,
    Conversation::WebSocket,
    Conversation::ServerFirst,
    Conversation::ClientFirst,
    Conversation::ForeignTls,
];

impl fmt::Display for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

type Held = Result<(), String>;

impl Conversation {
    /// Where its app listens.
    pub(crate) fn port(self) -> u16 {
        7000 + self as u16
    }

    pub(crate) async fn hold(self, addr: SocketAddr) -> Held {
        let held = async {
            match self {
                Self::Http1 => http(addr, Version::H1).await,
                Self::Http2 => http(addr, Version::H2).await,
                Self::Grpc => grpc(addr).await,
                Self::WebSocket => websockets(addr).await,
                Self::ServerFirst => server_first(addr).await,
                Self::ClientFirst => client_first(addr).await,
                Self::ForeignTls => foreign_tls(addr).await,
            }
        };
        Box::pin(held).await.map_err(|error| format!("{error:#}"))
    }
}

/// Requests with and without bodies on one connection, and a body that streams both ways with trailers.
async fn http(addr: SocketAddr, version: Version) -> anyhow::Result<()> {
    let mut connection = Connection::open(addr, version).await?;
    let seen = connection.fetch(get(addr, version, "/headers?a=%20b")).await?;
    let seen: serde_json::Value = serde_json::from_slice(&seen.body)?;
    let expected = if version == Version::H1 { "HTTP/1.1" } else { "HTTP/2.0" };
    anyhow::ensure!(seen["version"] == expected, "the app saw {seen}");
    let target = seen["target"].as_str().unwrap_or_default();
    anyhow::ensure!(target.ends_with("/headers?a=%20b"), "the app saw {seen}");
    let large = connection.fetch(get(addr, version, "/bytes?n=300000")).await?;
    anyhow::ensure!(large.body.len() == 300_000, "{} of 300000 bytes", large.body.len());
    let mut trailers = HeaderMap::new();
    trailers.insert("x-digest", HeaderValue::from_static("42"));
    let mut request = get(addr, version, "/echo");
    *request.method_mut() = Method::POST;
    request.headers_mut().insert("trailer", HeaderValue::from_static("x-digest"));
    request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    *request.body_mut() = body::pieces(50, 10_000, std::time::Duration::ZERO, Some(trailers));
    let echo = connection.fetch(request).await?;
    anyhow::ensure!(echo.body.len() == 500_000, "{} of 500000 bytes: {:?}", echo.body.len(), echo.headers);
    let trailer = echo.trailers.as_ref().and_then(|trailers| trailers.get("x-digest"));
    anyhow::ensure!(trailer.is_some_and(|value| value == "42"), "trailers {:?}", echo.trailers);
    head(&mut connection, addr, version).await
}

/// HEAD has a length and no body, and does not confuse the connection.
async fn head(connection: &mut Connection, addr: SocketAddr, version: Version) -> anyhow::Result<()> {
    let mut request: Request<_> = get(addr, version, "/bytes?n=77");
    *request.method_mut() = Method::HEAD;
    let head = connection.fetch(request).await?;
    let length = head.headers.get("content-length").and_then(|length| length.to_str().ok());
    anyhow::ensure!(length == Some("77") && head.body.is_empty(), "HEAD: {head:?}");
    let after = connection.fetch(get(addr, version, "/status/404")).await?;
    anyhow::ensure!(after.status == 404, "{:?} in place of 404", after.status);
    Ok(())
}

/// A unary call with metadata, both streams at once, and a failure with its code and words.
async fn grpc(addr: SocketAddr) -> anyhow::Result<()> {
    let mut client = rpc::connect(addr).await?;
    let payload = Bytes::from(vec![7; 200_000]);
    let message = EchoRequest { message: "hello".to_owned(), payload, ..EchoRequest::default() };
    let mut request = tonic::Request::new(message.clone());
    request.metadata_mut().insert_bin("x-echo-bin", tonic::metadata::MetadataValue::from_bytes(&[0, 255]));
    let reply = client.unary(request).await?;
    let echoed = reply.metadata().get_bin("x-echo-bin").and_then(|value| value.to_bytes().ok());
    anyhow::ensure!(echoed.as_deref() == Some(&[0, 255][..]), "metadata {:?}", reply.metadata());
    anyhow::ensure!(reply.get_ref().payload == message.payload, "another payload came back");
    let messages = vec![message; 20];
    let mut replies = client.bidi(tokio_stream::iter(messages)).await?.into_inner();
    let mut count = 0;
    while let Some(reply) = replies.message().await? {
        count += 1;
        anyhow::ensure!(reply.number == count, "reply {} in place of {count}", reply.number);
    }
    anyhow::ensure!(count == 20, "{count} of 20 replies");
    let failing = EchoRequest { message: "no such thing".to_owned(), code: 5, ..EchoRequest::default() };
    let failure = client.unary(failing).await.err();
    let as_asked = |status: &tonic::Status| status.code() == Code::NotFound && status.message() == "no such thing";
    anyhow::ensure!(failure.as_ref().is_some_and(as_asked), "{failure:?} in place of NotFound");
    Ok(())
}

async fn websockets(addr: SocketAddr) -> anyhow::Result<()> {
    let messages = [Message::text("hello"), Message::binary(vec![1; 100_000]), Message::text("")];
    websocket::echo(addr, "/ws", &messages).await?;
    Ok(())
}

async fn server_first(addr: SocketAddr) -> anyhow::Result<()> {
    let mut stream = BufReader::new(tcp::connect(addr).await?);
    let mut line = String::new();
    tokio::time::timeout(mesh_tests::client::PATIENCE, stream.read_line(&mut line)).await??;
    anyhow::ensure!(line.starts_with("220 "), "greeted with {line:?}");
    stream.write_all(b"after the greeting").await?;
    let rest = tcp::exchange(stream, b", and more").await?;
    anyhow::ensure!(rest == b"after the greeting, and more", "{}", String::from_utf8_lossy(&rest));
    Ok(())
}

/// The answer comes only after the client's side has ended: half-close is carried.
async fn client_first(addr: SocketAddr) -> anyhow::Result<()> {
    let answer = tcp::exchange(tcp::connect(addr).await?, &vec![b'x'; 1_000_000]).await?;
    let answer = String::from_utf8_lossy(&answer);
    anyhow::ensure!(answer.starts_with("1000000 "), "the server counted {answer:?}");
    Ok(())
}

async fn foreign_tls(addr: SocketAddr) -> anyhow::Result<()> {
    let (stream, chain) = tcp::tls(addr, "shop.test").await?;
    let names = chain.iter().flat_map(|der| der.windows(9)).any(|window| window == b"shop.test");
    anyhow::ensure!(names, "somebody else's certificate");
    let sent = vec![b'y'; 100_000];
    let echo = tcp::exchange(stream, &sent).await?;
    anyhow::ensure!(echo == sent, "{} bytes came back", echo.len());
    Ok(())
}

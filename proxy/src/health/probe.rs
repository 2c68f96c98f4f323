//! One question to the application: HTTP, gRPC's health protocol, or a connection.
//!
//! Invariant: the caller bounds the time; what is read is bounded here. A question goes to the application itself and not through
//! the proxy.

use std::net::SocketAddr;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Request, header};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::model::policy::{HealthCheck, Probe};

/// Most bytes of an answer that are read.
const LARGEST: u64 = 64 * 1024;
const SERVING: u8 = 1;

/// The check as people know it.
pub(super) fn name(check: &HealthCheck) -> String {
    match &check.probe {
        Probe::Http { path, .. } => format!("HTTP {}{path}", check.port),
        Probe::Grpc { service } => format!("gRPC {} {service}", check.port),
        Probe::Tcp => format!("TCP {}", check.port),
    }
}

/// Asks the first of `addrs` that takes a connection. What is wrong is one line for people.
pub(super) async fn ask(probe: &Probe, addrs: &[SocketAddr]) -> Result<(), String> {
    let (stream, addr) = connect(addrs).await?;
    match probe {
        Probe::Tcp => Ok(()),
        Probe::Http { path, host, expected } => {
            let host = host.as_deref().map_or_else(|| addr.to_string(), str::to_owned);
            let status = http_status(stream, path, &host).await.map_err(|error| error.to_string())?;
            if expected.contains(&status) { Ok(()) } else { Err(format!("status {status}")) }
        }
        Probe::Grpc { service } => grpc(stream, addr, service).await,
    }
}

async fn connect(addrs: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), String> {
    let mut last = "the workload has no address".to_owned();
    for addr in addrs {
        match TcpStream::connect(addr).await {
            Ok(stream) => return Ok((stream, *addr)),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

async fn http_status(mut stream: TcpStream, path: &str, host: &str) -> std::io::Result<u16> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: mesh-proxy\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    // To its end, or the application would see a client that breaks off.
    stream.take(LARGEST).read_to_end(&mut answer).await?;
    let status =
        answer.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(rest.get(2..5)?).ok()?.parse().ok());
    status.ok_or_else(|| std::io::Error::other("the answer is not HTTP/1"))
}

/// `grpc.health.v1.Health/Check`, whose messages have one field each.
async fn grpc(stream: TcpStream, addr: SocketAddr, service: &str) -> Result<(), String> {
    let text = |error: h2::Error| error.to_string();
    let (mut client, connection) = h2::client::handshake(stream).await.map_err(text)?;
    let asked = async {
        let request = Request::post(format!("http://{addr}/grpc.health.v1.Health/Check"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(())
            .map_err(|error| error.to_string())?;
        let (response, mut body) = client.send_request(request, false).map_err(text)?;
        body.send_data(question(service), true).map_err(text)?;
        judge(response.await.map_err(text)?).await
    };
    // The connection ends with the question.
    tokio::select! {
        answer = asked => answer,
        ended = connection => Err(ended.map_or_else(|error| error.to_string(), |()| "connection closed".to_owned())),
    }
}

fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        varint(&mut message, service.len());
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put(message);
    framed.freeze()
}

fn varint(to: &mut BytesMut, mut number: usize) {
    while number > 0x7f {
        to.put_u8(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
        number >>= 7;
    }
    to.put_u8(u8::try_from(number).unwrap_or_default());
}

async fn judge(response: http::Response<h2::RecvStream>) -> Result<(), String> {
    let (head, mut body) = response.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(format!("status {}", head.status.as_u16()));
    }
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| error.to_string())?;
        let _ = body.flow_control().release_capacity(data.len());
        message.extend_from_slice(&data);
        if message.len() as u64 > LARGEST {
            return Err("too long an answer".to_owned());
        }
    }
    let trailers = body.trailers().await.map_err(|error| error.to_string())?.unwrap_or_default();
    let status = trailers.get("grpc-status").or_else(|| head.headers.get("grpc-status"));
    match status.map(|status| status.as_bytes()) {
        Some(b"0") | None => {}
        Some(other) => return Err(format!("gRPC status {}", String::from_utf8_lossy(other))),
    }
    // Five bytes of framing, then field 1 as a varint; absent it is UNKNOWN.
    match message.get(5..) {
        Some([0x08, SERVING, ..]) => Ok(()),
        Some([0x08, other, ..]) => Err(format!("serving status {other}")),
        _ => Err("serving status unknown".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_message_of_protobuf_in_a_frame_of_grpc() {
        assert_eq!(question("")[..], [0; 5]);
        assert_eq!(question("a.B")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        let long = question(&"x".repeat(200));
        assert_eq!((&long[..8], long.len()), (&[0, 0, 0, 0, 203, 0x0a, 0xc8, 1][..], 208));
    }

    #[tokio::test]
    async fn an_answer_is_held_against_what_is_expected() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answer in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 503 Service Unavailable\r\n\r\n", "what?"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 512];
                let length = stream.read(&mut head).await.unwrap();
                assert!(head[..length].starts_with(b"GET /well HTTP/1.1\r\nhost: web.test\r\n"));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let probe = Probe::Http { path: "/well".into(), host: Some("web.test".into()), expected: 200..=299 };
        assert_eq!(ask(&probe, &[addr]).await, Ok(()));
        assert_eq!(ask(&probe, &[addr]).await, Err("status 503".to_owned()));
        assert_eq!(ask(&probe, &[addr]).await, Err("the answer is not HTTP/1".to_owned()));
        let refused = ask(&Probe::Tcp, &[addr]).await.expect_err("nobody listens any more");
        assert!(refused.contains("refused"), "{refused}");
        assert_eq!(ask(&Probe::Tcp, &[]).await, Err("the workload has no address".to_owned()));
    }

    /// A server of gRPC that gives `message` and `status` to the one call it takes.
    async fn server(message: &'static [u8], status: &'static str) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut body = respond.send_response(head, false).unwrap();
            body.send_data(Bytes::from_static(message), false).unwrap();
            let trailers = [("grpc-status", status)]
                .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)));
            body.send_trailers(trailers.into_iter().collect()).unwrap();
            while connection.accept().await.is_some() {}
        });
        addr
    }

    #[tokio::test]
    async fn a_grpc_service_is_well_when_it_says_that_it_serves() {
        let probe = Probe::Grpc { service: "demo.Echo".into() };
        for (message, status, expected) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], "0", Ok(())),
            (&[0, 0, 0, 0, 2, 8, 2], "0", Err("serving status 2")),
            (&[0, 0, 0, 0, 0], "0", Err("serving status unknown")),
            (&[], "5", Err("gRPC status 5")),
        ] {
            let addr = server(message, status).await;
            assert_eq!(ask(&probe, &[addr]).await, expected.map_err(str::to_owned));
        }
    }
}

//! Connections that stop being HTTP: WebSocket echo and CONNECT echo.
//!
//! Invariant: the echo ends when the client ends its side, after everything has gone back.
//! Non-goal: extensions and sub-protocols of WebSocket.

use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use mesh_tests::body::{self, Body};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// 101 and an echo of messages; 426 for whoever does not ask for WebSocket.
pub(crate) fn websocket(request: Request<Incoming>) -> Response<Body> {
    let Some(key) = websocket_key(request.headers()) else {
        let mut refused = body::text(StatusCode::UPGRADE_REQUIRED, "WebSocket only\n");
        refused.headers_mut().insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
        return refused;
    };
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else {
            return;
        };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let data = message.is_text() || message.is_binary();
            if data && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    response
}

fn websocket_key(headers: &HeaderMap) -> Option<header::HeaderValue> {
    let upgrade = headers.get(header::UPGRADE)?.to_str().ok()?;
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    let accept = derive_accept_key(key.as_bytes());
    upgrade.eq_ignore_ascii_case("websocket").then(|| accept.parse().ok())?
}

/// 200 and an echo of bytes.
pub(crate) fn connect(request: Request<Incoming>) -> Response<Body> {
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else {
            return;
        };
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
        if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
            let _ = writer.shutdown().await;
        }
    });
    Response::new(body::empty())
}

//! A WebSocket conversation with an echo.
//!
//! Invariant: the closing handshake is part of it.
//! Non-goal: extensions.

use std::io;
use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;

use super::{PATIENCE, tcp};

/// Opens a WebSocket at `path`, sends each message and takes its echo, then closes.
///
/// # Errors
/// When the upgrade is refused, an echo differs, or the peer does not close in turn.
pub async fn echo(addr: SocketAddr, path: &str, messages: &[Message]) -> io::Result<()> {
    let talk = async {
        let stream = tcp::connect(addr).await?;
        let opened = tokio_tungstenite::client_async(format!("ws://{addr}{path}"), stream).await;
        let (mut socket, _) = opened.map_err(io::Error::other)?;
        for message in messages {
            socket.send(message.clone()).await.map_err(io::Error::other)?;
            let echo = socket.next().await.ok_or(io::ErrorKind::UnexpectedEof)?.map_err(io::Error::other)?;
            if echo != *message {
                return Err(io::Error::other(format!("{} bytes came back differently", message.len())));
            }
        }
        socket.close(None).await.map_err(io::Error::other)?;
        while let Some(message) = socket.next().await {
            message.map_err(io::Error::other)?;
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, talk).await?
}

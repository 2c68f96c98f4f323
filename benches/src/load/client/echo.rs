//! Messages of [`message::LENGTH`] bytes that must come back as they went.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::connect;
use crate::load::message;

/// Holds a connection.
pub struct Client {
    addr: SocketAddr,
    stream: Option<TcpStream>,
}

impl Client {
    pub(super) fn new(addr: SocketAddr) -> Self {
        Self { addr, stream: None }
    }

    pub(super) fn stream(&self) -> Option<&TcpStream> {
        self.stream.as_ref()
    }

    /// The stream comes back only from an exchange that went well.
    pub(super) async fn exchange(&mut self) -> anyhow::Result<u64> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.addr).await?,
        };
        let bytes = exchange(&mut stream, message::MORE).await?;
        self.stream = Some(stream);
        Ok(bytes)
    }
}

pub(super) async fn once(addr: SocketAddr) -> anyhow::Result<u64> {
    let mut stream = connect(addr).await?;
    let bytes = exchange(&mut stream, message::LAST).await?;
    let more = stream.read(&mut [0]).await.context("waiting for the server to close")?;
    ensure!(more == 0, "the server sends more than was sent to it");
    Ok(bytes)
}

async fn exchange(stream: &mut TcpStream, first: u8) -> anyhow::Result<u64> {
    let sent = message::echo(first);
    stream.write_all(&sent).await.context("sending a message")?;
    let mut received = [0; message::LENGTH];
    stream.read_exact(&mut received).await.context("waiting for the echo")?;
    ensure!(received == sent, "the echo is not what was sent");
    Ok(message::LENGTH as u64)
}

//! One exchange after the other on a held connection, in each protocol.
//!
//! Invariant: nothing is retried; a connection that failed is opened again for the next exchange, never for the same one.
//! Non-goal: pipelining; a client has one exchange at a time.

mod echo;
mod http1;
mod http2;

use std::io;
use std::net::SocketAddr;

use anyhow::Context as _;
use clap::ValueEnum;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PATIENCE;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1
    #[value(alias = "http")]
    H1,
    /// HTTP/2 without TLS, one stream for each request
    H2,
    /// 64 bytes, echoed
    Tcp,
}

/// Where to, and what for.
#[derive(Clone, Debug)]
pub struct Target {
    /// The address.
    pub addr: SocketAddr,
    /// What is asked for over HTTP.
    pub path: String,
}

/// A client that holds its connection.
pub enum Client {
    /// HTTP/1.1.
    H1(http1::Client),
    /// HTTP/2; the connection may be shared.
    H2(http2::Client),
    /// Echo.
    Tcp(echo::Client),
}

impl Client {
    /// Opens `connections`, and gives `clients` of them out; only HTTP/2 has more clients than connections.
    ///
    /// # Errors
    /// When an HTTP/2 connection cannot be opened. Others open theirs at their first exchange.
    pub async fn open(
        protocol: Protocol,
        target: &Target,
        connections: usize,
        clients: usize,
    ) -> anyhow::Result<Vec<Self>> {
        match protocol {
            Protocol::H1 => Ok((0..connections).map(|_| Self::H1(http1::Client::new(target))).collect()),
            Protocol::Tcp => Ok((0..connections).map(|_| Self::Tcp(echo::Client::new(target.addr))).collect()),
            Protocol::H2 => {
                let mut shared = Vec::with_capacity(connections);
                for _ in 0..connections {
                    shared.push(http2::Client::open(target).await?);
                }
                Ok(shared.into_iter().cycle().take(clients).map(Self::H2).collect())
            }
        }
    }

    /// One exchange; how many bytes the answer's body had.
    ///
    /// # Errors
    /// When the answer is no 2xx, or not whole within [`PATIENCE`].
    pub async fn exchange(&mut self) -> anyhow::Result<u64> {
        let exchange = async {
            match self {
                Self::H1(client) => client.exchange().await,
                Self::H2(client) => client.exchange().await,
                Self::Tcp(client) => client.exchange().await,
            }
        };
        timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer after {PATIENCE:?}")))
    }

    /// Whether the held connection is still open, as far as this side knows. It must be idle.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self {
            Self::H1(client) => client.stream().is_some_and(is_silent),
            Self::H2(client) => client.is_open(),
            Self::Tcp(client) => client.stream().is_some_and(is_silent),
        }
    }
}

/// One exchange on a connection of its own, to the end that the server makes.
///
/// # Errors
/// As [`Client::exchange`], and when the server does not close.
pub async fn once(protocol: Protocol, target: &Target) -> anyhow::Result<u64> {
    let exchange = async {
        match protocol {
            Protocol::H1 => http1::once(target).await,
            Protocol::H2 => http2::Client::open(target).await?.exchange().await,
            Protocol::Tcp => echo::once(target.addr).await,
        }
    };
    timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer after {PATIENCE:?}")))
}

async fn connect(addr: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await.with_context(|| format!("connecting to {addr}"))?;
    stream.set_nodelay(true).context("TCP_NODELAY")?;
    Ok(stream)
}

/// Neither bytes nor an end have come.
fn is_silent(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

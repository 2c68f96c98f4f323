//! HTTP/1.1 and HTTP/2 over a connection of one's own, with nothing pooled or retried behind the caller's back.
//!
//! Invariant: a failure is the caller's to see.
//! Non-goal: redirects, TLS.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::PATIENCE;
use crate::body::{self, Body};

/// Which protocol to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    H1,
    /// HTTP/2 with prior knowledge.
    H2,
}

/// A connection; its driver runs as a task of the current runtime.
pub enum Connection {
    /// HTTP/1.1.
    H1(http1::SendRequest<Body>),
    /// HTTP/2.
    H2(http2::SendRequest<Body>),
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Trailer fields, if any came.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Connection {
    /// Opens one.
    ///
    /// # Errors
    /// When the address cannot be reached in time, or does not speak the protocol.
    pub async fn open(addr: SocketAddr, version: Version) -> io::Result<Self> {
        let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(addr)).await??;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        match version {
            Version::H1 => {
                let (sender, driver) = http1::handshake(io).await.map_err(io::Error::other)?;
                tokio::spawn(driver.with_upgrades());
                Ok(Self::H1(sender))
            }
            Version::H2 => {
                let (sender, driver) = http2::handshake(TokioExecutor::new(), io).await.map_err(io::Error::other)?;
                tokio::spawn(driver);
                Ok(Self::H2(sender))
            }
        }
    }

    /// Sends a request and reads the head of its answer.
    ///
    /// # Errors
    /// When the connection ends, or nothing comes in time.
    pub async fn send(&mut self, request: Request<Body>) -> io::Result<Response<Incoming>> {
        self.send_within(request, PATIENCE).await
    }

    async fn send_within(&mut self, request: Request<Body>, patience: Duration) -> io::Result<Response<Incoming>> {
        let sent = async {
            match self {
                Self::H1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
                Self::H2(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
            }
        };
        tokio::time::timeout(patience, sent).await?.map_err(io::Error::other)
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When it breaks off before its end, or is not there in time.
    pub async fn fetch(&mut self, request: Request<Body>) -> io::Result<Answer> {
        self.fetch_within(request, PATIENCE).await
    }

    /// The same for callers with more patience, or less: for the head, and for the body.
    ///
    /// # Errors
    /// As [`Connection::fetch`].
    pub async fn fetch_within(&mut self, request: Request<Body>, patience: Duration) -> io::Result<Answer> {
        let (head, incoming) = self.send_within(request, patience).await?.into_parts();
        let collected = tokio::time::timeout(patience, incoming.collect()).await?;
        let collected = collected.map_err(io::Error::other)?;
        let trailers = collected.trailers().cloned();
        Ok(Answer { status: head.status, headers: head.headers, body: collected.to_bytes(), trailers })
    }
}

/// A GET request in the form that the version wants.
///
/// # Panics
/// When `path` is no path.
#[must_use]
pub fn get(addr: SocketAddr, version: Version, path: &str) -> Request<Body> {
    let request = Request::builder();
    let request = match version {
        Version::H1 => request.uri(path).header(http::header::HOST, addr.to_string()),
        Version::H2 => request.uri(format!("http://{addr}{path}")),
    };
    request.body(body::empty()).expect("a path that a test wrote")
}

/// One GET on a connection of its own.
///
/// # Errors
/// As [`Connection::fetch`].
pub async fn fetch(addr: SocketAddr, version: Version, path: &str) -> io::Result<Answer> {
    Connection::open(addr, version).await?.fetch(get(addr, version, path)).await
}

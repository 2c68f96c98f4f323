//! HTTP at the edges: hyper speaks HTTP/1, the h2 crate speaks HTTP/2, and everything between them sees one `Request<Body>`
//! and one `Response<Body>`.
//!
//! Invariant: an exchange that breaks is seen as broken on the other side, with the same HTTP/2 error code where there is
//! one. hyper is not used for HTTP/2 because it keeps neither reset codes nor interim responses (ARCHITECTURE.md).
//! Limits of both libraries are set here, tighter than their defaults, and nowhere else.

pub mod answer;
pub mod body;
pub mod bytes;
pub mod caller;
pub mod deadline;
pub mod framing;
pub mod h1;
pub mod h1_io;
pub mod h1_pool;
mod h1_wait;
pub mod h2_client;
mod h2_driver;
pub mod h2_pool;
pub mod h2_server;
pub mod headers;
pub mod judged;
pub mod patience;
pub mod pump;
pub mod replay;
pub mod request_half;
pub mod tee;
pub mod timed;
pub mod upgrade;
pub mod wear;

use std::time::Duration;

use h2::Reason;

pub use body::{Body, BodyError};
pub use caller::Caller;

use crate::net::connect::ConnectError;

/// What sidecars speak on a tunnel.
pub const TUNNEL_ALPN: &[&[u8]] = &[b"h2"];

/// Limits of connections that the proxy serves and opens.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From the first byte of a request head to its end, and for an HTTP/2 preface.
    pub head_timeout: Duration,
    /// An HTTP/1 connection without a request is closed after this.
    pub idle_timeout: Duration,
    /// An exchange whose client neither sends the rest of its request nor takes any of the answer is ended after this.
    pub stall_timeout: Duration,
    /// Largest request or response head, bytes.
    pub max_head: usize,
    /// Most header fields in one head.
    pub max_headers: usize,
    /// Most streams that a peer may have open on one HTTP/2 connection.
    pub max_streams: u32,
    /// HTTP/2 flow-control window of a stream, bytes.
    pub stream_window: u32,
    /// The same of a stream that we or another sidecar open: with a small one, bulk data waits for credit most of the time. In
    /// whole reads of a socket (`net::MOST_READ`): parts of one cost a frame and a packet each.
    pub tunnel_stream_window: u32,
    /// The same of a stream that we open to the application beside us: what its callers have not taken waits there, but for a
    /// read, and the begin of the next.
    pub app_stream_window: u32,
    /// HTTP/2 flow-control window of a connection with an application, bytes.
    pub connection_window: u32,
    /// Most bytes that wait to be sent on one HTTP/2 stream of an application.
    pub send_buffer: usize,
    /// The same of a stream that we or another sidecar open.
    pub tunnel_send_buffer: usize,
    /// How long a pooled HTTP/1 connection may be unused; shorter than applications' own limits.
    pub pool_idle: Duration,
    /// Most unused HTTP/1 connections kept per application or endpoint.
    pub pool_size: usize,
    /// A request with `expect: 100-continue` sends its body after this, even when nobody said so.
    pub continue_wait: Duration,
    /// From the end of a request to the head of its response.
    pub response_timeout: Duration,
    /// To set up an HTTP/2 connection, and to open a byte stream through it.
    pub open_timeout: Duration,
    /// A tunnel from another sidecar is asked to end after this, so that none outlives its certificates for long.
    pub tunnel_age: Duration,
    /// How long idle HTTP/1 connections may make one last request when the proxy drains.
    pub drain_linger: Duration,
}

impl Settings {
    /// Largest head between sidecars: what one of them has taken shall not be too large for the other, where HTTP/2 counts 32
    /// bytes more for each field, and our own fields are on it.
    pub fn tunnel_head(&self) -> u32 {
        const OURS: usize = 1024;
        u32::try_from(self.max_head + 32 * self.max_headers + OURS).unwrap_or(u32::MAX)
    }

    /// Window of a connection between sidecars: room for all streams that it may carry, so that no number of slowly read
    /// ones keeps another one waiting. It is credit, not memory; each stream has its own bound.
    pub fn tunnel_window(&self) -> u32 {
        const LARGEST: u32 = (1 << 31) - 1;
        self.tunnel_stream_window.saturating_mul(self.max_streams).clamp(self.connection_window, LARGEST)
    }
}

/// A request on its way. Boxed: else each step of the way would keep room for it, and move it.
pub type BoxedRequest = Box<http::Request<Body>>;

/// What serves the requests of one connection.
pub trait Handler: Send + Sync + 'static {
    /// One exchange. `Err` resets it, without an answer.
    fn handle(
        &self,
        request: BoxedRequest,
        caller: Caller,
    ) -> impl Future<Output = Result<http::Response<Body>, Abort>> + Send;

    /// The mesh's answer to a request that goes no further, counted.
    fn refuse(&self, reason: answer::Reason, headers: &http::HeaderMap, detail: &str) -> http::Response<Body>;

    /// A client was too slow, and its exchange ended.
    fn too_slow(&self);

    /// An HTTP/2 CONNECT stream.
    fn connect(&self, tunnel: h2_server::Tunnel) -> impl Future<Output = ()> + Send;
}

/// An exchange that ends without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort(pub Reason);

/// Whose time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Late {
    /// The request's, with all its tries, by a policy.
    #[error("not done within {0:?}")]
    Request(Duration),
    /// A try's, by a policy or a route.
    #[error("the try that was passed on was not done within {0:?} (timeouts.backendRequest)")]
    Backend(Duration),
    /// The caller's own (`grpc-timeout`).
    #[error("the caller's deadline is over")]
    Deadline,
    /// A policy's, for a stream without a frame either way.
    #[error("no frame either way for {0:?}")]
    Idle(Duration),
}

impl Late {
    /// Why the mesh ends the exchange.
    pub fn reason(self) -> answer::Reason {
        match self {
            Late::Request(_) => answer::Reason::RequestTimeout,
            Late::Backend(_) => answer::Reason::ResponseTimeout,
            Late::Deadline => answer::Reason::Deadline,
            Late::Idle(_) => answer::Reason::StreamIdle,
        }
    }

    /// The word for the metric of timeouts, as policies name them.
    pub fn kind(self) -> &'static str {
        match self {
            Late::Request(_) => "request",
            Late::Backend(_) => "backend_request",
            Late::Deadline => "deadline",
            Late::Idle(_) => "stream_idle",
        }
    }
}

/// Why an upstream gave no response.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// No connection: nothing was sent.
    #[error(transparent)]
    Connect(ConnectError),
    /// The other sidecar did not prove to be the one that discovery named: nothing was sent.
    #[error("{0}")]
    Peer(String),
    /// The other sidecar could not connect the application, or so it says.
    #[error("the far sidecar says: {0}")]
    App(String),
    /// The upstream says that it did not process the request (GOAWAY, REFUSED_STREAM, closed before it was written).
    #[error("refused before it was processed")]
    Unprocessed,
    /// A connection that carried this exchange alone ended before the first byte of a response.
    #[error("connection closed before a response: {0}")]
    Closed(String),
    /// A connection that carries many exchanges was lost before the first byte of a response.
    #[error("connection lost before a response: {0}")]
    Lost(String),
    /// The upstream took the request, and has said nothing for so long.
    #[error("no response within {0:?}")]
    Silent(Duration),
    /// The time of the exchange is over.
    #[error(transparent)]
    Late(Late),
    /// The proxy itself has no more of something: connections that take one more exchange, descriptors, memory.
    #[error("{0}")]
    Busy(&'static str),
    /// The circuit breakers of all endpoints are open.
    #[error("the circuit breakers of all endpoints are open")]
    Ejected,
    /// The upstream reset the stream.
    #[error("reset with {0:?}")]
    Reset(Reason),
    /// The upstream spoke, but not HTTP.
    #[error("not understood: {0}")]
    Protocol(String),
}

impl Failure {
    /// Whether the request surely did not reach an application.
    pub fn is_unprocessed(&self) -> bool {
        self.is_connect() || matches!(self, Failure::Unprocessed)
    }

    /// Whether the way to the application did not come about.
    pub fn is_connect(&self) -> bool {
        matches!(self, Failure::Connect(_) | Failure::Peer(_) | Failure::App(_))
    }

    /// Whether the fate of the request is unknown because a shared connection broke.
    pub fn is_lost(&self) -> bool {
        matches!(self, Failure::Lost(_))
    }

    /// Whether it speaks against the endpoint. A refusal before the request was processed does not: that is how one ends that
    /// is replaced.
    pub fn is_the_endpoints(&self) -> bool {
        !matches!(self, Failure::Unprocessed | Failure::Busy(_) | Failure::Ejected | Failure::Late(_))
    }

    /// The code with which an HTTP/2 caller learns of it, where an answer would say less.
    pub fn reset(&self) -> Option<Reason> {
        match self {
            Failure::Reset(reason) => Some(*reason),
            Failure::Unprocessed => Some(Reason::REFUSED_STREAM),
            _ => None,
        }
    }

    /// Why the mesh answers in place of the upstream.
    pub fn reason(&self) -> answer::Reason {
        use answer::Reason;
        match self {
            Failure::Connect(_) | Failure::App(_) => Reason::ConnectFailed,
            Failure::Peer(_) => Reason::PeerIdentity,
            Failure::Silent(_) => Reason::ResponseTimeout,
            Failure::Late(late) => late.reason(),
            Failure::Busy(_) => Reason::Overload,
            Failure::Ejected => Reason::AllEjected,
            Failure::Unprocessed | Failure::Closed(_) | Failure::Lost(_) => Reason::UpstreamReset,
            Failure::Reset(_) | Failure::Protocol(_) => Reason::UpstreamReset,
        }
    }

    /// The word for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Failure::Late(late) => late.reason().word(),
            Failure::Connect(_) | Failure::App(_) => "connect_failed",
            Failure::Peer(_) => "peer_identity",
            Failure::Unprocessed => "unprocessed",
            Failure::Closed(_) | Failure::Lost(_) => "closed",
            Failure::Silent(_) => "response_timeout",
            Failure::Busy(_) => "overload",
            Failure::Ejected => "all_ejected",
            Failure::Reset(_) => "reset",
            Failure::Protocol(_) => "protocol",
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        if error.is_ours { Failure::Busy("too few file descriptors are left") } else { Failure::Connect(error) }
    }
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        let refused = error.reason() == Some(Reason::REFUSED_STREAM) && error.is_reset();
        if error.is_remote() && (error.is_go_away() || refused) {
            return Failure::Unprocessed;
        }
        match error.reason() {
            // It broke a rule of HTTP/2, and we have told it so. That code is not for our caller, who did nothing wrong.
            Some(_) if error.is_library() => Failure::Protocol(error.to_string()),
            Some(reason) => Failure::Reset(reason),
            None => Failure::Lost(error.to_string()),
        }
    }
}

//! gRPC over our TLS, for `identity`: [`channel`] to a service and [`server`] for one; and [`incoming()`], which `destination` accepts
//! with as well.
//!
//! Invariant: no plaintext; the server proves the id that the caller expects, on each connection. A channel resolves
//! its name anew for each connection, and finds a dead peer: a host by the kernel's probes, a process by HTTP/2 pings.
//! Non-goal: traffic of applications.

mod incoming;
mod places;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint, Server, Uri};

pub use incoming::{Connection, DESCRIPTORS, Incoming, Peer, incoming};
pub use places::Source;

use crate::dial::{CONNECT_TIMEOUT, PING_INTERVAL, PING_TIMEOUT, dial};
use crate::spiffe::Id;
use crate::tls::Connector;

/// The application protocol of gRPC.
pub const ALPN: &[&[u8]] = &[b"h2"];

/// Of one client; a proxy needs a handful.
const MAX_STREAMS: u32 = 128;

/// A channel to `addr` (`host:port`) that connects when first used and again after each failure. The server must prove
/// to be `expected`. Must be called within a tokio runtime.
pub fn channel(addr: &str, expected: Id, connector: Connector) -> Channel {
    let connector = connector.with_alpn(ALPN);
    let addr = addr.to_owned();
    channel_over(move || {
        let (addr, expected, connector) = (addr.clone(), expected.clone(), connector.clone());
        async move { dial(&addr, &expected, &connector).await }
    })
}

/// A channel over connections that `dial` makes, with the same limits.
pub fn channel_over<D, F, IO, E>(dial: D) -> Channel
where
    D: Fn() -> F + Clone + Send + 'static,
    F: Future<Output = Result<IO, E>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    let dialer = tower::service_fn(move |_: Uri| {
        let dialed = dial();
        async move { dialed.await.map(TokioIo::new) }
    });
    // The URI only makes the requests' authority; the dialer knows the address. Of the form `http` because tonic
    // itself must not add a TLS of its own.
    Endpoint::from_static("http://control.mesh.internal")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(dialer)
}

/// A server with limits that suit the control plane, to be used with [`incoming()`].
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .max_concurrent_streams(MAX_STREAMS)
}

#[cfg(test)]
mod tests;

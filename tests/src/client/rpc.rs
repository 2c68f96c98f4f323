//! The demo's gRPC service, called.
//!
//! Invariant: one connection for each [`connect`]; calls have a deadline of their own making only.
//! Non-goal: balancing in the client; that is the mesh's part.

use std::net::SocketAddr;

use tonic::transport::{Channel, Endpoint, Error};

use super::PATIENCE;
use crate::echo::echo_client::EchoClient;

/// Connects.
///
/// # Errors
/// When the address cannot be reached in time.
///
/// # Panics
/// Never: an address makes a URI.
pub async fn connect(addr: SocketAddr) -> Result<EchoClient<Channel>, Error> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).expect("an address makes a URI");
    let channel = endpoint.connect_timeout(PATIENCE).timeout(PATIENCE).connect().await?;
    Ok(EchoClient::new(channel).max_decoding_message_size(64 << 20))
}

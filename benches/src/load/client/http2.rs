//! HTTP/2 with prior knowledge; clients that share a connection each have a stream at a time.
//!
//! Invariant: a connection that is lost is not replaced; its clients' requests fail from then on, and are counted.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;

use super::{Target, connect};

/// A share of a connection.
#[derive(Clone)]
pub struct Client {
    sender: SendRequest<Bytes>,
    request: Request<()>,
    driver: std::sync::Arc<tokio::task::JoinHandle<()>>,
}

impl Client {
    pub(super) async fn open(target: &Target) -> anyhow::Result<Self> {
        let Target { addr, path } = target;
        let uri = format!("http://{addr}{path}");
        let request = Request::get(&uri).body(()).with_context(|| format!("asking for {uri:?}"))?;
        let stream = connect(*addr).await?;
        let (sender, connection) = h2::client::handshake(stream).await.context("an HTTP/2 connection")?;
        // Its end shows in the streams.
        let driver = tokio::spawn(async { drop(connection.await) });
        Ok(Self { sender, request, driver: std::sync::Arc::new(driver) })
    }

    pub(super) fn is_open(&self) -> bool {
        !self.driver.is_finished()
    }

    pub(super) async fn exchange(&mut self) -> anyhow::Result<u64> {
        let mut sender = self.sender.clone().ready().await.context("a place for a stream")?;
        let (response, _) = sender.send_request(self.request.clone(), true).context("sending a request")?;
        let (head, mut body) = response.await.context("waiting for a response")?.into_parts();
        let mut received = 0;
        while let Some(chunk) = body.data().await {
            let length = chunk.context("waiting for the response's body")?.len();
            body.flow_control().release_capacity(length).context("releasing a window")?;
            received += length as u64;
        }
        ensure!(head.status.is_success(), "status {}", head.status);
        Ok(received)
    }
}

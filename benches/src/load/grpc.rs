//! gRPC calls, by a client that shares nothing with the mesh: unary ones, or messages back and forth on long streams.
//!
//! Invariant: each reply must carry the payload that went out; a stream that ends early is an error and is opened again.
//! Non-goal: a fixed rate; each reply begins the next request.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::ValueEnum;
use mesh_tests::echo::echo_client::EchoClient;
use mesh_tests::echo::{EchoReply, EchoRequest};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::tally::Tally;
use super::{PATIENCE, message};

const PAYLOAD: usize = 100;
/// Pause after a failure, lest a lost server becomes a loop that spins.
const PAUSE: Duration = Duration::from_millis(10);

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A call for each message
    Unary,
    /// A bidirectional stream for each client, one message at a time
    Stream,
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What each client does.
    pub mode: Mode,
    /// Where to.
    pub target: std::net::SocketAddr,
    /// Over how many connections.
    pub connections: usize,
    /// How many clients in all, each with one message under way.
    pub concurrency: usize,
    /// For how long.
    pub seconds: u32,
}

/// Runs the load; messages that are under way at its end are finished and counted.
///
/// # Errors
/// When a connection cannot be opened.
pub async fn run(plan: &Plan) -> anyhow::Result<Tally> {
    let mut channels = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        channels.push(mesh_tests::client::rpc::connect(plan.target).await.context("a gRPC connection")?);
    }
    let end = Instant::now() + Duration::from_secs(plan.seconds.into());
    let clients = channels.into_iter().cycle().take(plan.concurrency);
    let mut working: JoinSet<_> = clients.map(|client| work(plan.mode, client, end)).collect();
    let mut tally = Tally::default();
    while let Some(done) = working.join_next().await {
        tally.merge(done.context("a client")?);
    }
    Ok(tally)
}

async fn work(mode: Mode, mut client: EchoClient<Channel>, end: Instant) -> Tally {
    let request = EchoRequest { payload: message::text(PAYLOAD).into(), ..EchoRequest::default() };
    let mut tally = Tally::default();
    let mut conversation = None;
    while Instant::now() < end {
        let since = Instant::now();
        let exchange = async {
            match mode {
                Mode::Unary => Ok(client.unary(request.clone()).await.context("a call")?.into_inner()),
                Mode::Stream => stream(&mut client, &mut conversation, &request).await,
            }
        };
        let reply = timeout(PATIENCE, exchange).await;
        let reply = reply.unwrap_or_else(|_| Err(anyhow::anyhow!("no reply after {PATIENCE:?}")));
        let failed = reply.as_ref().is_err();
        tally.add(since, reply.and_then(|reply| checked(&reply.payload, &request.payload)));
        if failed {
            conversation = None;
            tokio::time::sleep(PAUSE).await;
        }
    }
    tally
}

/// Both halves of a stream.
struct Conversation {
    out: mpsc::Sender<EchoRequest>,
    replies: Streaming<EchoReply>,
}

/// One message on the stream, which is opened when there is none.
async fn stream(
    client: &mut EchoClient<Channel>,
    conversation: &mut Option<Conversation>,
    request: &EchoRequest,
) -> anyhow::Result<EchoReply> {
    let open = match conversation {
        Some(open) => open,
        None => {
            let (out, requests) = mpsc::channel(1);
            let replies = client.bidi(ReceiverStream::new(requests)).await.context("a stream")?.into_inner();
            conversation.insert(Conversation { out, replies })
        }
    };
    open.out.send(request.clone()).await.context("a stream that takes messages")?;
    open.replies.message().await.context("a reply")?.context("the server ended the stream")
}

fn checked(received: &Bytes, sent: &Bytes) -> anyhow::Result<u64> {
    ensure!(received == sent, "the reply's payload is not what was sent");
    Ok(received.len() as u64)
}

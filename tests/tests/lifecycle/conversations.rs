//! Conversations that last: each goes on, message by message, until told to stop, and then ends as its protocol wants.
//!
//! Invariant: one message at a time, each answered before the next; a conversation that breaks reports how far it came.
//! Non-goal: beginning again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use http::Method;
use mesh_tests::body;
use mesh_tests::client::http::{Connection, Version, get};
use mesh_tests::client::{PATIENCE, tcp};
use mesh_tests::echo::EchoRequest;
use mesh_tests::echo::echo_client::EchoClient;
use mesh_tests::netns::Host;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::tungstenite::Message;

/// Between two messages.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Requests on one HTTP/1.1 connection, half of them POST.
    Http1,
    /// The same on one HTTP/2 connection.
    Http2,
    /// Messages of one gRPC call, both ways.
    Grpc,
    Tcp,
    WebSocket,
}

/// Conversations that run.
pub(crate) struct Conversations {
    shared: Arc<Shared>,
    thread: JoinHandle<Vec<(Kind, anyhow::Result<()>)>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: Vec<AtomicU64>,
}

/// One conversation's view.
#[derive(Clone)]
struct Script {
    shared: Arc<Shared>,
    number: usize,
}

impl Conversations {
    /// Begins all of them on `host`.
    pub(crate) fn start(host: &Host, kinds: &[(Kind, SocketAddr)]) -> Self {
        let answered = kinds.iter().map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), answered });
        let (kinds, of_thread) = (kinds.to_vec(), Arc::clone(&shared));
        let thread = host.run_in_thread(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime in a test").block_on(async {
                let mut running = JoinSet::new();
                for (number, (kind, addr)) in kinds.into_iter().enumerate() {
                    let script = Script { shared: Arc::clone(&of_thread), number };
                    running.spawn(async move { (kind, hold(kind, addr, script).await) });
                }
                running.join_all().await
            })
        });
        Self { shared, thread }
    }

    /// The number of answers in the conversation that has the fewest.
    pub(crate) fn least(&self) -> u64 {
        self.shared.answered.iter().map(|count| count.load(Ordering::Relaxed)).min().unwrap_or_default()
    }

    /// Ends all of them; what broke.
    pub(crate) fn stop(self) -> Vec<String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let counts = self.shared.answered.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let ended = self.thread.join().expect("conversations that end");
        println!("answers by conversation: {counts:?}");
        let broken = ended.into_iter().filter_map(|(kind, end)| end.err().map(|error| format!("{kind:?}: {error:#}")));
        broken.collect()
    }
}

impl Script {
    /// Counts an answer; whether to go on.
    async fn goes_on(&self) -> bool {
        self.shared.answered[self.number].fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
        !self.shared.stop.load(Ordering::Relaxed)
    }

    fn count(&self) -> u64 {
        self.shared.answered[self.number].load(Ordering::Relaxed)
    }
}

async fn hold(kind: Kind, addr: SocketAddr, script: Script) -> anyhow::Result<()> {
    let held = async {
        match kind {
            Kind::Http1 => requests(addr, Version::H1, &script).await,
            Kind::Http2 => requests(addr, Version::H2, &script).await,
            Kind::Grpc => grpc(addr, &script).await,
            Kind::Tcp => plain(addr, &script).await,
            Kind::WebSocket => websocket(addr, &script).await,
        }
    };
    Box::pin(held).await.with_context(|| format!("after {} answers", script.count()))
}

async fn requests(addr: SocketAddr, version: Version, script: &Script) -> anyhow::Result<()> {
    let mut connection = Connection::open(addr, version).await?;
    for method in [Method::GET, Method::POST].into_iter().cycle() {
        let mut request = get(addr, version, "/bytes?n=100");
        if method == Method::POST {
            request = get(addr, version, "/echo").map(|_| body::full(vec![b'x'; 100]));
            *request.method_mut() = method;
        }
        let answer = connection.fetch(request).await?;
        ensure!(answer.status == 200 && answer.body.len() == 100, "{answer:?}");
        if !script.goes_on().await {
            break;
        }
    }
    Ok(())
}

async fn grpc(addr: SocketAddr, script: &Script) -> anyhow::Result<()> {
    // Not `rpc::connect`, whose calls have a deadline.
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{addr}"))?;
    let channel = endpoint.connect_timeout(PATIENCE).connect().await?;
    let mut client = EchoClient::new(channel);
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let message = || EchoRequest { payload: vec![7; 100].into(), ..EchoRequest::default() };
    sender.send(message()).await?;
    let mut replies = client.bidi(ReceiverStream::new(receiver)).await?.into_inner();
    loop {
        let reply = replies.message().await?.context("the stream ended")?;
        ensure!(reply.payload.len() == 100, "{reply:?}");
        if !script.goes_on().await {
            break;
        }
        sender.send(message()).await?;
    }
    drop(sender);
    ensure!(replies.message().await?.is_none(), "a reply to nothing");
    Ok(())
}

async fn plain(addr: SocketAddr, script: &Script) -> anyhow::Result<()> {
    let mut stream = tcp::connect(addr).await?;
    loop {
        stream.write_all(b"\x00echo").await?;
        let mut echo = [0; 5];
        stream.read_exact(&mut echo).await?;
        ensure!(&echo == b"\x00echo", "{echo:?} came back");
        if !script.goes_on().await {
            break;
        }
    }
    stream.shutdown().await?;
    ensure!(stream.read(&mut [0]).await? == 0, "bytes after the end");
    Ok(())
}

async fn websocket(addr: SocketAddr, script: &Script) -> anyhow::Result<()> {
    let opened = tokio_tungstenite::client_async(format!("ws://{addr}/ws"), tcp::connect(addr).await?).await;
    let (mut socket, _) = opened?;
    loop {
        socket.send(Message::text("echo")).await?;
        let echo = socket.next().await.context("the connection ended")??;
        ensure!(echo == Message::text("echo"), "{echo:?} came back");
        if !script.goes_on().await {
            break;
        }
    }
    socket.close(None).await?;
    while let Some(message) = socket.next().await {
        message?;
    }
    Ok(())
}

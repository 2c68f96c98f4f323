//! The load: short conversations of each kind, one after another.
//!
//! Invariant: nothing is tried twice; a conversation that does not end as its protocol wants is a failure, with its time.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use mesh_tests::client::http::{Connection, Version, get};
use mesh_tests::client::{rpc, tcp};
use mesh_tests::echo::EchoRequest;
use mesh_tests::netns::Host;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::tungstenite::Message;

/// Of each kind at a time.
const AT_ONCE: usize = 3;
/// Messages of a conversation.
const MESSAGES: usize = 25;
const PAUSE: Duration = Duration::from_millis(40);
/// A conversation that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// Failures that are kept: some for each fault of 72 hours. A run that has more cannot be judged.
pub(crate) const KEPT: usize = 100_000;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Http1,
    Http2,
    Grpc,
    Tcp,
    Upgrade,
}

/// All conversations.
pub(crate) struct Talks {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    messages: AtomicU64,
    ended: AtomicU64,
    failures: Mutex<Vec<Failure>>,
}

/// A conversation that broke.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) at: Instant,
    pub(crate) what: String,
}

/// What came of all.
pub(crate) struct Said {
    pub(crate) messages: u64,
    pub(crate) conversations: u64,
    pub(crate) failures: Vec<Failure>,
}

impl Talks {
    pub(crate) fn start(host: &Host, kinds: &[(Kind, SocketAddr)]) -> Self {
        let shared = Arc::new(Shared::default());
        let (of_thread, kinds) = (Arc::clone(&shared), kinds.to_vec());
        let thread = host.run_in_thread(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut running = JoinSet::new();
                for (kind, addr) in kinds.into_iter().flat_map(|kind| [kind; AT_ONCE]) {
                    running.spawn(go_on(kind, addr, Arc::clone(&of_thread)));
                }
                running.join_all().await;
            });
        });
        Self { shared, thread }
    }

    pub(crate) fn progress(&self) -> String {
        let failures = self.shared.failures().len();
        let (messages, ended) = (&self.shared.messages, &self.shared.ended);
        format!("{} messages, {} conversations, {failures} broken", number(messages), number(ended))
    }

    pub(crate) fn stop(self) -> Said {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("conversations that end");
        let failures = self.shared.failures().clone();
        Said { messages: number(&self.shared.messages), conversations: number(&self.shared.ended), failures }
    }
}

impl Shared {
    fn failures(&self) -> std::sync::MutexGuard<'_, Vec<Failure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, failure: Failure) {
        let mut failures = self.failures();
        if failures.len() < KEPT {
            failures.push(failure);
        }
    }

    /// A message was answered.
    async fn answered(&self) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
}

fn number(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

async fn go_on(kind: Kind, addr: SocketAddr, shared: Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        let talk = Box::pin(tokio::time::timeout(PATIENCE, talk(kind, addr, &shared)));
        let ended = talk.await.unwrap_or_else(|_| Err(anyhow::anyhow!("hangs")));
        shared.ended.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = ended {
            shared.failed(Failure { kind, at: Instant::now(), what: format!("{error:#}") });
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn talk(kind: Kind, addr: SocketAddr, shared: &Shared) -> anyhow::Result<()> {
    match kind {
        Kind::Http1 => requests(addr, Version::H1, shared).await,
        Kind::Http2 => requests(addr, Version::H2, shared).await,
        Kind::Grpc => grpc(addr, shared).await,
        Kind::Tcp => plain(addr, shared).await,
        Kind::Upgrade => websocket(addr, shared).await,
    }
}

async fn requests(addr: SocketAddr, version: Version, shared: &Shared) -> anyhow::Result<()> {
    let mut connection = Connection::open(addr, version).await.context("connect")?;
    for n in 0..MESSAGES {
        // Now and then a body that does not fit into one frame.
        let size = if n % 10 == 9 { 100_000 } else { 100 };
        let asked = Instant::now();
        let answer = connection.fetch(get(addr, version, &format!("/bytes?n={size}"))).await;
        let answer = answer.with_context(|| format!("message {n}, asked {:.1?} ago", asked.elapsed()))?;
        let reason = answer.headers.get("mesh-error");
        ensure!(answer.status == 200 && answer.body.len() == size, "{} {reason:?}", answer.status);
        shared.answered().await;
        if answer.headers.get("connection").is_some_and(|value| value == "close") {
            break;
        }
    }
    Ok(())
}

async fn grpc(addr: SocketAddr, shared: &Shared) -> anyhow::Result<()> {
    let mut client = rpc::connect(addr).await?;
    let message = || EchoRequest { payload: vec![7; 100].into(), ..EchoRequest::default() };
    client.unary(message()).await?;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(message()).await?;
    let mut replies = client.bidi(ReceiverStream::new(receiver)).await?.into_inner();
    for _ in 0..MESSAGES {
        let reply = replies.message().await?.context("the stream ended")?;
        ensure!(reply.payload.len() == 100, "{reply:?}");
        shared.answered().await;
        sender.send(message()).await?;
    }
    drop(sender);
    while replies.message().await?.is_some() {}
    Ok(())
}

async fn plain(addr: SocketAddr, shared: &Shared) -> anyhow::Result<()> {
    let mut stream = tcp::connect(addr).await?;
    for _ in 0..MESSAGES {
        stream.write_all(b"\x00echo").await?;
        let mut echo = [0; 5];
        stream.read_exact(&mut echo).await?;
        ensure!(&echo == b"\x00echo", "{echo:?} came back");
        shared.answered().await;
    }
    stream.shutdown().await?;
    ensure!(stream.read(&mut [0]).await? == 0, "bytes after the end");
    Ok(())
}

async fn websocket(addr: SocketAddr, shared: &Shared) -> anyhow::Result<()> {
    let opened = tokio_tungstenite::client_async(format!("ws://{addr}/ws"), tcp::connect(addr).await?).await;
    let (mut socket, _) = opened?;
    for _ in 0..MESSAGES {
        socket.send(Message::text("echo")).await?;
        let echo = socket.next().await.context("the connection ended")??;
        ensure!(echo == Message::text("echo"), "{echo:?} came back");
        shared.answered().await;
    }
    socket.close(None).await?;
    while let Some(message) = socket.next().await {
        message?;
    }
    Ok(())
}

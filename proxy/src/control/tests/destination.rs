//! A destination whose every word a test says itself.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use mesh_mtls::messages::{Inbox, PING};
use mesh_mtls::spiffe;
use mesh_proto::discovery as wire;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use wire::watch_request::Kind;
use wire::watch_response::Snapshot;

use super::SOON;

/// In-memory pipes from clients, and the streams that they are.
pub(super) struct Destination {
    pipes: mpsc::Sender<DuplexStream>,
    pub(super) streams: mpsc::Receiver<Session>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Destination {
    fn drop(&mut self) {
        self.server.abort();
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The server's end of one stream. Dropping it ends the stream.
pub(super) struct Session {
    /// Who opened it, where TLS says so.
    pub(super) peer: Option<spiffe::Id>,
    io: Box<dyn Io>,
    inbox: Inbox,
}

/// Hands each connection to the test, as a stream that is open. Without a test it closes them.
pub(super) async fn serve<IO>(accepted: impl Stream<Item = (IO, Option<spiffe::Id>)>, sessions: mpsc::Sender<Session>)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut accepted = pin!(accepted);
    while let Some((mut io, peer)) = accepted.next().await {
        if let Ok(test) = sessions.reserve().await
            && io.write_all(&PING).await.is_ok()
            && io.flush().await.is_ok()
        {
            test.send(Session { peer, io: Box::new(io), inbox: Inbox::new(16 * 1024) });
        }
    }
}

impl Destination {
    pub(super) fn start() -> Self {
        let ((pipes, mut accepted), (sessions, streams)) = (mpsc::channel(8), mpsc::channel(8));
        let accepted = stream::poll_fn(move |cx| accepted.poll_recv(cx).map(|pipe| pipe.map(|pipe| (pipe, None))));
        Destination { pipes, streams, server: tokio::spawn(serve(accepted, sessions)) }
    }

    /// Makes connections, which are pipes to this server.
    pub(super) fn dial(&self) -> impl Fn() -> Pin<Box<dyn Future<Output = io::Result<DuplexStream>> + Send>> + use<> {
        let pipes = self.pipes.clone();
        move || {
            let pipes = pipes.clone();
            Box::pin(async move {
                let (ours, theirs) = tokio::io::duplex(64 * 1024);
                pipes.send(theirs).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
                Ok(ours)
            })
        }
    }

    /// One that accepts connections and never says a word.
    pub(super) fn deaf() -> Self {
        let ((pipes, mut accepted), (_, streams)) = (mpsc::channel::<DuplexStream>(8), mpsc::channel(1));
        let server = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Some(pipe) = accepted.recv().await {
                held.push(pipe);
            }
        });
        Destination { pipes, streams, server }
    }

    /// The next stream, its Hello read and checked.
    pub(super) async fn session(&mut self) -> Session {
        let mut session = timeout(SOON, self.streams.recv()).await.expect("no stream was opened").expect("the service");
        session.hello().await;
        session
    }
}

impl Session {
    async fn hello(&mut self) {
        match self.request().await {
            Kind::Hello(hello) => assert_eq!(hello, super::hello().into()),
            other => panic!("{other:?} before Hello"),
        }
    }

    /// The next request; `None` when the stream has ended.
    async fn next(&mut self) -> Option<Kind> {
        loop {
            let message = poll_fn(|cx| self.inbox.poll_next(Pin::new(&mut self.io), cx)).await.ok()??;
            if !message.is_empty() {
                return wire::WatchRequest::decode(message).expect("a request").kind;
            }
        }
    }

    /// The next request.
    pub(super) async fn request(&mut self) -> Kind {
        timeout(SOON, self.next()).await.expect("no request came").expect("an open stream")
    }

    /// The next request must be a subscription.
    pub(super) async fn subscribed(&mut self) -> (u64, wire::resource::Kind) {
        match self.request().await {
            Kind::Subscribe(wire::Subscribe { id, resource }) => {
                (id, resource.expect("a resource").kind.expect("a kind"))
            }
            other => panic!("{other:?} instead of a subscription"),
        }
    }

    /// The next request must be an acknowledgement: its id, version and error.
    pub(super) async fn ack(&mut self) -> (u64, u64, String) {
        match self.request().await {
            Kind::Ack(ack) => (ack.id, ack.version, ack.error),
            other => panic!("{other:?} instead of an acknowledgement"),
        }
    }

    /// Nothing is said for a while; on a paused clock, not before everything has come to rest.
    pub(super) async fn is_silent(&mut self) {
        let request = timeout(Duration::from_millis(10), self.next()).await;
        assert!(request.is_err(), "unexpected {request:?}");
    }

    pub(super) async fn send(&mut self, id: u64, version: u64, snapshot: impl Into<Option<Snapshot>>) {
        let update = wire::WatchResponse { id, version, snapshot: snapshot.into() };
        self.write(&update.encode_to_vec()).await.expect("an open stream");
    }

    /// Bytes as a message.
    pub(super) async fn write(&mut self, message: &[u8]) -> io::Result<()> {
        self.io.write_u32(u32::try_from(message.len()).expect("short")).await?;
        self.io.write_all(message).await?;
        self.io.flush().await
    }

    /// Bytes as they are.
    pub(super) async fn write_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await
    }

    /// Ends the stream with a reason.
    pub(super) async fn fail(mut self, reason: &str) {
        self.send(0, 0, Snapshot::End(wire::End { reason: reason.to_owned() })).await;
    }
}

pub(super) fn outbound(addr: SocketAddr) -> wire::resource::Kind {
    let ip = crate::control::ledger::octets(addr.ip()).into();
    wire::resource::Kind::Outbound(wire::SocketAddress { ip, port: addr.port().into() })
}

//! Certificates of a minute, while the way to identity stalls and is cut for seconds or for minutes.
//!
//! Promises: short troubles are never seen; in long ones the certificate is used to its last second, and then there is none; it
//! is back within ten seconds of the way.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use mesh_identity::authority::{self, Authority, Files};
use mesh_identity::limiter::{self, Limiter};
use mesh_identity::service::Service;
use mesh_identity::tokens::Table;
use mesh_identity::{init, metrics};
use mesh_kit::shutdown::Shutdown;
use mesh_mtls::anchors::Anchors;
use mesh_mtls::certify::{self, Settings};
use mesh_mtls::credentials::Credentials;
use mesh_mtls::grpc::{self, Peer};
use mesh_mtls::{clock, spiffe};
use mesh_proto::identity::identity_server::IdentityServer;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tonic::transport::server::Connected;

use crate::link::{Link, Weather, addr};

/// The life of a certificate; it is renewed when 65 to 75 % are over.
const LIFE: Duration = Duration::from_secs(60);
/// A trouble that no one may see: a quarter of the life, less two pauses between attempts of 10 s at most, which stall as well.
const SHORT: Duration = Duration::from_secs(4);
const BACK_WITHIN: Duration = Duration::from_millis(10_500);
const LOOK: Duration = Duration::from_millis(250);
const TROUBLES: usize = 4;

/// A CA and a token for `web`, made once.
struct Stage {
    _folder: tempfile::TempDir,
    authority: Authority,
    table: Arc<Table>,
    token: std::path::PathBuf,
    id: spiffe::Id,
}

static STAGE: LazyLock<Stage> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = folder.path().join("ca");
    init::ensure(&ca, "cluster.local", std::time::SystemTime::now()).expect("a CA");
    let read = |name| std::fs::read(ca.join(name));
    let files = Files { anchors: read(init::ANCHORS), certificate: read(init::ISSUER), key: read(init::ISSUER_KEY) };
    let id = spiffe::Id::new("cluster.local", "shop", "web").expect("an identity");
    let authority = authority::first(files, &id, std::time::SystemTime::now()).expect("an authority");
    let token = folder.path().join("token");
    std::fs::write(&token, "secret").expect("a token");
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"secret");
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let table = Table::parse(format!("sha256:{hash} {id}\n").as_bytes(), "cluster.local").expect("tokens");
    Stage { _folder: folder, authority, table: Arc::new(table), token, id }
});

/// An end of a connection that says whose it is, as the real ones do.
struct Accepted(DuplexStream);

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer { id: None, addr: addr() }
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

pub(crate) async fn story(seed: u64) -> Duration {
    let mut random = fastrand::Rng::with_seed(seed);
    let link = Link::new(Weather::Fair(Duration::from_millis(random.u64(0..50))));
    let credentials = start(&link);
    let mut longest = back(&credentials).await;
    for _ in 0..TROUBLES {
        let calm = Duration::from_millis(random.u64(0..90_000));
        look(&credentials, calm, Expect::Usable).await;
        link.set(if random.bool() { Weather::Stalled } else { Weather::Cut });
        if random.bool() {
            look(&credentials, SHORT.mul_f64(random.f64()), Expect::Usable).await;
        } else {
            look(&credentials, LIFE + Duration::from_secs(random.u64(5..60)), Expect::ToItsEnd).await;
            assert!(credentials.usable_leaf(clock::wall()).is_none(), "it has ended, and nobody could renew it");
        }
        link.set(Weather::Fair(Duration::from_millis(random.u64(0..50))));
        longest = longest.max(back(&credentials).await);
    }
    longest
}

/// Identity's service and a client of it at the two ends of `link`.
fn start(link: &Link) -> Credentials {
    let Stage { authority, table, token, id, .. } = &*STAGE;
    let service = Service {
        authority: watch::Sender::new(authority.clone()).subscribe(),
        tokens: watch::Sender::new(Arc::clone(table)).subscribe(),
        limiter: Mutex::new(Limiter::new(limiter::Settings { per_second: 20, burst: 100, table: 10 })),
        leaf_lifetime: LIFE,
        metrics: metrics::Metrics::new(),
        shutdown: Shutdown::manual(),
    };
    let (connections, mut accepted) = mpsc::channel::<DuplexStream>(64);
    let incoming = async_stream(move |cx: &mut Context<'_>| accepted.poll_recv(cx));
    tokio::spawn(grpc::server().add_service(IdentityServer::new(service)).serve_with_incoming(incoming));
    let link = link.clone();
    let channel = grpc::channel_over(move || {
        let (link, connections) = (link.clone(), connections.clone());
        async move { link.dial(move |stream| connections.try_send(stream).expect("few connections")).await }
    });
    let anchors: Anchors = authority.anchors.clone();
    let credentials = Credentials::new(anchors);
    let identity = spiffe::Id::new("cluster.local", "mesh-system", "identity").expect("an identity");
    let settings = Settings { id: Some(id.clone()), ..Settings::new(SocketAddr::to_string(&addr()), identity, token) };
    tokio::spawn(certify::run_over(channel, settings, credentials.clone(), ()));
    credentials
}

fn async_stream(
    mut next: impl FnMut(&mut Context<'_>) -> Poll<Option<DuplexStream>>,
) -> impl futures_util::Stream<Item = io::Result<Accepted>> {
    futures_util::stream::poll_fn(move |cx| next(cx).map(|next| next.map(|stream| Ok(Accepted(stream)))))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Usable,
    ToItsEnd,
}

/// Looks at every moment of a while.
async fn look(credentials: &Credentials, how_long: Duration, expect: Expect) {
    let end = tokio::time::Instant::now() + how_long;
    while tokio::time::Instant::now() < end {
        let leaf = credentials.leaf().expect("the last good one stays");
        let (usable, holds) = (credentials.usable_leaf(clock::wall()).is_some(), clock::wall() <= leaf.not_after());
        assert_eq!(usable, holds, "to its last second, and no longer");
        assert!(usable || expect == Expect::ToItsEnd, "no certificate in a trouble that is short");
        sleep(LOOK).await;
    }
}

/// Waits for a usable certificate.
async fn back(credentials: &Credentials) -> Duration {
    let begun = tokio::time::Instant::now();
    while credentials.usable_leaf(clock::wall()).is_none() {
        assert!(begun.elapsed() < BACK_WITHIN, "no certificate {BACK_WITHIN:?} after identity is back");
        sleep(LOOK / 10).await;
    }
    begun.elapsed()
}

//! A pair of sidecars in this process: the client's way to an endpoint and the server's whole inbound side, over loopback
//! and mutual TLS, with the settings that a proxy has when nobody says otherwise.
//!
//! Invariant: both sides run in the runtime that started them and the application in threads of its own, so what a thread
//! that counts allocations sees is the sidecars'. What C libraries allocate (AWS-LC) is not counted.
//! Non-goal: redirection and discovery; `mesh` has those, in processes of their own.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use mesh_mtls::anchors::Anchors;
use mesh_mtls::credentials::{Credentials, Leaf};
use mesh_mtls::{spiffe, tls};
use mesh_proxy::balance::{Backend, Bulkheads, Reach, Terms, Wish};
use mesh_proxy::config::{self, Config};
use mesh_proxy::control::{Discovery, Hello};
use mesh_proxy::http::h2_server::Tunnel;
use mesh_proxy::http::{Abort, Body, BoxedRequest, Caller, Handler, TUNNEL_ALPN, answer, h1};
use mesh_proxy::inbound::{Inbound, Rules};
use mesh_proxy::metrics::Metrics;
use mesh_proxy::model::{Endpoint, Protocol, Sidecar, Traits};
use mesh_proxy::net::drain::{self, Drain, Draining};
use mesh_proxy::net::local::LocalAddresses;
use mesh_proxy::net::{Connector, Stream, listen};
use mesh_proxy::outbound::Outbound;
use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Bytes of the body of each answer.
pub const BODY: usize = 100;

/// Both sides, and the application.
pub struct Pair {
    /// The one endpoint, seen from the client's sidecar.
    pub backend: Backend,
    /// What reaches endpoints.
    pub reach: Arc<Reach>,
    /// The client's other half; it knows no destination, as nobody has told it of any.
    pub outbound: Arc<Outbound>,
    /// The server's side.
    pub inbound: Arc<Inbound>,
    /// A client that never hears of a destination.
    pub discovery: Discovery,
    /// Of both sides.
    pub metrics: Metrics,
    /// The settings of both sides.
    pub config: Config,
    /// Where the application listens.
    pub app: SocketAddr,
    /// For connections that are served by hand.
    pub drain: Drain,
    _draining: Draining,
}

impl Pair {
    /// Starts both in `runtime`, on `ip`, which must be an address of this host and not loopback: a sidecar delivers to no other.
    ///
    /// # Errors
    /// When a port cannot be bound, or a certificate is not accepted.
    pub fn start(runtime: &Runtime, ip: IpAddr) -> anyhow::Result<Self> {
        Self::start_with(runtime, app(ip).context("the application")?)
    }

    /// The same with another application, which listens at an address of this host that is not loopback.
    pub fn start_with(runtime: &Runtime, app: SocketAddr) -> anyhow::Result<Self> {
        let ip = app.ip();
        let _inside = runtime.enter();
        // The proxy's own way to listen, for what it sets on its sockets.
        let any_port = settings((ip, 0).into())?.inbound_listen;
        let tunnels = listen::bind_all(&any_port).context("the tunnel port")?.pop().context("a listener")?;
        let tunnel = tunnels.local_addr()?;
        let config = settings(tunnel)?;
        let web = spiffe::Id::new("cluster.local", "test", "web").context("an identity")?;
        let credentials = credentials(&web)?;
        let metrics = Metrics::new(config.metrics);
        let connector = |alpn| tls::Connector::new(credentials.clone(), alpn);
        let (discovery, _never_run) = Discovery::new(
            config.control.clone(),
            Hello::default(),
            connector(mesh_mtls::messages::ALPN),
            credentials.clone(),
            metrics.discovery(),
        );
        let (local, http) = (Arc::new(LocalAddresses::new(&[ip])), Arc::new(config.http.clone()));
        let reach = Reach::new(
            Connector::new(config.connect_out.clone()),
            connector(TUNNEL_ALPN),
            Arc::clone(&http),
            Arc::new(config.balance.clone()),
            metrics.clone(),
            Bulkheads::default(),
        );
        let inbound = Inbound::new(
            config.inbound.clone(),
            Arc::clone(&http),
            Rules::new(discovery.inbound()),
            Arc::clone(&local),
            credentials.clone(),
            Connector::new(config.connect_in.clone()),
            metrics.clone(),
        );
        let outbound =
            Outbound::new(config.outbound.clone(), http, discovery.clone(), local, Arc::clone(&reach), metrics.clone());
        let (draining, drain) = drain::channel();
        tokio::spawn(accept(tunnels, Arc::clone(&inbound), drain.clone()));
        let backend = Backend::new("web", &reach);
        let sidecar = Some(Sidecar { id: web, port: tunnel.port() });
        let traits = Traits { sidecar, ..Traits::default() };
        backend.apply(Endpoint { addr: app, name: "web".into(), traits: traits.into() }.into());
        Ok(Self { backend, reach, outbound, inbound, discovery, metrics, config, app, drain, _draining: draining })
    }

    /// One request through both sidecars; the bytes of its answer's body.
    ///
    /// # Errors
    /// When it is not answered with 200.
    pub async fn request(&self) -> anyhow::Result<usize> {
        length(self.send(small()?, &Caller::Deaf).await?).await
    }

    /// The same as `terms` say.
    ///
    /// # Errors
    /// When it is not answered with 200.
    pub async fn request_under(&self, terms: &Terms) -> anyhow::Result<usize> {
        let sent = self.backend.send_under(small()?, &Caller::Deaf, &Wish::default(), terms, |_| ()).await;
        length(sent.map_err(|failed| anyhow::anyhow!(failed.detail))?).await
    }

    /// A byte stream through both sidecars; the application echoes what begins with a zero.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn open(&self) -> anyhow::Result<Stream> {
        let opened = self.backend.open(Some(Protocol::Opaque), &Wish::default()).await;
        opened.map(|(stream, _)| stream).map_err(|failed| anyhow::anyhow!(failed.detail))
    }

    /// Serves an HTTP/1.1 connection of a client, whose requests all go to the endpoint.
    pub async fn serve(self: Arc<Self>, client: Stream) {
        let (settings, drain) = (self.config.http.clone(), self.drain.clone());
        h1::serve(client, &settings, drain, Arc::new(Forward(self))).await;
    }

    async fn send(&self, request: BoxedRequest, caller: &Caller) -> anyhow::Result<Response<Body>> {
        let sent = self.backend.send(request, caller, &Wish::default(), |_| ()).await;
        sent.map_err(|failed| anyhow::anyhow!(failed.detail))
    }
}

fn small() -> anyhow::Result<BoxedRequest> {
    let request = Request::get("/b/100").header(http::header::HOST, "web");
    Ok(Box::new(request.body(Body::empty())?))
}

async fn length(response: Response<Body>) -> anyhow::Result<usize> {
    anyhow::ensure!(response.status() == StatusCode::OK, "{}", response.status());
    Ok(response.into_body().collect().await?.to_bytes().len())
}

struct Forward(Arc<Pair>);

impl Handler for Forward {
    async fn handle(&self, request: BoxedRequest, caller: Caller) -> Result<Response<Body>, Abort> {
        self.0.send(request, &caller).await.map_err(|_| Abort(h2::Reason::INTERNAL_ERROR))
    }

    fn refuse(&self, reason: answer::Reason, headers: &http::HeaderMap, detail: &str) -> Response<Body> {
        reason.answer(headers, detail)
    }

    fn too_slow(&self) {}

    async fn connect(&self, tunnel: Tunnel) {
        drop(tunnel);
    }
}

/// The means of a balancer to reach endpoints, and what counts it, of a proxy that nobody has told anything.
pub fn reach(id: &spiffe::Id) -> anyhow::Result<(Arc<Reach>, Metrics)> {
    let config = settings(([127, 0, 0, 1], 1).into())?;
    let metrics = Metrics::new(config.metrics);
    let tls = tls::Connector::new(credentials(id)?, TUNNEL_ALPN);
    let connector = Connector::new(config.connect_out);
    let (http, balance, bulkheads) = (Arc::new(config.http), Arc::new(config.balance), Bulkheads::default());
    let reach = Reach::new(connector, tls, http, balance, metrics.clone(), bulkheads);
    Ok((reach, metrics))
}

async fn accept(tunnels: TcpListener, inbound: Arc<Inbound>, drain: Drain) {
    loop {
        let (tcp, _) = listen::accept(&tunnels, |error| eprintln!("accepting tunnels: {error}")).await;
        tokio::spawn(Arc::clone(&inbound).serve(tcp, drain.clone()));
    }
}

/// A proxy's own defaults, and `tunnel` as where it takes tunnels. What must be said of the control plane is never dialed.
///
/// # Errors
/// Never: these settings are good.
pub fn settings(tunnel: SocketAddr) -> anyhow::Result<Config> {
    const NOBODY: &str = "127.0.0.1:1";
    const SYSTEM: &str = "spiffe://cluster.local/ns/mesh-system/sa";
    let config = config::from_vars([
        ("MESH_IDENTITY_ADDR", NOBODY.to_owned()),
        ("MESH_IDENTITY_ID", format!("{SYSTEM}/identity")),
        ("MESH_DESTINATION_ADDR", NOBODY.to_owned()),
        ("MESH_DESTINATION_ID", format!("{SYSTEM}/destination")),
        ("MESH_TOKEN_FILE", "/nowhere/token".to_owned()),
        ("MESH_TRUST_ANCHORS", "/nowhere/anchors".to_owned()),
        ("MESH_INBOUND_LISTEN", tunnel.to_string()),
    ]);
    config.map_err(|errors| anyhow::anyhow!("{errors:?}"))
}

/// An authority that lives as long as this takes, and a leaf of it.
pub(crate) fn credentials(id: &spiffe::Id) -> anyhow::Result<Credentials> {
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id.as_str())?)];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = leaf.signed_by(&key, &root)?;
    let credentials = Credentials::new(Anchors::from_der(vec![root.der().clone()])?);
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    credentials.set_leaf(Leaf::new(vec![leaf.der().clone()], &key)?);
    Ok(credentials)
}

/// An application that answers each HTTP/1 request with [`BODY`] bytes, and echoes on connections that begin with a zero.
///
/// # Errors
/// When no port can be bound.
pub fn app(ip: IpAddr) -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((ip, 0))?;
    let addr = listener.local_addr()?;
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            // A sidecar that breaks off is for the other end to see.
            thread::spawn(move || drop(converse(stream)));
        }
    });
    Ok(addr)
}

fn converse(mut stream: std::net::TcpStream) -> io::Result<()> {
    const END: &[u8] = b"\r\n\r\n";
    stream.set_nodelay(true)?;
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n{}", "x".repeat(BODY));
    let (mut buffer, mut filled) = ([0; 16 << 10], 0);
    loop {
        let read = stream.read(&mut buffer[filled..])?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        match &buffer[..filled] {
            bytes @ [0, ..] => stream.write_all(bytes)?,
            bytes if bytes.ends_with(END) => stream.write_all(answer.as_bytes())?,
            _ => continue,
        }
        filled = 0;
    }
}

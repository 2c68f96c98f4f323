//! How many certificates identity issues per second of CPU, on connections that are open.
//!
//! Invariant: each call is a whole one: a token, a CSR of its own key, an answer with a certificate; one that fails fails the
//! bench. CSRs are made before, for the key and its signature are the proxy's work. Non-goal: handshakes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mesh_mtls::anchors::Anchors;
use mesh_mtls::credentials::Credentials;
use mesh_mtls::grpc;
use mesh_mtls::tls::Connector;
use mesh_proto::identity::CertifyRequest;
use mesh_proto::identity::identity_client::IdentityClient;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use super::Scale;
use super::plane::Plane;
use super::report::{Bar, Report};
use super::usage::Usage;

const CONNECTIONS: usize = 16;
/// Calls under way on each.
const STREAMS: usize = 2;
const CSRS: usize = 64;
const WARM_UP: Duration = Duration::from_secs(1);
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Measures it.
///
/// # Errors
/// When a call fails.
pub fn measure(scale: &Scale, report: &mut Report) -> anyhow::Result<()> {
    let mut plane = Plane::start()?;
    let (_, token) = plane.token("bench", "web")?;
    let requests = requests(&token)?;
    let (host, plane) = (plane.host().clone(), &mut plane);
    host.enter(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(certify(scale, plane, requests, report))
    })
}

/// With keys and names of their own, all for the one token.
fn requests(token: &str) -> anyhow::Result<Arc<[CertifyRequest]>> {
    let id = "spiffe://cluster.local/ns/bench/sa/web";
    let request = || {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id)?)];
        let csr = params.serialize_request(&key)?.der().to_vec();
        Ok(CertifyRequest { token: token.to_owned().into(), identity: id.to_owned(), csr_der: csr.into() })
    };
    (0..CSRS).map(|_| request()).collect()
}

async fn certify(
    scale: &Scale,
    plane: &Plane,
    requests: Arc<[CertifyRequest]>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let anchors = Anchors::from_pem(&std::fs::read(plane.anchors())?)?;
    let connector = Connector::anonymous(Credentials::new(anchors), grpc::ALPN);
    let issued = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let channel = grpc::channel(&plane.identity_addr().to_string(), plane.identity_id()?, connector.clone());
        let mut client = IdentityClient::new(channel);
        if connection == 0 {
            until_known(&mut client, &requests[0]).await?;
        }
        for stream in 0..STREAMS {
            let first = connection * STREAMS + stream;
            callers.spawn(call(client.clone(), Arc::clone(&requests), first, Arc::clone(&issued)));
        }
    }
    unless_one_fails(&mut callers, WARM_UP).await?;
    let (before, count, begun) = (usage(plane)?, issued.load(Ordering::Relaxed), Instant::now());
    unless_one_fails(&mut callers, scale.load).await?;
    let count = issued.load(Ordering::Relaxed) - count;
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), (usage(plane)?.cpu - before.cpu).as_secs_f64());
    ensure!(count > 0 && cpu > 0.0, "nothing was issued");
    #[allow(clippy::cast_precision_loss, reason = "a count of a bench")]
    let count = count as f64;
    let scenario = format!("identity, {CONNECTIONS} connections");
    report.add(&scenario, "Certify calls per second and core", count / cpu, "/s", Bar::AtLeast(4000.0));
    report.add(&scenario, "CPU per call", 1e6 * cpu / count, "us", Bar::None);
    report.add(&scenario, "Certify calls per second", count / seconds, "/s", Bar::None);
    Ok(())
}

/// Identity takes new tokens from their file within a moment.
async fn until_known(client: &mut IdentityClient<Channel>, request: &CertifyRequest) -> anyhow::Result<()> {
    let begun = Instant::now();
    while let Err(refused) = client.certify(request.clone()).await {
        ensure!(begun.elapsed() < PATIENCE, "the token is not taken: {refused}");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn call(
    mut client: IdentityClient<Channel>,
    requests: Arc<[CertifyRequest]>,
    first: usize,
    issued: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    for request in requests.iter().cycle().skip(first) {
        let answer = timeout(PATIENCE, client.certify(request.clone())).await.context("no answer")??;
        ensure!(!answer.get_ref().leaf_der.is_empty(), "an answer without a certificate");
        issued.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn unless_one_fails(callers: &mut JoinSet<anyhow::Result<()>>, time: Duration) -> anyhow::Result<()> {
    match timeout(time, callers.join_next()).await {
        Err(_) => Ok(()),
        Ok(ended) => ended.context("no caller")?.context("a caller's task")?.context("a caller"),
    }
}

fn usage(plane: &Plane) -> anyhow::Result<Usage> {
    let pid = plane.identity().pid().context("identity has ended")?;
    Ok(Usage::of(pid)?)
}

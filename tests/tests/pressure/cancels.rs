//! Clients that give up on a request: the server is told with their code, and nobody else is harmed.
//!
//! Invariant: the server's part lasts until it is told.
//! Non-goal: resets by servers.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::{Request, Response};
use mesh_tests::client::{PATIENCE, within};
use mesh_tests::mesh::Mesh;
use mesh_tests::streams;
use nix::sys::signal::Signal;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::{APP, Answer, Route, eventually, fetch, get, mesh, settled};

/// One by the RFC, and one of an application's own.
const CODES: [u32; 2] = [0x8, 0x1234];

fn post() -> Request<()> {
    Request::builder().method("POST").uri("http://web/").body(()).expect("a request")
}

#[test]
fn a_server_sees_the_code_of_a_client_that_gives_up_after_its_whole_request() {
    let (mut mesh, routes) = mesh();
    let (arrived, mut arrivals) = mpsc::channel(1);
    let (saw, mut seen) = mpsc::channel(1);
    for name in ["web", "legacy"] {
        let (arrived, saw) = (arrived.clone(), saw.clone());
        streams::serve(&mesh.get(name).host, APP, move |request, mut respond| {
            let (arrived, saw) = (arrived.clone(), saw.clone());
            async move {
                let body = streams::body(request.into_body()).await;
                let _ = arrived.send(body).await;
                let _ = saw.send(streams::reset(&mut respond).await).await;
            }
        });
    }
    mesh.start();
    for (Route { client, addr }, code) in routes.iter().flat_map(|route| CODES.map(|code| (route, code))) {
        within(&mesh.get(client).host, async {
            let mut sender = streams::connect(*addr).await.expect("a connection");
            let (_response, mut stream) = sender.send_request(post(), false).expect("a stream");
            stream.send_data("whole".into(), true).expect("an open stream");
            let body = timeout(PATIENCE, arrivals.recv()).await;
            assert!(matches!(&body, Ok(Some(Ok(body))) if body == b"whole"), "{client} to {addr}: {body:?}");
            stream.send_reset(Reason::from(code));
            let seen = timeout(PATIENCE, seen.recv()).await;
            assert_eq!(seen, Ok(Some(Reason::from(code))), "{client} to {addr}");
        });
    }
}

/// Sends as much as it may, until `cancel`.
async fn upload(mut stream: SendStream<Bytes>, sent: Arc<AtomicUsize>, cancel: Arc<Notify>, code: Reason) {
    loop {
        stream.reserve_capacity(16 << 10);
        tokio::select! {
            room = poll_fn(|cx| stream.poll_capacity(cx)) => {
                let Some(Ok(room)) = room else { return };
                if stream.send_data(vec![0; room].into(), false).is_err() {
                    return;
                }
                sent.fetch_add(room, Ordering::Relaxed);
            }
            () = cancel.notified() => return stream.send_reset(code),
        }
    }
}

#[test]
fn a_server_that_reads_nothing_sees_that_the_client_gives_up() {
    let (mut mesh, routes) = mesh();
    let (saw, mut seen) = mpsc::channel(1);
    for name in ["web", "legacy"] {
        let saw = saw.clone();
        streams::serve(&mesh.get(name).host, APP, move |request, mut respond| {
            let saw = saw.clone();
            async move {
                let _unread = request;
                let _ = saw.send(streams::reset(&mut respond).await).await;
            }
        });
    }
    mesh.start();
    for (Route { client, addr }, code) in routes.iter().flat_map(|route| CODES.map(|code| (route, code))) {
        within(&mesh.get(client).host, async {
            let mut sender = streams::connect(*addr).await.expect("a connection");
            let (_response, stream) = sender.send_request(post(), false).expect("a stream");
            let (sent, cancel) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
            let uploading = upload(stream, Arc::clone(&sent), Arc::clone(&cancel), Reason::from(code));
            let uploading = tokio::spawn(uploading);
            let stuck = settled(&sent).await;
            cancel.notify_one();
            let seen = timeout(PATIENCE, seen.recv()).await;
            assert_eq!(seen, Ok(Some(Reason::from(code))), "{client} to {addr}, stuck after {stuck} bytes");
            uploading.await.expect("no panic");
        });
    }
}

/// Requests of the client. Exclusive, for a [`Mesh`] goes to another thread only as a whole.
fn under_way(mesh: &mut Mesh) -> f64 {
    mesh.get("client").metric("mesh_http_requests_in_flight", &[("direction", "outbound")])
}

/// Has many clients give up while their sidecar's peer hangs; what becomes of a request that was under way before.
/// The app forgives so many streams that are reset before it has seen them.
fn long_request_beside_many_that_are_given_up(app_forgives: usize) -> Result<Answer, String> {
    // Less than what gets a second tunnel.
    const MANY: u32 = 90;
    let (mut mesh, [Route { client, addr }, ..]) = mesh();
    let (arrived, mut arrivals) = mpsc::channel(1);
    let release = Arc::<Notify>::default();
    let released = Arc::clone(&release);
    let mut settings = h2::server::Builder::new();
    settings.max_pending_accept_reset_streams(app_forgives);
    streams::serve_with(settings, &mesh.get("web").host, APP, move |request, mut respond| {
        let (arrived, released) = (arrived.clone(), Arc::clone(&released));
        async move {
            if request.uri().path() == "/long" {
                let _ = arrived.send(()).await;
                released.notified().await;
            }
            if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
                let _ = stream.send_data("fine".into(), true);
            }
        }
    });
    mesh.start();
    let host = mesh.get(client).host.clone();
    within(&host, async {
        let other = streams::connect(addr).await.expect("a connection");
        let long = tokio::spawn(async move { fetch(&other, "/long").await });
        timeout(PATIENCE, arrivals.recv()).await.expect("the long request at the app");
        mesh.get_mut("web").proxy_mut().signal(Signal::SIGSTOP);
        // Each on a connection of its own: they are many, not one who misbehaves.
        let mut asked = Vec::new();
        for _ in 0..MANY {
            let mut sender = streams::connect(addr).await.expect("a connection");
            let stream = sender.send_request(get("/short"), true).expect("a stream");
            asked.push((sender, stream));
        }
        eventually("all are on the way", || under_way(&mut mesh) >= f64::from(MANY + 1)).await;
        asked.iter_mut().for_each(|(_, (_, stream))| stream.send_reset(Reason::CANCEL));
        eventually("all have given up", || under_way(&mut mesh) <= 1.0).await;
        mesh.get_mut("web").proxy_mut().signal(Signal::SIGCONT);
        // What comes later on the tunnel is served after what the peer has to catch up with.
        let sender = streams::connect(addr).await.expect("a connection");
        let short = fetch(&sender, "/short").await;
        assert!(matches!(&short, Ok((status, _, _)) if status.is_success()), "a request after it: {short:?}");
        release.notify_one();
        let long = timeout(PATIENCE, long).await.map_err(|_| "no answer".to_owned())?;
        long.expect("no panic").map_err(|error| format!("{error:#}"))
    })
}

fn unharmed(long: &Result<Answer, String>) {
    assert!(matches!(long, Ok((status, None, body)) if status.is_success() && body == "fine"), "{long:?}");
}

#[test]
fn many_who_give_up_while_a_sidecar_hangs_do_not_end_its_tunnel() {
    unharmed(&long_request_beside_many_that_are_given_up(1000));
}

/// A sidecar that has all of this behind it asks an app for nothing that nobody wants. Many servers end a connection
/// whose streams are reset at once, and many clients share it.
#[test]
fn many_who_give_up_while_a_sidecar_hangs_do_not_end_its_connection_to_a_wary_app() {
    // The default of hyper and h2.
    unharmed(&long_request_beside_many_that_are_given_up(20));
}

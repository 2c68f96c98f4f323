//! Connections that a sidecar has many clients share: what one of them leaves unread or open is no burden to another.
//!
//! Invariant: the other client asks when the first one's streams are stuck.
//! Non-goal: HTTP/1, where nobody shares.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use mesh_tests::client::{tcp, within};
use mesh_tests::netns::Host;
use mesh_tests::streams;

use super::{APP, Route, eventually, fetch, get, mesh, settled};

/// An answer that fits into a window, and does not fit into the last bytes of one.
const SMALL: &[u8] = &[b's'; 16 << 10];

/// Sends without an end, and counts.
async fn endless(mut stream: SendStream<Bytes>, sent: Arc<AtomicUsize>) {
    loop {
        stream.reserve_capacity(16 << 10);
        let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
        if stream.send_data(vec![0; room].into(), false).is_err() {
            return;
        }
        sent.fetch_add(room, Ordering::Relaxed);
    }
}

/// Answers `/small` in full, and everything else with a head and what `more` does.
async fn serve<F: Future<Output = ()>>(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    more: impl FnOnce(SendStream<Bytes>) -> F,
) {
    let Ok(mut stream) = respond.send_response(Response::new(()), false) else { return };
    if request.uri().path() == "/small" {
        let _ = stream.send_data(SMALL.into(), true);
    } else {
        more(stream).await;
    }
}

/// Asks for `/small` from `host`, on a connection of its own and a thread of its own.
async fn small(host: &Host, addr: SocketAddr) {
    let asked = host.run_in_thread({
        let host = host.clone();
        move || within(&host, async { fetch(&streams::connect(addr).await?, "/small").await })
    });
    eventually("an answer or its absence", || asked.is_finished()).await;
    let answer = asked.join().expect("no panic");
    let answer = answer.map(|(status, error, body)| (status.as_u16(), error, body.len()));
    assert!(matches!(&answer, Ok((200, None, length)) if *length == SMALL.len()), "{addr}: {answer:?}");
}

/// A client whose own connection holds back nothing, for many streams that it does not read.
async fn roomy(addr: SocketAddr) -> anyhow::Result<SendRequest<Bytes>> {
    let mut settings = h2::client::Builder::new();
    settings.initial_connection_window_size(1 << 24);
    let (sender, connection) = settings.handshake(tcp::connect(addr).await?).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// The heads of so many answers, whose bodies stay unread.
async fn hold(sender: &SendRequest<Bytes>, streams: usize) -> anyhow::Result<Vec<Response<RecvStream>>> {
    let mut held = Vec::new();
    for _ in 0..streams {
        let (response, _) = sender.clone().ready().await?.send_request(get("/watch"), true)?;
        held.push(tokio::time::timeout(mesh_tests::client::PATIENCE, response).await??);
    }
    Ok(held)
}

#[test]
fn streams_that_one_client_leaves_unread_keep_no_other_client_waiting() {
    /// Less than what gets a further connection.
    const UNREAD: usize = 90;
    let (mut mesh, [both, _, near]) = mesh();
    mesh.workload("other").service_account("client").add();
    let sent = Arc::<AtomicUsize>::default();
    for name in ["web", "legacy"] {
        let sent = Arc::clone(&sent);
        streams::serve(&mesh.get(name).host, APP, move |request, respond| {
            let sent = Arc::clone(&sent);
            serve(request, respond, |stream| endless(stream, sent))
        });
    }
    mesh.start();
    for Route { client, addr } in [both, near] {
        let [host, other] = [client, "other"].map(|name| &mesh.get(name).host);
        sent.store(0, Ordering::Relaxed);
        within(host, async {
            let sender = roomy(addr).await.expect("a connection");
            let held = hold(&sender, UNREAD).await.expect("the heads of all answers");
            println!("{addr}: stuck after {} bytes", settled(&sent).await);
            // On the same host and on another: they share the tunnel, and the connection to the app.
            for host in [host, other] {
                small(host, addr).await;
            }
            drop(held);
        });
    }
}

#[test]
fn an_app_that_takes_few_streams_gets_further_connections() {
    const FEW: u32 = 10;
    const WATCHES: usize = 25;
    let (mut mesh, routes) = mesh();
    for name in ["web", "legacy"] {
        let mut settings = h2::server::Builder::new();
        settings.max_concurrent_streams(FEW);
        streams::serve_with(settings, &mesh.get(name).host, APP, |request, respond| {
            serve(request, respond, |mut stream| async move {
                // Until the client gives up.
                let _ = poll_fn(|cx| stream.poll_reset(cx)).await;
            })
        });
    }
    mesh.start();
    for Route { client, addr } in routes {
        let host = &mesh.get(client).host;
        within(host, async {
            let sender = streams::connect(addr).await.expect("a connection");
            let held = hold(&sender, WATCHES).await;
            assert!(held.is_ok(), "{client} to {addr}: {held:?}");
            small(host, addr).await;
        });
    }
}

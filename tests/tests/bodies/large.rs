//! Large bodies, several at a time and in both directions: what comes back is what went out.
//!
//! Invariant: no two pieces of a body are alike, so one that is lost, doubled or moved shows.
//! Non-goal: speed.

use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::stream;
use http::{Request, Uri};
use http_body::Frame;
use http_body_util::BodyExt as _;
use mesh_tests::body::{self, Body};
use mesh_tests::client::http::{Connection, Version};
use mesh_tests::mesh::{App, Mesh};
use tokio::task::JoinSet;

const PIECE: usize = 64 << 10;
const PIECES: usize = 1024;
const DEADLINE: Duration = Duration::from_secs(120);

/// Piece `n` of the body of `client`.
fn piece(client: usize, n: usize) -> Bytes {
    let head = [client.to_le_bytes(), n.to_le_bytes()].concat();
    let mut piece: Vec<u8> = (0..PIECE).map(|at| u8::try_from((at * 31 + n) % 251).unwrap_or_default()).collect();
    piece[..head.len()].copy_from_slice(&head);
    piece.into()
}

fn sent(client: usize) -> Body {
    body::frames(stream::iter((0..PIECES).map(move |n| Ok(Frame::data(piece(client, n))))))
}

fn expected(client: usize) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    (0..PIECES).for_each(|n| context.update(&piece(client, n)));
    context.finish().as_ref().to_vec()
}

/// Sends a body to the echo; length and digest of what comes back.
async fn echo(
    mut connection: Connection,
    addr: SocketAddr,
    version: Version,
    client: usize,
) -> anyhow::Result<(usize, Vec<u8>)> {
    let mut uri = Uri::from_static("/echo");
    if version == Version::H2 {
        uri = format!("http://{addr}/echo").parse()?;
    }
    let request = Request::post(uri).header(http::header::HOST, addr.to_string()).body(sent(client))?;
    let response = connection.send(request).await?;
    anyhow::ensure!(response.status() == 200, "answered {response:?}");
    let mut incoming = response.into_body();
    let (mut context, mut length) = (Context::new(&SHA256), 0);
    while let Some(frame) = incoming.frame().await {
        if let Ok(data) = frame?.into_data() {
            context.update(&data);
            length += data.len();
        }
    }
    Ok((length, context.finish().as_ref().to_vec()))
}

#[test]
fn four_large_bodies_at_once_come_back_as_they_went() {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    mesh.workload("web").of("web").app(App::demo("demo-http", 8000, &[])).add();
    let addr = mesh.service("web", 80, 8000).add().v4;
    mesh.start();
    let seen = mesh.get("client").host.run_in_thread(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime in a test").block_on(async {
            let mut echoes = JoinSet::new();
            // All before the first byte of a body, which keeps this thread busy.
            let versions = [Version::H1, Version::H2, Version::H1, Version::H2];
            let connections = try_join_all(versions.map(|version| Connection::open(addr, version))).await;
            let connections = connections.expect("connections").into_iter().zip(versions).enumerate();
            for (client, (connection, version)) in connections {
                echoes.spawn(async move {
                    let echo = echo(connection, addr, version, client);
                    (client, version, tokio::time::timeout(DEADLINE, echo).await)
                });
            }
            echoes.join_all().await
        })
    });
    for (client, version, echo) in seen.join().expect("clients that end") {
        let (length, digest) = echo.expect("an echo in time").unwrap_or_else(|error| panic!("{version:?}: {error:#}"));
        assert_eq!(length, PIECE * PIECES, "{version:?}");
        assert_eq!(digest, expected(client), "{version:?}");
    }
}

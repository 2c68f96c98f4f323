//! `bench-relay`: a sidecar that only passes bytes on.
//!
//! Invariant: neither TLS nor HTTP nor anything else of a mesh, so that what it takes is what the kernel takes for two
//! more hops, and a little: no sidecar can take less.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use clap::Parser;
use tokio::io::{self, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

const PIECE: usize = 16 << 10;

#[derive(Parser)]
#[command(about = "Passes bytes from one address on to another one, on one thread")]
struct Options {
    /// Where connections come in
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Where each one goes
    #[arg(long, value_name = "ADDR")]
    dial: SocketAddr,
    /// Answers each request with what was passed on so far
    #[arg(long, value_name = "ADDR")]
    admin: SocketAddr,
}

#[derive(Default)]
struct Passed {
    connections: Cell<u64>,
    /// Pieces from clients.
    pieces: Cell<u64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    mesh_kit::limits::raise_files()?;
    let (listener, admin) = (TcpListener::bind(options.listen).await?, TcpListener::bind(options.admin).await?);
    let passed = Rc::new(Passed::default());
    let connections = LocalSet::new();
    connections
        .run_until(async {
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (passed, client) = (Rc::clone(&passed), accepted?.0);
                        // A connection that fails ends; its client notices.
                        tokio::task::spawn_local(async move { pass(client, options.dial, &passed).await.ok() });
                    }
                    asked = admin.accept() => {
                        let (passed, asker) = (Rc::clone(&passed), asked?.0);
                        tokio::task::spawn_local(async move { answer(asker, &passed).await.ok() });
                    }
                }
            }
        })
        .await
}

async fn pass(mut client: TcpStream, to: SocketAddr, passed: &Passed) -> io::Result<()> {
    passed.connections.update(|n| n + 1);
    let mut server = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    let up = copy(from_client, to_server, || passed.pieces.update(|n| n + 1));
    tokio::try_join!(up, copy(from_server, to_client, || {}))?;
    Ok(())
}

async fn copy(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, count: impl Fn()) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece).await? {
            0 => return to.shutdown().await,
            n => to.write_all(&piece[..n]).await?,
        }
        count();
    }
}

async fn answer(mut asker: TcpStream, passed: &Passed) -> io::Result<()> {
    let _ = asker.read(&mut [0; 1024]).await?;
    let (connections, pieces) = (passed.connections.get(), passed.pieces.get());
    let body = format!("relay_connections_total {connections}\nrelay_pieces_total {pieces}\n");
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    asker.write_all([head, body].concat().as_bytes()).await
}

//! `bench-backend`: what the sidecars of the bench stand before.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::net::SocketAddr;

use clap::Parser;
use mesh_benches::load::backend::{self, Backend};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

#[derive(Parser)]
#[command(
    about = "Back end of the bench: HTTP, echo and gRPC on one thread. Says `listening NAME ADDR` for each port."
)]
struct Options {
    /// HTTP/1.1 and h2c: GET /b/N answers N bytes, POST /sink reads its body and answers 100
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Echo of 64-byte messages; closes after one that begins with the byte 1
    #[arg(long, value_name = "ADDR")]
    echo: Option<SocketAddr>,
    /// gRPC: the service of tests/proto/echo.proto
    #[arg(long, value_name = "ADDR")]
    grpc: Option<SocketAddr>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    mesh_kit::limits::raise_files()?;
    let backend = Backend {
        http: bind("http", options.http)?,
        echo: bind("echo", options.echo)?,
        grpc: bind("grpc", options.grpc)?,
    };
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (stop, stopped) = watch::channel(false);
    let wait = async {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        stop.send_replace(true);
    };
    let (served, ()) = tokio::join!(backend.serve(stopped), wait);
    served
}

fn bind(name: &str, addr: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    let Some(listener) = addr.map(backend::bind).transpose()? else { return Ok(None) };
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening {name} {}", listener.local_addr()?)?;
    out.flush()?;
    Ok(Some(listener))
}

//! `demo-http`: an HTTP server with a path for each thing that a proxy may get wrong. HTTP/1.0, HTTP/1.1 and h2c.
//!
//! Invariant: what it answers about a request is what came over the wire; nothing is normalised on the way.
//! Non-goal: being a good web server; some paths break the protocol on purpose.

#![forbid(unsafe_code)]

mod answer;
mod query;
mod raw;
mod upgrade;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use mesh_tests::app;
use tokio::net::TcpStream;

#[derive(Parser)]
#[command(about = "HTTP/1 and h2c server of the demo and the tests")]
struct Options {
    /// Address to listen on; may be given several times
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: Vec<SocketAddr>,
    /// The name that answers carry
    #[arg(long, default_value = "demo-http")]
    name: String,
    /// Wait before each answer: `30ms`, `2s`
    #[arg(long, default_value = "0ms", value_parser = app::duration)]
    delay: Duration,
    /// Answer to every path what came: method, target, version and fields
    #[arg(long)]
    mirror: bool,
    /// Answer 500 to every path
    #[arg(long)]
    fail: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let listeners = app::bind(&options.listen).await?;
    let site =
        Arc::new(answer::Site { name: options.name, delay: options.delay, mirror: options.mirror, fail: options.fail });
    app::run(listeners, move |stream| serve(Arc::clone(&site), stream)).await?;
    Ok(())
}

async fn serve(site: Arc<answer::Site>, stream: TcpStream) {
    let Ok(side_door) = raw::SideDoor::new(&stream) else {
        return;
    };
    let service = hyper::service::service_fn(move |request| {
        let (site, side_door) = (Arc::clone(&site), side_door.clone());
        async move { answer::answer(&site, &side_door, request).await.map_err(std::io::Error::other) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().half_close(true).pipeline_flush(true);
    builder.http2().enable_connect_protocol().max_concurrent_streams(1000);
    // Whatever ends a connection here (a client that leaves, a path that breaks off on purpose) is no news.
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

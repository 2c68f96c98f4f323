//! `demo-greet`: plain TCP in the shapes that a transparent proxy must not disturb.
//!
//! Invariant: in `greet` mode the server speaks at accept, before it reads a byte; in every other mode the client does.
//! Non-goal: any real protocol.

#![forbid(unsafe_code)]

mod conversation;
mod tls;

use std::net::SocketAddr;

use clap::{Parser, ValueEnum};
use mesh_tests::app;

use crate::conversation::{digest, echo, greet};

#[derive(Parser)]
#[command(about = "TCP server of the demo and the tests")]
struct Options {
    /// Address to listen on; may be given several times
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: Vec<SocketAddr>,
    /// The name in the greeting, and in the self-signed certificate
    #[arg(long, default_value = "demo-greet")]
    name: String,
    #[arg(long, value_enum, default_value = "greet")]
    mode: Mode,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// `220 NAME ready`, then echo
    Greet,
    /// Echo; the client speaks first
    Echo,
    /// Read to the end, then answer `COUNT SHA256`
    Digest,
    /// Echo within TLS of its own, with a self-signed certificate
    Tls,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let acceptor = tls::self_signed(&options.name)?;
    let listeners = app::bind(&options.listen).await?;
    let (name, mode) = (options.name, options.mode);
    let serve = move |stream| {
        let (name, acceptor) = (name.clone(), acceptor.clone());
        // A client that breaks off is no news.
        async move {
            let _ = match mode {
                Mode::Greet => greet(stream, &name).await,
                Mode::Echo => echo(stream).await,
                Mode::Digest => digest(stream).await,
                Mode::Tls => match acceptor.accept(stream).await {
                    Ok(stream) => echo(stream).await,
                    Err(error) => Err(error),
                },
            };
        }
    };
    app::run(listeners, serve).await?;
    Ok(())
}

//! What the demo apps share: bind, announce the address, end on SIGTERM.
//!
//! Invariant: the line `listening ADDR` on stdout comes after the listener is bound, so that who reads it may connect.
//! Non-goal: draining; an app that ends while requests run is a case that the mesh must cope with.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// Binds each address and prints one line for each.
///
/// # Errors
/// When an address cannot be bound or stdout is closed.
pub async fn bind(addrs: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::with_capacity(addrs.len());
    for addr in addrs {
        let listener = TcpListener::bind(addr).await?;
        let mut out = io::stdout().lock();
        writeln!(out, "listening {}", listener.local_addr()?)?;
        out.flush()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Runs `serve` for each accepted connection, on all listeners, until SIGTERM or SIGINT.
///
/// # Errors
/// When the signals cannot be awaited.
pub async fn run<F>(
    listeners: Vec<TcpListener>,
    serve: impl Fn(TcpStream) -> F + Clone + Send + 'static,
) -> io::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let serve = serve.clone();
        accepting.spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let _ = stream.set_nodelay(true);
                        tokio::spawn(serve(stream));
                    }
                    // Out of descriptors, or the peer was gone already: neither is a reason to stop serving.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
    }
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

/// `250ms`, `2s`, or a plain number of milliseconds.
///
/// # Errors
/// When it is none of these.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no duration"))?;
    match unit {
        "" | "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        _ => Err(format!("{text:?} is no duration: ms or s")),
    }
}

//! A network between a client and a service, as connections of both see it.
//!
//! Invariant: bytes arrive in order or not at all; a stalled link loses none, a cut one ends its connections and refuses others.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::watch;
use tokio::time::sleep;

/// What is in flight on one side.
const ROOM: usize = 16 * 1024;

/// How a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Bytes take so long.
    Fair(Duration),
    /// Nothing arrives, and nobody is told.
    Stalled,
    /// Connections end, and none can be made.
    Cut,
}

/// The link.
#[derive(Clone)]
pub(crate) struct Link(watch::Sender<Weather>);

impl Link {
    pub(crate) fn new(weather: Weather) -> Self {
        Self(watch::Sender::new(weather))
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.0.send_replace(weather);
    }

    pub(crate) fn is_fair(&self) -> bool {
        matches!(*self.0.borrow(), Weather::Fair(_))
    }

    /// A new connection: the client's end, and the service's, which `serve` gets.
    pub(crate) async fn dial(&self, serve: impl FnOnce(DuplexStream)) -> io::Result<DuplexStream> {
        let mut weather = self.0.subscribe();
        // A SYN into a stalled link waits.
        let now = *weather.wait_for(|weather| *weather != Weather::Stalled).await.map_err(io::Error::other)?;
        if now == Weather::Cut {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let ((client, near), (far, server)) = (duplex(ROOM), duplex(ROOM));
        tokio::spawn(carry(near, far, weather));
        serve(server);
        Ok(client)
    }
}

/// Any address; all clients are one.
pub(crate) fn addr() -> SocketAddr {
    ([10, 0, 0, 1], 1).into()
}

async fn carry(near: DuplexStream, far: DuplexStream, mut weather: watch::Receiver<Weather>) {
    let ((near_reader, near_writer), (far_reader, far_writer)) = (split(near), split(far));
    let both = async {
        tokio::join!(pass(near_reader, far_writer, weather.clone()), pass(far_reader, near_writer, weather.clone()))
    };
    tokio::select! {
        _ = both => {}
        _ = cut(weather.clone()) => {}
    }
    weather.mark_unchanged();
}

async fn cut(mut weather: watch::Receiver<Weather>) {
    if weather.wait_for(|weather| *weather == Weather::Cut).await.is_err() {
        std::future::pending().await
    }
}

async fn pass(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    mut weather: watch::Receiver<Weather>,
) {
    let mut buffer = vec![0; ROOM];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let fair = weather.wait_for(|weather| matches!(weather, Weather::Fair(_))).await.map(|weather| *weather);
        if let Ok(Weather::Fair(latency)) = fair {
            sleep(latency).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

//! How many connections there may be, in all and per source.
//!
//! Invariant: the stream never ends before its inner one; a place is given back when its connection is dropped, on
//! every path. Non-goal: bounding handshakes, which the inner stream does.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use mesh_mtls::grpc::{Connection, Incoming, Peer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use crate::limiter::Source;
use crate::metrics::{Guard, Metrics};

/// The most connections at a time.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Over all sources.
    pub total: usize,
    /// From one source.
    pub per_source: usize,
}

/// Connections of [`Incoming`] that fit the limits; the others are closed.
pub struct Bounded {
    incoming: Incoming,
    places: Places,
    metrics: Metrics,
}

/// A connection and its place.
pub struct Placed {
    connection: Connection,
    _place: Place,
    _counted: Guard,
}

impl Bounded {
    /// Bounds `incoming`.
    #[must_use]
    pub fn new(incoming: Incoming, settings: Settings, metrics: Metrics) -> Self {
        Self { incoming, places: Places::new(settings), metrics }
    }
}

impl Stream for Bounded {
    type Item = io::Result<Placed>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let connection = match ready!(Pin::new(&mut self.incoming).poll_next(cx)) {
                Some(Ok(connection)) => connection,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            match self.places.enter(connection.connect_info().addr.ip().into()) {
                Ok(place) => {
                    let placed = Placed { connection, _place: place, _counted: self.metrics.connection() };
                    return Poll::Ready(Some(Ok(placed)));
                }
                Err(full) => self.metrics.connection_refused(full.word()),
            }
        }
    }
}

/// Which limit was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    Total,
    Source,
}

impl Full {
    fn word(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Source => "source",
        }
    }
}

/// Counts by source. Clones share the counts.
#[derive(Clone)]
struct Places {
    settings: Settings,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    total: usize,
    by_source: HashMap<Source, usize>,
}

/// Gives a place back when dropped.
struct Place {
    places: Places,
    source: Source,
}

impl Places {
    fn new(settings: Settings) -> Self {
        Self { settings, taken: Arc::default() }
    }

    fn enter(&self, source: Source) -> Result<Place, Full> {
        let mut taken = self.lock();
        if taken.total >= self.settings.total {
            return Err(Full::Total);
        }
        let of_source = taken.by_source.entry(source).or_default();
        if *of_source >= self.settings.per_source {
            return Err(Full::Source);
        }
        *of_source += 1;
        taken.total += 1;
        Ok(Place { places: self.clone(), source })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.total -= 1;
        if let Some(of_source) = taken.by_source.get_mut(&self.source) {
            *of_source -= 1;
            if *of_source == 0 {
                taken.by_source.remove(&self.source);
            }
        }
    }
}

impl Connected for Placed {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.connection.connect_info()
    }
}

impl AsyncRead for Placed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(cx, buf)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn both_limits_hold_and_places_come_back() {
        let places = Places::new(Settings { total: 3, per_source: 2 });
        let (one, two) = (source("10.0.0.1"), source("10.0.0.2"));
        let held = [places.enter(one).unwrap(), places.enter(one).unwrap()];
        assert_eq!(places.enter(one).err(), Some(Full::Source));
        let other = places.enter(two).unwrap();
        assert_eq!(places.enter(two).err(), Some(Full::Total));
        drop(held);
        assert!(places.enter(two).is_ok());
        drop(other);
        let taken = places.lock();
        assert_eq!((taken.total, taken.by_source.len()), (0, 0));
    }
}

//! Waits for a connection's first bytes, and for whoever speaks first.
//!
//! Invariant: nobody is kept waiting. A client that is silent for `silence` gets its upstream connection meanwhile, and then
//! the first byte of either side decides: the server's means opaque, at once.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::detect::{self, Verdict};
use crate::http::answer::Reason;
use crate::net::Stream;

/// How long to wait for what.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A client that has sent nothing for so long may be waiting for the server to speak first.
    pub silence: Duration,
    /// From the first byte to the one that decides; whoever is slower is treated as opaque.
    pub decide: Duration,
}

/// What a connection is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The bytes say so.
    Http1,
    /// The bytes say so.
    Http2,
    /// A TLS ClientHello, with its server name.
    Tls(Option<Box<str>>),
    /// Bytes of another kind.
    Opaque,
    /// The server spoke first.
    ServerFirst,
    /// Bytes came too slowly to decide.
    TooSlow,
    /// The client ended its direction without a byte.
    Nothing,
}

impl Seen {
    /// The word for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Seen::Http1 => "http1",
            Seen::Http2 => "http2",
            Seen::Tls(_) => "tls",
            Seen::Opaque => "opaque",
            Seen::ServerFirst => "server_first",
            Seen::TooSlow => "timeout",
            Seen::Nothing => "nothing",
        }
    }
}

impl From<Verdict> for Option<Seen> {
    fn from(verdict: Verdict) -> Self {
        Some(match verdict {
            Verdict::Http1 => Seen::Http1,
            Verdict::Http2 => Seen::Http2,
            Verdict::Tls { sni } => Seen::Tls(sni),
            Verdict::Opaque => Seen::Opaque,
            Verdict::NeedMore => return None,
        })
    }
}

/// Decides by the client's bytes alone; `None` when it stays silent.
pub async fn client(stream: &mut Stream, settings: &Settings) -> io::Result<Option<Seen>> {
    if stream.seen().is_empty() {
        match timeout(settings.silence, stream.fill()).await {
            Err(_) => return Ok(None),
            Ok(read) => {
                if read? == 0 {
                    // It has nothing to say, which is no reason for the server not to.
                    return Ok(None);
                }
            }
        }
    }
    decide(stream, settings).await.map(Some)
}

/// Decides by whoever speaks first. The bytes stay in the streams.
pub async fn either(client: &mut Stream, upstream: &mut Stream, settings: &Settings) -> io::Result<Seen> {
    if client.seen().is_empty() {
        tokio::select! {
            biased;
            read = client.fill() => if read? == 0 { return Ok(Seen::Nothing) },
            // Also an upstream that ends without a word: that is for the client to see.
            read = upstream.fill() => return read.map(|_| Seen::ServerFirst),
        }
    }
    decide(client, settings).await
}

/// Ends a connection that must not be forwarded: a client that speaks HTTP/1 is told why, others are reset.
pub async fn refuse(mut stream: Stream, settings: &Settings, reason: Reason, detail: &str) {
    let speaks_http = matches!(client(&mut stream, settings).await, Ok(Some(Seen::Http1)));
    if !speaks_http {
        return stream.abort();
    }
    // The client may be gone; then there is nobody to tell.
    let told = async {
        stream.write_all(&reason.raw(reason.status(), detail)).await?;
        stream.shutdown().await
    };
    let _ = timeout(settings.decide, told).await;
}

async fn decide(stream: &mut Stream, settings: &Settings) -> io::Result<Seen> {
    let decided = timeout(settings.decide, async {
        loop {
            if let Some(seen) = Option::<Seen>::from(detect::detect(stream.seen())) {
                return Ok(seen);
            }
            if stream.fill().await? == 0 {
                // An end in the middle of what could have become HTTP: whatever it is, it is passed on.
                return Ok(Seen::Opaque);
            }
        }
    });
    decided.await.unwrap_or(Ok(Seen::TooSlow))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const SETTINGS: Settings = Settings { silence: Duration::from_millis(20), decide: Duration::from_secs(5) };

    async fn pair() -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        let (server, _) = listener.accept().await.expect("accepts");
        (client, server.into())
    }

    #[tokio::test]
    async fn a_slow_client_is_still_detected_right() {
        let (mut app, mut stream) = pair().await;
        app.set_nodelay(true).expect("a live socket");
        let writer = tokio::spawn(async move {
            for byte in b"GET / HTTP/1.1\r\n" {
                app.write_all(&[*byte]).await.expect("writes");
                tokio::task::yield_now().await;
            }
            app
        });
        let seen = client(&mut stream, &SETTINGS).await.expect("no error");
        assert_eq!(seen, Some(Seen::Http1));
        writer.await.expect("wrote");
    }

    #[tokio::test]
    async fn a_silent_client_and_a_server_that_greets_is_server_first() {
        let (_app, mut stream) = pair().await;
        assert_eq!(client(&mut stream, &SETTINGS).await.expect("no error"), None);
        let (mut server, mut upstream) = pair().await;
        server.write_all(b"220 ready\r\n").await.expect("writes");
        let seen = either(&mut stream, &mut upstream, &SETTINGS).await.expect("no error");
        assert_eq!(seen, Seen::ServerFirst);
        assert_eq!(upstream.seen(), b"220 ready\r\n");
    }
}

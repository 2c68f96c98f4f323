//! The conversations, over any stream.
//!
//! Invariant: what was received goes back before the server ends its side; a client's end of stream alone ends nothing
//! that is still owed.
//! Non-goal: limits; it serves tests.

use std::io;

use aws_lc_rs::digest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Greets, then echoes.
pub(crate) async fn greet(stream: impl AsyncRead + AsyncWrite, name: &str) -> io::Result<()> {
    let mut stream = std::pin::pin!(stream);
    stream.write_all(format!("220 {name} ready\r\n").as_bytes()).await?;
    echo(stream).await
}

/// Echoes until the client ends its side, then ends its own.
pub(crate) async fn echo(stream: impl AsyncRead + AsyncWrite) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut chunk = vec![0; 16 << 10];
    loop {
        let n = reader.read(&mut chunk).await?;
        if n == 0 {
            return writer.shutdown().await;
        }
        writer.write_all(&chunk[..n]).await?;
        writer.flush().await?;
    }
}

/// Reads to the end, and only then answers: half-close must be carried, not turned into a close.
pub(crate) async fn digest(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut context = digest::Context::new(&digest::SHA256);
    let (mut chunk, mut count) = (vec![0; 16 << 10], 0);
    loop {
        let n = stream.read(&mut chunk).await?;
        if n == 0 {
            break;
        }
        context.update(&chunk[..n]);
        count += n;
    }
    let hex: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    stream.write_all(format!("{count} {hex}\n").as_bytes()).await?;
    stream.shutdown().await
}

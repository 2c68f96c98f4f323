//! Sends back what comes; after a message that begins with [`message::LAST`], it closes.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::load::message;

pub(super) async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; message::LENGTH];
    loop {
        match stream.read_exact(&mut buffer).await {
            Ok(_) => stream.write_all(&buffer).await?,
            Err(end) if end.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        if buffer[0] == message::LAST {
            return stream.shutdown().await;
        }
    }
}

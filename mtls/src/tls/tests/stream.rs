//! Bytes over a session: all of them, in order, however they are cut; and no memory between them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf, split};

use super::*;

async fn send(mut writer: WriteHalf<Client>, data: Vec<u8>, cut: usize) {
    for part in data.chunks(cut) {
        writer.write_all(part).await.unwrap();
    }
    writer.shutdown().await.unwrap();
}

async fn receive(mut reader: ReadHalf<Client>) -> Vec<u8> {
    let mut all = Vec::new();
    reader.read_to_end(&mut all).await.unwrap();
    all
}

#[tokio::test]
async fn all_bytes_arrive_in_order_both_ways_at_once() {
    for (room, cut) in [(100, 1000), (4096, 7), (4096, 100_000), (1 << 20, 16 * 1024), (200_000, 50_001)] {
        let (client, server) = pair(room).await;
        let data = bytes(if cut < 100 { 20_000 } else { 700_000 });
        let ((r1, w1), (r2, w2)) = (split(client), split(server));
        let (_, _, up, down) =
            tokio::join!(send(w1, data.clone(), cut), send(w2, data.clone(), cut), receive(r2), receive(r1));
        assert!(up == data && down == data, "room {room}, cut {cut}: {} and {} bytes", up.len(), down.len());
    }
}

/// Offers several slices at a time, as HTTP/2 does with the head of a frame and its payload.
async fn send_in_slices(mut writer: WriteHalf<Client>, data: Vec<u8>) {
    let mut rest = &data[..];
    while !rest.is_empty() {
        let slices: Vec<_> = rest.chunks(12_000).take(12).map(IoSlice::new).collect();
        let n = writer.write_vectored(&slices).await.unwrap();
        rest = &rest[n..];
    }
    writer.shutdown().await.unwrap();
}

#[tokio::test]
async fn slices_leave_no_hole_where_the_socket_takes_a_part() {
    for room in [100, 5_000, 20_000, 70_000] {
        let (client, server) = pair(room).await;
        let data = bytes(700_000);
        let ((_r1, w1), (r2, _w2)) = (split(client), split(server));
        let (_, up) = tokio::join!(send_in_slices(w1, data.clone()), receive(r2));
        assert!(up == data, "room {room}: {} bytes of {}", up.len(), data.len());
    }
}

/// Notes how many bytes each write brings.
struct Noting {
    io: DuplexStream,
    writes: Arc<Mutex<Vec<usize>>>,
}

impl AsyncRead for Noting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Noting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = written {
            self.writes.lock().unwrap().push(n);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn each_large_frame_leaves_in_one_write_that_the_kernel_makes_one_segment_of() {
    const FRAMES: usize = 4;
    let ca = Ca::root("root");
    let (web, api) = (ca.credentials(&id("web")), ca.credentials(&id("api")));
    let ((near, far), expected, writes) = (duplex(1 << 20), id("api"), Arc::default());
    let near = Noting { io: near, writes: Arc::clone(&writes) };
    let (connector, acceptor) = (connector(&web), acceptor(&api));
    let (client, server) = tokio::join!(connector.connect(near, &expected), acceptor.accept(far));
    let (mut client, mut server) = (client.unwrap(), server.unwrap().0);
    writes.lock().unwrap().clear();
    // As the h2 crate offers them: the head with the first bytes of the payload, then the rest of it.
    let (head, payload) = (bytes(256), bytes(60 * 1024 + 9 - 256));
    for _ in 0..FRAMES {
        let n = client.write_vectored(&[IoSlice::new(&head), IoSlice::new(&payload)]).await.unwrap();
        assert_eq!(n, head.len() + payload.len());
    }
    client.flush().await.unwrap();
    let writes = std::mem::take(&mut *writes.lock().unwrap());
    // Seven packets of 9,001 bytes, less the heads of IP and TCP.
    assert!(writes.len() == FRAMES && writes.iter().all(|n| *n <= 7 * (9001 - 52)), "{writes:?}");
    let mut received = vec![0; FRAMES * (head.len() + payload.len())];
    server.read_exact(&mut received).await.unwrap();
    assert!(received.chunks(head.len() + payload.len()).all(|frame| frame == [&head[..], &payload[..]].concat()));
}

#[tokio::test]
async fn a_write_while_received_records_wait_loses_none_of_them() {
    let (mut client, mut server) = pair(1 << 20).await;
    let data = bytes(60_000);
    server.write_all(&data).await.unwrap();
    server.flush().await.unwrap();
    let mut first = [0; 10];
    client.read_exact(&mut first).await.unwrap();
    client.write_all(b"meanwhile").await.unwrap();
    client.flush().await.unwrap();
    let mut rest = vec![0; data.len() - 10];
    client.read_exact(&mut rest).await.unwrap();
    assert!(first == data[..10] && rest == data[10..]);
    let mut heard = [0; 9];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"meanwhile");
}

#[tokio::test]
async fn an_idle_session_holds_no_buffer() {
    let (mut client, mut server) = pair(1 << 20).await;
    client.write_all(&bytes(50_000)).await.unwrap();
    client.flush().await.unwrap();
    server.read_exact(&mut vec![0; 50_000]).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(1), server.read(&mut [0; 1])).await;
    assert!(waiting.is_err(), "nothing was sent");
    assert_eq!((client.held(), server.held()), (0, 0));
}

#[tokio::test]
async fn an_end_without_a_word_is_no_clean_end() {
    let (client, mut server) = pair(4096).await;
    drop(client);
    let error = server.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn an_end_amid_a_record_is_no_clean_end() {
    let (mut client, mut server) = pair(100).await;
    // The pipe takes a part of the record only.
    let sent = tokio::time::timeout(Duration::from_millis(1), async {
        client.write_all(&bytes(1000)).await.unwrap();
        client.flush().await
    });
    assert!(sent.await.is_err());
    drop(client);
    let error = server.read(&mut [0; 2000]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(server.held(), 100, "more than what has come");
}

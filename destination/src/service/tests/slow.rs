//! Readers that take a little, in HTTP/2 by hand: credit is given out byte by byte.
//!
//! Invariant: taking something now and then is not taking. Non-goal: readers that take nothing at all, see `tests`.

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::client::{self, SendRequest};
use prost::Message as _;
use tokio::io::DuplexStream;
use tokio::sync::Mutex;

use super::*;

/// A stream with a window of so many bytes, subscribed to `web:80`. The connection is driven until the end.
async fn subscribed(mesh: &Mesh, window: u32) -> RecvStream {
    let handshake = client::Builder::new().initial_window_size(window).handshake(mesh.connection());
    let (requests, connection): (SendRequest<Bytes>, client::Connection<DuplexStream, Bytes>) =
        handshake.await.unwrap();
    tokio::spawn(connection);
    stream(requests).await
}

async fn stream(requests: SendRequest<Bytes>) -> RecvStream {
    let request = http::Request::post("http://destination/mesh.discovery.v1.Discovery/Watch");
    let request = request.header("content-type", "application/grpc").body(()).unwrap();
    let (response, mut outgoing) = requests.ready().await.unwrap().send_request(request, false).unwrap();
    let addresses = vec![vec![10, 1, 0, 1].into()];
    let subscribe = wire::Subscribe { id: 1, resource: Some(wire::Resource { kind: Some(web(80)) }) };
    for kind in [Kind::Hello(wire::Hello { addresses, ..wire::Hello::default() }), Kind::Subscribe(subscribe)] {
        let message = wire::WatchRequest { kind: Some(kind) }.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let framed = BytesMut::from_iter([0].into_iter().chain(length).chain(message));
        outgoing.send_data(framed.freeze(), false).unwrap();
    }
    let body = response.await.unwrap().into_body();
    // Held by the task that keeps the request open.
    tokio::spawn(async move {
        let _open = outgoing;
        std::future::pending::<()>().await;
    });
    body
}

/// Held by a test that waits for a stream to be counted as stalled: the process has one counter.
pub(super) static ALONE: Mutex<()> = Mutex::const_new(());
const STALLED: &str = "mesh_destination_streams_ended_total{reason=\"stalled\"}";

/// Takes one byte of each `every`, until the server has enough; how long that took.
async fn trickle(mut body: RecvStream, every: Duration) -> Duration {
    let begun = Instant::now();
    while let Some(Ok(data)) = body.data().await {
        for _ in 0..data.len() {
            tokio::time::sleep(every).await; // the reader's pace
            if body.flow_control().release_capacity(1).is_err() {
                return begun.elapsed();
            }
        }
    }
    begun.elapsed()
}

#[tokio::test]
async fn r48_a_reader_that_takes_a_byte_now_and_then_is_disconnected() {
    let _alone = ALONE.lock().await;
    let stall = Duration::from_millis(400);
    let mesh = Mesh::start(Settings { stall, ..Settings::default() });
    mesh.apply(&format!("{WEB}{}", many(1000, "10.1.0.1")));
    let before = counted(STALLED);
    let body = subscribed(&mesh, 16).await;
    let lived = timeout(PATIENCE, trickle(body, stall / 4)).await.expect("an end");
    until_counted(STALLED, before).await;
    // The snapshot of 100 KB has a second more for each 64 KiB.
    assert!(lived < stall + Duration::from_secs(10), "{lived:?}");
}

#[tokio::test]
async fn a_reader_of_a_slow_line_is_left_alone() {
    let mesh = Mesh::start(Settings { stall: Duration::from_millis(400), ..Settings::default() });
    mesh.apply(&format!("{WEB}{}", many(3000, "10.1.0.1")));
    let mut body = subscribed(&mesh, 16 * 1024).await;
    let mut received = 0;
    let begun = Instant::now();
    while received < 150_000 {
        let data = timeout(PATIENCE, body.data()).await.unwrap().expect("more").expect("a stream that goes on");
        received += data.len();
        // 128 KiB a second: longer than `stall` in all.
        tokio::time::sleep(Duration::from_secs(1) * u32::try_from(data.len()).unwrap() / (128 * 1024)).await;
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
}

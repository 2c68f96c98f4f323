//! Readers that take a little at a time.
//!
//! Invariant: taking something now and then is not taking. Non-goal: readers that take nothing at all, see `tests`.

use tokio::sync::Mutex;

use super::*;

/// A stream that is subscribed to `web:80`; what comes is read by the test, byte by byte.
async fn subscribed(mesh: &Mesh) -> DuplexStream {
    let mut client = mesh.connection();
    let addresses = vec![vec![10, 1, 0, 1].into()];
    let subscribe = wire::Subscribe { id: 1, resource: Some(wire::Resource { kind: Some(web(80)) }) };
    for kind in [Kind::Hello(wire::Hello { addresses, ..wire::Hello::default() }), Kind::Subscribe(subscribe)] {
        let message = wire::WatchRequest { kind: Some(kind) }.encode_to_vec();
        client.write_u32(u32::try_from(message.len()).unwrap()).await.unwrap();
        client.write_all(&message).await.unwrap();
    }
    client
}

/// Held by a test that waits for a stream to be counted as stalled: the process has one counter.
pub(super) static ALONE: Mutex<()> = Mutex::const_new(());
const STALLED: &str = "mesh_destination_streams_ended_total{reason=\"stalled\"}";

#[tokio::test]
async fn r48_a_reader_that_takes_a_byte_now_and_then_is_disconnected() {
    let _alone = ALONE.lock().await;
    let stall = Duration::from_millis(400);
    let mesh = Mesh::start(Settings { stall, ..Settings::default() });
    mesh.apply(&format!("{WEB}{}", many(1000, "10.1.0.1")));
    let before = counted(STALLED);
    let mut client = subscribed(&mesh).await;
    let begun = Instant::now();
    while counted(STALLED) == before {
        // The snapshot of 100 KB has a second more for each 64 KiB.
        assert!(begun.elapsed() < stall + Duration::from_secs(10), "still there");
        client.read_u8().await.unwrap();
        tokio::time::sleep(stall / 4).await; // the reader's pace
    }
    assert!(begun.elapsed() > stall, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_reader_of_a_slow_line_is_left_alone() {
    let mesh = Mesh::start(Settings { stall: Duration::from_millis(400), ..Settings::default() });
    mesh.apply(&format!("{WEB}{}", many(3000, "10.1.0.1")));
    let mut client = subscribed(&mesh).await;
    let (begun, mut received, mut piece) = (Instant::now(), 0, [0; 8 * 1024]);
    while received < 150_000 {
        let read = timeout(PATIENCE, client.read(&mut piece)).await.unwrap().expect("a stream that goes on");
        assert!(read > 0, "ended after {received} bytes");
        received += read;
        // 128 KiB a second: longer than `stall` in all.
        tokio::time::sleep(Duration::from_secs(1) * u32::try_from(read).unwrap() / (128 * 1024)).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
}

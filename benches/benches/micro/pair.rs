//! Both sidecars with mutual TLS and sockets between them, and an application in threads of its own: its time is in the
//! figure, its allocations are not.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use mesh_tests::pair::{BODY, Pair};

use crate::meter::Meter;

const MESSAGE: usize = 64;

/// A request; a message on an open byte stream; a byte stream with one message.
pub(crate) fn all(meter: &mut Meter, pair: &Pair) {
    meter.waiting_step("pair/request", async || {
        assert_eq!(pair.request().await.expect("an answer"), BODY);
    });
    let mut held = meter.runtime.block_on(pair.open()).expect("a byte stream");
    meter.waiting_step("pair/echo", async || {
        let mut echo = [1; MESSAGE];
        held.write_all(&[0; MESSAGE]).await.expect("a stream that takes bytes");
        held.read_exact(&mut echo).await.expect("an echo");
    });
    meter.waiting_step("pair/byte-stream", async || {
        let mut stream = pair.open().await.expect("a byte stream");
        let mut echo = [1; MESSAGE];
        stream.write_all(&[0; MESSAGE]).await.expect("a stream that takes bytes");
        stream.read_exact(&mut echo).await.expect("an echo");
    });
}

//! R18 on identity: heads that are larger than they may be.

use mesh_tests::frames::{Frame, flag, hpack};
use mesh_tests::yardstick::count;

use crate::{FIELDS, Scene, note};

#[test]
fn r18_a_head_that_is_too_large_is_refused_and_its_connection_goes_on() {
    let mut scene = Scene::start();
    let ((status, next), grown, polite) = scene.beside(scene.identity(), |scene| {
        let mut peer = scene.dial();
        // Above the 16 KiB that are allowed, and in one frame.
        let large = "x".repeat(15 << 10);
        let fields = [&FIELDS[..], &[("x-large", &large[..8000]), ("x-larger", &large[..])]].concat();
        let block = hpack::literal(&fields);
        let (first, rest) = block.split_at(16 << 10);
        peer.send(&Frame::headers(1, flag::END_STREAM, first));
        peer.send(&Frame::continuation(1, flag::END_HEADERS, rest));
        let status = peer.until(|frame| frame.stream == 1 && frame.status().is_some()).frame();
        peer.send(&Frame::headers(3, flag::END_STREAM | flag::END_HEADERS, &hpack::literal(&FIELDS)));
        let next = peer.until(|frame| frame.stream == 3 && frame.status().is_some()).frame();
        (status.and_then(|frame| frame.status()), next.and_then(|frame| frame.status()))
    });
    assert_eq!((status, next), (Some(431), Some(200)));
    assert!(grown <= count(2 << 10, 1 << 10), "{grown} KiB");
    note(18, "identity", "head of 23 KiB", &format!("431, and the next request answered; {grown} KiB; {polite}"));
}

//! R18 on the servers of the control plane: heads that are larger than they may be.

use mesh_tests::frames::{Frame, flag, hpack};
use mesh_tests::yardstick::count;

use crate::{Scene, note};

#[test]
fn r18_a_head_that_is_too_large_is_refused_and_its_connection_goes_on() {
    let mut scene = Scene::start();
    for surface in scene.surfaces {
        let ((status, next), grown, polite) = scene.beside(surface, |scene| {
            let mut peer = scene.dial(surface, &[]);
            // Above the 16 KiB that both allow, and in one frame.
            let large = "x".repeat(15 << 10);
            let fields = [&surface.fields()[..], &[("x-large", &large[..8000]), ("x-larger", &large[..])]].concat();
            let block = hpack::literal(&fields);
            let (first, rest) = block.split_at(16 << 10);
            peer.send(&Frame::headers(1, flag::END_STREAM, first));
            peer.send(&Frame::continuation(1, flag::END_HEADERS, rest));
            let status = peer.until(|frame| frame.stream == 1 && frame.status().is_some()).frame();
            peer.send(&Frame::headers(3, flag::END_STREAM | flag::END_HEADERS, &hpack::literal(&surface.fields())));
            let next = peer.until(|frame| frame.stream == 3 && frame.status().is_some()).frame();
            (status.and_then(|frame| frame.status()), next.and_then(|frame| frame.status()))
        });
        assert_eq!((status, next), (Some(431), Some(200)), "{}", surface.name);
        assert!(grown <= count(2 << 10, 1 << 10), "{}: {grown} KiB", surface.name);
        note(18, surface.name, "head of 23 KiB", &format!("431, and the next request answered; {grown} KiB; {polite}"));
    }
}

//! Turns of a corked connection.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Waker;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;

fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn a_turn_reads_so_much_and_the_next_one_goes_on() {
    let (near, mut far) = duplex(4 * MOST_READ);
    far.write_all(&vec![1; 2 * MOST_READ]).await.unwrap();
    let (mut corked, _uncork) = cork(near);
    let mut part = vec![0; MOST_READ / 2];
    for turn in 0..2 {
        for _ in 0..2 {
            corked.read_exact(&mut part).await.unwrap();
        }
        assert!(poll(corked.read(&mut part)).is_pending(), "turn {turn} has no end");
    }
}

#[tokio::test]
async fn who_sends_waits_while_much_is_queued_and_until_it_has_left() {
    let (near, mut far) = duplex(16);
    let (mut corked, uncork) = cork(near);
    let queue = uncork.queue();
    let room = |queue: &Queue| poll(poll_fn(|cx| queue.poll_room(cx)));
    assert!(room(&queue).is_ready());
    queue.add(MOST_QUEUED);
    assert!(room(&queue).is_pending(), "{MOST_QUEUED} bytes are queued");

    let rest = |uncork: &Uncork<_>| {
        assert!(uncork.rest(Poll::<()>::Pending, &mut Context::from_waker(Waker::noop())).is_pending());
    };
    assert!(poll(corked.write_all(&[1; 17])).is_pending());
    rest(&uncork);
    assert!(room(&queue).is_pending(), "the stream takes no more");

    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { poll_fn(|cx| queue.poll_room(cx)).await }
    });
    tokio::task::yield_now().await;
    far.read_exact(&mut [0; 16]).await.unwrap();
    corked.write_all(&[1]).await.unwrap();
    rest(&uncork);
    waiting.await.unwrap();
    assert!(room(&queue).is_ready());
}

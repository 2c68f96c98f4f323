//! Messages over pipes, in pieces of all sizes, and what is held between them.

use std::task::Waker;

use mesh_proto::discovery::{Ack, WatchRequest, watch_request::Kind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

const MOST: usize = 64 * 1024;

fn framed(messages: &[&[u8]]) -> Vec<u8> {
    messages
        .iter()
        .flat_map(|message| [&u32::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat())
        .collect()
}

async fn next(inbox: &mut Inbox, io: &mut DuplexStream) -> Result<Option<Bytes>, Error> {
    std::future::poll_fn(|cx| inbox.poll_next(Pin::new(io), cx)).await
}

/// What `inbox` says without waiting.
fn look(inbox: &mut Inbox, io: &mut DuplexStream) -> Poll<Result<Option<Bytes>, Error>> {
    inbox.poll_next(Pin::new(io), &mut Context::from_waker(Waker::noop()))
}

fn request(error: &str) -> WatchRequest {
    WatchRequest { kind: Some(Kind::Ack(Ack { id: 1, version: 2, error: error.to_owned() })) }
}

#[tokio::test]
async fn messages_come_whole_out_of_any_pieces() {
    let large = vec![7; 3 * PIECE];
    let sent = [&b"a"[..], b"", &large, b"some more"];
    let bytes = framed(&sent);
    for piece in [1, 2, 3, 5, 1000, PIECE, bytes.len()] {
        let (mut near, mut far) = duplex(piece);
        let mut inbox = Inbox::new(MOST);
        let read = async {
            let mut read = Vec::new();
            while let Some(message) = next(&mut inbox, &mut far).await.unwrap() {
                read.push(message);
            }
            read
        };
        let write = async {
            near.write_all(&bytes).await.unwrap();
            drop(near);
        };
        let ((), read) = tokio::join!(write, read);
        assert_eq!(read, sent, "in pieces of {piece}");
    }
}

#[tokio::test]
async fn what_is_too_long_is_refused_before_it_has_come_and_the_longest_is_not() {
    for (length, error) in [(MOST, None), (MOST + 1, Some(MOST)), (u32::MAX as usize, Some(MOST))] {
        let (mut near, mut far) = duplex(MOST);
        near.write_u32(u32::try_from(length).unwrap()).await.unwrap();
        let mut inbox = Inbox::new(MOST);
        let looked = look(&mut inbox, &mut far);
        let refused = match looked {
            Poll::Pending => None,
            Poll::Ready(Err(Error::TooLong(most))) => Some(most),
            other => panic!("{length}: {other:?}"),
        };
        assert_eq!(refused, error, "{length}");
        assert!(inbox.received.capacity() <= MOST + PIECE);
    }
}

#[tokio::test]
async fn an_end_within_a_message_is_told_from_one_between_two() {
    for (bytes, is_whole) in [(&framed(&[b"a"])[..], true), (&[0, 0, 0], false), (&[0, 0, 0, 3, 1], false)] {
        let (mut near, mut far) = duplex(64);
        near.write_all(bytes).await.unwrap();
        drop(near);
        let mut inbox = Inbox::new(MOST);
        let end = loop {
            match next(&mut inbox, &mut far).await {
                Ok(Some(_)) => {}
                end => break end,
            }
        };
        assert!(matches!((&end, is_whole), (Ok(None), true) | (Err(Error::CutShort), false)), "{bytes:?}: {end:?}");
    }
}

#[tokio::test]
async fn nothing_is_held_between_messages() {
    let (mut near, mut far) = duplex(MOST);
    let (mut inbox, large) = (Inbox::new(MOST), vec![7; 40_000]);
    for message in [&b"small"[..], &large, b""] {
        near.write_all(&framed(&[message])).await.unwrap();
        assert_eq!(next(&mut inbox, &mut far).await.unwrap().unwrap(), message);
        assert!(look(&mut inbox, &mut far).is_pending());
        assert_eq!(inbox.received.capacity(), 0);
    }
    let mut link = Link::new(near, MOST);
    link.send(&request("no"));
    std::future::poll_fn(|cx| link.poll_flush(cx)).await.unwrap();
    assert_eq!((link.unsent.capacity(), link.inbox.received.capacity()), (0, 0));
}

#[tokio::test]
async fn a_link_answers_pings_and_has_room_again_once_its_messages_have_left() {
    let (near, mut far) = duplex(1024);
    let mut link = Link::new(near, MOST);
    far.write_all(&PING).await.unwrap();
    assert_eq!(link.next().await.unwrap().unwrap(), b""[..]);
    let driven = tokio::spawn(async move {
        let said = link.next().await;
        (link, said)
    });
    let mut answer = [1; PREFIX];
    far.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, PING);
    far.write_all(&framed(&[b"next"])).await.unwrap();
    let (mut link, said) = driven.await.unwrap();
    assert_eq!(said.unwrap().unwrap(), b"next"[..]);

    let mut sent = 0;
    let cx = &mut Context::from_waker(Waker::noop());
    while link.poll_room(cx).is_ready() {
        link.send(&request(&"x".repeat(100)));
        sent += request(&"x".repeat(100)).encoded_len() + PREFIX;
        assert!(sent < 2 * MOST_UNSENT, "as if it had room for ever");
    }
    let mut taken = vec![0; sent];
    let (left, read) = tokio::join!(std::future::poll_fn(|cx| link.poll_flush(cx)), far.read_exact(&mut taken));
    left.unwrap();
    read.unwrap();
    assert!(link.poll_room(cx).is_ready());
    assert!(taken.starts_with(&framed(&[&request(&"x".repeat(100)).encode_to_vec()])));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_falls_silent_is_left_and_one_that_speaks_is_not() {
    let (near, mut far) = duplex(1024);
    let mut link = Link::new(near, MOST);
    for _ in 0..10 {
        tokio::time::sleep(PING_INTERVAL).await;
        far.write_all(&PING).await.unwrap();
        link.next().await.unwrap().unwrap();
    }
    let begun = Instant::now();
    assert!(matches!(link.next().await, Err(Error::Silent)));
    assert!(begun.elapsed() >= SILENCE && begun.elapsed() < SILENCE + Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_long_message_may_take_longer_than_silence() {
    let (near, mut far) = duplex(1024);
    let mut link = Link::new(near, MOST);
    let slow = tokio::spawn(async move {
        for byte in framed(&[b"as slow as can be"]) {
            tokio::time::sleep(SILENCE / 2).await;
            far.write_u8(byte).await.unwrap();
        }
        far
    });
    assert_eq!(link.next().await.unwrap().unwrap(), b"as slow as can be"[..]);
    drop(slow.await.unwrap());
}

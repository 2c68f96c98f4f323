//! What is on its way to a proxy: a snapshot for one subscription, a ping, or the reason of the end.
//!
//! Invariant: a snapshot is a few bytes of its own and an encoding that all streams share.

use std::io::IoSlice;

use bytes::{Buf, Bytes};
use mesh_mtls::messages::{PING, PREFIX};
use mesh_proto::discovery::watch_response::Snapshot;
use mesh_proto::discovery::{self as wire, WatchResponse};
use prost::Message as _;

/// The prefix, and the longest field `id`: its tag, and ten bytes of a number.
const HEAD: usize = PREFIX + 1 + 10;

/// A message, or what of it is still to go.
#[derive(Debug)]
pub(super) struct Message {
    head: [u8; HEAD],
    /// What of `head` is still to go.
    from: u8,
    to: u8,
    /// Shared by all subscriptions.
    body: Bytes,
}

impl Message {
    /// None: it is longer than its prefix can say, which the bounds of snapshots exclude.
    pub(super) fn snapshot(id: u64, body: Bytes) -> Option<Self> {
        let mut head = [0; HEAD];
        // Messages that follow each other merge, so the id may stand before the rest.
        let field = WatchResponse { id, version: 0, snapshot: None };
        let to = PREFIX + field.encoded_len();
        field.encode(&mut head.get_mut(PREFIX..)?).ok()?;
        let length = u32::try_from(to - PREFIX + body.len()).ok()?;
        head[..PREFIX].copy_from_slice(&length.to_be_bytes());
        Some(Self { head, from: 0, to: u8::try_from(to).ok()?, body })
    }

    pub(super) fn ping() -> Self {
        let mut head = [0; HEAD];
        head[..PREFIX].copy_from_slice(&PING);
        Self { head, from: 0, to: PREFIX as u8, body: Bytes::new() }
    }

    /// The last one. A reason has no more than a few hundred bytes.
    pub(super) fn end(reason: String) -> Option<Self> {
        let end = Snapshot::End(wire::End { reason });
        Self::snapshot(0, WatchResponse { id: 0, version: 0, snapshot: Some(end) }.encode_to_vec().into())
    }

    fn head(&self) -> &[u8] {
        &self.head[usize::from(self.from)..usize::from(self.to)]
    }
}

impl Buf for Message {
    fn remaining(&self) -> usize {
        self.head().len() + self.body.len()
    }

    fn chunk(&self) -> &[u8] {
        if self.head().is_empty() { &self.body } else { self.head() }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = [self.head(), &self.body].into_iter().filter(|part| !part.is_empty());
        let mut filled = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, count: usize) {
        let of_head = count.min(self.head().len());
        // No more than the head has, which is a few bytes.
        self.from += u8::try_from(of_head).unwrap_or_default();
        self.body.advance(count - of_head);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_what_prost_reads_however_it_is_cut() {
        let snapshot = Bytes::from(WatchResponse { id: 0, version: 9, snapshot: None }.encode_to_vec());
        for id in [0, 1, 300, u64::MAX] {
            let length = Message::snapshot(id, snapshot.clone()).unwrap().remaining();
            for cut in 0..=length {
                let mut message = Message::snapshot(id, snapshot.clone()).unwrap();
                let mut bytes = Vec::from(message.copy_to_bytes(cut));
                assert_eq!(message.remaining(), length - cut);
                let mut slices = [IoSlice::new(&[]); 2];
                let filled = message.chunks_vectored(&mut slices);
                slices[..filled].iter().for_each(|slice| bytes.extend_from_slice(slice));
                assert_eq!(bytes[..PREFIX], [0, 0, 0, u8::try_from(length - PREFIX).unwrap()]);
                let read = WatchResponse::decode(&bytes[PREFIX..]).unwrap();
                assert_eq!((read.id, read.version), (id, 9));
            }
        }
    }

    #[test]
    fn a_ping_has_no_bytes_and_an_end_says_why() {
        let mut ping = Message::ping();
        assert_eq!(ping.copy_to_bytes(ping.remaining())[..], PING);
        let mut end = Message::end("enough".to_owned()).unwrap();
        let bytes = end.copy_to_bytes(end.remaining());
        let read = WatchResponse::decode(&bytes[PREFIX..]).unwrap();
        assert_eq!(read.snapshot, Some(Snapshot::End(wire::End { reason: "enough".to_owned() })));
    }
}

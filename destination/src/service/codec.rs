//! gRPC's framing for this one method: requests decoded by prost, responses from bytes that were encoded before.
//!
//! Invariant: what goes out is a `WatchResponse` to every reader of protobuf. Non-goal: compression.

use bytes::{BufMut as _, Bytes};
use mesh_proto::discovery::{WatchRequest, WatchResponse};
use prost::Message as _;
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// A snapshot on its way to one subscription.
#[derive(Clone, Debug)]
pub(super) struct Update {
    pub(super) id: u64,
    /// Shared by all subscriptions.
    pub(super) snapshot: Bytes,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Codec;

impl tonic::codec::Codec for Codec {
    type Encode = Update;
    type Decode = WatchRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

/// Small, for there is a stream for each proxy, and most are idle; the buffer grows when a snapshot needs it.
fn buffers() -> BufferSettings {
    BufferSettings::new(1024, 32 * 1024)
}

impl Encoder for Codec {
    type Item = Update;
    type Error = Status;

    fn encode(&mut self, update: Update, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // Messages that follow each other merge, so the id may stand before the rest.
        let head = WatchResponse { id: update.id, version: 0, snapshot: None };
        buffer.reserve(head.encoded_len() + update.snapshot.len());
        head.encode(buffer).map_err(|error| Status::internal(error.to_string()))?;
        buffer.put_slice(&update.snapshot);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

impl Decoder for Codec {
    type Item = WatchRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<WatchRequest>, Status> {
        let request = WatchRequest::decode(buffer);
        request.map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

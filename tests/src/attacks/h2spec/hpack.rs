//! Field blocks that cannot be decoded (RFC 7541).

use super::{Case, Peer, Seen, case};
use crate::frames::code::COMPRESSION_ERROR;
use crate::frames::{Frame, flag, hpack};

/// Beyond the static table, where nothing has been added.
const NOWHERE: usize = 70;

pub(super) const CASES: &[Case] = &[
    case("7541 2.3.3", "an indexed field that is in no table", |peer| broken(peer, &hpack::indexed(NOWHERE))),
    case("7541 2.3.3", "a literal whose name is in no table", |peer| {
        broken(peer, &[hpack::integer(NOWHERE, 6, 0x40), hpack::string(b"value")].concat())
    }),
    case("7541 4.2", "a change of the table's size at the end of a block", |peer| broken(peer, &hpack::table_size(1))),
    case("7541 5.2", "a Huffman string with more than 7 bits of padding", |peer| {
        value(peer, &[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf, 0xff])
    }),
    // `a` is 00011.
    case("7541 5.2", "a Huffman string padded with zeros", |peer| value(peer, &[0b0001_1000])),
    case("7541 5.2", "a Huffman string with EOS", |peer| value(peer, &[0xff, 0xff, 0xff, 0xff])),
    case("7541 6.1", "an indexed field of index 0", |peer| broken(peer, &hpack::indexed(0))),
    case("7541 6.3", "a table larger than SETTINGS_HEADER_TABLE_SIZE", |peer| {
        peer.begin()?;
        let block = [hpack::table_size(4097), peer.request("GET", &[])].concat();
        peer.send(&Frame::headers(1, flag::END_HEADERS | flag::END_STREAM, &block));
        peer.connection_error(&[COMPRESSION_ERROR])
    }),
];

/// A good block with something after it that cannot be decoded.
fn broken(peer: &mut Peer, end: &[u8]) -> Seen {
    peer.begin()?;
    let block = [peer.request("GET", &[]), end.to_vec()].concat();
    peer.send(&Frame::headers(1, flag::END_HEADERS | flag::END_STREAM, &block));
    peer.connection_error(&[COMPRESSION_ERROR])
}

/// A field with a value that cannot be decoded.
fn value(peer: &mut Peer, value: &[u8]) -> Seen {
    broken(peer, &[vec![0], hpack::string(b"custom-key"), hpack::huffman(value)].concat())
}

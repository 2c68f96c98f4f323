//! Field blocks (RFC 7541): an encoder that never compresses, and the single pieces for those who want to break one.

/// Fields as literals without indexing and without Huffman's code (6.2.2): what a test says is what is sent.
#[must_use]
pub fn literal(fields: &[(&str, &str)]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|(name, value)| [vec![0], string(name.as_bytes()), string(value.as_bytes())].concat())
        .collect()
}

/// A literal that the far end adds to its table (6.2.1).
#[must_use]
pub fn indexing(name: &str, value: &str) -> Vec<u8> {
    [vec![0x40], string(name.as_bytes()), string(value.as_bytes())].concat()
}

/// A reference to a field of the table (6.1); 62 is what was added last.
#[must_use]
pub fn indexed(index: usize) -> Vec<u8> {
    integer(index, 7, 0x80)
}

/// A change of the table's size (6.3).
#[must_use]
pub fn table_size(size: usize) -> Vec<u8> {
    integer(size, 5, 0x20)
}

/// An integer with a prefix of `bits` bits; `first` are the bits before it (5.1).
#[must_use]
pub fn integer(value: usize, bits: u32, first: u8) -> Vec<u8> {
    let most = (1_usize << bits) - 1;
    if value < most {
        return vec![first | u8::try_from(value).unwrap_or_default()];
    }
    let mut bytes = vec![first | u8::try_from(most).unwrap_or_default()];
    let mut rest = value - most;
    while rest >= 128 {
        bytes.push(0x80 | u8::try_from(rest % 128).unwrap_or_default());
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap_or_default());
    bytes
}

/// A string as it is (5.2).
#[must_use]
pub fn string(bytes: &[u8]) -> Vec<u8> {
    [integer(bytes.len(), 7, 0), bytes.to_vec()].concat()
}

/// A string that claims to be in Huffman's code.
#[must_use]
pub fn huffman(bytes: &[u8]) -> Vec<u8> {
    [integer(bytes.len(), 7, 0x80), bytes.to_vec()].concat()
}

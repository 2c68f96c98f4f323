//! Identity's file of tokens.
//!
//! Oracles: a plain reader of the same file counts the same tokens; a cut file is refused or says less, never something else.

use std::collections::BTreeSet;

use mesh_identity::tokens::Table;

const DOMAIN: &str = "cluster.local";

/// A file of tokens.
pub(super) fn tokens(data: &[u8]) {
    let whole = match Table::parse(data, DOMAIN) {
        Ok(whole) => whole,
        Err(error) => {
            let lines = data.split(|byte| *byte == b'\n').count();
            assert!((1..=lines).contains(&error.line), "{error}: of {lines}");
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
            return;
        }
    };
    assert!(data.is_empty() || data.ends_with(b"\n"), "its last line has no end");
    let text = std::str::from_utf8(data).expect("it was accepted");
    let said = text.split('\n').map(str::trim_ascii).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut hashes = BTreeSet::new();
    for line in said {
        let (hash, id) = line.split_once(|c: char| c.is_ascii_whitespace()).expect("it was accepted");
        assert!(id.trim_ascii_start().starts_with("spiffe://cluster.local/ns/"), "{line}");
        hashes.insert(hash.to_ascii_lowercase());
    }
    assert_eq!(whole.len(), hashes.len());
    assert_eq!(whole.is_empty(), hashes.is_empty());
    assert!(whole.find(b"").is_none_or(|id| id.trust_domain() == DOMAIN));
    for cut in [data.len() / 3, data.len() / 2, data.len().saturating_sub(1)] {
        if let Ok(part) = Table::parse(&data[..cut], DOMAIN) {
            assert!(part.len() <= whole.len() && (cut == 0 || data[cut - 1] == b'\n'), "cut at {cut}");
        }
    }
}

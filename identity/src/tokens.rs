//! Who a token stands for.
//!
//! Invariant: only hashes are stored. A token has 256 random bits, so a plain SHA-256 hides it, and finding it by that
//! hash tells nothing through timing. A file is taken as a whole or not at all; its last line must have an end, for a
//! cut line could name somebody else. Non-goal: expiry; a token is withdrawn by taking its line out.

mod add;

use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use mesh_mtls::spiffe::{self, Id};

pub use add::{AddError, add};

/// What a line begins with, before the hash in hexadecimal.
const SCHEME: &str = "sha256:";

type Hash = [u8; SHA256_OUTPUT_LEN];

/// Tokens by hash.
#[derive(Debug, Default)]
pub struct Table {
    ids: HashMap<Hash, Id>,
}

/// What is wrong with a tokens file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct Error {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with one line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not UTF-8.
    #[error("not UTF-8")]
    Encoding,
    /// The last line has no end: perhaps somebody is still writing.
    #[error("the line has no end")]
    Unfinished,
    /// Not `sha256:<64 hexadecimal digits> <SPIFFE id>`.
    #[error("not of the form sha256:<64 hexadecimal digits> <SPIFFE id>")]
    Shape,
    /// The id is none.
    #[error("the SPIFFE id is {0}")]
    Id(#[from] spiffe::Error),
    /// The id is of a trust domain that is not ours.
    #[error("the SPIFFE id is of another trust domain")]
    TrustDomain,
    /// The token is there already.
    #[error("the token is there already")]
    Repeated,
}

impl Table {
    /// Reads a file: one token a line; empty lines and those that begin with `#` are passed over.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn parse(file: &[u8], trust_domain: &str) -> Result<Self, Error> {
        let mut ids = HashMap::new();
        for (index, line) in file.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let wrong = |fault| Error { line: index + 1, fault };
            let Some((hash, id)) = parse_line(line, trust_domain).map_err(wrong)? else { continue };
            if ids.insert(hash, id).is_some() {
                return Err(wrong(Fault::Repeated));
            }
        }
        Ok(Self { ids })
    }

    /// Who holds this token, if anybody.
    #[must_use]
    pub fn find(&self, token: &[u8]) -> Option<&Id> {
        self.ids.get(&hash(token))
    }

    /// How many tokens there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

fn parse_line(line: &[u8], trust_domain: &str) -> Result<Option<(Hash, Id)>, Fault> {
    let line = line.strip_suffix(b"\n").ok_or(Fault::Unfinished)?;
    let line = std::str::from_utf8(line).map_err(|_| Fault::Encoding)?.trim_ascii();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (hash, id) = line.split_once(|c: char| c.is_ascii_whitespace()).ok_or(Fault::Shape)?;
    let hash = hash.strip_prefix(SCHEME).and_then(parse_hash).ok_or(Fault::Shape)?;
    let id: Id = id.trim_ascii_start().parse()?;
    if id.trust_domain() != trust_domain {
        return Err(Fault::TrustDomain);
    }
    Ok(Some((hash, id)))
}

fn parse_hash(text: &str) -> Option<Hash> {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if text.len() != 2 * hash.len() || !is_hex {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

fn hash(token: &[u8]) -> Hash {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest(&SHA256, token).as_ref());
    hash
}

#[cfg(test)]
mod tests;

//! The shape of a CSR: each element fills the one around it, and there are as many as we look at.
//!
//! The parser that reads the fields stops at what it does not understand and passes over the rest, so that a broken subject
//! would look like an empty one. Invariant: what is left to that parser has no room for bytes that nobody looks at.
//! Non-goal: what the elements mean.

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const ATTRIBUTES: u8 = 0xa0;

/// An element: its tag and what is in it.
type Element<'a> = (u8, &'a [u8]);

/// Whether `der` is a request (RFC 2986 4.2) whose subject has one attribute at most, and which asks for extensions at most.
pub(super) fn is_whole(der: &[u8]) -> bool {
    request(der).is_some()
}

fn request(der: &[u8]) -> Option<()> {
    let [(SEQUENCE, request)] = all(der)?[..] else { return None };
    let [(SEQUENCE, info), (SEQUENCE, _), (BIT_STRING, _)] = all(request)?[..] else { return None };
    let info = all(info)?;
    let [(INTEGER, _), (SEQUENCE, subject), (SEQUENCE, key), ref rest @ ..] = info[..] else { return None };
    let [(SEQUENCE, _), (BIT_STRING, _)] = all(key)?[..] else { return None };
    name(subject)?;
    match rest {
        [] => Some(()),
        [(ATTRIBUTES, attributes)] => all(attributes)?.into_iter().try_for_each(attribute),
        _ => None,
    }
}

fn name(subject: &[u8]) -> Option<()> {
    for part in all(subject)? {
        let (SET, part) = part else { return None };
        for attribute in all(part)? {
            let (SEQUENCE, attribute) = attribute else { return None };
            let [(OID, _), _] = all(attribute)?[..] else { return None };
        }
    }
    Some(())
}

fn attribute(attribute: Element<'_>) -> Option<()> {
    let (SEQUENCE, attribute) = attribute else { return None };
    let [(OID, _), (SET, values)] = all(attribute)?[..] else { return None };
    let extensions = match all(values)?[..] {
        [(SEQUENCE, extensions)] => extensions,
        // Other attributes than the request for extensions are refused by name, later.
        [_] => return Some(()),
        _ => return None,
    };
    for extension in all(extensions)? {
        let (SEQUENCE, extension) = extension else { return None };
        let ([(OID, _), (OCTET_STRING, value)] | [(OID, _), (BOOLEAN, _), (OCTET_STRING, value)]) = all(extension)?[..]
        else {
            return None;
        };
        let [_] = all(value)?[..] else { return None };
    }
    Some(())
}

/// The elements that `bytes` are made of, to the last byte.
fn all(mut bytes: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut elements = Vec::new();
    while !bytes.is_empty() {
        let (element, rest) = first(bytes)?;
        elements.push(element);
        bytes = rest;
    }
    Some(elements)
}

/// X.690 8.1 and 10.1: short tags, and lengths in as few bytes as they take. No CSR of ours needs more than two.
fn first(bytes: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = match (short, rest) {
        (0..=0x7f, rest) => (usize::from(short), rest),
        (0x81, [length @ 0x80..=0xff, rest @ ..]) => (usize::from(*length), rest),
        (0x82, [high @ 1..=0xff, low, rest @ ..]) => (usize::from(*high) << 8 | usize::from(*low), rest),
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    (tag & 0x1f != 0x1f).then_some(((tag, content), rest))
}

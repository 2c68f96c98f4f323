//! What a TLS peer says after the handshake.
//!
//! Oracle: a reader of whole handshake messages, which knows nothing of records.

use mesh_mtls::tls::talk::{Said, Talk};
use rustls::ContentType;

use super::input::Input;

/// Any records, of a server or a client: until there is a fault, keys change when a message says so and at no other time.
pub(super) fn talk(data: &[u8]) {
    let mut input = Input(data);
    let mut talk = if input.byte() % 2 == 0 { Talk::with_server() } else { Talk::with_client() };
    let (mut messages, mut changes) = (Vec::new(), Vec::new());
    while !input.0.is_empty() {
        let kind = ContentType::from(input.byte());
        let length = usize::from(input.byte());
        let content = input.take(length);
        let Ok(said) = talk.hear(kind, content) else { return };
        if kind == ContentType::Handshake {
            messages.extend_from_slice(content);
        }
        match said {
            Said::NewKeys { answer } => changes.push(answer),
            Said::Data => assert!(kind == ContentType::ApplicationData && !content.is_empty()),
            Said::Closed => assert_eq!((kind, content.get(1)), (ContentType::Alert, Some(&0))),
            Said::Nothing => {}
        }
        assert_eq!(changes, updates(&messages), "after {content:?}");
    }
}

/// Which of the key updates that are there as a whole ask for an answer.
fn updates(mut messages: &[u8]) -> Vec<bool> {
    let mut updates = Vec::new();
    while let Some((&[kind, l0, l1, l2], rest)) = messages.split_first_chunk::<4>() {
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        let Some((body, rest)) = rest.split_at_checked(length) else { break };
        if kind == 24 {
            updates.push(body == [1]);
        }
        messages = rest;
    }
    updates
}

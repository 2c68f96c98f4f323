//! What either end sees of a conversation, and what of it may differ with a mesh in between.
//!
//! The whole list of what may differ (all else is compared byte by byte):
//! - the fields that end at a hop (RFC 9110 7.6.1), with those that Connection names, do not come through; TE comes through
//!   as `trailers` or not at all;
//! - several Cookie fields of a request in HTTP/1 come as one (RFC 9113 8.2.3);
//! - an answer 304 in HTTP/1 comes without Content-Length (optional there, RFC 9110 8.6), so scripts have none;
//! - each hop has a Connection and a Transfer-Encoding of its own;
//! - requests get `mesh-client-id`;
//! - the case of names and the reason phrase are not looked at: HTTP/2 has neither; an answer to HTTP/1.0 may say 1.0;
//! - after an answer that says `connection: close`, or that ends with its connection, a client's connection may go on;
//! - trailers of a request in HTTP/1 whose answer is complete before they come may not come through (hyper keeps them back), so
//!   scripts have none;
//! - who ends its direction in the middle of a request gets no answer of the server, but may get one of the mesh;
//! - a connection that breaks off does so with FIN or RST.

use std::fmt;

use crate::script::{Conversation, End, Version};

/// Names in lower case, in the order in which they came.
pub(crate) type Fields = Vec<(String, Vec<u8>)>;

/// The client in the mesh.
const CLIENT: &[u8] = b"spiffe://cluster.local/ns/default/sa/client";

/// All that was seen of a conversation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// By the client, in the order of its requests.
    pub(crate) answers: Vec<Answered>,
    /// By the server, as they came; in HTTP/2 in the order of the requests.
    pub(crate) requests: Vec<(usize, Asked)>,
    /// How the connection was at last.
    pub(crate) end: Closing,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Method, target, version; in HTTP/2 the authority as well.
    pub(crate) line: String,
    pub(crate) fields: Shown,
    pub(crate) body: Content,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) interim: Vec<(u16, Shown)>,
    /// 0: none came.
    pub(crate) status: u16,
    pub(crate) fields: Shown,
    pub(crate) body: Content,
}

/// A body.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    pub(crate) trailers: Shown,
    pub(crate) end: Ending,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Not looked for, as the stream or connection was given up by this end.
    #[default]
    None,
    Whole,
    /// The connection broke off.
    Cut,
    /// The stream was reset with this code.
    Reset(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// One more exchange went well.
    WentOn,
    /// It ended at a message's end.
    Closed,
    /// It was given up by this end, or broke off as it should, or may go on or not.
    Any,
    /// It broke off or stayed where it should have ended.
    Wrong,
}

/// Fields, made comparable.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Shown(pub(crate) Fields);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, value)| format!("{name}: {}", value.escape_ascii()))).finish()
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = self.bytes.iter().fold(0u32, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        write!(f, "{} bytes ({sum:08x}), {:?}, then {:?}", self.bytes.len(), self.trailers, self.end)
    }
}

/// Which way was gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Mesh,
}

impl Way {
    /// Fields without what may differ, by name and then as they came.
    pub(crate) fn show(self, script: &Conversation, mut fields: Fields) -> Shown {
        match self {
            Self::Direct => {
                end_at_this_hop(&mut fields);
                if script.version == Version::H1 {
                    join_cookies(&mut fields);
                }
            }
            Self::Mesh => fields.retain(|(name, value)| match name.as_str() {
                "connection" | "transfer-encoding" => false,
                "mesh-client-id" => value != CLIENT,
                _ => true,
            }),
        }
        fields.retain(|(name, _)| name != "x-exchange");
        fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        Shown(fields)
    }
}

fn end_at_this_hop(fields: &mut Fields) {
    let named: Vec<String> = fields
        .iter()
        .filter(|(name, _)| name == "connection")
        .flat_map(|(_, value)| {
            String::from_utf8_lossy(value).to_ascii_lowercase().split(',').map(str::to_owned).collect::<Vec<_>>()
        })
        .map(|name| name.trim().to_owned())
        .collect();
    let hop = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];
    fields.retain(|(name, _)| !hop.contains(&name.as_str()) && (name == "te" || !named.contains(name)));
    // Twice the same is said once.
    let mut seen = false;
    fields.retain(|(name, _)| name != "te" || !std::mem::replace(&mut seen, true));
}

fn join_cookies(fields: &mut Fields) {
    let (cookies, mut rest): (Fields, Fields) =
        std::mem::take(fields).into_iter().partition(|(name, _)| name == "cookie");
    if !cookies.is_empty() {
        let values: Vec<_> = cookies.into_iter().map(|(_, value)| value).collect();
        rest.push(("cookie".to_owned(), values.join(&b"; "[..])));
    }
    *fields = rest;
}

/// Whether the connection may be either way at its end.
pub(crate) fn may_go_on(script: &Conversation) -> bool {
    let Some(last) = script.exchanges.last() else { return true };
    script.version == Version::H1 && script.end == End::GoesOn && last.answer.closes && !last.old
}

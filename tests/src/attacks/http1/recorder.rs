//! A back end that reads as strictly as the oracle, keeps what it read, and answers each request with its target.
//!
//! Invariant: what is not clean is recorded as such and answered by closing; requests for `/` are a bystander's and answered
//! but not kept.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::oracle::{self, Request};
use crate::netns::Host;
use crate::raw::{Conversation, Server};

/// A running back end.
pub struct Recorder {
    /// The server, which knows all bytes.
    pub server: Server,
    kept: Arc<Mutex<Vec<Arrived>>>,
}

/// What came to the back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// A whole request.
    Clean(Request),
    /// Bytes that are no clean request: why, and the bytes.
    Dirty(String, String),
}

impl Arrived {
    /// In a few words.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Clean(request) => request.target.clone(),
            Self::Dirty(why, bytes) => format!("not clean, {why}: {bytes:?}"),
        }
    }
}

impl Recorder {
    /// Listens on `port` of `host`.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn start(host: &Host, port: u16) -> Self {
        let kept: Arc<Mutex<Vec<Arrived>>> = Arc::default();
        let keep = Arc::clone(&kept);
        let server = Server::start(host, port, move |conversation| {
            serve(conversation, |arrived| keep.lock().unwrap_or_else(PoisonError::into_inner).push(arrived))
        });
        Self { server, kept }
    }

    /// What has come since the last call.
    #[must_use]
    pub fn take(&self) -> Vec<Arrived> {
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn serve(mut conversation: Conversation, keep: impl Fn(Arrived)) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        match oracle::request(&bytes) {
            Ok(Some((request, length))) => {
                bytes.drain(..length);
                let answer = answer(&request);
                if request.target != "/" {
                    keep(Arrived::Clean(request));
                }
                conversation.say(&answer)?;
            }
            Ok(None) => {
                let chunk = conversation.read()?;
                if chunk.is_empty() {
                    return Ok(());
                }
                bytes.extend(chunk);
            }
            Err(why) => {
                keep(Arrived::Dirty(why, String::from_utf8_lossy(&bytes).into_owned()));
                return Ok(());
            }
        }
    }
}

/// 200 with the request's target as body.
fn answer(request: &Request) -> Vec<u8> {
    let body = &request.target;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    let body = if request.method == "HEAD" { "" } else { body };
    [head, body.to_owned()].concat().into_bytes()
}

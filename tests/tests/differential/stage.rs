//! Where a conversation is held: its script, how far either end has come, and what the server has seen.
//!
//! Invariant: who breaks off waits until the other end has seen all that came before, so what is seen does not depend on time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::script::Conversation;
use crate::seen::{Asked, Fields, Way};

/// One conversation on one way.
pub(crate) struct Stage {
    pub(crate) run: u64,
    pub(crate) script: Conversation,
    pub(crate) way: Way,
    /// 0: nothing yet; else one more than there are bytes of a body.
    requests: Vec<watch::Sender<usize>>,
    answers: Vec<watch::Sender<usize>>,
    seen: Mutex<Vec<(usize, Asked)>>,
    recorded: watch::Sender<usize>,
}

impl Stage {
    pub(crate) fn new(run: u64, script: Conversation, way: Way) -> Self {
        let counts = || script.exchanges.iter().map(|_| watch::channel(0).0).collect();
        let (requests, answers) = (counts(), counts());
        Self { run, way, requests, answers, seen: Mutex::default(), recorded: watch::channel(0).0, script }
    }

    /// A request's head and `count` bytes of its body have come to the server.
    pub(crate) fn server_has(&self, index: usize, count: usize) {
        self.requests[index].send_replace(count + 1);
    }

    /// An answer's head and `count` bytes of its body have come to the client.
    pub(crate) fn client_has(&self, index: usize, count: usize) {
        self.answers[index].send_replace(count + 1);
    }

    /// Waits until the server has a request's head and so much of its body.
    pub(crate) async fn until_server_has(&self, index: usize, count: usize) {
        until(&self.requests[index], count + 1).await;
    }

    /// Waits until the client has an answer's head and so much of its body.
    pub(crate) async fn until_client_has(&self, index: usize, count: usize) {
        until(&self.answers[index], count + 1).await;
    }

    /// The server has done with a request.
    pub(crate) fn record(&self, index: usize, asked: Asked) {
        let mut seen = self.seen();
        seen.push((index, asked));
        self.recorded.send_replace(seen.len());
    }

    /// Waits until the server has done with `count` requests.
    pub(crate) async fn until_recorded(&self, count: usize) {
        until(&self.recorded, count).await;
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Vec<(usize, Asked)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What names an exchange on the wire.
    pub(crate) fn name(&self, index: usize) -> (&'static str, String) {
        ("x-exchange", format!("{}/{index}", self.run))
    }
}

async fn until(count: &watch::Sender<usize>, goal: usize) {
    // Its sender lives as long as the stage.
    let _ = count.subscribe().wait_for(|count| *count >= goal).await;
}

/// The conversation that is being held now.
#[derive(Default)]
pub(crate) struct Current(Mutex<Option<Arc<Stage>>>);

impl Current {
    pub(crate) fn set(&self, stage: &Arc<Stage>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(stage));
    }

    /// Which exchange a request belongs to; none when it is of an earlier conversation.
    pub(crate) fn find(&self, fields: &Fields) -> Option<(Arc<Stage>, usize)> {
        let (_, name) = fields.iter().find(|(name, _)| name == "x-exchange")?;
        let (run, index) = std::str::from_utf8(name).ok()?.split_once('/')?;
        let stage = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        (stage.run.to_string() == run).then_some((stage, index.parse().ok()?))
    }
}

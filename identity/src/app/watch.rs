//! Files to cells, for as long as the process lives.
//!
//! Invariant: only this task writes the cells. A look at the files happens on a thread that may block, so a hanging
//! file system stops reloading and nothing else. Non-goal: judging the files.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use mesh_kit::ready::{Check, Status};
use mesh_mtls::credentials::{Credentials, Leaf};
use mesh_mtls::spiffe::Id;
use tokio::sync::watch;
use tokio::task;
use tokio::time::{MissedTickBehavior, interval};

use crate::authority::{self, Authority, Files};
use crate::cli::Serve;
use crate::files::{Contents, INTERVAL, Watched};
use crate::metrics::{Metrics, Source};
use crate::tokens::Table;

/// An issuer that ends within this time is worth a warning at each start and reload.
const EXPIRY_WARNING: Duration = Duration::from_secs(30 * 24 * 3600);

/// What the service reads.
pub(super) struct Cells {
    pub(super) authority: watch::Receiver<Authority>,
    pub(super) tokens: watch::Receiver<Arc<Table>>,
    pub(super) credentials: Credentials,
}

/// Owns the cells' other ends.
pub(super) struct Watcher {
    authority_files: Watched,
    tokens_file: Watched,
    authority: watch::Sender<Authority>,
    tokens: watch::Sender<Arc<Table>>,
    credentials: Credentials,
    own_id: Id,
    leaf_lifetime: Duration,
    trust_domain: String,
    issuer_check: Check,
    metrics: Metrics,
}

/// Reads everything for the first time. The tokens file may be missing yet; the others may not.
pub(super) fn start(
    settings: &Serve,
    own_id: Id,
    issuer_check: Check,
    metrics: Metrics,
) -> anyhow::Result<(Watcher, Cells)> {
    let mut authority_files = Watched::new(settings.authority_paths().to_vec());
    let mut tokens_file = Watched::new(vec![settings.tokens.clone()]);
    let files = files(authority_files.take()).context("files of the CA")?;
    let (authority, authority_cell) = watch::channel(authority::first(files, &own_id, SystemTime::now())?);
    let table = first_tokens(tokens_file.take(), settings)?;
    metrics.tokens(table.len());
    let (tokens, tokens_cell) = watch::channel(Arc::new(table));
    let credentials = Credentials::new(authority_cell.borrow().anchors.clone());
    let watcher = Watcher {
        authority_files,
        tokens_file,
        authority,
        tokens,
        credentials: credentials.clone(),
        own_id,
        leaf_lifetime: settings.leaf_lifetime,
        trust_domain: settings.trust_domain.clone(),
        issuer_check,
        metrics,
    };
    watcher.put_in_force(SystemTime::now());
    Ok((watcher, Cells { authority: authority_cell, tokens: tokens_cell, credentials }))
}

fn first_tokens(mut contents: Contents, settings: &Serve) -> anyhow::Result<Table> {
    match contents.pop() {
        Some(Ok(file)) => Ok(Table::parse(&file, &settings.trust_domain).context("tokens file")?),
        Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            tracing::warn!(file = %settings.tokens.display(), "no tokens file yet; everybody is refused");
            Ok(Table::default())
        }
        Some(Err(error)) => Err(error).with_context(|| format!("tokens file {}", settings.tokens.display())),
        None => Err(anyhow!("no tokens file")),
    }
}

fn files(contents: Contents) -> Option<Files> {
    let [anchors, certificate, key] = contents.try_into().ok()?;
    Some(Files { anchors, certificate, key })
}

impl Watcher {
    /// Runs until dropped.
    pub(super) async fn run(mut self) {
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let (mut authority_files, mut tokens_file) = (self.authority_files, self.tokens_file);
            let look = task::spawn_blocking(move || {
                let changed = (authority_files.look(), tokens_file.look());
                (authority_files, tokens_file, changed)
            });
            // It does not panic, so only a runtime that shuts down can take it from us.
            let Ok((authority_files, tokens_file, changed)) = look.await else { return };
            (self.authority_files, self.tokens_file) = (authority_files, tokens_file);
            let now = SystemTime::now();
            if let Some(files) = changed.0.and_then(files) {
                self.reload_authority(files, now);
            }
            if let Some(contents) = changed.1 {
                self.reload_tokens(contents);
            }
            self.renew_when_due(now);
        }
    }

    fn reload_authority(&self, files: Files, now: SystemTime) {
        let current = self.authority.borrow().clone();
        let (next, errors) = authority::next(&current, files, &self.own_id, now);
        for error in &errors {
            tracing::error!(%error, taken = next.is_some(), "changed files of the CA are wrong, in whole or part");
        }
        if !errors.is_empty() {
            self.metrics.reload_failed(Source::Authority);
        }
        if let Some(next) = next {
            self.authority.send_replace(next);
            self.metrics.reloaded(Source::Authority);
            self.put_in_force(now);
            tracing::info!("the CA has been reloaded");
        }
    }

    fn reload_tokens(&self, mut contents: Contents) {
        let table = match contents.pop() {
            Some(Ok(file)) => Table::parse(&file, &self.trust_domain).map_err(|error| error.to_string()),
            Some(Err(error)) => Err(error.to_string()),
            None => return,
        };
        match table {
            Ok(table) => {
                tracing::info!(tokens = table.len(), "the tokens have been reloaded");
                self.metrics.tokens(table.len());
                self.metrics.reloaded(Source::Tokens);
                self.tokens.send_replace(Arc::new(table));
            }
            Err(error) => {
                tracing::error!(error, "the tokens file is wrong; the last good one stays in force");
                self.metrics.reload_failed(Source::Tokens);
            }
        }
    }

    /// After each change of the authority.
    fn put_in_force(&self, now: SystemTime) {
        let authority = self.authority.borrow().clone();
        self.metrics.authority(&authority);
        let left = authority.issuer.not_after().duration_since(now).unwrap_or_default();
        if left < EXPIRY_WARNING {
            tracing::warn!(seconds = left.as_secs(), "the issuer expires soon");
        }
        self.credentials.set_anchors(authority.anchors.clone());
        self.certify_ourselves(&authority, now);
        self.tell_readiness(&authority, now);
    }

    fn tell_readiness(&self, authority: &Authority, now: SystemTime) {
        self.issuer_check.set(if authority.issuer.is_valid(now) { Status::Ready } else { Status::Waiting });
    }

    fn certify_ourselves(&self, authority: &Authority, now: SystemTime) {
        match authority.issuer.own_leaf(&authority.anchors, &self.own_id, now, self.leaf_lifetime) {
            Ok(leaf) => {
                self.credentials.set_leaf(leaf);
            }
            Err(error) => tracing::error!(%error, "cannot issue our own certificate"),
        }
    }

    fn renew_when_due(&self, now: SystemTime) {
        let authority = self.authority.borrow().clone();
        self.tell_readiness(&authority, now);
        if authority.issuer.is_valid(now) && self.credentials.leaf().is_none_or(|leaf| is_due(&leaf, now)) {
            self.certify_ourselves(&authority, now);
        }
    }
}

/// At 70 % of its life, or when the clock has been set back before it. As the issuer's end comes near, clipped leaves
/// are renewed ever sooner, in the last seconds at each look; a signature is cheap.
fn is_due(leaf: &Leaf, now: SystemTime) -> bool {
    let life = leaf.not_after().duration_since(leaf.not_before()).unwrap_or_default();
    now < leaf.not_before() || now >= leaf.not_before() + life.mul_f64(0.7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ca, HOUR, files, id};

    #[test]
    fn our_own_leaf_is_renewed_at_70_percent_of_its_life_and_when_the_clock_is_set_back() {
        let (root, now) = (Ca::root("root"), SystemTime::now());
        let authority = authority::first(files(&root, &root.issuer(|_| {})), &id(), now).unwrap();
        let leaf = authority.issuer.own_leaf(&authority.anchors, &id(), now, 10 * HOUR).unwrap();
        let seconds = Duration::from_secs;
        assert!(!is_due(&leaf, now) && !is_due(&leaf, now - seconds(19)) && !is_due(&leaf, now + 6 * HOUR));
        assert!(is_due(&leaf, now + 7 * HOUR));
        let set_back = now - seconds(30 * 60);
        assert!(is_due(&leaf, set_back), "peers take it for not valid yet");
        let next = authority.issuer.own_leaf(&authority.anchors, &id(), set_back, 10 * HOUR).unwrap();
        assert!(authority.issuer.is_valid(set_back) && !is_due(&next, set_back));
        assert!(!authority.issuer.is_valid(now - 2 * HOUR), "its leaves would not hold, so making them is no use");
    }
}

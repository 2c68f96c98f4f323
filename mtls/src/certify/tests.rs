//! The whole client against an authority in the same process. Real sockets, so real time: leaves live for seconds
//! here.

use std::sync::Arc;

use rustls_pki_types::UnixTime;
use tempfile::TempDir;
use tonic::Code;

use super::*;
use crate::testing::authority::{Answer, Authority};
use crate::testing::{Ca, id, until, uri};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Certified(Id),
    Failed(&'static str),
    BundleChanged(usize),
    BundleFailed(&'static str),
}

#[derive(Clone)]
struct Recorder(Arc<watch::Sender<Vec<Event>>>);

impl Recorder {
    fn add(&self, event: Event) {
        self.0.send_modify(|events| events.push(event));
    }
}

impl Observer for Recorder {
    fn certified(&self, leaf: &Leaf) {
        self.add(Event::Certified(leaf.id().clone()));
    }

    fn failed(&self, error: &Error) {
        self.add(Event::Failed(error.reason()));
    }

    fn bundle_changed(&self, anchors: &Anchors) {
        self.add(Event::BundleChanged(anchors.der().len()));
    }

    fn bundle_failed(&self, error: &Error) {
        self.add(Event::BundleFailed(error.reason()));
    }
}

/// A running client and what it reports.
struct Client {
    credentials: Credentials,
    events: watch::Receiver<Vec<Event>>,
    token: std::path::PathBuf,
    _folder: TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn client(authority: &Authority, anchors: Anchors, id_asked: Option<Id>) -> Client {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "secret\n").unwrap();
    let settings = Settings {
        id: id_asked,
        renewal_spread: Duration::from_millis(10),
        ..Settings::new(authority.addr().to_string(), id("identity"), &token)
    };
    let credentials = Credentials::new(anchors);
    let recorder = Recorder(Arc::new(watch::Sender::new(vec![])));
    let events = recorder.0.subscribe();
    let task = tokio::spawn(run(settings, credentials.clone(), recorder));
    Client { credentials, events, token, _folder: folder, task }
}

impl Client {
    async fn until(&mut self, event: Event) {
        until(&mut self.events, |events| events.contains(&event)).await;
    }

    /// Waits for the event to come once more than it has.
    async fn again(&mut self, event: Event) {
        let times = |events: &Vec<Event>| events.iter().filter(|seen| **seen == event).count();
        let before = times(&self.events.borrow());
        until(&mut self.events, |events| times(events) > before).await;
    }

    async fn until_any(&mut self, fact: impl Fn(&Event) -> bool) {
        until(&mut self.events, |events| events.iter().any(&fact)).await;
    }

    fn leaf(&self) -> Arc<Leaf> {
        self.credentials.leaf().expect("certified before")
    }
}

#[tokio::test]
async fn a_client_certifies_at_once_as_whom_it_asks_to_be() {
    let ca = Ca::root("root");
    let anchors = ca.anchors();
    let authority = Authority::start(ca).await;
    let mut client = client(&authority, anchors.clone(), Some(id("web")));
    client.until(Event::Certified(id("web"))).await;
    assert_eq!(*client.leaf().id(), id("web"));
    client.leaf().verify(&anchors, UnixTime::now()).unwrap();
    let seen = authority.seen().borrow()[0].clone();
    assert_eq!(seen.token, b"secret", "the token goes without the line's end");
    assert_eq!(seen.identity, id("web").as_str());
    assert_eq!(seen.csr_names, [uri(id("web").as_str())]);
    assert_eq!(seen.peer.id, None);
}

#[tokio::test]
async fn a_client_that_does_not_know_its_id_takes_that_of_its_token() {
    let ca = Ca::root("root");
    let anchors = ca.anchors();
    let authority = Authority::start(ca).await;
    let mut client = client(&authority, anchors, None);
    client.until(Event::Certified(id("of-the-token"))).await;
    let seen = authority.seen().borrow()[0].clone();
    assert_eq!((seen.identity.as_str(), seen.csr_names.len()), ("", 0));
}

#[tokio::test]
async fn a_leaf_is_renewed_with_a_new_key_before_it_expires() {
    let ca = Ca::root("root");
    let anchors = ca.anchors();
    let authority = Authority::start(ca).await;
    authority.life(Duration::from_secs(12));
    let mut client = client(&authority, anchors, Some(id("web")));
    client.until(Event::Certified(id("web"))).await;
    let before = client.leaf();
    client.again(Event::Certified(id("web"))).await;
    assert!(std::time::SystemTime::now() <= before.not_after(), "renewed too late");
    assert_ne!(spki(&before), spki(&client.leaf()), "the key was used again");
    assert!(client.events.borrow().iter().all(|event| *event == Event::Certified(id("web"))));
}

fn spki(leaf: &Leaf) -> Vec<u8> {
    let certificate = webpki::EndEntityCert::try_from(&leaf.chain()[0]).unwrap();
    certificate.subject_public_key_info().to_vec()
}

#[tokio::test]
async fn a_client_tries_until_identity_is_there() {
    let ca = Ca::root("root");
    let anchors = ca.anchors();
    let mut authority = Authority::stopped(ca).await;
    let mut client = client(&authority, anchors, Some(id("web")));
    client.again(Event::Failed("unavailable")).await;
    client.again(Event::BundleFailed("unavailable")).await;
    assert!(client.credentials.leaf().is_none());
    authority.restart().await;
    client.until(Event::Certified(id("web"))).await;
}

#[tokio::test]
async fn the_last_good_leaf_stays_whatever_identity_answers() {
    let ca = Ca::root("root");
    let anchors = ca.anchors();
    let authority = Authority::start(ca).await;
    authority.life(Duration::from_secs(3));
    let mut client = client(&authority, anchors, Some(id("web")));
    client.until(Event::Certified(id("web"))).await;
    let good = client.leaf();
    let bad = [
        (Answer::SignFor("other"), "identity_mismatch"),
        (Answer::Refuse(Code::PermissionDenied), "permission_denied"),
    ];
    for (answer, reason) in bad {
        authority.answer(answer);
        client.again(Event::Failed(reason)).await;
        assert!(Arc::ptr_eq(&good, &client.leaf()), "{answer:?}");
    }
    authority.issuer(Arc::new(Ca::root("stranger")));
    authority.answer(Answer::Sign);
    client.again(Event::Failed("unknown_issuer")).await;
    assert!(Arc::ptr_eq(&good, &client.leaf()));
}

#[tokio::test]
async fn a_client_sends_no_token_to_a_server_that_is_not_identity() {
    let ca = Ca::root("root");
    let anchors = ca.anchors();
    let mut authority = Authority::stopped(Ca::root("unused")).await;
    authority.serve_as(&ca, &id("thief"));
    authority.restart().await;
    let mut client = client(&authority, anchors, Some(id("web")));
    client.again(Event::Failed("identity_mismatch")).await;
    assert!(authority.seen().borrow().is_empty());
}

#[tokio::test]
async fn the_token_is_read_again_for_each_request() {
    let ca = Ca::root("root");
    let anchors = ca.anchors();
    let authority = Authority::start(ca).await;
    authority.answer(Answer::Refuse(Code::Unauthenticated));
    let mut client = client(&authority, anchors, Some(id("web")));
    client.until(Event::Failed("unauthenticated")).await;
    std::fs::remove_file(&client.token).unwrap();
    client.until(Event::Failed("token")).await;
    std::fs::write(&client.token, "  \n").unwrap();
    client.again(Event::Failed("token")).await;
    std::fs::write(&client.token, "rotated").unwrap();
    until(&mut authority.seen(), |seen| seen.iter().any(|seen| seen.token == b"rotated")).await;
}

#[tokio::test]
async fn anchors_rotate_live_and_the_leaf_follows() {
    let (old, new) = (Ca::root("old"), Arc::new(Ca::root("new")));
    let (old_der, anchors) = (old.der(), old.anchors());
    let authority = Authority::start(old).await;
    let mut client = client(&authority, anchors, Some(id("web")));
    client.until(Event::Certified(id("web"))).await;

    authority.publish(vec![old_der.clone(), new.der()]);
    client.until(Event::BundleChanged(2)).await;
    let both = client.credentials.anchors();
    assert_eq!(both, Anchors::from_der(vec![new.der(), old_der]).unwrap());

    authority.issuer(Arc::clone(&new));
    authority.serve_as(&new, &id("identity"));
    authority.publish(vec![new.der()]);
    client.until(Event::BundleChanged(1)).await;
    let anchors = new.anchors();
    let by_new = |leaf: &Option<Arc<Leaf>>| leaf.as_ref().unwrap().verify(&anchors, UnixTime::now()).is_ok();
    until(&mut client.credentials.watch_leaf(), by_new).await;
}

#[tokio::test]
async fn a_bundle_that_cannot_be_used_changes_nothing_and_ends_nothing() {
    let (old, new) = (Ca::root("old"), Ca::root("new"));
    let (old_der, anchors) = (old.der(), old.anchors());
    let leaf = old.issue(&crate::testing::Template::default()).chain.remove(0);
    let authority = Authority::start(old).await;
    let mut client = client(&authority, anchors.clone(), Some(id("web")));
    client.until(Event::Certified(id("web"))).await;
    for bundle in [vec![], vec![old_der.clone(), vec![1, 2, 3].into()], vec![leaf]] {
        authority.publish(bundle);
        client.again(Event::BundleFailed("bad_bundle")).await;
        assert_eq!(client.credentials.anchors(), anchors);
    }
    authority.publish(vec![old_der, new.der()]);
    client.until(Event::BundleChanged(2)).await;
}

#[tokio::test]
async fn the_bundle_is_followed_again_after_identity_was_away() {
    let (old, new) = (Ca::root("old"), Ca::root("new"));
    let (old_der, anchors) = (old.der(), old.anchors());
    let mut authority = Authority::stopped(old).await;
    authority.restart().await;
    let mut client = client(&authority, anchors, Some(id("web")));
    client.until(Event::Certified(id("web"))).await;
    authority.stop().await;
    client.until_any(|event| matches!(event, Event::BundleFailed(_))).await;
    authority.publish(vec![old_der, new.der()]);
    authority.restart().await;
    client.until(Event::BundleChanged(2)).await;
    client.again(Event::Certified(id("web"))).await;
}

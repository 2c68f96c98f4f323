//! A listener that runs out of file descriptors. A test binary of its own, because the limit is the process's.

#![allow(clippy::unwrap_used, reason = "the lint spares tests, but not their helpers")]

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use mesh_mtls::tls::{Acceptor, ClientAuth, Connector};
use mesh_mtls::{anchors, credentials, grpc, spiffe};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use testing::{Ca, id};
use tokio::net::{TcpListener, TcpSocket};
use tokio_stream::StreamExt;

// The unit tests' certificates; they reach the crate's modules through the imports above.
#[allow(dead_code)]
#[path = "../src/testing/ca.rs"]
mod testing;

#[tokio::test]
async fn a_listener_without_descriptors_pauses_and_accepts_again_when_there_are_some() {
    let ca = Ca::root("root");
    let connector = Connector::new(ca.credentials(&id("web")), grpc::ALPN);
    let acceptor = Acceptor::new(ca.credentials(&id("api")), ClientAuth::Required, grpc::ALPN);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr: SocketAddr = listener.local_addr().unwrap();
    let mut incoming = grpc::incoming(listener, acceptor);

    let socket = TcpSocket::new_v4().unwrap(); // before there are none left
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(128), hard).unwrap();
    let hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    let client = tokio::spawn(async move {
        let tcp = socket.connect(addr).await.unwrap();
        connector.connect(tcp, &id("api")).await.map(drop)
    });

    // The connection is there, but cannot be accepted: the stream is asked rarely, not in a spin.
    let polls = Arc::new(AtomicUsize::new(0));
    let mut next = Box::pin(incoming.next());
    let counted = std::future::poll_fn(|cx| {
        polls.fetch_add(1, Ordering::Relaxed);
        match next.as_mut().poll(cx) {
            Poll::Ready(_) => panic!("accepted without a descriptor"),
            Poll::Pending => Poll::<()>::Pending,
        }
    });
    let half_a_second = std::time::Duration::from_millis(500);
    tokio::time::timeout(half_a_second, counted).await.unwrap_err();
    let polls = polls.load(Ordering::Relaxed);
    assert!((2..=50).contains(&polls), "polled {polls} times");

    drop(hoard);
    next.await.expect("never ends").expect("never fails");
    client.await.unwrap().unwrap();
}

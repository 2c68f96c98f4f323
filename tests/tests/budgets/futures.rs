//! Sizes of the futures that each connection and each request keeps.

use std::sync::Arc;

use http::Request;
use mesh_proxy::balance::Wish;
use mesh_proxy::http::{Body, Caller};
use tokio::net::{TcpListener, TcpStream};

use crate::with_pair;

/// An accepted connection, from its first to its last byte.
const OUTBOUND: usize = 1_300;
const INBOUND: usize = 1_700;
/// A request on its way to an endpoint, up to the response's head, with the timer that bounds its wait.
const REQUEST: usize = 2_050;
/// A byte stream that is being opened.
const OPENING: usize = 900;

#[test]
fn connections_and_requests_keep_futures_of_a_known_size() {
    with_pair(|runtime, pair| {
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let addr = listener.local_addr().expect("an address");
            let dial = || async { TcpStream::connect(addr).await.expect("a connection") };
            let outbound = Arc::clone(&pair.outbound).serve(dial().await, pair.drain.clone());
            let inbound = Arc::clone(&pair.inbound).serve(dial().await, pair.drain.clone());
            let wish = Wish::default();
            let request = pair.backend.send(Box::new(Request::new(Body::empty())), &Caller::Deaf, &wish, |_| ());
            let opening = pair.backend.open(None, &wish);
            let sizes = [
                ("Outbound::serve", size_of_val(&outbound), OUTBOUND),
                ("Inbound::serve", size_of_val(&inbound), INBOUND),
                ("Backend::send", size_of_val(&request), REQUEST),
                ("Backend::open", size_of_val(&opening), OPENING),
            ];
            println!("{sizes:?}");
            let over: Vec<_> = sizes.iter().filter(|(_, size, budget)| size > budget).collect();
            assert!(over.is_empty(), "(future, bytes, budget): {over:?}");
        });
    });
}

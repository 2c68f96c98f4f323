//! Parked connections: what happens to them, and to those that are about to be.

use std::sync::{Mutex, Weak};

use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::http::answer;
use crate::http::h2_server::Tunnel;
use crate::http::{Abort, BoxedRequest, h1_io};
use crate::net::drain::{self, Draining};

const SOON: Duration = Duration::from_secs(10);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: web\r\n\r\n";

/// Answers, and remembers which of hyper's connections asked last.
#[derive(Default)]
struct App {
    asked_by: Mutex<Weak<h1_io::Shared>>,
}

impl Handler for App {
    async fn handle(&self, request: BoxedRequest, caller: Caller) -> Result<Response<Body>, Abort> {
        let Caller::H1(shared) = caller else { panic!("HTTP/1.1 was asked for") };
        *self.asked_by.lock().expect("not poisoned") = Arc::downgrade(&shared);
        match request.uri().path() {
            "/endless" => return Ok(Response::new(Body::full(vec![b'x'; 64 << 20]))),
            "/taken" => drop(request.into_body().collect().await),
            _ => {}
        }
        Ok(Response::new(Body::full("well")))
    }

    fn refuse(&self, reason: answer::Reason, headers: &http::HeaderMap, detail: &str) -> Response<Body> {
        reason.answer(headers, detail)
    }

    fn too_slow(&self) {}

    async fn connect(&self, _: Tunnel) {
        panic!("HTTP/2 was not asked for");
    }
}

/// A connection that is served.
struct Served {
    client: TcpStream,
    app: Arc<App>,
    draining: Draining,
    end: JoinHandle<Ended>,
}

impl Served {
    async fn with(settings: impl FnOnce(&mut Settings)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        let (served, _) = listener.accept().await.expect("accepts");
        let mut limits = limits();
        settings(&mut limits);
        let (draining, drain) = drain::channel();
        let app = Arc::new(App::default());
        let handler = Arc::clone(&app);
        let end = tokio::spawn(async move { serve(served.into(), &limits, drain, handler).await });
        Self { client, app, draining, end }
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).await.expect("a connection that is served");
    }

    /// One answer, head and body.
    async fn answer(&mut self) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b"well") {
            let read = tokio::time::timeout(SOON, self.client.read_buf(&mut text)).await.expect("in time");
            assert!(read.expect("no reset") > 0, "ended after {:?}", String::from_utf8_lossy(&text));
        }
        String::from_utf8(text).expect("ASCII")
    }

    /// To its end, and with the reason.
    async fn told_too_slow(mut self) {
        let mut told = String::new();
        self.client.read_to_string(&mut told).await.expect("no reset");
        assert!(told.starts_with("HTTP/1.1 408 ") && told.contains("mesh-error: too_slow;"), "{told}");
        assert_eq!(self.end().await, Ended::TooSlow);
    }

    async fn ask(&mut self) -> String {
        self.say(REQUEST).await;
        self.answer().await
    }

    /// Until nothing is left of hyper's connection.
    async fn until_parked(&self) {
        let parked = async {
            while self.app.asked_by.lock().expect("not poisoned").strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(SOON, parked).await.expect("parked");
        assert!(!self.end.is_finished(), "ended, not parked");
    }

    async fn end(self) -> Ended {
        tokio::time::timeout(SOON, self.end).await.expect("an end in time").expect("no panic")
    }
}

pub(crate) fn limits() -> Settings {
    Settings {
        head_timeout: SOON,
        idle_timeout: SOON,
        stall_timeout: SOON,
        max_head: 60 * 1024,
        max_headers: 100,
        max_streams: 1,
        stream_window: 1 << 16,
        tunnel_stream_window: 1 << 18,
        app_stream_window: 1 << 16,
        connection_window: 1 << 16,
        send_buffer: 1 << 16,
        tunnel_send_buffer: 1 << 16,
        pool_idle: SOON,
        pool_size: 1,
        continue_wait: SOON,
        response_timeout: SOON,
        open_timeout: SOON,
        tunnel_age: SOON,
        drain_linger: SOON,
    }
}

#[tokio::test]
async fn a_parked_connection_answers_the_next_request() {
    let mut served = Served::with(|_| {}).await;
    for _ in 0..3 {
        let answer = served.ask().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        served.until_parked().await;
    }
    drop(served.client);
    assert_eq!(served.end.await.expect("no panic"), Ended::Cleanly);
}

#[tokio::test]
async fn bytes_of_the_next_request_are_not_lost_when_the_connection_is_parked() {
    let mut served = Served::with(|_| {}).await;
    for at in 1..REQUEST.len() {
        let (begin, rest) = REQUEST.split_at(at);
        served.say(&[REQUEST, begin].concat()).await;
        served.answer().await;
        served.say(rest).await;
        let answer = served.answer().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{at}: {answer}");
    }
    served.say(&REQUEST.repeat(3)).await;
    let mut answers = String::new();
    while answers.matches("HTTP/1.1 200").count() < 3 {
        answers += &served.answer().await;
    }
}

#[tokio::test]
async fn a_parked_connection_may_make_one_last_request_when_the_proxy_drains() {
    let mut served = Served::with(|_| {}).await;
    served.ask().await;
    served.until_parked().await;
    served.draining.start();
    let answer = served.ask().await;
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    assert_eq!(served.client.read(&mut [0]).await.expect("no reset"), 0, "it goes on after the last answer");
    assert_eq!(served.end().await, Ended::Cleanly);
}

#[tokio::test]
async fn a_parked_connection_without_a_last_request_ends_with_the_drain() {
    let mut served = Served::with(|limits| limits.drain_linger = Duration::from_millis(20)).await;
    served.ask().await;
    served.until_parked().await;
    served.draining.start();
    assert_eq!(served.client.read(&mut [0]).await.expect("no reset"), 0);
    assert_eq!(served.end().await, Ended::Cleanly);
}

#[tokio::test]
async fn a_client_may_leave_a_parked_connection() {
    let mut served = Served::with(|_| {}).await;
    served.ask().await;
    served.until_parked().await;
    served.client.shutdown().await.expect("a live socket");
    assert_eq!(served.client.read(&mut [0]).await.expect("no reset"), 0, "nothing is left to be said");
    assert_eq!(served.end().await, Ended::Cleanly);
}

#[tokio::test]
async fn a_parked_connection_ends_when_it_is_idle_for_too_long() {
    let mut served = Served::with(|limits| limits.idle_timeout = Duration::from_millis(20)).await;
    assert_eq!(served.client.read(&mut [0]).await.expect("no reset"), 0);
    assert_eq!(served.end().await, Ended::Cleanly, "that is no mistake of the client's");
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_ends_a_connection_that_was_parked() {
    let mut served = Served::with(|limits| limits.head_timeout = Duration::from_millis(50)).await;
    served.ask().await;
    served.until_parked().await;
    served.say(&REQUEST[..9]).await;
    served.told_too_slow().await;
}

#[tokio::test]
async fn the_begin_of_a_head_behind_another_request_has_its_time_limit_too() {
    let mut served = Served::with(|limits| limits.head_timeout = Duration::from_millis(50)).await;
    served.say(&[REQUEST, &REQUEST[..9]].concat()).await;
    served.answer().await;
    served.told_too_slow().await;
}

const POST: &[u8] = b"POST /taken HTTP/1.1\r\nhost: web\r\ncontent-length: 10\r\n\r\n12345";

#[tokio::test]
async fn a_body_that_stops_half_way_has_its_time_limit() {
    let mut served = Served::with(|limits| limits.stall_timeout = Duration::from_millis(50)).await;
    served.say(POST).await;
    served.told_too_slow().await;
}

#[tokio::test]
async fn a_body_that_goes_on_slowly_does_not() {
    let mut served = Served::with(|limits| limits.stall_timeout = Duration::from_secs(1)).await;
    served.say(POST).await;
    for byte in [b"6", b"7", b"8", b"9", b"0"] {
        tokio::time::sleep(Duration::from_millis(300)).await; // the client's pace
        served.say(byte).await;
    }
    assert!(served.answer().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn an_answer_that_nobody_takes_has_its_time_limit() {
    let mut served = Served::with(|limits| limits.stall_timeout = Duration::from_millis(50)).await;
    served.say(b"GET /endless HTTP/1.1\r\nhost: web\r\n\r\n").await;
    let ended = tokio::time::timeout(SOON, &mut served.end).await.expect("an end in time").expect("no panic");
    assert_eq!(ended, Ended::TooSlow);
    let broken = served.client.read_to_end(&mut Vec::new()).await;
    assert!(broken.is_err(), "what came looks whole");
}

//! Raw bytes over real sockets, and the table of who gets what.

use http::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::ready::Status;

const POD: &str = "10.1.2.3:5000";
const LOCAL: &str = "127.0.0.1:5000";

fn admin() -> Admin {
    Admin::new(Readiness::new(), || "m 1\n".to_owned())
        .loopback_get("/state", || "{}".to_owned())
        .shutdown(Shutdown::manual())
}

fn status(admin: &Admin, peer: &str, method: Method, path: &str, headers: &[(&str, &str)]) -> StatusCode {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    match answer::route(admin, &request.body(()).unwrap(), peer.parse().unwrap()) {
        Ok(call) => answer::give(admin, call, b"").status(),
        Err(refusal) => refusal.status(),
    }
}

fn start(admin: Admin) -> (SocketAddr, JoinHandle<()>) {
    let listener = crate::listen::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.local_addr().unwrap();
    (addr, tokio::spawn(admin.serve(vec![listener])))
}

async fn ask(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[test]
fn r35_only_live_ready_and_metrics_exist_for_others() {
    let admin = admin();
    let forged = [("host", "127.0.0.1"), ("x-forwarded-for", "127.0.0.1"), ("forwarded", "for=127.0.0.1")];
    for path in ["/live", "/ready", "/metrics"] {
        assert_eq!(status(&admin, POD, Method::GET, path, &[("host", "evil.example")]), StatusCode::OK);
    }
    let paths = ["/state", "/log-level", "/shutdown", "/", "/env", "/env.json", "/debug/pprof", "/config", "/tasks"];
    let odd = ["//state", "/state/", "/%73tate", "/../state", "/live/", "/live/../state", "/STATE", "/metrics%00"];
    for path in paths.into_iter().chain(odd) {
        for method in [Method::GET, Method::POST, Method::PUT, Method::OPTIONS] {
            for peer in [POD, "[fd00::1]:1", "[::ffff:10.1.2.3]:1", "[fe80::1]:1", "0.0.0.0:1"] {
                let status = status(&admin, peer, method.clone(), path, &forged);
                assert_eq!(status, StatusCode::NOT_FOUND, "{method} {path} for {peer}");
            }
        }
    }
}

#[test]
fn r35_loopback_gets_its_pages_in_every_spelling_of_its_address() {
    let admin = admin();
    for peer in [LOCAL, "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        for host in ["localhost", "LOCALHOST:4191", "127.0.0.1:4191", "[::1]:4191", "10.1.2.3"] {
            assert_eq!(status(&admin, peer, Method::GET, "/state", &[("host", host)]), StatusCode::OK, "{peer} {host}");
        }
    }
}

#[test]
fn r35_a_browser_cannot_be_used_against_loopback() {
    let admin = admin();
    let cases: [&[(&str, &str)]; 8] = [
        &[],
        &[("host", "evil.example")],
        &[("host", "127.0.0.1.evil.example")],
        &[("host", "localhost"), ("host", "evil.example")],
        &[("host", "evil.example:4191")],
        &[("host", "localhost.")],
        &[("host", "localhost"), ("origin", "http://evil.example")],
        &[("host", "127.0.0.1"), ("sec-fetch-site", "cross-site")],
    ];
    for headers in cases {
        assert_eq!(status(&admin, LOCAL, Method::POST, "/shutdown", headers), StatusCode::FORBIDDEN, "{headers:?}");
        assert_eq!(status(&admin, LOCAL, Method::GET, "/state", headers), StatusCode::FORBIDDEN, "{headers:?}");
    }
    let absolute = "http://evil.example/state";
    assert_eq!(status(&admin, LOCAL, Method::GET, absolute, &[("host", "localhost")]), StatusCode::FORBIDDEN);
    assert!(!admin.shutdown.unwrap().is_requested());
}

#[test]
fn what_a_daemon_does_not_offer_is_not_there() {
    let bare = Admin::new(Readiness::new(), String::new);
    for path in ["/state", "/log-level", "/shutdown"] {
        assert_eq!(status(&bare, LOCAL, Method::GET, path, &[("host", "localhost")]), StatusCode::NOT_FOUND, "{path}");
    }
}

#[test]
fn wrong_methods_name_the_right_ones() {
    let admin = admin();
    let host = [("host", "localhost")];
    assert_eq!(status(&admin, POD, Method::POST, "/live", &host), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(status(&admin, LOCAL, Method::GET, "/shutdown", &host), StatusCode::METHOD_NOT_ALLOWED);
    let request = Request::get("/shutdown").header("host", "localhost").body(()).unwrap();
    let refusal = answer::route(&admin, &request, LOCAL.parse().unwrap()).unwrap_err();
    assert_eq!(refusal.headers()["allow"], "POST");
    assert!(!admin.shutdown.as_ref().unwrap().is_requested());
    assert_eq!(status(&admin, LOCAL, Method::POST, "/shutdown", &host), StatusCode::OK);
    assert!(admin.shutdown.unwrap().is_requested());
}

#[tokio::test]
async fn health_and_metrics_over_the_wire() {
    let readiness = Readiness::new();
    let check = readiness.check("certified");
    let (addr, server) = start(Admin::new(readiness, || "m 1\n".to_owned()));
    let get = async |path| ask(addr, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
    assert!(get("/live").await.ends_with("\r\n\r\nlive\n"));
    let waiting = get("/ready").await;
    assert!(waiting.starts_with("HTTP/1.1 503 ") && waiting.ends_with("waiting for: certified\n"), "{waiting}");
    check.set(Status::Ready);
    assert!(get("/ready").await.starts_with("HTTP/1.1 200 "));
    let metrics = get("/metrics").await;
    assert!(metrics.contains("content-type: text/plain; version=0.0.4") && metrics.ends_with("m 1\n"), "{metrics}");
    let head = ask(addr, "HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    server.abort();
}

#[tokio::test]
async fn the_log_level_is_read_and_written() {
    let log = log::init(log::Format::Plain, "info").unwrap();
    let (addr, server) = start(admin().log_level(log));
    let put = async |level: &str| {
        let length = level.len();
        let head = format!("PUT /log-level HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n");
        ask(addr, &format!("{head}Connection: close\r\n\r\n{level}")).await
    };
    assert!(put("warn,h2=off\n").await.ends_with("\r\n\r\nwarn,h2=off\n"));
    assert!(put("loud").await.starts_with("HTTP/1.1 400 "));
    assert!(put(&"x".repeat(5000)).await.starts_with("HTTP/1.1 413 "));
    let read = ask(addr, "GET /log-level HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert!(read.ends_with("warn,h2=off\n"), "{read}");
    server.abort();
}

#[tokio::test]
async fn a_flood_of_silent_connections_keeps_nobody_out() {
    let (addr, server) = start(admin());
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS * 2 {
        silent.push(TcpStream::connect(addr).await.unwrap());
    }
    let answer = ask(addr, "GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // The first ones have given way.
    assert_eq!(silent[0].read(&mut [0; 16]).await.unwrap_or(0), 0);
    server.abort();
}

#[tokio::test]
async fn oversized_heads_are_refused() {
    let (addr, server) = start(admin());
    let many = "a: b\r\n".repeat(100);
    let answer = ask(addr, &format!("GET /live HTTP/1.1\r\nHost: x\r\n{many}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    server.abort();
}

#[test]
fn others_cannot_have_the_metrics_rendered_at_will() {
    let renders = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = Arc::clone(&renders);
    let admin = Admin::new(Readiness::new(), move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        String::new()
    });
    let began = Instant::now();
    for _ in 0..1000 {
        assert_eq!(status(&admin, POD, Method::GET, "/metrics", &[]), StatusCode::OK);
    }
    let rendered = u128::from(renders.load(std::sync::atomic::Ordering::Relaxed));
    assert!(rendered <= 1 + began.elapsed().as_millis() / 250, "{rendered} times");
}

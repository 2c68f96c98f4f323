//! The load generators against servers that do well, stall, refuse and close.

mod programs;
mod server;

use std::time::Duration;

use mesh_benches::load::client::{Protocol, Target};
use mesh_benches::load::tally::Tally;
use mesh_benches::load::{churn, hold, rate};
use server::Server;

fn target(server: &Server) -> Target {
    Target { addr: server.addr, path: "/b/100".to_owned() }
}

fn plan(server: &Server, protocol: Protocol, connections: usize) -> rate::Plan {
    rate::Plan { protocol, target: target(server), rate: 200, seconds: 1, connections }
}

/// Figures in a failure's text.
fn seen(tally: &Tally) -> String {
    format!("{:?}, first failure {:?}", tally.summary(Duration::from_secs(1)), tally.failure)
}

#[tokio::test]
async fn a_stall_shows_in_all_requests_that_were_due_meanwhile() {
    let server = Server::that(|message| {
        if message == 50 {
            std::thread::sleep(Duration::from_millis(400));
        }
        server::Next::Echo
    });
    let tally = rate::run(&plan(&server, Protocol::Tcp, 2)).await.unwrap();
    assert_eq!((tally.requests, tally.errors), (200, 0), "{}", seen(&tally));
    // 80 of the 200 were due during the stall: a tenth of all waited 200 ms or more. Two connections that count from
    // when they send see two late answers.
    let p90 = tally.latencies.permille(900);
    assert!(p90 >= Duration::from_millis(150), "{}", seen(&tally));
    assert!(tally.latencies.permille(990) >= p90, "{}", seen(&tally));
}

#[tokio::test]
async fn answers_other_than_2xx_are_errors_and_the_first_is_told() {
    let server = Server::that(|message| match message {
        0 => server::Next::Answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        _ => server::Next::Answer("HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nno"),
    });
    let tally = rate::run(&plan(&server, Protocol::H1, 1)).await.unwrap();
    assert_eq!((tally.requests, tally.errors), (0, 200), "{}", seen(&tally));
    assert_eq!(tally.failure.as_deref(), Some("status 503"));
}

#[tokio::test]
async fn a_body_that_ends_early_is_an_error() {
    let server = Server::that(|message| match message {
        0 => server::Next::Answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        _ => server::Next::AnswerAndClose("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nok"),
    });
    let tally = rate::run(&plan(&server, Protocol::H1, 1)).await.unwrap();
    assert_eq!((tally.requests, tally.errors), (0, 200), "{}", seen(&tally));
    assert_eq!(tally.failure.as_deref(), Some("closed after 2 of 20 bytes"));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_counted_and_not_hammered() {
    let nobody = Server::that(|_| server::Next::Echo).stop();
    let target = Target { addr: nobody, path: String::new() };
    let tally = churn::run(Protocol::Tcp, &target, 2, 1).await.unwrap();
    assert_eq!(tally.requests, 0, "{}", seen(&tally));
    assert!((1..=220).contains(&tally.errors), "{}", seen(&tally));
    assert!(tally.failure.as_deref().is_some_and(|text| text.contains(&nobody.to_string())), "{}", seen(&tally));
}

#[tokio::test]
async fn connections_that_were_not_held_to_the_end_are_errors() {
    let server = Server::that(|message| if message == 2 { server::Next::EchoAndClose } else { server::Next::Echo });
    let held = hold::open(Protocol::Tcp, &target(&server), 5).await.unwrap();
    assert_eq!((held.line().held, held.line().errors), (5, 0));
    tokio::time::timeout(Duration::from_secs(10), async {
        while held.lost() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the end of a connection is seen");
    let tally = held.close();
    assert_eq!((tally.requests, tally.errors), (5, 1), "{}", seen(&tally));
}

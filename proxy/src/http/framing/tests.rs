//! Each message whole and byte by byte: how it comes apart makes no difference.

use super::*;

/// Where reading stops: never, or the first byte that may not pass, which may be that of a later message's begin.
fn read(mut framing: Framing, bytes: &[u8]) -> Result<State, Bad> {
    framing.read(bytes).map_err(|(_, bad)| bad)?;
    Ok(framing.state)
}

/// The same when each byte comes by itself.
fn read_bytewise(mut framing: Framing, bytes: &[u8]) -> Result<State, Bad> {
    for byte in bytes {
        framing.read(&[*byte]).map_err(|(_, bad)| bad)?;
    }
    Ok(framing.state)
}

fn both(framing: impl Fn() -> Framing, text: &str) -> Result<State, Bad> {
    let whole = read(framing(), text.as_bytes());
    assert_eq!(whole, read_bytewise(framing(), text.as_bytes()), "{text:?}");
    whole
}

fn responses(method: &Method) -> Framing {
    let mut framing = Framing::responses();
    framing.expect(method);
    framing
}

#[test]
fn messages_with_one_reading_pass() {
    for (request, state) in [
        ("GET / HTTP/1.1\r\nHost: web\r\n\r\n", State::First),
        ("\r\nGET / HTTP/1.1\r\nHost: web\r\n\r\n", State::First),
        ("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n\n\n", State::First),
        ("POST / HTTP/1.1\r\ncontent-length:\t2 \r\n\r\nx", State::Length(1)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\n\n\n\n\r\n0\r\n\r\n", State::First),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n003;a=\"b\"\r\nabc\r\n0\r\nx: y\r\n", State::Trailer),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3 ; a\r\nab", State::Chunk(1)),
        ("GET / HTTP/1.1\r\nUpgrade: x\r\nConnection: close, UPGRADE\r\n\r\n", State::Leaving),
        ("GET / HTTP/1.1\r\nUpgrade: x\r\n\r\n", State::First),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", State::Leaving),
    ] {
        assert_eq!(both(Framing::requests, request), Ok(state), "{request:?}");
    }
}

#[test]
fn messages_with_two_readings_do_not() {
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (request, bad) in [
        ("GET / HTTP/1.1\n", Bad::LineEnd),
        ("GET / HTTP/1.1\r\nHost: web\n", Bad::LineEnd),
        ("GET / HTTP/1.1\r\nHost: web\r\n\n", Bad::LineEnd),
        ("\nGET / HTTP/1.1\r\n", Bad::LineEnd),
        ("GET /#a HTTP/1.1\r\n", Bad::Target),
        ("GET /\u{e9} HTTP/1.1\r\n", Bad::Target),
        ("POST / HTTP/1.1\r\nContent-Length: +2\r\n", Bad::Length),
        ("POST / HTTP/1.1\r\nContent-Length:\r\n", Bad::Length),
        ("POST / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n", Bad::Length),
        ("POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\n", Bad::Length),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n", Bad::Encoding),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Bad::Encoding),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n", Bad::Both),
        ("CONNECT a:1 HTTP/1.1\r\nContent-Length: 2\r\n\r\n", Bad::ConnectBody),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\nx", Bad::Early),
        ("POST / HTTP/1.1\r\nUpgrade: x\r\nConnection: upgrade\r\nContent-Length: 1\r\n\r\nxx", Bad::Early),
    ] {
        assert_eq!(both(Framing::requests, request), Err(bad), "{request:?}");
    }
    for (body, bad) in [
        ("\r\n", Bad::ChunkSize),
        ("0x3\r\n", Bad::ChunkSize),
        (" 3\r\n", Bad::ChunkSize),
        ("3 \r\n", Bad::ChunkSize),
        ("3;a\rb\r\n", Bad::ChunkSize),
        ("00000000000000003\r\n", Bad::ChunkSize),
        ("3\n", Bad::LineEnd),
        ("3\r\nabcd", Bad::ChunkEnd),
        ("3\r\nabc\n", Bad::ChunkEnd),
        ("0\r\nx: y\n", Bad::LineEnd),
    ] {
        assert_eq!(both(Framing::requests, &[chunked, body].concat()), Err(bad), "{body:?}");
    }
}

#[test]
fn a_line_that_comes_in_parts_is_not_kept_whole() {
    let long = "x".repeat(100_000);
    for (request, expected) in [
        (format!("GET /{long} HTTP/1.1\r\nCookie: {long}\r\n\r\n"), Ok(State::First)),
        (format!("GET /{long}# HTTP/1.1\r\n"), Err(Bad::Target)),
        (format!("GET / HTTP/1.1\r\nContent-Length: {}1\r\n", "0".repeat(10_000)), Err(Bad::Length)),
        (format!("GET / HTTP/1.1\r\nTransfer-Encoding: {}chunked\r\n", " ".repeat(10_000)), Err(Bad::Encoding)),
        (format!("GET / HTTP/1.1\r\nCookie: {long}\n"), Err(Bad::LineEnd)),
        (format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;{long}\rx\r\n"), Err(Bad::ChunkSize)),
    ] {
        let mut framing = Framing::requests();
        let parts = request.as_bytes().chunks(100).try_for_each(|part| framing.read(part));
        assert_eq!(parts.map(|()| framing.state).map_err(|(_, bad)| bad), expected, "{:.40}", request);
        assert!(framing.begun.start.capacity() <= 2 * KEPT, "{} bytes kept", framing.begun.start.capacity());
    }
}

#[test]
fn the_messages_before_a_bad_one_pass() {
    let (good, bad) = ("GET / HTTP/1.1\r\nHost: web\r\n\r\n", "GET / HTTP/1.1\n");
    assert_eq!(Framing::requests().read([good, bad].concat().as_bytes()), Err((good.len(), Bad::LineEnd)));
}

#[test]
fn a_response_ends_where_its_request_and_status_say() {
    for (method, response, expected) in [
        (Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Ok(State::Nothing)),
        (Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP", Err(Bad::Unasked)),
        (Method::GET, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No\r\n\r\n", Ok(State::Nothing)),
        (Method::GET, "HTTP/1.1 200 OK\r\n\r\nto the end", Ok(State::Anything)),
        (Method::GET, "HTTP/1.1 304 Not\r\nContent-Length: 2\r\n\r\n", Ok(State::Nothing)),
        (Method::GET, "HTTP/1.1 101 Go\r\n\r\nanything", Ok(State::Anything)),
        (Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", Ok(State::Nothing)),
        (Method::CONNECT, "HTTP/1.1 200 OK\r\n\r\nanything", Ok(State::Anything)),
        (Method::CONNECT, "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", Ok(State::Nothing)),
        (Method::GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Ok(State::Nothing)),
        (Method::GET, "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", Err(Bad::LineEnd)),
    ] {
        assert_eq!(both(|| responses(&method), response), expected, "{method} {response:?}");
    }
    assert_eq!(both(Framing::responses, "HTTP/1.1 200 OK\r\n"), Err(Bad::Unasked));
}

#[test]
fn a_declined_upgrade_leaves_room_for_requests() {
    let mut framing = Framing::requests();
    let upgrade = b"GET / HTTP/1.1\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    framing.read(upgrade).expect("one reading");
    assert!(framing.is_leaving());
    framing.declined();
    assert!(!framing.is_leaving());
    assert_eq!(framing.read(upgrade), Ok(()));
}

#[test]
fn a_body_is_as_long_as_it_says_whatever_that_is() {
    let length = |text: &str| {
        let mut framing = Framing::requests();
        framing.read(text.as_bytes()).expect("one reading");
        framing.body_length()
    };
    assert_eq!(length("GET / HTTP/1.1\r\n\r\n"), 0);
    assert_eq!(length("POST / HTTP/1.1\r\nContent-Length: 70000\r\n\r\nabc"), 70_000);
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    assert_eq!(length(chunked), 3);
    assert_eq!(length(&format!("{chunked}10\r\nabc")), 3 + 16);
    assert_eq!(length(&format!("{chunked}ffffffffffffffff\r\n")), u64::MAX);
    assert_eq!(length(&format!("{chunked}0\r\n\r\n")), 0);
}

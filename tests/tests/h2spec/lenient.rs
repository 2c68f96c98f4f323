//! What is malformed and let pass: pseudo-fields that come first where none may be (RFC 9113, 8.1 and 8.3).
//!
//! The h2 crate takes fields apart into pseudo-fields and others, and keeps only those that belong to the kind of message; nobody
//! above it can know of the rest. Invariant: what should not be there goes no further, whoever sends it.

use mesh_tests::attacks::h2spec::back_end;
use mesh_tests::client::PATIENCE;
use mesh_tests::frames::{Connection, Frame, GET, Listener, flag, hpack, kind};
use mesh_tests::yardstick::Mesh;

use super::mesh;

const WHOLE: u8 = flag::END_HEADERS | flag::END_STREAM;
const POST: &[(&str, &str)] = &[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "web")];
const APP: u16 = 9000;

/// A request on stream 1, and the head of its answer.
fn exchange(frames: &mut Connection, request: &[Frame]) -> Frame {
    frames.begin(&[]).expect("an HTTP/2 server");
    request.iter().for_each(|frame| assert!(frames.send(frame)));
    let answer = frames.until(|frame| frame.stream == 1 && frame.kind == kind::HEADERS);
    answer.frame().unwrap_or_else(|| panic!("no answer; {:?}", frames.seen))
}

#[test]
fn r8_a_pseudo_field_in_trailers_goes_no_further() {
    let mesh = Mesh::start(|_| {});
    back_end(&mesh.fronts[0].back, mesh.fronts[0].port);
    for front in &mesh.fronts {
        let mut frames = Connection::dial(&front.client, front.addr).expect("a connection");
        let trailers = hpack::literal(&[(":path", "/admin"), ("x-checksum", "1")]);
        let request = [
            Frame::headers(1, flag::END_HEADERS, &hpack::literal(POST)),
            Frame::data(1, flag::NONE, *b"test"),
            Frame::headers(1, WHOLE, &trailers),
        ];
        let answer = exchange(&mut frames, &request);
        assert_eq!(
            (answer.status(), answer.field("saw-trailers")),
            (Some(200), Some("1")),
            "{}: {answer:?}",
            front.way
        );
    }
}

#[test]
fn r9_a_pseudo_field_of_requests_in_an_answer_goes_no_further() {
    let mesh = mesh(|_| {});
    let ways = [("client", "legacy"), ("outsider", "web"), ("client", "web")];
    for (port, (client, back)) in (APP..).zip(ways) {
        let (client, back) = (&mesh.mesh.get(client).host, &mesh.mesh.get(back).host);
        let listener = Listener::bind(back, port);
        let server = std::thread::spawn(move || {
            let mut frames = listener.accept(PATIENCE).expect("a connection");
            frames.begin_server(&[]).expect("an HTTP/2 client");
            frames.until(|frame| frame.ends(1));
            frames.send(&Frame::headers(
                1,
                WHOLE,
                &hpack::literal(&[(":status", "200"), (":path", "/"), ("x-app", "yes")]),
            ));
            frames
        });
        let mut frames = Connection::dial(client, (back.v4, port).into()).expect("a connection");
        let answer = exchange(&mut frames, &[Frame::headers(1, WHOLE, &hpack::literal(GET))]);
        assert_eq!((answer.status(), answer.field("x-app"), answer.field(":path")), (Some(200), Some("yes"), None));
        drop(server.join());
    }
}

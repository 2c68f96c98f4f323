//! Hellos that are not TLS 1.3, written by hand because our TLS library is built without the older versions.

use super::*;

/// RFC 5246 7.4.1.2: versions, random, no session, one AEAD suite, no compression, no extensions.
fn client_hello(version: [u8; 2]) -> Vec<u8> {
    let mut body = [version.as_slice(), &[7; 32], &[0], &[0, 2, 0xc0, 0x2b], &[1, 0]].concat();
    let mut message = vec![1, 0, 0, u8::try_from(body.len()).unwrap()];
    message.append(&mut body);
    record(&message)
}

/// RFC 5246 7.4.1.3: TLS 1.2 with ECDHE-ECDSA-AES128-GCM-SHA256.
fn server_hello() -> Vec<u8> {
    let mut body = [[3, 3].as_slice(), &[7; 32], &[0], &[0xc0, 0x2b], &[0]].concat();
    let mut message = vec![2, 0, 0, u8::try_from(body.len()).unwrap()];
    message.append(&mut body);
    record(&message)
}

fn record(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    [&[22, 3, 1], length.as_slice(), message].concat()
}

#[tokio::test]
async fn r31_an_offer_of_tls_1_2_or_older_is_refused_with_an_alert() {
    let ca = Ca::root("root");
    let acceptor = acceptor(&ca.credentials(&id("api")));
    for version in [[3, 0], [3, 1], [3, 2], [3, 3]] {
        let (mut near, far) = duplex(4096);
        near.write_all(&client_hello(version)).await.unwrap();
        let error = acceptor.accept(far).await.unwrap_err();
        assert_eq!((error.reason(), error.blame()), ("protocol", Blame::Peer), "{version:?}: {error}");
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer.first(), Some(&21), "{version:?}: no alert but {answer:?}");
    }
}

#[tokio::test]
async fn r31_a_server_that_picks_tls_1_2_is_refused_with_an_alert() {
    let ca = Ca::root("root");
    let (near, mut far) = duplex(16 * 1024);
    far.write_all(&server_hello()).await.unwrap();
    let error = connector(&ca.credentials(&id("web"))).connect(near, &id("api")).await.unwrap_err();
    assert_eq!((error.reason(), error.blame()), ("protocol", Blame::Peer), "{error}");
}

#[tokio::test]
async fn r33_bytes_that_are_no_tls_end_the_handshake() {
    let ca = Ca::root("root");
    let acceptor = acceptor(&ca.credentials(&id("api")));
    let giant = [[22, 3, 1, 0x40, 0].as_slice(), &[1, 0xff, 0xff, 0xff], &[0; 0x3ffc]].concat();
    let hostile: [&[u8]; 4] = [b"GET / HTTP/1.1\r\n\r\n", &[0; 64], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &giant];
    for bytes in hostile {
        let (mut near, far) = duplex(64 * 1024);
        near.write_all(bytes).await.unwrap();
        near.shutdown().await.unwrap();
        let reason = acceptor.accept(far).await.unwrap_err().reason();
        assert!(matches!(reason, "protocol" | "io"), "{:?}: {reason}", &bytes[..16]);
    }
}

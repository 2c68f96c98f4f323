//! Records after the handshake: with rustls as it comes at the other end, and with a peer that sends what it may not.

use std::io;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::version::TLS13;
use rustls::{AlertDescription, ContentType, PeerMisbehaved, SupportedCipherSuite};
use tokio::io::{AsyncRead, AsyncWrite, split};

use super::*;
use crate::tls::talk::Fault;

const DATA: ContentType = ContentType::ApplicationData;
const ASKING: &[u8] = &[24, 0, 0, 1, 1];
const NOT_ASKING: &[u8] = &[24, 0, 0, 1, 0];

async fn wide_pair() -> (Client, Server) {
    pair(1 << 20).await
}

/// Sends from one to the other, in pieces of `cut`.
async fn passes(from: &mut (impl AsyncWrite + Unpin), to: &mut (impl AsyncRead + Unpin), data: &[u8], cut: usize) {
    let send = async {
        for part in data.chunks(cut) {
            from.write_all(part).await.unwrap();
            from.flush().await.unwrap();
        }
    };
    let mut heard = vec![0; data.len()];
    let (_, heard_all) = tokio::join!(send, to.read_exact(&mut heard));
    heard_all.unwrap();
    assert!(heard == data, "in pieces of {cut}");
}

#[tokio::test]
async fn bytes_pass_to_and_from_rustls_as_it_comes() {
    let ca = Ca::root("root");
    let (web, api) = (ca.credentials(&id("web")), ca.credentials(&id("api")));
    for (length, cut) in [(300, 1), (100_000, 777), (400_000, 15 * 1024), (400_000, 16 * 1024), (1_000_000, 1_000_000)]
    {
        let data = bytes(length);
        let (mut ours, mut stock) = with_stock_server(&connector(&web), &stock_server(&api)).await;
        passes(&mut ours, &mut stock, &data, cut).await;
        passes(&mut stock, &mut ours, &data, cut).await;
        let (mut stock, mut ours) = with_stock_client(&stock_client(&web), &acceptor(&api)).await;
        passes(&mut ours, &mut stock, &data, cut).await;
        passes(&mut stock, &mut ours, &data, cut).await;
        // Its end is ours, and ours its.
        stock.shutdown().await.unwrap();
        assert_eq!(ours.read(&mut [0; 8]).await.unwrap(), 0);
        ours.shutdown().await.unwrap();
        assert_eq!(stock.read(&mut [0; 8]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_peer_may_change_keys_as_often_as_it_sends_data() {
    let ca = Ca::root("root");
    let (web, api) = (ca.credentials(&id("web")), ca.credentials(&id("api")));
    let (mut ours, mut stock) = with_stock_server(&connector(&web), &stock_server(&api)).await;
    for _ in 0..100 {
        stock.get_mut().1.refresh_traffic_keys().unwrap();
        passes(&mut stock, &mut ours, b"under new keys", 3).await;
        passes(&mut ours, &mut stock, b"under new keys too", 3).await;
    }
    let (mut stock, mut ours) = with_stock_client(&stock_client(&web), &acceptor(&api)).await;
    for _ in 0..100 {
        stock.get_mut().1.refresh_traffic_keys().unwrap();
        passes(&mut stock, &mut ours, b"under new keys", 3).await;
        passes(&mut ours, &mut stock, b"under new keys too", 3).await;
    }
}

/// The provider with one suite.
fn only(suite: SupportedCipherSuite) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() })
}

#[tokio::test]
async fn a_key_is_changed_before_its_limit_under_each_suite() {
    let suites = [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    let ca = Ca::root("root");
    let connector = connector(&ca.credentials(&id("web")));
    let issued = ca.issue(&Template::of(&id("api")));
    for suite in suites {
        let builder = ServerConfig::builder_with_provider(only(suite)).with_protocol_versions(&[&TLS13]).unwrap();
        let mut config = builder.with_no_client_auth().with_cert_resolver(fixed(&issued));
        config.alpn_protocols = owned(H2).to_vec();
        let (mut ours, mut stock) = with_stock_server(&connector, &config).await;
        assert_eq!(stock.get_ref().1.negotiated_cipher_suite(), Some(suite));
        let first = ours.records().0.iv();
        ours.records().0.set_limit(5);
        let mut most_used = 0;
        for _ in 0..100 {
            passes(&mut ours, &mut stock, b"a record", 8).await;
            passes(&mut stock, &mut ours, b"and another", 20).await;
            most_used = most_used.max(ours.records().0.used());
        }
        // The fifth record tells of the next key, which has none as yet.
        assert_eq!(most_used, 4);
        passes(&mut ours, &mut stock, &bytes(200_000), 40_000).await;
        assert_ne!(ours.records().0.iv(), first);
    }
}

/// One record with `content`.
fn seal(stream: &mut Client, kind: ContentType, content: &[u8]) {
    let (records, out) = stream.records();
    records.seal_any(kind, content, out);
}

/// What the victim says it read, and the alert that the hostile peer gets.
async fn choke(victim: &mut Client, hostile: &mut Client) -> (rustls::Error, Option<AlertDescription>) {
    hostile.flush().await.unwrap();
    let found = tls_error(read_on(victim).await.unwrap_err());
    assert_eq!(victim.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(victim.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    let alert = tokio::time::timeout(Duration::from_millis(1), read_on(hostile)).await;
    let alert = alert.ok().map(|read| match tls_error(read.unwrap_err()) {
        rustls::Error::AlertReceived(alert) => alert,
        other => panic!("{other:?}"),
    });
    (found, alert)
}

/// Reads until there is an error, or the end.
async fn read_on(stream: &mut Client) -> io::Result<usize> {
    let (mut total, mut room) = (0, vec![0; 20_000]);
    loop {
        match stream.read(&mut room).await? {
            0 => return Ok(total),
            n => total += n,
        }
    }
}

fn tls_error(error: io::Error) -> rustls::Error {
    error.downcast::<rustls::Error>().expect("an error of TLS")
}

#[tokio::test]
async fn what_is_no_record_of_the_session_ends_it_with_an_alert() {
    type Spoil = fn(&mut Vec<u8>);
    let forged = || (rustls::Error::DecryptError, AlertDescription::BadRecordMac);
    let too_long = || (rustls::Error::PeerSentOversizedRecord, AlertDescription::RecordOverflow);
    let strange = |kind| (Fault::unexpected(kind).error, AlertDescription::UnexpectedMessage);
    let cases: [(&str, Spoil, (rustls::Error, AlertDescription)); 10] = [
        ("a flipped bit of data", |bytes| bytes[20] ^= 1, forged()),
        ("a flipped bit of the tag", |bytes| *bytes.last_mut().unwrap() ^= 1, forged()),
        ("another version", |bytes| bytes[2] = 4, forged()),
        ("too short for a tag", |bytes| *bytes = [&[23, 3, 3, 0, 15][..], &[0; 15]].concat(), forged()),
        ("nothing in it", |bytes| *bytes = vec![23, 3, 3, 0, 0], forged()),
        ("longer than may be", |bytes| bytes[3..5].copy_from_slice(&[0x41, 0x01]), too_long()),
        ("an alert in the clear", |bytes| *bytes = vec![21, 3, 3, 0, 2, 1, 0], strange(ContentType::Alert)),
        ("new ciphers", |bytes| *bytes = vec![20, 3, 3, 0, 1, 1], strange(ContentType::ChangeCipherSpec)),
        ("a hello in the clear", |bytes| bytes[0] = 22, strange(ContentType::Handshake)),
        ("no TLS", |bytes| *bytes = b"GET / HTTP/1.1\r\n\r\n".to_vec(), strange(ContentType::Unknown(b'G'))),
    ];
    for (name, spoil, (error, alert)) in cases {
        for small in [false, true] {
            let (mut victim, mut hostile) = wide_pair().await;
            seal(&mut hostile, DATA, &[0x5a; 64]);
            let (_, out) = hostile.records();
            let mut bytes = out.filled().to_vec();
            out.forget(bytes.len());
            spoil(&mut bytes);
            out.append(&bytes, buffer::SIZE);
            if small {
                // Opened in place, since the reader has too little room.
                hostile.flush().await.unwrap();
                assert_eq!(tls_error(victim.read(&mut [0; 1]).await.unwrap_err()), error, "{name}");
                let told = tls_error(hostile.read(&mut [0; 1]).await.unwrap_err());
                assert_eq!(told, rustls::Error::AlertReceived(alert), "{name}");
            } else {
                assert_eq!(choke(&mut victim, &mut hostile).await, (error.clone(), Some(alert)), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn a_record_that_comes_again_or_too_early_is_refused() {
    for order in [[0, 0], [1, 0]] {
        let (mut victim, mut hostile) = wide_pair().await;
        let mut sealed = Vec::new();
        for _ in 0..2 {
            seal(&mut hostile, DATA, b"once");
            let (_, out) = hostile.records();
            sealed.push(out.filled().to_vec());
            out.consume(out.len());
        }
        for at in order {
            hostile.records().1.append(&sealed[at], buffer::SIZE);
        }
        let refused = (rustls::Error::DecryptError, Some(AlertDescription::BadRecordMac));
        assert_eq!(choke(&mut victim, &mut hostile).await, refused, "{order:?}");
    }
}

#[tokio::test]
async fn what_may_not_be_said_after_the_handshake_ends_the_session_with_an_alert() {
    let large = vec![1; (1 << 14) + 1];
    let nothing = ContentType::Unknown(0);
    let padded = [&[23], &[0; 1 << 14][..]].concat();
    let cases = [
        ("padding", nothing, &[0; 9][..], Fault::unexpected(nothing).error, AlertDescription::UnexpectedMessage),
        (
            "too much padding",
            nothing,
            &padded,
            rustls::Error::PeerSentOversizedRecord,
            AlertDescription::RecordOverflow,
        ),
        ("too much", DATA, &large, rustls::Error::PeerSentOversizedRecord, AlertDescription::RecordOverflow),
        (
            "an update that is none",
            ContentType::Handshake,
            &[24, 0, 0, 1, 2],
            rustls::InvalidMessage::InvalidKeyUpdate.into(),
            AlertDescription::IllegalParameter,
        ),
    ];
    for (name, kind, content, error, alert) in cases {
        let (mut victim, mut hostile) = wide_pair().await;
        seal(&mut hostile, DATA, b"data before it");
        seal(&mut hostile, kind, content);
        assert_eq!(choke(&mut victim, &mut hostile).await, (error, Some(alert)), "{name}");
    }
}

#[tokio::test]
async fn new_keys_without_end_and_without_data_end_the_session() {
    let (mut victim, mut hostile) = wide_pair().await;
    for _ in 0..33 {
        seal(&mut hostile, ContentType::Handshake, NOT_ASKING);
        hostile.records().0.change_keys();
    }
    let (error, alert) = choke(&mut victim, &mut hostile).await;
    assert_eq!(error, PeerMisbehaved::TooManyKeyUpdateRequests.into());
    assert_eq!(alert, Some(AlertDescription::UnexpectedMessage));
}

#[tokio::test]
async fn padding_small_pieces_and_tickets_harm_nobody() {
    let (mut client, mut server) = wide_pair().await;
    seal(&mut server, ContentType::Unknown(0), &[&b"pad"[..], &[23, 0, 0, 0]].concat());
    server.flush().await.unwrap();
    // Byte by byte: there is no room for it, so that it is opened in place.
    for byte in *b"pad" {
        assert_eq!(client.read_u8().await.unwrap(), byte);
    }
    seal(&mut server, ContentType::Unknown(0), &[&b"ded"[..], &[23], &[0; 500]].concat());
    for _ in 0..32 {
        seal(&mut server, DATA, b"");
    }
    let ticket = [&[4, 0, 0x40, 1][..], &[7; 0x4001]].concat();
    for piece in [&ticket[..1], &ticket[1..9], &ticket[9..ticket.len() - 1], &[7, 24], &[0, 0], &[1], &[1]] {
        seal(&mut server, ContentType::Handshake, piece);
    }
    server.records().0.change_keys();
    seal(&mut server, ContentType::Alert, &[1, 90]);
    seal(&mut server, DATA, b" and more");
    server.flush().await.unwrap();
    let mut heard = [0; 12];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ded and more");
    // Asked, we change our keys before we send more.
    let first = client.records().0.iv();
    passes(&mut client, &mut server, b"an answer", 3).await;
    assert_ne!(client.records().0.iv(), first);
}

#[tokio::test]
async fn new_keys_come_before_data_that_was_begun_when_they_were_asked_for() {
    let (mut client, mut server) = wide_pair().await;
    client.write_all(b"begun ").await.unwrap();
    seal(&mut server, ContentType::Handshake, ASKING);
    server.records().0.change_keys();
    passes(&mut server, &mut client, b"go on", 5).await;
    client.write_all(b"and done").await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(client.records().0.used(), 1, "data under the old keys");
    let mut heard = [0; 14];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"begun and done");
}

#[tokio::test]
async fn a_fault_ends_writing_too_and_what_was_begun_is_not_said_to_be_sent() {
    let (mut victim, mut hostile) = wide_pair().await;
    victim.write_all(b"begun").await.unwrap();
    seal(&mut hostile, DATA, b"data before it");
    seal(&mut hostile, ContentType::Unknown(99), b"x");
    hostile.flush().await.unwrap();
    let mut heard = [0; 100];
    assert_eq!(victim.read(&mut heard).await.unwrap(), 14);
    assert_eq!(&heard[..14], b"data before it");
    assert_eq!(
        tls_error(victim.read(&mut heard).await.unwrap_err()),
        Fault::unexpected(ContentType::Unknown(99)).error
    );
    assert_eq!(victim.flush().await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    let told = tls_error(hostile.read(&mut heard).await.unwrap_err());
    assert_eq!(told, rustls::Error::AlertReceived(AlertDescription::UnexpectedMessage));
}

#[tokio::test]
async fn servers_take_no_tickets() {
    let (mut client, mut server) = wide_pair().await;
    seal(&mut client, ContentType::Handshake, &[4, 0, 0, 1, 7]);
    let (error, alert) = choke(&mut server, &mut client).await;
    assert!(matches!(error, rustls::Error::InappropriateHandshakeMessage { .. }), "{error:?}");
    assert_eq!(alert, Some(AlertDescription::UnexpectedMessage));
}

#[tokio::test]
async fn an_alert_is_an_error_and_is_not_answered() {
    let (mut client, mut server) = wide_pair().await;
    seal(&mut server, ContentType::Alert, &[2, AlertDescription::CertificateExpired.into()]);
    let (error, alert) = choke(&mut client, &mut server).await;
    assert_eq!((error, alert), (rustls::Error::AlertReceived(AlertDescription::CertificateExpired), None));
}

#[tokio::test]
async fn what_follows_the_end_is_not_read() {
    let (mut client, mut server) = wide_pair().await;
    seal(&mut server, DATA, b"the end");
    seal(&mut server, ContentType::Alert, &[1, 0]);
    seal(&mut server, DATA, b"and a postscript");
    server.flush().await.unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"the end");
    // The other direction goes on.
    passes(&mut client, &mut server, b"until we end it too", 4).await;
    client.shutdown().await.unwrap();
    assert_eq!(client.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn both_directions_at_once_with_few_records_to_a_key() {
    for room in [100, 20_000, 1 << 20] {
        let (mut client, mut server) = pair(room).await;
        client.records().0.set_limit(3);
        server.records().0.set_limit(4);
        let data = bytes(200_000);
        let ((mut r1, mut w1), (mut r2, mut w2)) = (split(client), split(server));
        for cut in [501, 20_000] {
            tokio::join!(passes(&mut w1, &mut r2, &data, cut), passes(&mut w2, &mut r1, &data, cut));
        }
    }
}

//! What a peer says beside data, without keys and sockets.

use rustls::{AlertDescription as Alert, ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved};

use crate::tls::talk::{Fault, Said, Talk};

const DATA: ContentType = ContentType::ApplicationData;
const HANDSHAKE: ContentType = ContentType::Handshake;
const ALERT: ContentType = ContentType::Alert;
const KEEPING: &[u8] = &[24, 0, 0, 1, 0];
const ASKING: &[u8] = &[24, 0, 0, 1, 1];

fn ticket(length: u16) -> Vec<u8> {
    let [high, low] = length.to_be_bytes();
    [&[4, 0, high, low][..], &vec![24; usize::from(length)]].concat()
}

fn fault(error: impl Into<Error>, alert: Alert) -> Result<Said, Fault> {
    Err(Fault::new(error, alert))
}

#[track_caller]
fn says(talk: &mut Talk, kind: ContentType, content: &[u8], expected: &Result<Said, Fault>) {
    assert_eq!(&talk.hear(kind, content), expected, "{kind:?} of {} bytes", content.len());
}

#[test]
fn data_alerts_and_keys_are_told_apart() {
    for mut talk in [Talk::with_client(), Talk::with_server()] {
        says(&mut talk, DATA, b"x", &Ok(Said::Data));
        says(&mut talk, DATA, b"", &Ok(Said::Nothing));
        says(&mut talk, HANDSHAKE, KEEPING, &Ok(Said::NewKeys { answer: false }));
        says(&mut talk, HANDSHAKE, ASKING, &Ok(Said::NewKeys { answer: true }));
        says(&mut talk, ALERT, &[1, 0], &Ok(Said::Closed));
        // The level of an alert says nothing.
        says(&mut talk, ALERT, &[2, 0], &Ok(Said::Closed));
        for level in [1, 2] {
            let expired = Fault { error: Error::AlertReceived(Alert::CertificateExpired), alert: None };
            says(&mut talk, ALERT, &[level, 45], &Err(expired));
        }
    }
}

#[test]
fn messages_may_be_cut_anywhere_and_share_records() {
    let messages = [ticket(300), ticket(0), ticket(7), ASKING.to_vec()].concat();
    for cut in 1..messages.len() {
        let mut talk = Talk::with_server();
        let pieces: Vec<_> = messages.chunks(cut).collect();
        let (last, others) = pieces.split_last().unwrap();
        for piece in others {
            says(&mut talk, HANDSHAKE, piece, &Ok(Said::Nothing));
        }
        says(&mut talk, HANDSHAKE, last, &Ok(Said::NewKeys { answer: true }));
        says(&mut talk, DATA, b"x", &Ok(Said::Data));
    }
}

#[test]
fn nothing_else_comes_between_the_pieces_of_a_message() {
    for begun in [&KEEPING[..1], &KEEPING[..4], &ticket(9)[..2], &ticket(9)[..6]] {
        for (kind, content) in [(DATA, &b"x"[..]), (DATA, b""), (ALERT, &[1, 0])] {
            let mut talk = Talk::with_server();
            says(&mut talk, HANDSHAKE, begun, &Ok(Said::Nothing));
            let interleaved = PeerMisbehaved::MessageInterleavedWithHandshakeMessage;
            says(&mut talk, kind, content, &fault(interleaved, Alert::UnexpectedMessage));
        }
    }
}

#[test]
fn what_is_malformed_or_out_of_place_is_a_fault() {
    let strange = |got_type| {
        let expect_types = vec![HandshakeType::NewSessionTicket, HandshakeType::KeyUpdate];
        fault(Error::InappropriateHandshakeMessage { expect_types, got_type }, Alert::UnexpectedMessage)
    };
    let too_large = || fault(InvalidMessage::HandshakePayloadTooLarge, Alert::DecodeError);
    let short = || fault(InvalidMessage::MissingData("Alert"), Alert::DecodeError);
    let ccs = ContentType::ChangeCipherSpec;
    let cases: [(ContentType, &[u8], Result<Said, Fault>); 12] = [
        (ContentType::Unknown(99), b"x", Err(Fault::unexpected(ContentType::Unknown(99)))),
        (ccs, &[1], Err(Fault::unexpected(ccs))),
        (HANDSHAKE, b"", fault(InvalidMessage::InvalidEmptyPayload, Alert::UnexpectedMessage)),
        (HANDSHAKE, &[1], strange(HandshakeType::ClientHello)),
        (HANDSHAKE, &[0, 0, 0, 0], strange(HandshakeType::HelloRequest)),
        (HANDSHAKE, &[24, 0, 0, 2, 0, 0], too_large()),
        (HANDSHAKE, &[24, 0, 0, 0], too_large()),
        (HANDSHAKE, &[4, 1, 0, 0], too_large()),
        (HANDSHAKE, &[24, 0, 0, 1, 2], fault(InvalidMessage::InvalidKeyUpdate, Alert::IllegalParameter)),
        (
            HANDSHAKE,
            &[24, 0, 0, 1, 0, 24],
            fault(PeerMisbehaved::KeyEpochWithPendingFragment, Alert::UnexpectedMessage),
        ),
        (ALERT, &[1], short()),
        (ALERT, &[1, 0, 0], short()),
    ];
    for (kind, content, expected) in cases {
        says(&mut Talk::with_server(), kind, content, &expected);
    }
    says(&mut Talk::with_client(), HANDSHAKE, &[4], &strange(HandshakeType::NewSessionTicket));
}

#[test]
fn what_costs_us_work_cannot_be_said_without_end() {
    let cases = [
        (DATA, &b""[..], 32, PeerMisbehaved::TooManyEmptyFragments),
        (HANDSHAKE, KEEPING, 32, PeerMisbehaved::TooManyKeyUpdateRequests),
        (HANDSHAKE, ASKING, 32, PeerMisbehaved::TooManyKeyUpdateRequests),
        (ALERT, &[1, 90], 4, PeerMisbehaved::TooManyWarningAlertsReceived),
    ];
    for (kind, content, allowed, error) in cases {
        let mut talk = Talk::with_server();
        for _ in 0..allowed {
            assert!(talk.hear(kind, content).is_ok());
        }
        says(&mut talk, kind, content, &fault(error, Alert::UnexpectedMessage));
    }
    // Between data it may go on for ever, but warnings.
    let mut talk = Talk::with_server();
    for _ in 0..1000 {
        says(&mut talk, DATA, b"", &Ok(Said::Nothing));
        says(&mut talk, HANDSHAKE, ASKING, &Ok(Said::NewKeys { answer: true }));
        says(&mut talk, DATA, b"x", &Ok(Said::Data));
    }
}

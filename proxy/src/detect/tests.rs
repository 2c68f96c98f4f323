//! Detection over whole inputs, each of their prefixes, and many generated ones.

use super::*;

fn tls(sni: Option<&str>) -> Verdict {
    Verdict::Tls { sni: sni.map(Into::into) }
}

/// The verdict is `last` after `at` bytes, not before, and for every longer input.
#[track_caller]
fn decides(bytes: &[u8], last: &Verdict, at: usize) {
    for end in 0..=bytes.len() {
        let expected = if end < at { &Verdict::NeedMore } else { last };
        assert_eq!(detect(&bytes[..end]), *expected, "after {end} of {:?}", bytes.escape_ascii());
    }
}

#[test]
fn http1_is_decided_by_the_last_byte_of_the_request_line() {
    for line in [
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n",
        "GET / HTTP/1.1\n",
        "OPTIONS * HTTP/1.1\r\n",
        "GET http://web.demo.svc/x?y=z HTTP/1.1\r\n",
        "CONNECT web.demo.svc:443 HTTP/1.1\r\n",
        "M-SEARCH * HTTP/1.1\r\n",
        "VERSION_CONTROL2 /x HTTP/1.1\r\n",
        "A / HTTP/1.1\r\n",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF / HTTP/1.1\r\n",
        "\r\nGET / HTTP/1.1\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\n",
        "PRI * HTTP/1.1\r\n",
        "POST /upload HTTP/1.0\r\n",
    ] {
        let whole = format!("{line}Host: web\r\n\r\n");
        decides(whole.as_bytes(), &Verdict::Http1, line.len());
    }
}

#[test]
fn a_bad_request_is_still_http_and_left_to_the_parser() {
    for line in [
        "GET /a b HTTP/1.1\r\n",
        "GET  HTTP/1.1\r\n",
        "GET x HTTP/1.1\r\n",
        "GET /\0 HTTP/1.1\r\n",
        "GET /\u{fc} HTTP/1.1\r\n",
        "GET http://\u{1}/ HTTP/1.1\r\n",
    ] {
        decides(line.as_bytes(), &Verdict::Http1, line.len());
    }
}

#[test]
fn the_preface_is_http2_with_its_last_byte() {
    decides(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", &Verdict::Http2, 24);
}

#[test]
fn a_broken_preface_is_opaque_where_it_breaks() {
    decides(b"PRI * HTTP/2.0\r\nHost: x", &Verdict::Opaque, 17);
    decides(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rx", &Verdict::Opaque, 24);
    decides(b"PRI * HTTP/2.1\r\n", &Verdict::Opaque, 16);
    decides(b"PRIX", &Verdict::NeedMore, 0);
}

#[test]
fn client_first_protocols_wait_for_nothing_after_their_first_message() {
    let at_its_end: [&[u8]; 9] = [
        b"EHLO x\r\n",
        b"get k\n",
        b"SET key value\n",
        b"AUTH secret\n",
        b"NICK mesh\n",
        b"CONNECT {\"verbose\":false}\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        b"OPTIONS rtsp://x RTSP/1.0\n",
        b"GET / HTTP/3.0\n",
    ];
    for message in at_its_end {
        assert_eq!(detect(message), Verdict::Opaque, "{:?}", message.escape_ascii());
    }
    decides(b"SET k v\r\nGET / HTTP/1.1\r\n", &Verdict::Opaque, 9);
}

#[test]
fn a_byte_that_no_protocol_of_ours_has_there_is_opaque_at_once() {
    decides(b"PING\r\n", &Verdict::Opaque, 5);
    decides(b"PING\n", &Verdict::Opaque, 5);
    decides(b"*1\r\n$4\r\nPING\r\n", &Verdict::Opaque, 1);
    decides(b"get k\r\n", &Verdict::Opaque, 1);
    decides(b"get / HTTP/1.1\r\n", &Verdict::Opaque, 1);
    decides(b"Get / HTTP/1.1\r\n", &Verdict::Opaque, 2);
    decides(b"SSH-2.0-OpenSSH\r\n", &Verdict::Opaque, 6);
    decides(b"AMQP\0\0\x09\x01", &Verdict::Opaque, 5);
    decides(b"\0\0\0\x08\x04\xd2\x16\x2f", &Verdict::Opaque, 1);
    decides(b"G\xc3\x8bT / HTTP/1.1\r\n", &Verdict::Opaque, 2);
    decides(b" GET / HTTP/1.1\r\n", &Verdict::Opaque, 1);
    decides(b"-GET / HTTP/1.1\r\n", &Verdict::Opaque, 1);
    decides(b"HELLO me\0", &Verdict::Opaque, 9);
    decides(b"HELLO ht\x01", &Verdict::Opaque, 9);
    decides(b"\n", &Verdict::Opaque, 1);
    decides(b"\r\rGET", &Verdict::Opaque, 2);
    decides(b"\r\n\r\n\r\nGET / HTTP/1.1\r\n", &Verdict::Opaque, 5);
    decides(b"\r\n\r\n\0\r\nQUIT\n", &Verdict::Opaque, 5);
    decides(b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\n", &Verdict::Opaque, 33);
}

#[test]
fn a_request_line_without_an_end_is_decided_by_its_target_at_8_kib() {
    for (start, verdict) in [
        ("GET /", Verdict::Http1),
        ("OPTIONS *", Verdict::Http1),
        ("GET HTTP://x/", Verdict::Http1),
        ("GET https://x/", Verdict::Http1),
        ("CONNECT x", Verdict::Opaque),
        ("\r\nGET httpx://", Verdict::Opaque),
    ] {
        let long = start.to_owned() + &"a".repeat(MAX);
        let at = 8192 + if start.starts_with('\r') { 2 } else { 0 };
        assert_eq!(detect(&long.as_bytes()[..at - 1]), Verdict::NeedMore, "{start}");
        assert_eq!(detect(&long.as_bytes()[..at]), verdict, "{start}");
        assert_eq!(detect(long.as_bytes()), verdict, "{start}");
        let ended = long[..at + 10].to_owned() + " HTTP/1.1\r\n";
        assert_eq!(detect(ended.as_bytes()), verdict, "an end that comes too late, {start}");
    }
}

/// A hello with `extensions` as they stand on the wire.
fn hello(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([32]);
    body.extend([8; 32]);
    body.extend([0, 4, 0x13, 1, 0x13, 2]);
    body.extend([1, 0]);
    if !extensions.is_empty() {
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
    }
    let mut message = vec![1];
    message.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
    message.extend(body);
    message
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    [&kind.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

fn server_name(name: &str) -> Vec<u8> {
    let length = u16::try_from(name.len()).unwrap();
    let list = [&(length + 3).to_be_bytes()[..], &[0], &length.to_be_bytes(), name.as_bytes()];
    extension(0, &list.concat())
}

/// `message` in records of `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for part in message.chunks(size) {
        out.extend([22, 3, 1]);
        out.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
        out.extend(part);
    }
    out
}

#[test]
fn the_server_name_of_a_hello_is_known_with_its_last_byte() {
    let before = extension(43, &[2, 3, 4]);
    let name = server_name("Web.Demo.svc");
    let after = extension(51, &[1; 1200]);
    let upto = hello(&[&before[..], &name].concat()).len();
    let message = hello(&[before, name, after].concat());
    for size in [1, 2, 3, 5, 64, 1000, 16384] {
        let at = records(&message[..upto], size).len();
        decides(&records(&message, size), &tls(Some("web.demo.svc")), at);
    }
}

#[test]
fn a_hello_without_server_name_is_tls_with_its_last_byte() {
    let bare = hello(&[]);
    // Nothing after the compression methods has to be waited for.
    decides(&records(&bare, 16384), &tls(None), 5 + bare.len());
    let other = hello(&extension(43, &[2, 3, 4]));
    decides(&records(&other, 7), &tls(None), records(&other, 7).len());
}

#[test]
fn a_server_name_that_is_no_host_name_is_left_out() {
    let long = "a".repeat(254);
    for name in ["", "a b", "a\n", "a/b", "\u{fc}", long.as_str()] {
        let bytes = records(&hello(&server_name(name)), 16384);
        assert_eq!(detect(&bytes), tls(None), "{name:?}");
    }
    let longest = "a".repeat(253);
    let bytes = records(&hello(&server_name(&longest)), 16384);
    assert_eq!(detect(&bytes), tls(Some(&longest)));
}

#[test]
fn damage_inside_a_hello_loses_the_name_and_not_the_verdict() {
    let good = hello(&server_name("web"));
    // The record after the first is none.
    let mut torn = records(&good, 50);
    torn[55] = 23;
    assert_eq!(detect(&torn), tls(None));
    // The message ends inside the extension.
    let mut short = good.clone();
    short[3] -= 1;
    assert_eq!(detect(&records(&short, 16384)), tls(None));
    // The list says that it is longer than its extension.
    let mut list = good;
    let at = list.len() - 7;
    list[at] = 200;
    assert_eq!(detect(&records(&list, 16384)), tls(None));
}

/// Found by the fuzz target `sni` at 100,000 rounds: rustls reads a hello whose first record says 3.129.
#[test]
fn the_version_of_records_says_nothing_but_for_the_major_one_of_the_first() {
    let mut bytes = records(&hello(&server_name("web")), 50);
    for (at, byte) in [(2, 0x81), (56, 0x41), (57, 0xff)] {
        bytes[at] = byte;
        assert_eq!(detect(&bytes), tls(Some("web")), "{byte:#x} at {at}");
    }
}

#[test]
fn a_hello_whose_name_comes_after_max_bytes_is_tls_without_name() {
    let padding = extension(21, &[0; 16000]);
    let message = hello(&[padding.clone(), padding, server_name("web")].concat());
    let bytes = records(&message, 16384);
    assert!(bytes.len() > 2 * MAX - 1000);
    decides(&bytes[..MAX + 100], &tls(None), MAX);
    assert_eq!(detect(&bytes), tls(None));
}

#[test]
fn records_that_are_no_client_hello_are_opaque_at_the_byte_that_says_so() {
    decides(&[22, 2, 1, 0, 5], &Verdict::Opaque, 2);
    decides(&[22, 3, 1, 0x41, 0], &Verdict::Opaque, 4);
    decides(&[22, 3, 1, 0x40, 1], &Verdict::Opaque, 5);
    decides(&[22, 3, 1, 0, 0], &Verdict::Opaque, 5);
    decides(&[22, 3, 3, 0, 5, 2, 0, 0], &Verdict::Opaque, 6);
    decides(&[22, 3, 3, 0, 5, 1, 0, 0, 1, 3], &Verdict::Opaque, 9);
    decides(&[22, 3, 3, 0, 9, 1, 0, 0, 99, 2], &Verdict::Opaque, 10);
    decides(&[21, 3, 3, 0, 2, 1, 0], &Verdict::Opaque, 1);
    decides(&[23, 3, 3, 0, 2, 1, 0], &Verdict::Opaque, 1);
}

#[test]
fn a_hello_of_rustls_is_read() {
    use std::sync::Arc;
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, crypto};

    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let config = Arc::new(config);
    for (name, sni) in [("web.example", Some("web.example")), ("192.0.2.1", None)] {
        let server = name.to_owned().try_into().unwrap();
        let mut client = ClientConnection::new(Arc::clone(&config), server).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        assert_eq!(detect(&bytes), tls(sni));
        monotone(&bytes);
    }
}

/// Checks every prefix: once decided, decided alike for ever; nothing undecided at [`MAX`].
#[track_caller]
fn monotone(bytes: &[u8]) {
    let mut decided = None;
    for end in 0..=bytes.len() {
        let verdict = detect(&bytes[..end]);
        let shown = || bytes[..end].escape_ascii().to_string();
        match &decided {
            Some(before) => assert_eq!(verdict, *before, "after {end}: {}", shown()),
            None if verdict == Verdict::NeedMore => assert!(end < MAX, "undecided: {}", shown()),
            None => decided = Some(verdict),
        }
    }
}

/// xorshift64*: enough chance for generated inputs, and the same one in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % end
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.byte()).collect()
    }

    /// A few pieces of what protocols are made of, one after the other.
    fn pieces(&mut self) -> Vec<u8> {
        const PIECES: [&[u8]; 20] = [
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b"GET",
            b"PRI",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"*",
            b"/",
            b"http://",
            b"https:/",
            b" HTTP/1.1",
            b" HTTP/1.0\r\n",
            b" HTTP/2.0",
            b"CONNECT",
            b"\0",
            b"x",
            &[22, 3, 1],
            &[0, 40, 1, 0, 0, 36, 3, 3],
            b"\x80",
        ];
        (0..self.below(8)).flat_map(|_| PIECES[self.below(PIECES.len())].to_vec()).collect()
    }

    /// A valid opening of one of the protocols.
    fn valid(&mut self) -> Vec<u8> {
        match self.below(4) {
            0 => b"POST /path?query HTTP/1.1\r\nHost: web\r\n\r\n".to_vec(),
            1 => [super::PREFACE, &self.bytes(20)].concat(),
            2 => b"CONNECT web.demo.svc:80 HTTP/1.0\n\n".to_vec(),
            _ => {
                let around = [extension(10, &self.bytes(30)), extension(16, &self.bytes(30))];
                let message = hello(&[&around[0][..], &server_name("web"), &around[1]].concat());
                records(&message, 1 + self.below(300))
            }
        }
    }
}

#[test]
fn the_verdict_on_generated_input_never_changes_once_given() {
    let mut chance = Chance(0x6d65_7368);
    for round in 0..30_000 {
        let mut bytes = match round % 3 {
            0 => chance.bytes(80),
            1 => chance.pieces(),
            _ => chance.valid(),
        };
        // Damage in one place, at times.
        if !bytes.is_empty() && chance.below(2) == 0 {
            let at = chance.below(bytes.len());
            bytes[at] = chance.byte();
        }
        monotone(&bytes);
    }
}

#[test]
fn whatever_comes_is_decided_at_max_bytes() {
    let mut chance = Chance(42);
    for round in 0..2000 {
        let mut bytes = match round % 4 {
            0 => chance.pieces(),
            1 => chance.valid(),
            2 => [&[22, 3, 1][..], &chance.bytes(20)].concat(),
            _ => b"GET /".to_vec(),
        };
        let filler = if chance.below(2) == 0 { chance.byte() } else { b'A' };
        bytes.truncate(chance.below(bytes.len() + 1));
        bytes.resize(MAX + chance.below(100), filler);
        let verdict = detect(&bytes[..MAX]);
        assert_ne!(verdict, Verdict::NeedMore, "{}", bytes[..40].escape_ascii());
        assert_eq!(verdict, detect(&bytes));
    }
}

#[test]
fn a_hello_of_one_byte_records_that_never_ends_is_decided_at_max() {
    let message = hello(&extension(21, &[0; 8000]));
    let bytes = records(&message, 1);
    assert!(bytes.len() > MAX);
    assert_eq!(detect(&bytes[..MAX - 1]), Verdict::NeedMore);
    assert_eq!(detect(&bytes[..MAX]), tls(None));
}

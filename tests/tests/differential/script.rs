//! What is said in a conversation, by both ends, and how to make up such conversations.
//!
//! Invariant: [`Conversation::valid`] leaves only what both ends may say in the protocol, so every difference is the mesh's.
//! Non-goal: hostile bytes; here both ends keep to the rules, however odd the conversation is.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// One connection of a client.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    pub(crate) version: Version,
    /// Requests do not wait for the answers of those before them: pipelined in HTTP/1, at once in HTTP/2.
    pub(crate) at_once: bool,
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    H1,
    H2,
}

/// How a client in HTTP/1 ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It says `connection: close` in its last request.
    Close,
    /// It ends its direction after its last request.
    HalfClose,
    /// It goes on: one more exchange, then it is gone.
    GoesOn,
}

#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) method: &'static str,
    pub(crate) target: &'static str,
    /// HTTP/1.0.
    pub(crate) old: bool,
    /// Waits for 100 before its body.
    pub(crate) expects: bool,
    /// Bytes of a head that are written at a time.
    pub(crate) chop: usize,
    pub(crate) fields: Fields,
    pub(crate) body: Body,
    pub(crate) answer: Answer,
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) interim: Vec<(u16, Fields)>,
    pub(crate) status: u16,
    /// After how many pieces of the request's body it begins; those that there are at most.
    pub(crate) after: usize,
    /// `connection: close`, and it does.
    pub(crate) closes: bool,
    pub(crate) fields: Fields,
    pub(crate) body: Body,
}

pub(crate) type Fields = Vec<(&'static str, &'static str)>;

#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) framing: Framing,
    /// Sizes of what is written at a time.
    pub(crate) pieces: Vec<usize>,
    pub(crate) trailers: Fields,
    /// Breaks off after so many pieces, once the other end has seen them.
    pub(crate) cut: Option<(usize, Cut)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    Absent,
    /// With Content-Length.
    Length,
    /// Chunked in HTTP/1, without Content-Length in HTTP/2.
    Open,
    /// To the end of the connection.
    UntilClose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The connection ends; FIN.
    Fin,
    /// RST, or `RST_STREAM` with this code.
    Reset(u32),
}

impl Body {
    const NONE: Self = Self { framing: Framing::Absent, pieces: Vec::new(), trailers: Vec::new(), cut: None };

    pub(crate) fn length(&self) -> usize {
        self.pieces.iter().sum()
    }

    /// Bytes of the first `count` pieces.
    pub(crate) fn up_to(&self, count: usize) -> usize {
        self.pieces.iter().take(count).sum()
    }

    /// Each piece with what is in it, as far as they are sent.
    pub(crate) fn sent(&self, salt: usize) -> Vec<Vec<u8>> {
        let count = self.cut.map_or(self.pieces.len(), |(count, _)| count);
        let mut at = salt * 31;
        let mut piece = |&size: &usize| {
            at += size;
            (at - size..at).map(|place| (place % 251) as u8).collect()
        };
        self.pieces.iter().take(count).map(&mut piece).collect()
    }
}

impl Conversation {
    /// Takes out what the protocol does not allow, or what is said once per connection and not at its end.
    fn valid(mut self) -> Self {
        let last = self.exchanges.len() - 1;
        let (h1, end) = (self.version == Version::H1, self.end);
        for (index, exchange) in self.exchanges.iter_mut().enumerate() {
            exchange.valid(h1, index == last);
            if index == last && end == End::HalfClose && exchange.body.cut.is_some() {
                self.end = End::Close;
            }
        }
        self
    }
}

impl Exchange {
    fn valid(&mut self, h1: bool, last: bool) {
        let Self { body, answer, .. } = self;
        self.old &= h1 && last;
        if body.framing == Framing::UntilClose || (self.old && body.framing == Framing::Open) {
            body.framing = Framing::Length;
        }
        body.valid();
        answer.body.valid();
        let empty = matches!(answer.status, 204 | 304) || self.method == "HEAD";
        if empty {
            answer.body = Body { framing: answer.body.framing, pieces: answer.body.pieces.clone(), ..Body::NONE };
            // A length without a body is for HEAD and 304 to tell. In HTTP/1 hyper leaves that of 304 out.
            let may_tell = if h1 { !matches!(answer.status, 204 | 304) } else { answer.status != 204 };
            let tells = answer.body.framing == Framing::Length && may_tell;
            if !tells {
                answer.body = Body::NONE;
            }
        }
        let until_close =
            answer.body.framing == Framing::UntilClose || (self.old && answer.body.framing == Framing::Open);
        if until_close && h1 && last {
            answer.body = Body { framing: Framing::UntilClose, trailers: Vec::new(), ..answer.body.clone() };
            // FIN is its end.
            if let Some((_, cut)) = &mut answer.body.cut {
                *cut = Cut::Reset(0);
            }
            answer.closes = true;
        } else if until_close {
            answer.body.framing = Framing::Open;
        }
        answer.closes &= h1 && last;
        // An answer in HTTP/1 without a frame would last as long as its connection.
        if h1 && !empty && answer.body.framing == Framing::Absent {
            answer.body.framing = Framing::Length;
        }
        if h1 && !last {
            (body.cut, answer.body.cut) = (None, None);
        }
        // Who breaks off in the middle of a request gets no answer, and nobody breaks off twice.
        if body.cut.is_some() {
            answer.body.cut = None;
            answer.after = usize::MAX;
        }
        // Trailers of a request that is answered already stay with hyper until the next one comes.
        if answer.body.cut.is_some() || (h1 && !body.trailers.is_empty()) {
            answer.after = usize::MAX;
        }
        if self.old || !h1 {
            self.expects = false;
        }
        self.expects &= body.length() > 0;
        if self.old {
            answer.interim.clear();
        }
    }
}

impl Body {
    fn valid(&mut self) {
        if self.framing == Framing::Absent {
            *self = Self::NONE;
        }
        if self.framing != Framing::Open {
            self.trailers.clear();
        }
        // A body of known length that is there in full is whole, whatever comes after it.
        if let Some((count, _)) = &mut self.cut {
            *count = (*count).min(self.pieces.len().saturating_sub(1));
        }
        if self.pieces.is_empty() {
            self.cut = None;
        }
    }
}

/// Conversations in one version of HTTP.
pub(crate) fn conversations(version: Version) -> impl Strategy<Value = Conversation> {
    let ends = select(vec![End::Close, End::HalfClose, End::GoesOn]);
    let parts = (any::<bool>(), vec(exchange(version), 1..6), ends);
    parts.prop_map(move |(at_once, exchanges, end)| Conversation { version, at_once, exchanges, end }.valid())
}

fn exchange(version: Version) -> impl Strategy<Value = Exchange> {
    let methods = ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "BREW"];
    let mut targets = vec!["/", "/a?b=%20c&&d==", "//two//", "/./x/../y", "/%2e%2e/%2F;p=1?/../", "/q?", "/~'()*!$,@:"];
    if version == Version::H1 {
        targets.push("http://web.test/absolute?yes");
    }
    let chops = select(vec![1, 7, 100, 100_000, 100_000, 100_000]);
    let head =
        (select(methods.to_vec()), select(targets), prop::bool::weighted(0.1), prop::bool::weighted(0.15), chops);
    (head, fields(version, REQUEST), body(), answer(version)).prop_map(
        |((method, target, old, expects, chop), fields, body, answer)| Exchange {
            method,
            target,
            old,
            expects,
            chop,
            fields,
            body,
            answer,
        },
    )
}

fn answer(version: Version) -> impl Strategy<Value = Answer> {
    let statuses = vec![200, 200, 200, 201, 204, 206, 301, 304, 404, 418, 500, 503, 599];
    let after = prop_oneof![4 => Just(usize::MAX), 1 => 0..3usize];
    let interim = prop_oneof![
        4 => Just(Vec::new()),
        1 => vec((select(vec![102, 103]), fields(version, INTERIM)), 1..3),
    ];
    let head = (interim, select(statuses), after, prop::bool::weighted(0.2));
    (head, fields(version, RESPONSE), body()).prop_map(|((interim, status, after, closes), fields, body)| Answer {
        interim,
        status,
        after,
        closes,
        fields,
        body,
    })
}

const INTERIM: &[(&str, &str)] = &[("link", "</a.css>; rel=preload"), ("link", "</b.js>"), ("x-early", "1")];
const REQUEST: &[(&str, &str)] = &[
    ("accept", "text/html, */*;q=0.1"),
    ("user-agent", "differential (test)"),
    ("x-a", "1"),
    ("x-a", "2, \"quoted, comma\""),
    ("x-empty", ""),
    ("x-latin", "caf\u{e9}"),
    ("cookie", "a=b; c=d"),
    ("authorization", "Basic YTpi"),
    ("te", "trailers"),
    ("x-forwarded-for", "192.0.2.1"),
    ("content-type", "application/json"),
    ("range", "bytes=0-10"),
];
const RESPONSE: &[(&str, &str)] = &[
    ("server", "nobody"),
    ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("set-cookie", "a=1"),
    ("set-cookie", "b=2; Path=/"),
    ("location", "/elsewhere?x=%0a"),
    ("x-empty", ""),
    ("x-latin", "caf\u{e9}"),
    ("etag", "\"1\""),
    ("content-type", "text/plain"),
    ("www-authenticate", "Basic realm=\"x\", Digest"),
];
/// They end at a hop, and HTTP/2 does not have them.
const HOP: &[(&str, &str)] = &[
    ("keep-alive", "timeout=5"),
    ("connection", "x-named"),
    ("x-named", "goes with the hop"),
    ("proxy-connection", "keep-alive"),
    ("connection", "X-NAMED , x-other"),
    ("x-other", "too"),
];

fn fields(version: Version, pool: &'static [(&'static str, &'static str)]) -> impl Strategy<Value = Fields> {
    let hop = if version == Version::H1 && pool != INTERIM { HOP } else { &[] };
    let weight = if hop.is_empty() { 0 } else { 2 };
    let one = prop_oneof![
        8 => select(pool.to_vec()),
        weight => select(if hop.is_empty() { pool.to_vec() } else { hop.to_vec() }),
    ];
    vec(one, 0..6)
}

fn body() -> impl Strategy<Value = Body> {
    let framing = prop_oneof![
        3 => Just(Framing::Absent),
        4 => Just(Framing::Length),
        4 => Just(Framing::Open),
        1 => Just(Framing::UntilClose),
    ];
    let piece = prop_oneof![6 => 1..20usize, 4 => 100..3_000usize, 1 => 20_000..120_000usize];
    let trailers = vec(select(vec![("x-sum", "42"), ("x-sum", "43"), ("x-done", "yes"), ("x-empty-end", "")]), 0..3);
    let codes = select(vec![Cut::Fin, Cut::Reset(0x8), Cut::Reset(0x2), Cut::Reset(0xb), Cut::Reset(0x1)]);
    let cut = prop::option::weighted(0.1, (0..4usize, codes));
    (framing, vec(piece, 0..5), trailers, cut).prop_map(|(framing, pieces, trailers, cut)| Body {
        framing,
        pieces,
        trailers,
        cut,
    })
}

//! The attacks against the other proxies.
//!
//! Invariant: the same functions and the same judgement as in our own tests; a figure says how many cases went as the standards
//! want, not who is to blame.

use mesh_tests::attacks::downgrade;
use mesh_tests::attacks::h2spec::{self, Target, back_end};
use mesh_tests::attacks::http1::answered::{careless, contaminate};
use mesh_tests::attacks::http1::{
    Arrived, Case, Outcome, Recorder, attempt, chunks, compliance, early, fields, smuggling,
};
use mesh_tests::yardstick::{Peer, Speaks, Who};

use crate::table::Record;

/// Runs all against both.
pub(crate) fn all() -> anyhow::Result<Vec<Record>> {
    let mut records = Vec::new();
    for who in [Who::Envoy, Who::Haproxy] {
        for speaks in [Speaks::Http1, Speaks::Http2] {
            eprintln!("== {}, {speaks:?}", who.name());
            if speaks == Speaks::Http1 {
                records.extend(tables(&Peer::start(who, speaks)?));
                records.extend(downgraded(&Peer::start(who, speaks)?));
                records.extend(chunked_answers(&Peer::start(who, speaks)?));
                records.extend(early_bytes(&Peer::start(who, speaks)?));
                records.extend(early_answers(&Peer::start(who, speaks)?));
            }
            records.extend(frames(&Peer::start(who, speaks)?, speaks));
        }
    }
    Ok(records)
}

fn figure(peer: &Peer, row: u8, case: &str, right: usize, all: usize, more: &str) -> Record {
    let (who, figure) = (peer.front.who.name().to_owned(), format!("{right} of {all}{more}"));
    eprintln!("R{row} {case}: {figure}");
    Record { row, case: case.to_owned(), who, held: right == all, figure }
}

/// R10, R11, R12: tables of requests.
fn tables(peer: &Peer) -> Vec<Record> {
    let recorder = Recorder::start(&peer.front.back, peer.front.port);
    let standards = [compliance::cases(), compliance::malformed(), fields::alike(), fields::cookies()].concat();
    let tables = [
        (10, "two readings", smuggling::cases()),
        (11, "the standards", standards),
        (12, "chunks of requests", chunks::uploads()),
    ];
    tables.map(|(row, name, cases)| table(peer, &recorder, row, name, &cases)).into()
}

fn table(peer: &Peer, recorder: &Recorder, row: u8, name: &str, cases: &[Case]) -> Record {
    let wrong = cases.iter().filter(|case| {
        let outcome = attempt(&peer.front, recorder, case).outcome(case);
        let wrong = matches!(outcome, Outcome::Wrong(_));
        if let Outcome::Wrong(why) = outcome {
            eprintln!("  {}: {why}", case.name);
        }
        wrong
    });
    let wrong = wrong.count();
    figure(peer, row, name, cases.len() - wrong, cases.len(), "")
}

/// R12: answers in malformed chunks.
fn chunked_answers(peer: &Peer) -> Vec<Record> {
    let speller = chunks::Speller::start(&peer.front.back, peer.front.port);
    let seen: Vec<_> = (0..chunks::SPELLINGS.len()).map(|nth| chunks::download(&peer.front, &speller, nth)).collect();
    let right = seen.iter().filter(|seen| !seen.taken && !seen.reused).count();
    vec![figure(peer, 12, "chunks of responses", right, seen.len(), "")]
}

/// R13: HTTP/2 requests that would be something else in HTTP/1.
fn downgraded(peer: &Peer) -> Vec<Record> {
    let recorder = Recorder::start(&peer.front.back, peer.front.port);
    let arrived = || recorder.take().iter().map(Arrived::name).collect();
    let outcomes = downgrade::run(&Target::front(&peer.front), arrived);
    for wrong in outcomes.iter().filter(|outcome| !outcome.is_kept_out()) {
        eprintln!("  {}: {:?}, {:?} arrived", wrong.case.name, wrong.answer, wrong.arrived);
    }
    let right = outcomes.iter().filter(|outcome| outcome.is_kept_out()).count();
    vec![figure(peer, 13, "HTTP/2 to HTTP/1.1", right, outcomes.len(), "")]
}

/// R16: bytes before an upgrade is agreed to.
fn early_bytes(peer: &Peer) -> Vec<Record> {
    let switch = early::Switch::start(&peer.front.back, peer.front.port);
    let right = early::CASES.iter().filter(|case| {
        let seen = early::attempt(&peer.front, &switch, case);
        let passed = seen.later.windows(9).any(|bytes| bytes == b"/smuggled");
        seen.early.is_empty() && !seen.pooled && passed == case.agreed
    });
    vec![figure(peer, 16, "early bytes", right.count(), early::CASES.len(), "")]
}

/// R17: answers before the end of a body.
fn early_answers(peer: &Peer) -> Vec<Record> {
    const ROUNDS: usize = 200;
    let _server = careless(&peer.front.back, peer.front.port);
    match contaminate(&peer.front, ROUNDS) {
        Ok(others) => {
            vec![figure(peer, 17, "early answers", 2 * ROUNDS - others.len().min(2 * ROUNDS), 2 * ROUNDS, " clean")]
        }
        Err(error) => vec![figure(peer, 17, &format!("early answers: {error}"), 0, 2 * ROUNDS, " clean")],
    }
}

/// R8: clients that break a rule of HTTP/2.
fn frames(peer: &Peer, speaks: Speaks) -> Vec<Record> {
    // The back end of these cases speaks HTTP/2 and HTTP/1 alike.
    back_end(&peer.front.back, peer.front.port);
    let outcomes = h2spec::run(&Target::front(&peer.front));
    let right = outcomes.iter().filter(|outcome| outcome.seen.is_ok()).count();
    let case = if speaks == Speaks::Http1 { "h2spec, HTTP/1.1 behind" } else { "h2spec, HTTP/2 behind" };
    vec![figure(peer, 8, case, right, outcomes.len(), "")]
}

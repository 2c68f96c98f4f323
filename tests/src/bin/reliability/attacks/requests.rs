//! Requests of HTTP/1 and of HTTP/2 with two readings: R10 to R17.

use mesh_tests::attacks::authority::{self, Names};
use mesh_tests::attacks::downgrade;
use mesh_tests::attacks::h2spec::Target;
use mesh_tests::attacks::http1::answered::{careless, contaminate};
use mesh_tests::attacks::http1::{
    Arrived, Case, Outcome, Recorder, attempt, chunks, compliance, early, fields, smuggling,
};
use mesh_tests::raw;
use mesh_tests::yardstick::{Peer, Speaks, Who};

use super::{note, plain, score};
use crate::records::Record;

/// R10, R11, R12: tables of requests.
pub(super) fn tables(who: Who) -> anyhow::Result<Vec<Record>> {
    let peer = plain(who)?;
    let recorder = Recorder::start(&peer.front.back, peer.front.port);
    let standards = [compliance::cases(), compliance::malformed(), fields::alike(), fields::cookies()].concat();
    let tables = [
        (10, "two readings", smuggling::cases()),
        (11, "the standards", standards),
        (12, "chunks of requests", chunks::uploads()),
        (15, "Host fields", compliance::hosts()),
    ];
    Ok(tables.map(|(row, name, cases)| table(&peer, &recorder, row, name, &cases)).into())
}

/// R10 holds where proxy and back end stay in step, however a case is answered; the others where each goes as it is tabled.
fn table(peer: &Peer, recorder: &Recorder, row: u8, name: &str, cases: &[Case]) -> Record {
    let (mut right, mut astray) = (0, 0);
    for case in cases {
        let seen = attempt(&peer.front, recorder, case);
        astray += usize::from(!seen.is_in_step());
        match seen.outcome(case) {
            Outcome::Wrong(why) => {
                eprintln!("  {}{}: {why}", if seen.is_in_step() { "" } else { "ASTRAY " }, case.name)
            }
            _ => right += 1,
        }
    }
    let all = cases.len();
    let held = if row == 10 { astray == 0 } else { right == all };
    note(peer.front.who, row, name, held, format!("{right} of {all} as tabled, {astray} desynchronised"))
}

/// R12: answers in malformed chunks.
pub(super) fn chunked_answers(who: Who) -> anyhow::Result<Vec<Record>> {
    let peer = plain(who)?;
    let speller = chunks::Speller::start(&peer.front.back, peer.front.port);
    let seen: Vec<_> = (0..chunks::SPELLINGS.len()).map(|nth| chunks::download(&peer.front, &speller, nth)).collect();
    let right = seen.iter().filter(|seen| !seen.taken && !seen.reused).count();
    Ok(vec![score(&peer, 12, "chunks of responses", right, seen.len())])
}

/// R13: HTTP/2 requests that would be something else in HTTP/1.
pub(super) fn downgraded(who: Who) -> anyhow::Result<Vec<Record>> {
    let peer = plain(who)?;
    let recorder = Recorder::start(&peer.front.back, peer.front.port);
    let arrived = || recorder.take().iter().map(Arrived::name).collect();
    let outcomes = downgrade::run(&Target::front(&peer.front), arrived);
    for wrong in outcomes.iter().filter(|outcome| !outcome.is_kept_out()) {
        eprintln!("  {}: {:?}, {:?} arrived", wrong.case.name, wrong.answer, wrong.arrived);
    }
    let right = outcomes.iter().filter(|outcome| outcome.is_kept_out()).count();
    Ok(vec![score(&peer, 13, "HTTP/2 to HTTP/1.1", right, outcomes.len())])
}

/// R14: which authority goes onward.
pub(super) fn authorities(who: Who) -> anyhow::Result<Vec<Record>> {
    let peer = plain(who)?;
    let server = raw::Server::ok(&peer.front.back, peer.front.port);
    let http1 = authority::http1(&peer.front.client, peer.front.addr, &server);
    let peer = Peer::start(who, Speaks::Http2)?;
    let names = Names::serve(&peer.front.back, peer.front.port);
    let http2 = authority::http2(&peer.front.client, peer.front.addr, &names);
    Ok([("HTTP/1", http1), ("HTTP/2", http2)].map(|(case, outcomes)| named(who, case, &outcomes)).into())
}

/// R14 holds where exactly one authority goes onward, or the request is refused.
fn named(who: Who, case: &str, outcomes: &[authority::Outcome]) -> Record {
    for wrong in outcomes.iter().filter(|outcome| !outcome.is_as_tabled()) {
        eprintln!("  {}{wrong:?}", if wrong.is_one_or_refused() { "" } else { "ASTRAY " });
    }
    let right = outcomes.iter().filter(|outcome| outcome.is_as_tabled()).count();
    let astray = outcomes.iter().filter(|outcome| !outcome.is_one_or_refused()).count();
    let figure = format!("{right} of {} as tabled, {astray} onward with none or several", outcomes.len());
    note(who, 14, case, astray == 0, figure)
}

pub(super) fn early(who: Who) -> anyhow::Result<Vec<Record>> {
    Ok(vec![early_bytes(&plain(who)?), early_answers(&plain(who)?)])
}

/// R16: bytes before an upgrade is agreed to. Who passes on no upgrade at all passes no early bytes on.
fn early_bytes(peer: &Peer) -> Record {
    let switch = early::Switch::start(&peer.front.back, peer.front.port);
    let right = early::CASES.iter().filter(|case| {
        let seen = early::attempt(&peer.front, &switch, case);
        let right = seen.is_clean(case);
        if !right {
            eprintln!("  {}: {seen:?}", case.name);
        }
        right
    });
    score(peer, 16, "early bytes", right.count(), early::CASES.len())
}

/// R17: answers before the end of a body.
fn early_answers(peer: &Peer) -> Record {
    const ROUNDS: usize = 200;
    let _server = careless(&peer.front.back, peer.front.port);
    let others = contaminate(&peer.front, ROUNDS).unwrap_or_else(|error| vec![error.to_string()]);
    others.iter().take(5).for_each(|other| eprintln!("  {other}"));
    let figure = format!("{} of {} answers were another's after {ROUNDS} early ones", others.len(), 2 * ROUNDS);
    note(peer.front.who, 17, "early answers", others.is_empty(), figure)
}

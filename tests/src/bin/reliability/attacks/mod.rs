//! The attacks against the other proxies.
//!
//! Invariant: the same functions and the same judgement as in our own tests; a figure says what was seen, not who is to blame.

mod bodies;
mod calls;
mod clients;
mod ends;
mod floods;
mod frames;
mod requests;

use mesh_tests::yardstick::{Peer, Speaks, Who, version};

use crate::records::{Record, VERSION};

/// Runs all rows against both, or those of the numbers that are wanted.
pub(crate) fn all(wanted: &[u8]) -> anyhow::Result<Vec<Record>> {
    let mut records = Vec::new();
    for who in [Who::Envoy, Who::Haproxy] {
        records.push(note(who, VERSION, "version", true, version(who)?));
        for (rows, attack) in ATTACKS {
            if wanted.is_empty() || rows.iter().any(|row| wanted.contains(row)) {
                eprintln!("== {}, R{rows:?}", who.name());
                records.extend(attack(who)?);
            }
        }
    }
    Ok(records)
}

type Attack = fn(Who) -> anyhow::Result<Vec<Record>>;

/// The rows, and what runs them. Each has a proxy of its own, as the tests have a mesh of their own.
const ATTACKS: [(&[u8], Attack); 21] = [
    (&[1], floods::resets),
    (&[2], floods::made_resets),
    (&[3], floods::continuation),
    (&[4], floods::bombs),
    (&[4], floods::crowd),
    (&[5], floods::control),
    (&[6], floods::tiny),
    (&[7], floods::held),
    (&[8], frames::clients),
    (&[9], frames::servers),
    (&[10, 11, 12, 15], requests::tables),
    (&[12], requests::chunked_answers),
    (&[13], requests::downgraded),
    (&[14], requests::authorities),
    (&[16, 17], requests::early),
    (&[18, 19], bodies::all),
    (&[20], clients::slow),
    (&[21], clients::many),
    (&[58], ends::cut),
    (&[59], ends::negatives),
    (&[64], calls::interop),
];

fn note(who: Who, row: u8, case: &str, held: bool, figure: String) -> Record {
    let verdict = if held { "" } else { "not held: " };
    eprintln!("R{row} {case}: {verdict}{figure}");
    Record { row, case: case.to_owned(), who: who.name().to_owned(), held, figure }
}

/// So many cases of all went as they should.
fn score(peer: &Peer, row: u8, case: &str, right: usize, all: usize) -> Record {
    note(peer.front.who, row, case, right == all, format!("{right} of {all}"))
}

/// A figure, and why the row was not held.
fn judged(fault: Option<String>, figure: String) -> (bool, String) {
    match fault {
        None => (true, figure),
        Some(fault) => (false, format!("{fault}: {figure}")),
    }
}

/// A fresh one that speaks to its back end in HTTP/1.1, as most do.
fn plain(who: Who) -> anyhow::Result<Peer> {
    Peer::start(who, Speaks::Http1)
}

//! Frames that break a rule of HTTP/2: R8, R9.

use std::thread;
use std::time::{Duration, Instant};

use mesh_tests::attacks::h2spec::{self, CLIENT_CASES, ClientOutcome, Target, back_end, behind};
use mesh_tests::frames::Listener;
use mesh_tests::yardstick::{Peer, Speaks, Who, beside};

use super::{judged, note, score};
use crate::records::Record;

/// R8: clients that break one.
pub(super) fn clients(who: Who) -> anyhow::Result<Vec<Record>> {
    let one = |(speaks, case)| {
        let peer = Peer::start(who, speaks)?;
        // The back end of these cases speaks HTTP/2 and HTTP/1 alike.
        back_end(&peer.front.back, peer.front.port);
        let outcomes = h2spec::run(&Target::front(&peer.front));
        for wrong in &outcomes {
            if let Err(what) = &wrong.seen {
                eprintln!("  {} {}: {what}", wrong.case.rfc, wrong.case.name);
            }
        }
        let right = outcomes.iter().filter(|outcome| outcome.seen.is_ok()).count();
        Ok(score(&peer, 8, case, right, outcomes.len()))
    };
    [(Speaks::Http1, "HTTP/1.1 behind"), (Speaks::Http2, "HTTP/2 behind")].map(one).into_iter().collect()
}

/// R9: servers that break one.
pub(super) fn servers(who: Who) -> anyhow::Result<Vec<Record>> {
    let peer = Peer::start(who, Speaks::Http2)?;
    back_end(&peer.polite.back, peer.polite.port);
    let listener = Listener::bind(&peer.front.back, peer.front.port);
    let run = |case| {
        let files = peer.front.proxy.files();
        let outcome = behind(case, &peer.front.client, peer.front.addr, &|patience| listener.accept(patience));
        // All cases meet in one pool: the next one shall not begin on a connection that is about to end.
        let deadline = Instant::now() + Duration::from_secs(10);
        while peer.front.proxy.files() > files && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        outcome
    };
    let seen = beside(&peer.polite, || CLIENT_CASES.iter().map(run).collect::<Vec<ClientOutcome>>());
    let wrong: Vec<_> = seen.result.iter().filter_map(ClientOutcome::fault).collect();
    wrong.iter().for_each(|wrong| eprintln!("  {wrong}"));
    let all = seen.result.len();
    let figure = format!("{} of {all}, peak +{} KiB, {}", all - wrong.len(), seen.grown, seen.polite);
    let (held, figure) = judged(seen.fault(), figure);
    Ok(vec![note(who, 9, "servers", held && wrong.is_empty(), figure)])
}

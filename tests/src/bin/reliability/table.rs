//! Recorded figures -> the table.
//!
//! Invariant: of several figures of one case the last counts, so a run may be repeated in part.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::records::{Record, VERSION};
use crate::rows::{ROWS, Row};
use crate::summary::{self, Case};

const HEAD: &str = "\
# Reliability

What each row of the yardstick saw, and what two other proxies do under the same attack. Made of `tests/reliability.jsonl` and
`tests/torture.jsonl` by `make reliability` (`make reliability ROWS=\"14 58\"` runs these rows alone, `make reliability-page` none);
do not edit.

- *Ours* is from `make test`, whose counts are small, on a debug build; *at full counts* is from the last `make torture` and
  `make soak`, for the rows that they recorded.
- A cell sums up its cases: `1 to 5` are the least and the most of them. [Cases](#cases) has them one by one.
- `not held` means that the row's demand was not met, by the same measure for all three. `n of m` counts the cases that went as
  the standards want.
- The bystander is a polite client who sends 200 requests a second beside the attack.
- VERSIONS are plain reverse proxies here, on one thread, with their makers' default limits; both can be set up more strictly.
  Where a row sets a limit for the mesh, they have the same: in R7 a stream that does not move is given up after 3 s, in R20 heads
  and exchanges that do not go on after 2 s, in R21 there may be 100 connections. Their own counters of refusals are not looked at.
- The back end of R1 to R7 is the same for all three. It speaks HTTP/2 and defends itself: where a proxy passes an attack on to it,
  it ends the connection that others' requests share. In R1, R2 and R6 Envoy has a second one, which speaks HTTP/1.1, and HAProxy
  that one alone: how it treats requests on a connection that its back end ends is not understood yet.
- R7: Envoy's window of a stream, and with it what it keeps of an answer that nobody takes, is 16 MiB unless it is told otherwise.
- R9: HAProxy 2.6.12 ends itself, by a check of its own, when a server sends DATA before HEADERS; the cases after that one had
  nobody to answer them.
- R10 counts the requests of which proxy and back end had different readings. R10, R11, R12 and R15 also count how many cases went
  as the mesh has to treat them: refused, where the RFCs let a proxy mend what is wrong (a folded line, LF alone) or leave a choice
  (a method that nobody knows, HTTP/1.0).
- R13 counts a list of equal lengths, which the RFCs let a proxy take, among what was passed on.
- R14 holds for the others where exactly one authority went onward, whichever it is, or the request was refused in any way; the mesh
  must also choose as tabled, and say 400. What went onward with none or several are Host fields that RFC 9112 (3.2) wants refused
  (two in one list, a space, a path, user information, a port that is none, no Host at all), two names in one request, and an
  empty Host, which it lets a server fill. What had one authority all the same is only *not as tabled*: where the standards leave
  it (which of `:authority` and Host goes onward, the default port left out, `OPTIONS *` refused, `GET *` taken) and where they do
  not (equal Host fields made one, user information dropped, an absolute target beside another Host refused).
- R16: who refuses an upgrade or CONNECT passes nothing on, and holds.
- R17: the back end takes the rest of a body for a request. A proxy that uses such a connection again gives the second answer to
  the next client.
- R20: the 2 s are Envoy's `request_headers_timeout` (none by default), `stream_idle_timeout` (5 min) and, for who says nothing or
  not all of HTTP/2's preface, `idle_timeout` (1 h), and HAProxy's `timeout http-request` and `timeout client`. HAProxy ends a
  stalled body by its `timeout server`, 30 s here. Who does not read is *let go* when the proxy holds no socket of it any more; the
  mesh has to reset the connection as well. What a client may cost is what the mesh may take: 26 KiB,
  32 with a body that does not go on, 400 for who does not read.
- R21: Envoy's limit is that of its overload manager. HAProxy's own, `maxconn`, refuses nobody, who comes late waits in the
  kernel's queue; here a rule rejects by `fe_conn`, as the row asks for refusals.
- R58 and R59: HAProxy 2.6.12 ends an HTTP/2 answer without a length that its back end broke off, by a reset or the end of its
  connection, with END_STREAM: the client takes what has come for the whole answer.
- R59: a reset amid an answer has to end its call as an error; the mesh has to pass the code on as well. What a back end says that it
  did not process may be sent again (RFC 9113, 8.7). The mesh does so by itself, the others when they are told to (`retry_policy`,
  `retry-on`), so both are run both ways.
- R64: the others have the 16 cases; the soak is about the mesh alone. Where a request has not ended, tonic ends its call with the
  whole answer and a reset by `NO_ERROR`, as RFC 9113 (8.1) has it. HAProxy 2.6.12 makes `CANCEL` of that, for which grpcio drops
  the status that has come: a known fault (haproxy/haproxy, issue 1219), which `proto h2` for its clients, `abortonclose` and
  `http-no-delay` do not change. Whether the request's end is first is chance.

Empty cells:

- Tunnels, identities, certificates, original destinations, the control plane, init, and the mesh's own variables, metrics and fields
  are things that they do not have: R22 to R57, R60 to R62. Of R1 to R9 and R20, they lack the surfaces that are within the mesh.
  R65 and R66 are about the mesh alone.

| row | what | ours | at full counts | Envoy | HAProxy | command |
|---|---|---|---|---|---|---|
";

/// The makers of the columns.
const COLUMNS: [(&str, &str); 4] =
    [("mesh", "ours"), ("full", "ours at full counts"), ("envoy", "Envoy"), ("haproxy", "HAProxy")];

/// The whole document.
pub(crate) fn render(records: &[Record]) -> String {
    let mut last: BTreeMap<(u8, &str, &str), &Record> = BTreeMap::new();
    for record in records {
        last.insert((record.row, &record.who, &record.case), record);
    }
    let records: Vec<&Record> = last.into_values().collect();
    let versions = [("envoy", "Envoy"), ("haproxy", "HAProxy")].map(|(who, name)| {
        let version = records.iter().find(|record| record.row == VERSION && record.who == who);
        version.map_or_else(|| name.to_owned(), |version| format!("{name} {}", version.figure))
    });
    let mut text = HEAD.replace("VERSIONS", &versions.join(" and "));
    for row in &ROWS {
        let cell = |who| cell(&records, row.number, who);
        let ours = match (cell("mesh"), row) {
            (cell, _) if !cell.is_empty() => cell,
            (_, Row { waits_for: Some(feature), .. }) => format!("waits for {feature}"),
            _ => "not recorded".to_owned(),
        };
        let (full, envoy, haproxy) = (cell("full"), cell("envoy"), cell("haproxy"));
        let (name, command) = (row.name(), row.command());
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {name} | {} | {ours} | {full} | {envoy} | {haproxy} | {command} |", row.what);
    }
    text + &cases(&records)
}

fn cell(records: &[&Record], row: u8, who: &str) -> String {
    let found = records.iter().filter(|record| record.row == row && record.who == who);
    let figures: Vec<_> = found.map(|record| Case { held: record.held, figure: &record.figure }).collect();
    plain(&summary::of(&figures))
}

/// The list of all cases, row by row; a row of one case each is whole in the table.
fn cases(records: &[&Record]) -> String {
    let mut text = "\n## Cases\n".to_owned();
    for row in &ROWS {
        let of = |who: &str| records.iter().filter(|it| it.row == row.number && it.who == who).collect::<Vec<_>>();
        if COLUMNS.iter().all(|(who, _)| of(who).len() < 2) {
            continue;
        }
        let _ = writeln!(text, "\n### {}: {}\n", row.name(), row.what);
        for (who, name) in COLUMNS {
            for Record { held, case, figure, .. } in of(who) {
                let verdict = if *held { "" } else { " **not held**:" };
                let _ = writeln!(text, "- {name}, {}:{verdict} {}", plain(case), plain(figure));
            }
        }
    }
    text
}

/// Text that stays in its cell.
fn plain(text: &str) -> String {
    text.replace('|', "/").replace(['\n', '\r'], " ").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(row: u8, who: &str, case: &str, held: bool, figure: &str) -> Record {
        Record { row, case: case.to_owned(), who: who.to_owned(), held, figure: figure.to_owned() }
    }

    #[test]
    fn every_row_has_a_line_and_the_last_figure_counts() {
        let records = [
            seen(0, "envoy", "version", true, "1.40.0"),
            seen(10, "mesh", "inbound", false, "1 of 2"),
            seen(10, "mesh", "inbound", true, "2 of 2"),
            seen(10, "mesh", "inbound", true, "20 of 20").at_full_count(),
            seen(10, "envoy", "two readings", false, "1 of 2 | more"),
        ];
        let text = render(&records);
        assert_eq!(text.lines().filter(|line| line.starts_with("| R")).count(), 66, "{text}");
        let row = text.lines().find(|line| line.starts_with("| R10 |")).expect("a line");
        assert!(row.contains("| 2 of 2 | 20 of 20 | **not held**: 1 of 2 / more |"), "{row}");
        assert!(text.contains("\n- Envoy 1.40.0 and HAProxy are plain"), "{text}");
        assert!(text.contains("| R63 | ") && text.contains("waits for"), "{text}");
    }

    #[test]
    fn cases_of_a_row_are_one_line_each_below_the_table() {
        let records = [seen(1, "mesh", "a", true, "1 of 2"), seen(1, "mesh", "b", false, "2 of 2")];
        let text = render(&records);
        assert!(text.contains("| **1 of 2 cases not held**: 1 to 2 of 2 |"), "{text}");
        assert!(
            text.contains("\n### R1: h2 rapid reset\n\n- ours, a: 1 of 2\n- ours, b: **not held**: 2 of 2\n"),
            "{text}"
        );
    }
}

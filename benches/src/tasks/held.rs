//! Connections that are open and do nothing, after one exchange on each.
//!
//! Invariant: all are open when memory is read, and still open when they are closed.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mesh_tests::bins;
use serde::Deserialize;

use super::{AFTERMATH, Stage, difference, load};
use crate::cell::{Cell, micros};
use crate::generator::float;
use crate::peers::Pair;
use crate::process::{Program, User, command};
use crate::wire::Look;

/// For 9,000 connections with a handshake each.
const OPENED: Duration = Duration::from_secs(60);
const CLOSED: Duration = Duration::from_secs(20);
/// So many are a spike.
const MANY: u32 = 9000;

/// What `bench-load hold` prints once all are open.
#[derive(Deserialize)]
struct Line {
    held: u32,
    errors: u32,
}

/// Its last line.
#[derive(Deserialize)]
struct End {
    errors: u32,
}

pub(super) fn run(stage: &Stage, protocol: &str, count: u32, pair: &Pair, cell: &mut Cell) -> anyhow::Result<()> {
    let before = pair.memory()?;
    cell.memory("idle", before);
    let (counted, spent) = (pair.counters()?, pair.spent()?);
    let look = Look::start(stage.client())?;
    let holder = hold(stage, protocol, count);
    cell.sight(&look.stop());
    let mut holder = holder?;
    cell.cpu(difference(pair.spent()?, spent), f64::from(count));
    // What opening them left behind, such as connections to the back end, has the time to go that a spike has.
    thread::sleep(AFTERMATH);
    let held = pair.memory()?;
    cell.memory("held", held);
    cell.counted(pair.counters()?, counted, stage.scenario, f64::from(count));
    let grown = |index: usize| float(held[index].anon) - float(before[index].anon);
    cell.set("anon_each_kib", (grown(0) + grown(1)) / f64::from(count));
    idle(stage, pair, cell)?;
    drop(holder.input());
    let end: End = last_line(&holder.finish(CLOSED)?)?;
    if end.errors > 0 {
        cell.problems.push(format!("{} connections were closed while they were held", end.errors));
    }
    if count >= MANY { load::left(pair, cell) } else { Ok(()) }
}

/// What it costs to have them.
fn idle(stage: &Stage, pair: &Pair, cell: &mut Cell) -> anyhow::Result<()> {
    let before = pair.spent()?;
    thread::sleep(Duration::from_secs(stage.seconds));
    let spent = difference(pair.spent()?, before);
    let micros = spent.iter().map(|spent| micros(spent.cpu)).sum::<f64>();
    cell.set("cpu_us_per_second", micros / float(stage.seconds));
    Ok(())
}

fn hold(stage: &Stage, protocol: &str, count: u32) -> anyhow::Result<Program> {
    let program = bins::find("bench-load").context("bench-load is not built")?;
    let mut command = command(stage.client(), User::Root, program);
    command.args(["hold", "--proto", protocol, "--count", &count.to_string()]);
    command.args(["--target", &stage.target().to_string()]);
    let mut holder = Program::start("hold", command, stage.rig.folder())?;
    holder.until("all connections are open", OPENED, |program| program.said().contains("\"held\""))?;
    let line: Line = last_line(&holder.said())?;
    ensure!(line.held == count && line.errors == 0, "{} of {count} held, {} errors", line.held, line.errors);
    Ok(holder)
}

fn last_line<'a, T: Deserialize<'a>>(text: &'a str) -> anyhow::Result<T> {
    let line = text.lines().rev().find(|line| line.starts_with('{'));
    serde_json::from_str(line.context("no line of JSON")?).with_context(|| text.to_owned())
}

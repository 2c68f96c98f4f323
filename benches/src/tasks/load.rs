//! Load for a time: warm up under the eye of [`Look`], then measure.

use std::thread;

use super::{AFTERMATH, Stage, difference};
use crate::cell::Cell;
use crate::generator::{Generator, float};
use crate::peers::{Pair, Peer};
use crate::usage::Watch;
use crate::wire::Look;

const WARM_UP: u64 = 1;

pub(super) fn direct(stage: &Stage, generator: &Generator, cell: &mut Cell) -> anyhow::Result<()> {
    let outcome = generator.run(stage.client(), stage.target(), stage.seconds, stage.rig.folder())?;
    cell.outcome(&outcome);
    Ok(())
}

pub(super) fn run(stage: &Stage, generator: &Generator, pair: &Pair, cell: &mut Cell) -> anyhow::Result<()> {
    let run = |seconds| generator.run(stage.client(), stage.target(), seconds, stage.rig.folder());
    cell.memory("idle", pair.memory()?);
    let look = Look::start(stage.client())?;
    let warmed = run(WARM_UP);
    let sight = look.stop();
    if stage.peer != Peer::Relay {
        cell.sight(&sight);
    }
    warmed?;
    let (counted, spent) = (pair.counters()?, pair.spent()?);
    let watch = Watch::start(pair.pids().to_vec());
    let outcome = run(stage.seconds);
    let (spent, most) = (difference(pair.spent()?, spent), watch.stop());
    let outcome = outcome?;
    cell.outcome(&outcome);
    cell.cpu(spent, outcome.done);
    cell.counted(pair.counters()?, counted, stage.scenario, outcome.done);
    if let [client, server] = most[..] {
        cell.memory("peak", [client, server]);
    }
    cell.memory("after", pair.memory()?);
    Ok(())
}

/// What is left of a load 10 s after it, above what there was before.
pub(super) fn spike(stage: &Stage, generator: &Generator, pair: &Pair, cell: &mut Cell) -> anyhow::Result<()> {
    run(stage, generator, pair, cell)?;
    left(pair, cell)
}

pub(super) fn left(pair: &Pair, cell: &mut Cell) -> anyhow::Result<()> {
    thread::sleep(AFTERMATH);
    let memory = pair.memory()?;
    cell.memory("later", memory);
    let before = |side: &str| cell.figures.get(&format!("{side}_anon_idle_kib")).copied().unwrap_or_default();
    let left = [float(memory[0].anon) - before("client"), float(memory[1].anon) - before("server")];
    cell.set("anon_left_kib", left[0].max(left[1]));
    Ok(())
}

//! Start-up, and what sidecars cost that have nothing to do.
//!
//! Invariant: one request has passed through, so that they are known to work and have connections that they may keep.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mesh_tests::client;

use super::{Stage, difference};
use crate::cell::{Cell, micros};
use crate::generator::float;
use crate::median::median;
use crate::peers::Pair;
use crate::wire::Look;

/// Pairs that are started to see how long it takes.
const STARTS: usize = 5;
/// From the request to the look at memory and CPU: connections that are not kept are gone by then, and what a start leaves behind.
const SETTLED: Duration = Duration::from_secs(12);
/// How long they are watched: long enough for what they do every few seconds.
const WATCHED: Duration = Duration::from_secs(10);

pub(super) fn run(stage: &Stage, cell: &mut Cell) -> anyhow::Result<()> {
    let mut millis = Vec::with_capacity(2 * STARTS);
    for _ in 0..STARTS {
        let pair = Pair::start(stage.peer, stage.rig, stage.scenario.work)?;
        millis.extend(pair.both().map(|sidecar| sidecar.ready_after.as_secs_f64() * 1e3));
    }
    cell.set("ready_ms", median(&millis).unwrap_or_default());
    let pair = stage.pair()?;
    let look = Look::start(stage.client())?;
    let counted = pair.counters()?;
    let target = stage.target();
    let answer = stage.client().enter(|| client::request("GET", target, "/b/100"));
    thread::sleep(SETTLED);
    cell.sight(&look.stop());
    let (code, body) = answer.context("one request")?;
    ensure!(code == 200 && body.len() == 100, "one request: {code} with {} bytes", body.len());
    cell.counted(pair.counters()?, counted, stage.scenario, 1.0);
    cell.memory("idle", pair.memory()?);
    let before = pair.spent()?;
    thread::sleep(WATCHED);
    let spent = difference(pair.spent()?, before);
    let seconds = WATCHED.as_secs_f64();
    cell.set("cpu_us_per_second", spent.iter().map(|spent| micros(spent.cpu)).sum::<f64>() / seconds);
    cell.set("wakes_per_second", float(spent[0].wakes.max(spent[1].wakes)) / seconds);
    size(stage, cell)
}

fn size(stage: &Stage, cell: &mut Cell) -> anyhow::Result<()> {
    let program = stage.peer.program()?.context("a program")?;
    let own = mib(&program)?;
    let output = Command::new("ldd").arg(&program).output().context("ldd")?;
    let libraries = libraries(&String::from_utf8_lossy(&output.stdout));
    let sizes = libraries.iter().map(|path| mib(path)).collect::<anyhow::Result<Vec<_>>>()?;
    cell.set("binary_mib", own);
    cell.set("binary_with_libraries_mib", own + sizes.iter().sum::<f64>());
    Ok(())
}

fn mib(path: &Path) -> anyhow::Result<f64> {
    let length = std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
    Ok(float(length) / f64::from(1 << 20))
}

/// The files that `ldd` names.
fn libraries(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let word = line.split(" => ").last()?.split_whitespace().next()?;
        word.starts_with('/').then(|| PathBuf::from(word))
    };
    text.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_files_of_ldd() {
        let text = "\tlinux-vdso.so.1 (0x7)\n\tlibc.so.6 => /lib/libc.so.6 (0x7)\n\t/lib64/ld.so (0x7)\n";
        assert_eq!(libraries(text), [PathBuf::from("/lib/libc.so.6"), PathBuf::from("/lib64/ld.so")]);
        assert_eq!(libraries("\tstatically linked\n"), Vec::<PathBuf>::new());
    }
}

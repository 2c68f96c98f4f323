//! Many services, of ten endpoints each: what it costs a client's sidecar to know them, and to use some.
//!
//! Invariant: memory is what the client's sidecar has above one that knows a single service, with all connections to
//! it closed again. The mesh learns of a service when it is dialed, so all are dialed; its peers are told at the start.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mesh_tests::client::{self, PATIENCE};

use super::{REST, Stage, difference};
use crate::cell::Cell;
use crate::generator::{Outcome, float};
use crate::peers::{Pair, Peer, Work};
use crate::rig;
use crate::wire::Look;

const KNOWN: u16 = 1000;
const USED: u16 = 200;
/// For connections to all endpoints of those in use, where they are made for each service.
const WARM_UP: Duration = Duration::from_secs(5);
/// For what the dials have left behind to be gone.
const SETTLED: Duration = Duration::from_secs(5);

pub(super) fn run(stage: &Stage, cell: &mut Cell) -> anyhow::Result<()> {
    let single = {
        let pair = stage.pair()?;
        let target = stage.target();
        stage.client().enter(|| ask(target))?;
        thread::sleep(SETTLED);
        pair.memory()?
    };
    stage.rig.publish(KNOWN)?;
    let done = many(stage, single[0].anon, cell);
    stage.rig.withdraw();
    done
}

fn many(stage: &Stage, single: u64, cell: &mut Cell) -> anyhow::Result<()> {
    let pair = Pair::start(stage.peer, stage.rig, Work { targets: KNOWN, ..stage.scenario.work })?;
    thread::sleep(REST);
    let look = Look::start(stage.client())?;
    let told = pair.memory()?;
    let dialed = stage.client().enter(|| (0..KNOWN).try_for_each(|number| ask(rig::target(number))));
    cell.sight(&look.stop());
    dialed?;
    thread::sleep(SETTLED);
    // Peers have connections of their own to each service by now, which is not what knowing it costs.
    let memory = if stage.peer == Peer::Mesh { pair.memory()? } else { told };
    cell.memory("known", memory);
    cell.set("target_kib", (float(memory[0].anon) - float(single)) / f64::from(KNOWN));
    let time = Duration::from_secs(stage.seconds);
    stage.client().enter(|| load(WARM_UP))?;
    let (counted, spent) = (pair.counters()?, pair.spent()?);
    let outcome = stage.client().enter(|| load(time))?;
    let spent = difference(pair.spent()?, spent);
    cell.outcome(&outcome);
    cell.cpu(spent, outcome.done);
    cell.counted(pair.counters()?, counted, stage.scenario, outcome.done);
    Ok(())
}

/// One request on a connection of its own.
fn ask(target: SocketAddr) -> anyhow::Result<()> {
    let (code, body) = client::request("GET", target, "/b/100").with_context(|| target.to_string())?;
    ensure!(code == 200 && body.len() == 100, "{target}: {code} with {} bytes", body.len());
    Ok(())
}

/// One request after the other, each to the next of the services in use.
fn load(time: Duration) -> anyhow::Result<Outcome> {
    let mut clients = (0..USED).map(|number| Client::open(rig::target(number))).collect::<anyhow::Result<Vec<_>>>()?;
    let (start, mut done) = (Instant::now(), 0_u32);
    while start.elapsed() < time {
        for client in &mut clients {
            client.ask()?;
            done += 1;
        }
    }
    let done = f64::from(done);
    Ok(Outcome { done, errors: 0, per_second: done / start.elapsed().as_secs_f64(), latency: None })
}

/// A kept connection of HTTP/1.1.
struct Client {
    stream: BufReader<TcpStream>,
    request: String,
}

impl Client {
    fn open(target: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&target, PATIENCE).with_context(|| target.to_string())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), request: format!("GET /b/100 HTTP/1.1\r\nhost: {target}\r\n\r\n") })
    }

    fn ask(&mut self) -> anyhow::Result<()> {
        self.stream.get_mut().write_all(self.request.as_bytes())?;
        let mut status = String::new();
        self.stream.read_line(&mut status)?;
        ensure!(status.starts_with("HTTP/1.1 200"), "{}", status.trim());
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            ensure!(self.stream.read_line(&mut line)? > 0, "the response's head was cut off");
        }
        Ok(self.stream.read_exact(&mut [0; 100])?)
    }
}

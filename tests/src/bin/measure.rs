//! `measure`: memory, size, start-up and CPU per request of one pair of sidecars, as a Markdown table.
//!
//! Invariant: a whole mesh in namespaces with real rules, built like the programs beside this one; every figure says
//! what it is of. A run takes less than two minutes.
//! Non-goal: comparing with others, or with yesterday; it prints what it sees.

#![forbid(unsafe_code)]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mesh_tests::bin;
use mesh_tests::client::http::{Connection, Version, get};
use mesh_tests::client::within;
use mesh_tests::mesh::{App, Memory, Mesh, SOON};
use mesh_tests::netns::{Host, Proc, until};

const SIDECARS: [&str; 2] = ["client", "web"];
const REQUESTS: usize = 1000;
const STARTS: usize = 20;
/// Of each load.
const SECONDS: u64 = 10;
const PATH: &str = "/bytes?n=100";

/// What a load generator says.
struct Load {
    requests: u64,
    errors: u64,
    per_second: f64,
}

fn main() -> anyhow::Result<()> {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    mesh.workload("web").of("web").app(App::demo("demo-http", 8000, &[])).add();
    let addr = mesh.service("web", 80, 8000).add().v4;
    mesh.start();
    println!("| one pair of sidecars, {} | {} | {} |", build(), SIDECARS[0], SIDECARS[1]);
    println!("|---|---:|---:|");
    let size = size(&bin("mesh-proxy"))?;
    row("size of the binary", &[size.clone(), size]);
    memory_rows("idle", memory(&mesh)?);
    for (name, version) in [("requests of HTTP/1.1", Version::H1), ("more of HTTP/2", Version::H2)] {
        ask(&mesh, addr, version)?;
        memory_rows(&format!("after {REQUESTS} {name}"), memory(&mesh)?);
    }
    let url = format!("http://{addr}{PATH}");
    let seconds = SECONDS.to_string();
    let duration = format!("-d{SECONDS}s");
    let wrk = loaded(&mesh, "`wrk -t1 -c64`", |host| wrk(host, &["-t1", "-c64", &duration, &url]))?;
    let h2load = loaded(&mesh, "`h2load -c 8 -m 32`", |host| h2load(host, &["-c8", "-m32", "-D", &seconds, &url]))?;
    memory_rows("after both loads", memory(&mesh)?);
    row("exec to ready, median", &[start(&mut mesh, SIDECARS[0]), start(&mut mesh, SIDECARS[1])].map(millis));
    println!("\n| load of {SECONDS} s, 100-byte bodies | requests/s | errors | CPU of both sidecars per request |");
    println!("|---|---:|---:|---:|\n{wrk}\n{h2load}");
    Ok(())
}

fn build() -> &'static str {
    if cfg!(debug_assertions) { "debug build" } else { "release build" }
}

fn row(name: &str, cells: &[String; 2]) {
    println!("| {name} | {} | {} |", cells[0], cells[1]);
}

fn memory_rows(when: &str, [client, web]: [Memory; 2]) {
    row(&format!("VmRSS, {when}"), &[kib(client.rss), kib(web.rss)]);
    row(&format!("RssAnon, {when}"), &[kib(client.anonymous), kib(web.anonymous)]);
}

fn kib(kib: u64) -> String {
    format!("{}.{:02} MiB", kib / 1024, kib % 1024 * 100 / 1024)
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

fn size(program: &Path) -> anyhow::Result<String> {
    Ok(kib(fs::metadata(program)?.len() / 1024))
}

fn memory(mesh: &Mesh) -> anyhow::Result<[Memory; 2]> {
    let of = |name: &str| mesh.get(name).proxy().and_then(|proxy| proxy.memory()).context("a sidecar that runs");
    Ok([of(SIDECARS[0])?, of(SIDECARS[1])?])
}

/// Requests on one connection, one after the other.
fn ask(mesh: &Mesh, addr: SocketAddr, version: Version) -> anyhow::Result<()> {
    within(&mesh.get("client").host, async {
        let mut connection = Connection::open(addr, version).await?;
        for _ in 0..REQUESTS {
            let answer = connection.fetch(get(addr, version, PATH)).await?;
            ensure!(answer.status == 200 && answer.body.len() == 100, "{answer:?}");
        }
        Ok(())
    })
}

/// From the exec of the proxy to the first 200 of `/ready`.
fn start(mesh: &mut Mesh, name: &str) -> Duration {
    let mut times: Vec<_> = (0..STARTS)
        .map(|_| {
            let workload = mesh.get_mut(name);
            workload.proxy_mut().restart();
            let spawned = Instant::now();
            // The process is `nsenter` first, and becomes the proxy.
            let process = format!("/proc/{}/comm", workload.proxy_mut().pid().unwrap_or_default());
            while fs::read_to_string(&process).is_ok_and(|name| name.trim_end() != "mesh-proxy") {
                assert!(spawned.elapsed() < SOON, "{name} is not started after {SOON:?}");
            }
            let exec = Instant::now();
            while !workload.admin("GET", "/ready").is_ok_and(|(code, _)| code == 200) {
                assert!(exec.elapsed() < SOON, "{name} is not ready after {SOON:?}");
            }
            exec.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Nanoseconds that all threads of a sidecar have run.
fn cpu(mesh: &Mesh, name: &str) -> anyhow::Result<u64> {
    let pid = mesh.get(name).proxy().and_then(|proxy| proxy.pid()).context("a sidecar that runs")?;
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(thread?.path().join("schedstat"))?;
        sum += stat.split(' ').next().context("schedstat")?.parse::<u64>()?;
    }
    Ok(sum)
}

/// Runs a load; its row of the table.
fn loaded(mesh: &Mesh, name: &str, run: impl Fn(&Host) -> anyhow::Result<Load>) -> anyhow::Result<String> {
    let both = || Ok::<_, anyhow::Error>(cpu(mesh, SIDECARS[0])? + cpu(mesh, SIDECARS[1])?);
    let before = both()?;
    let load = run(&mesh.get("client").host)?;
    let used = Duration::from_nanos(both()? - before);
    ensure!(load.requests > 0, "{name}: no request was answered");
    // Micros of a few seconds and requests of ten are far below what a float holds exactly.
    #[allow(clippy::cast_precision_loss)]
    let each = used.as_secs_f64() * 1e6 / load.requests as f64;
    Ok(format!("| {name} | {:.0} | {} | {each:.1} us |", load.per_second, load.errors))
}

fn output(host: &Host, program: &str, args: &[&str]) -> anyhow::Result<String> {
    let mut load = Proc::spawn(host.command(program).args(args));
    let status = load.wait(Duration::from_secs(SECONDS) + SOON);
    let text = load.output();
    ensure!(status.success(), "{program}: {status}\n{text}");
    // The streams are read by threads of their own: the last line may come after the end.
    until(SOON, || load.output().contains("equests/sec") || load.output().contains("status codes"));
    Ok(load.output())
}

/// The number before `word` in the line that begins with `begin`.
fn before(text: &str, begin: &str, word: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.trim_start().starts_with(begin))?;
    let words: Vec<_> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    words.windows(2).find(|pair| pair[1] == word)?[0].parse().ok()
}

fn wrk(host: &Host, args: &[&str]) -> anyhow::Result<Load> {
    let text = output(host, "wrk", args)?;
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in "));
    let requests = requests.with_context(|| text.clone())?.0.parse()?;
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
    // `Socket errors: connect 0, read 0, ..` and `Non-2xx or 3xx responses: 0`; absent when there are none.
    let errors = text.lines().filter(|line| line.contains("Socket errors") || line.contains("Non-2xx"));
    let numbers = errors.flat_map(|line| line.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok()));
    Ok(Load { requests, errors: numbers.sum(), per_second: rate.with_context(|| text.clone())?.trim().parse()? })
}

fn h2load(host: &Host, args: &[&str]) -> anyhow::Result<Load> {
    let text = output(host, "h2load", args)?;
    let count = |word| before(&text, "requests:", word).with_context(|| text.clone());
    let good = before(&text, "status codes:", "2xx").with_context(|| text.clone())?;
    let errors = count("failed")? + count("errored")? + count("timeout")? + (count("succeeded")?.saturating_sub(good));
    let rate = text.lines().find_map(|line| line.strip_prefix("finished in "));
    let rate = rate.and_then(|line| line.split(", ").nth(1)?.strip_suffix(" req/s"));
    Ok(Load { requests: good, errors, per_second: rate.with_context(|| text.clone())?.parse()? })
}

//! Generators of load: how each is called, and what its output says.
//!
//! Invariant: an output that is not understood is an error, and so is a load without a single answer.
//! Non-goal: making load; wrk, h2load, iperf3 and `bench-load` do.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mesh_tests::bins;
use mesh_tests::netns::Host;
use serde::Deserialize;

use crate::process::{Program, User, command};

/// Beyond the time a load is to take.
const SLACK: Duration = Duration::from_secs(20);

/// A generator of load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Generator {
    /// wrk with 64 connections and a path.
    Wrk(String),
    /// wrk that posts bodies of so many bytes.
    WrkPost(usize),
    /// h2load with 8 connections, so many streams on each, and a path.
    H2load {
        /// Streams at a time on each connection.
        streams: u16,
        /// What is asked for.
        path: String,
    },
    /// iperf3 with so many streams.
    Iperf(u16),
    /// `bench-load` with these arguments.
    Own(Vec<String>),
}

/// What came of a load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Requests, connections or MiB.
    pub done: f64,
    /// What failed of them.
    pub errors: u64,
    /// `done` by the time that it took.
    pub per_second: f64,
    /// Microseconds at the 50th, 90th, 99th and 99.9th percentile; of open-loop loads only.
    pub latency: Option<[f64; 4]>,
}

impl Generator {
    /// Runs it on a host.
    ///
    /// # Errors
    /// When it fails, or what it says is not understood.
    pub fn run(&self, host: &Host, target: SocketAddr, seconds: u64, folder: &Path) -> anyhow::Result<Outcome> {
        let (name, args) = self.call(target, seconds, folder)?;
        let path = match self {
            Self::Own(_) => bins::find(name).with_context(|| format!("{name} is not built"))?,
            _ => name.into(),
        };
        let mut command = command(host, User::Root, path);
        command.args(args);
        let said = Program::start(name, command, folder)?.finish(Duration::from_secs(seconds) + SLACK)?;
        let outcome = match self {
            Self::Wrk(_) | Self::WrkPost(_) => wrk(&said),
            Self::H2load { .. } => h2load(&said),
            Self::Iperf(_) => iperf(&said),
            Self::Own(_) => own(&said),
        };
        let outcome = outcome.with_context(|| format!("{name} said: {said}"))?;
        ensure!(outcome.done > 0.0, "{name}: nothing was done; it said: {said}");
        Ok(outcome)
    }

    fn call(&self, target: SocketAddr, seconds: u64, folder: &Path) -> anyhow::Result<(&'static str, Vec<String>)> {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let duration = format!("-d{seconds}s");
        Ok(match self {
            Self::Wrk(path) => ("wrk", words(&["-t1", "-c64", &duration, &format!("http://{target}{path}")])),
            Self::WrkPost(size) => {
                let script = folder.join("post.lua");
                std::fs::write(&script, format!("wrk.method = 'POST'\nwrk.body = string.rep('x', {size})\n"))?;
                let (script, url) = (script.display().to_string(), format!("http://{target}/sink"));
                ("wrk", words(&["-t1", "-c64", &duration, "-s", &script, &url]))
            }
            Self::H2load { streams, path } => {
                let (seconds, url) = (seconds.to_string(), format!("http://{target}{path}"));
                ("h2load", words(&["-c8", &format!("-m{streams}"), "-D", &seconds, &url]))
            }
            Self::Iperf(streams) => {
                let (address, port) = (target.ip().to_string(), target.port().to_string());
                let (seconds, streams) = (seconds.to_string(), streams.to_string());
                ("iperf3", words(&["-J", "-c", &address, "-p", &port, "-t", &seconds, "-P", &streams]))
            }
            Self::Own(args) => {
                let mut args = args.clone();
                args.extend(["--target".to_owned(), target.to_string(), "--seconds".to_owned(), seconds.to_string()]);
                ("bench-load", args)
            }
        })
    }
}

fn wrk(text: &str) -> anyhow::Result<Outcome> {
    let (requests, _) = text.lines().find_map(|line| line.trim().split_once(" requests in ")).context("no requests")?;
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).context("no rate")?;
    // `Socket errors: connect 0, read 0, ..` and `Non-2xx or 3xx responses: 0`; absent when there are none.
    let errors = text.lines().filter(|line| line.contains("Socket errors") || line.contains("Non-2xx"));
    let numbers = errors.flat_map(|line| line.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok()));
    Ok(Outcome {
        done: requests.trim().parse()?,
        errors: numbers.sum(),
        per_second: rate.trim().parse()?,
        latency: None,
    })
}

fn h2load(text: &str) -> anyhow::Result<Outcome> {
    let count = |word| before(text, "requests:", word).with_context(|| format!("no count of {word}"));
    let good = before(text, "status codes:", "2xx").context("no status codes")?;
    let rate = text.lines().find_map(|line| line.strip_prefix("finished in ")).context("no rate")?;
    let rate = rate.split(", ").nth(1).and_then(|word| word.strip_suffix(" req/s")).context("no rate")?;
    let errors = count("failed")? + count("errored")? + count("timeout")? + count("succeeded")?.saturating_sub(good);
    Ok(Outcome { done: float(good), errors, per_second: rate.parse()?, latency: None })
}

/// The number before `word` in the line that begins with `begin`.
fn before(text: &str, begin: &str, word: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.trim_start().starts_with(begin))?;
    let words: Vec<_> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    words.windows(2).find(|pair| pair[1] == word)?[0].parse().ok()
}

fn iperf(text: &str) -> anyhow::Result<Outcome> {
    let page: serde_json::Value = serde_json::from_str(text).context("no JSON")?;
    let sum = &page["end"]["sum_received"];
    let (bytes, seconds) = (sum["bytes"].as_f64().context("no bytes")?, sum["seconds"].as_f64().context("no time")?);
    let done = bytes / f64::from(1 << 20);
    Ok(Outcome { done, errors: 0, per_second: done / seconds, latency: None })
}

/// The line that `bench-load` ends with.
#[derive(Deserialize)]
struct Line {
    requests: u64,
    errors: u64,
    seconds: f64,
    p50_us: Option<f64>,
    p90_us: Option<f64>,
    p99_us: Option<f64>,
    p999_us: Option<f64>,
}

fn own(text: &str) -> anyhow::Result<Outcome> {
    let line = text.lines().rev().find(|line| line.starts_with('{')).context("no line of JSON")?;
    let line: Line = serde_json::from_str(line)?;
    let latency = [line.p50_us, line.p90_us, line.p99_us, line.p999_us];
    let latency = latency.into_iter().collect::<Option<Vec<_>>>().and_then(|four| four.try_into().ok());
    let done = float(line.requests);
    Ok(Outcome { done, errors: line.errors, per_second: done / line.seconds, latency })
}

/// Counts of a few seconds are far below what a float holds exactly.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_tells_requests_rate_and_errors() {
        let text = "Running 1s test @ http://10.0.0.1/\n  1 threads and 64 connections\n  Thread Stats   Avg\n  \
            1000 requests in 1.10s, 217.96KB read\n  Socket errors: connect 1, read 2, write 0, timeout 3\n  \
            Non-2xx or 3xx responses: 4\nRequests/sec:    909.09\nTransfer/sec:    198.13KB\n";
        let expected = Outcome { done: 1000.0, errors: 10, per_second: 909.09, latency: None };
        assert_eq!(wrk(text).unwrap(), expected);
        assert!(wrk("unable to connect to 10.0.0.1:80 Connection refused\n").is_err());
    }

    #[test]
    fn h2load_counts_what_was_answered_with_2xx() {
        let text = "finished in 1.00s, 99.00 req/s, 20.79KB/s\n\
            requests: 103 total, 110 started, 101 done, 100 succeeded, 1 failed, 2 errored, 0 timeout\n\
            status codes: 99 2xx, 0 3xx, 0 4xx, 1 5xx\n";
        assert_eq!(h2load(text).unwrap(), Outcome { done: 99.0, errors: 4, per_second: 99.0, latency: None });
    }

    #[test]
    fn iperf_is_counted_where_it_arrives() {
        let text = r#"{"end":{"sum_sent":{"bytes":9999999},"sum_received":{"bytes":4194304,"seconds":2.0}}}"#;
        assert_eq!(iperf(text).unwrap(), Outcome { done: 4.0, errors: 0, per_second: 2.0, latency: None });
        assert!(iperf(r#"{"error":"unable to connect"}"#).is_err());
    }

    #[test]
    fn our_own_tells_percentiles_where_it_has_them() {
        let text = "warning: x\n{\"requests\":10,\"errors\":1,\"seconds\":2.0,\"bytes\":5,\
            \"p50_us\":1,\"p90_us\":2,\"p99_us\":3.5,\"p999_us\":4}\n";
        let expected = Outcome { done: 10.0, errors: 1, per_second: 5.0, latency: Some([1.0, 2.0, 3.5, 4.0]) };
        assert_eq!(own(text).unwrap(), expected);
        let without = own("{\"requests\":10,\"errors\":1,\"seconds\":2.0}").unwrap();
        assert_eq!(without.latency, None);
    }
}

//! The bars: which figures the table shows, and what the mesh must hold.
//!
//! Invariant: ratios are taken within one run; a bar without its figures is not judged, which is told.

use crate::peers::Peer;

/// A line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The scenario.
    pub scenario: &'static str,
    /// The name of the figure in cells.
    pub figure: &'static str,
    /// What the table calls it.
    pub label: &'static str,
    /// What the mesh must hold.
    pub bar: Bar,
}

/// What the mesh must hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bar {
    /// Nothing: the figure is shown.
    Shown,
    /// At most so much.
    Most(f64),
    /// At least so much.
    Least(f64),
    /// At most so many times a peer's.
    Times(f64, Peer),
}

/// The largest RssAnon under load, over all scenarios but held connections.
pub const LOAD: &str = "load";
/// Requests per second of two workers by those of one.
pub const SPEED_UP: &str = "speed_up";

const CPU: &str = "CPU, us/request";
const RATE: &str = "requests/s";

/// All lines, in the table's order.
#[must_use]
pub fn rows() -> Vec<Row> {
    use Peer::{Envoy, Haproxy};
    let mut rows = idle();
    rows.extend(throughput("h1-small", CPU, RATE, Bar::Times(1.0, Haproxy)));
    rows.extend(throughput("h1-10k", CPU, RATE, Bar::Times(0.8, Haproxy)));
    rows.extend(throughput("h1-1m", CPU, RATE, Bar::Times(0.75, Envoy)));
    rows.extend(throughput("h1-post", CPU, RATE, Bar::Shown));
    rows.extend(throughput("h2-small", CPU, RATE, Bar::Times(1.25, Haproxy)));
    rows.extend(throughput("grpc-unary", CPU, RATE, Bar::Shown));
    rows.extend(throughput("grpc-stream", "CPU, us/message", "messages/s", Bar::Shown));
    let (cpu, p50, p99) = (Bar::Times(0.6, Haproxy), Bar::Times(0.7, Haproxy), Bar::Times(0.9, Haproxy));
    rows.extend(rate("h1-rate", CPU, [cpu, p50, p99]));
    rows.extend(rate("h2-rate", CPU, [cpu, p50, p99]));
    rows.extend(rate("tcp-rate", "CPU, us/echo", [Bar::Times(0.75, Envoy), Bar::Shown, Bar::Shown]));
    rows.extend(throughput("tcp-bulk-1", "CPU, us/MiB", "MiB/s", Bar::Times(0.8, Envoy)));
    rows.extend(throughput("tcp-bulk-8", "CPU, us/MiB", "MiB/s", Bar::Times(0.75, Envoy)));
    let (cpu, per_second) = ("CPU, us/connection", "connections/s");
    rows.extend(throughput("conn-churn", cpu, per_second, Bar::Times(1.0, Haproxy)));
    rows.extend(throughput("tcp-churn", cpu, per_second, Bar::Times(0.2, Envoy)));
    rows.extend(held());
    rows.extend([
        row(LOAD, "anon_peak_kib", "largest RssAnon, KiB", Bar::Most(8192.0)),
        row("many-targets", "target_kib", "KiB RssAnon/known service", Bar::Most(4.0)),
        row("many-targets", "cpu_us", "CPU, us/request, 200 in use", Bar::Shown),
        row("workers-2", SPEED_UP, "requests/s by those of one worker", Bar::Least(1.7)),
        row("workers-2", "cpu_us", CPU, Bar::Shown),
    ]);
    rows
}

fn row(scenario: &'static str, figure: &'static str, label: &'static str, bar: Bar) -> Row {
    Row { scenario, figure, label, bar }
}

fn idle() -> Vec<Row> {
    vec![
        row("idle", "anon_idle_kib", "RssAnon, KiB", Bar::Most(1024.0)),
        row("idle", "rss_idle_kib", "VmRSS, KiB", Bar::Most(6.0 * 1024.0)),
        row("idle", "pss_idle_kib", "Pss, KiB", Bar::Shown),
        row("idle", "high_idle_kib", "VmHWM, KiB", Bar::Shown),
        row("idle", "cpu_us_per_second", "CPU of both, us/s", Bar::Most(100.0)),
        row("idle", "wakes_per_second", "wake-ups/s", Bar::Most(5.0)),
        row("idle", "ready_ms", "exec to ready, ms", Bar::Most(10.0)),
        row("idle", "binary_mib", "binary, MiB", Bar::Most(8.0)),
        row("idle", "binary_with_libraries_mib", "with its libraries, MiB", Bar::Shown),
    ]
}

fn throughput(scenario: &'static str, cpu: &'static str, rate: &'static str, bar: Bar) -> [Row; 3] {
    [
        row(scenario, "cpu_us", cpu, bar),
        row(scenario, "per_second", rate, Bar::Shown),
        row(scenario, "anon_peak_kib", "RssAnon under load, KiB", Bar::Shown),
    ]
}

fn rate(scenario: &'static str, cpu: &'static str, [cpu_bar, p50, p99]: [Bar; 3]) -> [Row; 5] {
    [
        row(scenario, "cpu_us", cpu, cpu_bar),
        row(scenario, "p50_us", "p50, us", p50),
        row(scenario, "p90_us", "p90, us", Bar::Shown),
        row(scenario, "p99_us", "p99, us", p99),
        row(scenario, "p999_us", "p99.9, us", Bar::Shown),
    ]
}

fn held() -> Vec<Row> {
    let each = "KiB RssAnon/connection, both";
    let left = "RssAnon left 10 s later, KiB";
    vec![
        row("held-tcp-1000", "anon_each_kib", each, Bar::Most(8.0)),
        row("held-tcp-9000", "anon_each_kib", each, Bar::Most(8.0)),
        row("held-tcp-9000", "cpu_us_per_second", "CPU while held, us/s", Bar::Shown),
        row("held-tcp-9000", "anon_left_kib", left, Bar::Most(2048.0)),
        row("held-http-1000", "anon_each_kib", each, Bar::Most(4.0)),
        row("held-http-9000", "anon_each_kib", each, Bar::Most(4.0)),
        row("held-http-9000", "cpu_us_per_second", "CPU while held, us/s", Bar::Shown),
        row("held-http-9000", "anon_left_kib", left, Bar::Most(2048.0)),
        row("spike-1m", "anon_peak_kib", "RssAnon under load, KiB", Bar::Shown),
        row("spike-1m", "anon_left_kib", left, Bar::Most(2048.0)),
    ]
}

/// What became of a bar.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is held.
    Held,
    /// It is not.
    Missed,
    /// The figures for it are not there, or the machine cannot tell.
    Unjudged,
}

impl Bar {
    /// Judges a figure of the mesh by those of its peers.
    #[must_use]
    pub fn judge(self, mesh: Option<f64>, of: impl Fn(Peer) -> Option<f64>) -> Verdict {
        let holds = match (self, mesh) {
            (Self::Shown, _) | (_, None) => return Verdict::Unjudged,
            (Self::Most(most), Some(mesh)) => mesh <= most,
            (Self::Least(least), Some(mesh)) => mesh >= least,
            (Self::Times(times, peer), Some(mesh)) => match of(peer) {
                Some(other) => mesh <= times * other,
                None => return Verdict::Unjudged,
            },
        };
        if holds { Verdict::Held } else { Verdict::Missed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    #[test]
    fn a_ratio_is_judged_by_the_peer_that_it_names() {
        let of = |peer| (peer == Peer::Envoy).then_some(100.0);
        assert_eq!(Bar::Times(0.8, Peer::Envoy).judge(Some(80.0), of), Verdict::Held);
        assert_eq!(Bar::Times(0.8, Peer::Envoy).judge(Some(81.0), of), Verdict::Missed);
        assert_eq!(Bar::Times(0.8, Peer::Haproxy).judge(Some(1.0), of), Verdict::Unjudged);
    }

    #[test]
    fn a_figure_that_is_not_there_holds_nothing() {
        assert_eq!(Bar::Most(8.0).judge(None, |_| None), Verdict::Unjudged);
        assert_eq!(Bar::Most(8.0).judge(Some(8.1), |_| None), Verdict::Missed);
        assert_eq!(Bar::Least(1.7).judge(Some(1.8), |_| None), Verdict::Held);
    }

    #[test]
    fn each_line_is_of_a_scenario_and_each_scenario_has_a_line() {
        let scenarios: Vec<_> = scenario::all().iter().map(|scenario| scenario.name).collect();
        let rows = rows();
        assert!(rows.iter().all(|row| row.scenario == LOAD || scenarios.contains(&row.scenario)));
        assert!(scenarios.iter().all(|name| rows.iter().any(|row| row.scenario == *name)));
    }
}

//! What sidecars found of their own workloads, and which endpoints that takes away.
//!
//! Invariant: a report counts for the workload that its proxy has the address and the proven identity of, and only the
//! newest; without one a workload is well. When more than half of a backend's endpoints would be out at once, all stay:
//! it is likelier that the checks are wrong, and if they are not, nothing is lost. `now` is an argument. Non-goal:
//! running checks.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::snapshot::Endpoint;
use super::{Index, Proxy};

/// Longest detail that is kept, in characters.
const MAX_DETAIL: usize = 256;

/// Reports by the workload's label, `namespace/name`.
#[derive(Debug, Default)]
pub(super) struct Reports {
    by_workload: HashMap<Arc<str>, Report>,
    unhealthy: usize,
    reporters: u64,
}

/// One stream that reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reporter(NonZeroU64);

/// What a sidecar said last.
#[derive(Debug)]
struct Report {
    is_healthy: bool,
    detail: String,
    by: Reporter,
    /// Since when nobody can correct it.
    departed: Option<Instant>,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// The workload's standing is another one: to be published.
    Changed,
    /// All is as it was.
    Unchanged,
    /// The proxy stands beside no workload that is known.
    Nobody,
}

impl Reports {
    /// Takes away what is not well; how many are not, and whether they stay all the same.
    pub(super) fn sift(&self, endpoints: &mut Vec<Endpoint>) -> (usize, bool) {
        if self.unhealthy == 0 {
            return (0, false);
        }
        let is_out =
            |endpoint: &Endpoint| self.by_workload.get(&endpoint.name).is_some_and(|report| !report.is_healthy);
        let out = endpoints.iter().filter(|endpoint| is_out(endpoint)).count();
        let is_preserved = 2 * out > endpoints.len();
        if !is_preserved {
            endpoints.retain(|endpoint| !is_out(endpoint));
        }
        (out, is_preserved)
    }

    fn forget(&mut self, workload: &str) -> bool {
        let was_unhealthy = self.by_workload.remove(workload).is_some_and(|report| !report.is_healthy);
        self.unhealthy -= usize::from(was_unhealthy);
        was_unhealthy
    }
}

impl Index {
    /// A name for a stream's reports.
    pub fn reporter(&mut self) -> Reporter {
        let number = NonZeroU64::MIN.saturating_add(self.reports.reporters);
        self.reports.reporters += 1;
        Reporter(number)
    }

    /// A sidecar says how its workload is.
    pub fn report(&mut self, proxy: &Proxy, by: Reporter, is_healthy: bool, detail: &str) -> Reported {
        let Some(member) = self.objects.workload_of(proxy) else { return Reported::Nobody };
        let label = Arc::clone(&member.label);
        let detail = detail.chars().filter(|c| !c.is_control()).take(MAX_DETAIL).collect();
        let report = Report { is_healthy, detail, by, departed: None };
        let before = self.reports.by_workload.insert(Arc::clone(&label), report);
        let was_healthy = before.is_none_or(|before| before.is_healthy);
        if was_healthy == is_healthy {
            return Reported::Unchanged;
        }
        self.reports.unhealthy = if is_healthy { self.reports.unhealthy - 1 } else { self.reports.unhealthy + 1 };
        self.objects.touch_workload(&label, &mut self.touched);
        Reported::Changed
    }

    /// A stream has ended; true when something it reported is to be forgotten later ([`Self::forget_reports`]).
    pub fn departed(&mut self, by: Reporter, now: Instant) -> bool {
        let mut of_stream = self.reports.by_workload.values_mut().filter(|report| report.by == by).peekable();
        let is_any = of_stream.peek().is_some();
        of_stream.for_each(|report| report.departed = Some(now));
        is_any
    }

    /// Forgets what was reported by streams that ended more than `kept` ago: such workloads count as well. Whether more is
    /// to be forgotten later.
    pub fn forget_reports(&mut self, kept: Duration, now: Instant) -> bool {
        let is_over =
            |report: &Report| report.departed.is_some_and(|since| now.saturating_duration_since(since) >= kept);
        let over = self.reports.by_workload.iter().filter(|(_, report)| is_over(report));
        let over: Vec<_> = over.map(|(label, _)| Arc::clone(label)).collect();
        for label in over {
            if self.reports.forget(&label) {
                self.objects.touch_workload(&label, &mut self.touched);
            }
        }
        self.reports.by_workload.values().any(|report| report.departed.is_some())
    }

    /// Workloads that are not well, and why.
    pub fn unhealthy(&self) -> impl Iterator<Item = (&str, &str)> {
        let reports = self.reports.by_workload.iter().filter(|(_, report)| !report.is_healthy);
        reports.map(|(label, report)| (&**label, report.detail.as_str()))
    }
}

//! Checks manifests for people: what the daemon would say of each, and what only shows when they are seen together.
//!
//! Invariant: what this calls an error, the daemon would not use; what the daemon uses, this does not call an error.
//! Non-goal: a running mesh.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::index::Index;
use crate::manifest::{Finding, Severity};
use crate::model::{EndpointSlice, Name, Object, Service, TargetPort, Workload};
use crate::source::directory::{self, Error, Look, Placed, Report};

/// The outcome.
#[derive(Debug)]
pub struct Verdict {
    reports: Vec<Report>,
    files: usize,
    objects: usize,
}

/// Checks a directory of manifests, or one manifest.
///
/// # Errors
/// It cannot be read, or there is no manifest.
pub fn validate(path: &Path) -> Result<Verdict, Error> {
    let look = directory::look(path)?;
    let mut reports = together(&look);
    let (files, objects) = (look.files, look.objects.len());
    reports.extend(look.reports);
    reports.sort_by(|a, b| place(a).cmp(&place(b)));
    Ok(Verdict { reports, files, objects })
}

fn place(report: &Report) -> (&PathBuf, u64, u64) {
    (&report.path, report.finding.line, report.finding.column)
}

impl Verdict {
    /// Whether the daemon would use all of it.
    pub fn is_usable(&self) -> bool {
        self.count(Severity::Error) == 0
    }

    /// One line for all.
    pub fn summary(&self) -> String {
        let (errors, warnings) = (self.count(Severity::Error), self.count(Severity::Warning));
        let (files, objects) = (self.files, self.objects);
        format!("{files} manifests, {objects} objects: {errors} errors, {warnings} warnings")
    }

    fn count(&self, severity: Severity) -> usize {
        self.reports.iter().filter(|report| report.finding.severity == severity).count()
    }
}

/// A finding a line.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reports.iter().try_for_each(|report| writeln!(f, "{report}"))
    }
}

/// All objects by kind, each with its place.
#[derive(Default)]
struct All<'a> {
    services: BTreeMap<&'a Name, (&'a Service, &'a Placed)>,
    slices: Vec<(&'a EndpointSlice, &'a Placed)>,
    workloads: Vec<(&'a Workload, &'a Placed)>,
}

fn together(look: &Look) -> Vec<Report> {
    let mut all = All::default();
    for placed in &look.objects {
        match &placed.object {
            Object::Service(service) => {
                all.services.entry(&service.name).or_insert((service, placed));
            }
            Object::EndpointSlice(slice) => all.slices.push((slice, placed)),
            Object::Workload(workload) => all.workloads.push((workload, placed)),
            Object::HttpRoute(_) | Object::GrpcRoute(_) | Object::TrafficPolicy(_) => {}
        }
    }
    let addresses = all.addresses().into_iter();
    addresses.chain(all.orphans()).chain(all.selectors()).chain(steering(look)).collect()
}

/// What routes and policies come to: conditions that are not met, and rules that no request reaches.
fn steering(look: &Look) -> Vec<Report> {
    let mut index = Index::new("cluster.local");
    let mut places = HashMap::new();
    // The other way round, for of two declarations the first counts.
    for placed in look.objects.iter().rev() {
        index.apply(placed.object.clone());
        places.insert(placed.object.key(), placed);
    }
    let troubles = index.statuses().into_iter().flat_map(|status| {
        let troubles: Vec<_> = status.troubles().map(|condition| condition.message.clone()).collect();
        troubles.into_iter().map(move |message| (status.key.clone(), message))
    });
    let found = troubles.chain(index.unreachable());
    found.filter_map(|(key, message)| Some(warning(places.get(&key)?, message))).collect()
}

impl All<'_> {
    /// Of two that claim an address the first by name has it.
    fn addresses(&self) -> Vec<Report> {
        let mut services = Vec::new();
        for (service, placed) in self.services.values() {
            services.extend(service.addresses.iter().map(|address| (*address, &service.name, *placed)));
        }
        let mut workloads = Vec::new();
        for (workload, placed) in &self.workloads {
            workloads.extend(workload.addresses.iter().map(|address| (*address, &workload.name, *placed)));
        }
        let mut reports = shared(services);
        reports.extend(shared(workloads));
        reports
    }

    /// Slices, and ports of slices, that are of no Service.
    fn orphans(&self) -> Vec<Report> {
        let mut reports = Vec::new();
        for (slice, placed) in &self.slices {
            let Some(service) = &slice.service else { continue };
            let service = Name::new(&slice.name.namespace, service);
            let Some((found, _)) = self.services.get(&service) else {
                reports.push(warning(placed, format!("there is no Service {service}")));
                continue;
            };
            for port in &slice.ports {
                if !found.ports.iter().any(|p| p.name == port.name) {
                    let message = format!("Service {service} has no port called \"{}\"", port.name);
                    reports.push(warning(placed, message));
                }
            }
        }
        reports
    }

    /// Services that lead nowhere.
    fn selectors(&self) -> Vec<Report> {
        let mut reports = Vec::new();
        for (service, placed) in self.services.values() {
            if service.selector.is_empty() {
                continue;
            }
            let selected = self.workloads.iter().filter(|(workload, _)| selects(service, workload));
            let ports: Vec<_> = selected.map(|(workload, _)| &workload.ports).collect();
            if ports.is_empty() {
                reports.push(warning(placed, format!("Service {} selects no Workload", service.name)));
                continue;
            }
            for port in &service.ports {
                let TargetPort::Name(name) = &port.target else { continue };
                if !ports.iter().copied().flatten().any(|port| port.name == *name) {
                    let message = format!("no Workload of Service {} has a port called {name}", service.name);
                    reports.push(warning(placed, message));
                }
            }
        }
        reports
    }
}

fn warning(placed: &Placed, message: String) -> Report {
    let (line, column) = (placed.line, placed.column);
    let finding = Finding { line, column, severity: Severity::Warning, field: String::new(), message };
    Report { path: placed.path.clone(), finding }
}

/// Tells of addresses that several claim.
fn shared(mut claims: Vec<(IpAddr, &Name, &Placed)>) -> Vec<Report> {
    claims.sort_by_key(|(_, name, _)| *name);
    let mut owners = HashMap::new();
    let mut reports = Vec::new();
    for (address, name, placed) in claims {
        let owner = *owners.entry(address).or_insert(name);
        if owner != name {
            reports.push(warning(placed, format!("{address} is the address of {owner} as well, which has it")));
        }
    }
    reports
}

fn selects(service: &Service, workload: &Workload) -> bool {
    let mut selector = service.selector.iter();
    service.name.namespace == workload.name.namespace
        && selector.all(|(name, value)| workload.labels.get(name) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(manifests: &str) -> (tempfile::TempDir, Verdict) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("all.yaml"), manifests).unwrap();
        let verdict = validate(dir.path()).unwrap();
        (dir, verdict)
    }

    const GOOD: &str = "\
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.1, selector: {app: web},
  ports: [{port: 80, targetPort: http}]}}
---
{apiVersion: mesh.internal/v1alpha1, kind: Workload, metadata: {name: a, labels: {app: web}},
  spec: {addresses: [10.0.0.1], ports: [{name: http, port: 8080}]}}
";

    #[test]
    fn good_manifests_have_no_findings() {
        let (_dir, verdict) = verdict(GOOD);
        assert_eq!((verdict.to_string(), verdict.is_usable()), (String::new(), true));
        assert_eq!(verdict.summary(), "1 manifests, 2 objects: 0 errors, 0 warnings");
    }

    #[test]
    fn findings_are_printed_like_those_of_a_compiler() {
        let (dir, verdict) = verdict(&GOOD.replace("addresses: [10.0.0.1]", "adresses: [10.0.0.1]"));
        let path = dir.path().join("all.yaml");
        let path = path.display();
        let expected = format!(
            "{path}:5:9: error: spec.addresses: missing\n\
             {path}:5:10: error: spec.adresses: unknown field; did you mean addresses?\n"
        );
        assert_eq!(verdict.to_string(), expected);
        assert!(!verdict.is_usable());
    }

    #[test]
    fn what_shows_only_together_is_found() {
        let more = "\
---
{apiVersion: v1, kind: Service, metadata: {name: api}, spec: {clusterIP: 10.96.0.1, selector: {app: web},
  ports: [{port: 80, targetPort: grpc}]}}
---
{apiVersion: mesh.internal/v1alpha1, kind: Workload, metadata: {name: b}, spec: {addresses: [10.0.0.1]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, endpoints: [],
  metadata: {name: s, labels: {kubernetes.io/service-name: nobody}}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, endpoints: [], ports: [{name: x, port: 1}],
  metadata: {name: t, labels: {kubernetes.io/service-name: web}}}
";
        let (_dir, verdict) = verdict(&format!("{GOOD}{more}"));
        let messages: Vec<_> = verdict.reports.iter().map(|report| report.finding.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "10.96.0.1 is the address of default/api as well, which has it",
                "no Workload of Service default/api has a port called grpc",
                "10.0.0.1 is the address of default/a as well, which has it",
                "there is no Service default/nobody",
                "Service default/web has no port called \"x\"",
            ]
        );
        assert!(verdict.is_usable());
    }

    #[test]
    fn what_is_wrong_with_routes_and_policies_is_explained_and_their_errors_are_their_own() {
        let more = "\
---
apiVersion: mesh.internal/v1alpha1
kind: TrafficPolicy
metadata: {name: a}
spec: {targetRefs: [{name: web}], limits: {requests: 5}}
---
apiVersion: mesh.internal/v1alpha1
kind: TrafficPolicy
metadata: {name: b}
spec: {targetRefs: [{name: web}, {name: nobody}], limits: {requests: 6}}
---
apiVersion: mesh.internal/v1alpha1
kind: TrafficPolicy
metadata: {name: c}
spec: {targetRefs: [{name: web}], circuitBraker: {enabled: false}, retries: {on: [6xx]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules:
  - {name: one, backendRefs: [{name: web, port: 80, weight: 0}]}
  - {name: two, matches: [{path: {value: /}}], backendRefs: [{name: web, port: 81}]}
";
        let (_dir, verdict) = verdict(&format!("{GOOD}{more}"));
        let found: Vec<_> = verdict.reports.iter().map(|report| report.finding.to_string()).collect();
        assert_eq!(
            found,
            [
                "12:1: warning: TrafficPolicy default/a is older and for the same target, Service default/web",
                "12:1: warning: there is no Service default/nobody",
                "20:35: error: spec.circuitBraker: unknown field; did you mean circuitBreaker?",
                "20:83: error: spec.retries.on[0]: \"6xx\" is none of connect-failure, reset, refused-stream, gateway-error, 5xx, \
                 a status such as \"503\", a range such as \"500-502\", grpc-unavailable and other grpc-<status>",
                "22:1: warning: Service default/web has no port 81: requests for that backend are answered with 500",
                "22:1: warning: rule two is never reached: rule one of HTTPRoute default/r takes its requests",
                "28:5: warning: spec.rules[0].backendRefs: all weights are 0: every request is answered with an error",
            ]
        );
        assert!(!verdict.is_usable());
        assert_eq!(verdict.summary(), "1 manifests, 5 objects: 2 errors, 5 warnings");
    }

    #[test]
    fn a_directory_without_manifests_is_an_error_and_one_without_objects_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let error = validate(dir.path()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("no manifest in {}; ", dir.path().display())), "{error}");
        std::fs::write(dir.path().join("none.yaml"), "").unwrap();
        let verdict = validate(dir.path()).unwrap();
        assert_eq!(verdict.summary(), "1 manifests, 0 objects: 0 errors, 0 warnings");
    }
}

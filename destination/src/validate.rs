//! Checks manifests for people: what the daemon would say of each, and what only shows when they are seen together.
//!
//! Invariant: what this calls an error, the daemon would not use; what the daemon uses, this does not call an error.
//! Non-goal: a running mesh.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::manifest::{Finding, Severity};
use crate::model::route::{BackendTo, Parent, Route, Rule};
use crate::model::{EndpointSlice, Name, Object, Service, ServicePort, TargetPort, Workload};
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
    routes: Vec<(&'a Route, &'a Placed)>,
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
            Object::HttpRoute(route) | Object::GrpcRoute(route) => all.routes.push((route, placed)),
            Object::TrafficPolicy(_) => {}
        }
    }
    let addresses = all.addresses().into_iter();
    addresses.chain(all.orphans()).chain(all.selectors()).chain(all.dangling()).collect()
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

    /// Parents and backends of routes that are not there.
    fn dangling(&self) -> Vec<Report> {
        let mut reports = Vec::new();
        for (route, placed) in &self.routes {
            for Parent { service, port, section } in &route.parents {
                let Some((found, _)) = self.services.get(service) else {
                    reports.push(warning(placed, format!("there is no Service {service} to attach to")));
                    continue;
                };
                let mut ports = found.ports.iter();
                let fits = |p: &ServicePort| {
                    port.is_none_or(|port| p.port == port) && section.as_ref().is_none_or(|name| p.name == *name)
                };
                if !ports.any(fits) {
                    reports.push(warning(placed, format!("Service {service} has no such port to attach to")));
                }
            }
            for to in route.rules.iter().flat_map(Rule::leads_to) {
                let problem = match to {
                    BackendTo::Invalid(why) => Some(why.clone()),
                    BackendTo::Service { service, port } => match self.services.get(service) {
                        None => Some(format!("there is no Service {service}")),
                        Some((found, _)) if !found.ports.iter().any(|p| p.port == *port) => {
                            Some(format!("Service {service} has no port {port}"))
                        }
                        Some(_) => None,
                    },
                };
                let answered = |why| format!("{why}: requests for that backend are answered with 500");
                reports.extend(problem.map(|why| warning(placed, answered(why))));
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
    fn a_directory_without_manifests_is_an_error_and_one_without_objects_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let error = validate(dir.path()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("no manifest in {}; ", dir.path().display())), "{error}");
        std::fs::write(dir.path().join("none.yaml"), "").unwrap();
        let verdict = validate(dir.path()).unwrap();
        assert_eq!(verdict.summary(), "1 manifests, 0 objects: 0 errors, 0 warnings");
    }
}

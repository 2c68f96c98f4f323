//! Routes and policies with errors, which take nothing along.

use super::*;

const ROUTE: &str = "---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r},
 spec: {parentRefs: [{group: '', kind: Service, name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}}
";

impl Fixture {
    /// Routes and policies: which, whether a version is in force, and the first trouble.
    fn statuses(&self) -> Vec<String> {
        let index = self.index.lock().unwrap();
        let shown = index.statuses().into_iter().map(|status| {
            let trouble = status.troubles().next().map(|c| format!(" {}: {}", c.reason.as_str(), c.message));
            format!("{} {}{}", status.key, status.is_in_force, trouble.unwrap_or_default())
        });
        let root = self.manifests().display().to_string();
        shown.map(|status| status.replace(&root, "")).collect()
    }

    async fn until_statuses(&self, wanted: &[&str]) {
        let reached = async {
            while self.statuses() != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let reached = timeout(Duration::from_secs(20), reached).await;
        reached.unwrap_or_else(|_| panic!("{:?}, not {wanted:?}", self.statuses()));
    }
}

#[tokio::test]
async fn a_route_with_an_error_is_rejected_alone_and_its_last_good_version_stays() {
    let mesh = Fixture::new(&[("all.yaml", &format!("{SERVICE}{}{ROUTE}", workload("a", "10.0.0.1")))]).await;
    mesh.until_statuses(&["HTTPRoute default/r true"]).await;
    // Its field is wrong, what is beside it changes, and is in force.
    let bad = ROUTE.replace("port: 80", "prot: 80");
    replace(&mesh.manifests(), "all.yaml", &format!("{SERVICE}{}{bad}", workload("a", "10.0.0.2")));
    mesh.until(&["10.0.0.2"]).await;
    let rejected = "UnsupportedValue: /all.yaml: line 7: spec.rules[0].backendRefs[0].port: missing";
    mesh.until_statuses(&[&format!("HTTPRoute default/r true {rejected}; the last good version stays in force")]).await;
    // It goes, and comes back broken: now there is no good version.
    replace(&mesh.manifests(), "all.yaml", &format!("{SERVICE}{}", workload("a", "10.0.0.2")));
    mesh.until_statuses(&[]).await;
    replace(&mesh.manifests(), "all.yaml", &format!("{SERVICE}{}{bad}", workload("a", "10.0.0.3")));
    mesh.until(&["10.0.0.3"]).await;
    mesh.until_statuses(&[&format!("HTTPRoute default/r false {rejected}")]).await;
    // Broken syntax still keeps all of the file, and repair repairs.
    replace(&mesh.manifests(), "all.yaml", &format!("{SERVICE}{}{ROUTE}", workload("a", "10.0.0.4")));
    mesh.until(&["10.0.0.4"]).await;
    mesh.until_statuses(&["HTTPRoute default/r true"]).await;
}

#[tokio::test]
async fn a_policy_that_moves_into_another_file_and_breaks_there_stays_in_force() {
    let policy = "---\n{apiVersion: mesh.internal/v1alpha1, kind: TrafficPolicy, metadata: {name: p},
        spec: {targetRefs: [{name: web}], limits: {requests: 5}}}\n";
    let mesh = Fixture::new(&[("a.yaml", policy), ("b.yaml", SERVICE)]).await;
    mesh.until_statuses(&["TrafficPolicy default/p true"]).await;
    let bad = policy.replace("requests: 5", "requests: -5");
    replace(&mesh.manifests(), "b.yaml", &format!("{SERVICE}{bad}"));
    mesh.until_statuses(&["TrafficPolicy default/p true Invalid: /b.yaml: line 4: spec.limits.requests: -5 is not within 1 to 4294967295; \
        the last good version stays in force"]).await;
    fs::remove_file(mesh.manifests().join("a.yaml")).unwrap();
    replace(&mesh.manifests(), "c.yaml", &workload("a", "10.0.0.1"));
    mesh.until(&["10.0.0.1"]).await;
    assert!(mesh.statuses()[0].contains(" true Invalid"), "{:?}", mesh.statuses());
    // At a start, what is rejected holds nobody up.
    let fresh = Fixture::new(&[("b.yaml", &format!("{SERVICE}{bad}"))]).await;
    assert!(fresh.statuses()[0].contains(" false Invalid"), "{:?}", fresh.statuses());
}

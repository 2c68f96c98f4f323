//! What the harness writes into the manifests folder.
//!
//! Invariant: a manifest is replaced by a rename, never seen half written.
//! Non-goal: kinds that no test needs.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The folder that `mesh-destination` watches.
pub struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes or replaces `NAME.yaml`.
    ///
    /// # Panics
    /// When the folder cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        let (hidden, path) = (self.0.join(format!(".{name}.new")), self.0.join(format!("{name}.yaml")));
        let written = fs::write(&hidden, text).and_then(|()| fs::rename(&hidden, &path));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Removes `NAME.yaml`.
    ///
    /// # Panics
    /// When it is not there.
    pub fn remove(&self, name: &str) {
        let path = self.0.join(format!("{name}.yaml"));
        fs::remove_file(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// A `Workload`.
pub(crate) struct Workload<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) service_account: &'a str,
    pub(crate) labels: &'a [(String, String)],
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) is_meshed: bool,
    pub(crate) ports: &'a [Port],
}

/// A port of a workload, with its declared protocol.
#[derive(Clone, Debug)]
pub struct Port {
    /// Where the app listens.
    pub number: u16,
    /// `appProtocol`; none: found out from the bytes.
    pub protocol: Option<String>,
}

impl Workload<'_> {
    pub(crate) fn yaml(&self) -> String {
        let Self { name, namespace, service_account, labels, addresses, is_meshed, ports } = self;
        let mut text = format!(
            "apiVersion: mesh.internal/v1alpha1\nkind: Workload\nmetadata:\n  name: {name}\n  namespace: {namespace}\n"
        );
        text += &map("  ", "labels", labels);
        let addresses: Vec<_> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
        let _ = write!(
            text,
            "spec:\n  addresses: [{}]\n  serviceAccount: {service_account}\n  meshed: {is_meshed}\n",
            addresses.join(", ")
        );
        if !ports.is_empty() {
            text += "  ports:\n";
        }
        for Port { number, protocol } in *ports {
            let _ = writeln!(text, "    - name: port-{number}\n      port: {number}");
            if let Some(protocol) = protocol {
                let _ = writeln!(text, "      appProtocol: {protocol}");
            }
        }
        text
    }
}

/// A `Service` with one port.
pub(crate) struct Service<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) addresses: [IpAddr; 2],
    pub(crate) port: u16,
    pub(crate) target: u16,
    pub(crate) protocol: Option<&'a str>,
    pub(crate) selector: &'a [(String, String)],
}

impl Service<'_> {
    pub(crate) fn yaml(&self) -> String {
        let Self { name, namespace, addresses: [v4, v6], port, target, protocol, selector } = self;
        let protocol = protocol.map(|protocol| format!("      appProtocol: {protocol}\n"));
        format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n\
             \x20 clusterIP: \"{v4}\"\n  clusterIPs: [\"{v4}\", \"{v6}\"]\n{}  ports:\n\
             \x20   - name: main\n      port: {port}\n      targetPort: {target}\n{}",
            map("  ", "selector", selector),
            protocol.unwrap_or_default(),
        )
    }
}

fn map(indent: &str, name: &str, pairs: &[(String, String)]) -> String {
    let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    format!("{indent}{name}: {{{}}}\n", pairs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_what_kubectl_takes() {
        let service = Service {
            name: "web",
            namespace: "shop",
            addresses: ["10.96.0.1".parse().unwrap(), "fd96::1".parse().unwrap()],
            port: 80,
            target: 8080,
            protocol: Some("grpc"),
            selector: &[("app".to_owned(), "web".to_owned())],
        };
        let expected = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\nspec:\n  \
            clusterIP: \"10.96.0.1\"\n  clusterIPs: [\"10.96.0.1\", \"fd96::1\"]\n  selector: {app: web}\n  ports:\n    \
            - name: main\n      port: 80\n      targetPort: 8080\n      appProtocol: grpc\n";
        assert_eq!(service.yaml(), expected);
    }
}

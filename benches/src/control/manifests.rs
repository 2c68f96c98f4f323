//! A mesh of many services as manifests, and a change of one endpoint at a time.
//!
//! Invariant: a file is replaced by a rename, as careful writers do; each change brings an address that was never there
//! before, so that whoever sees it knows which change it was. All is in one namespace, the worst case for selectors.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use mesh_proto::discovery::BackendRef;

/// Endpoints of each service.
pub const ENDPOINTS: usize = 10;
/// Where clients connect to.
pub const PORT: u16 = 80;
/// Of all workloads.
pub const NAMESPACE: &str = "bench";
const TARGET: u16 = 8080;
/// 10.96.0.0: addresses of services, one each.
const SERVICES: u32 = 0x0a60_0000;
/// 10.128.0.0: addresses of workloads.
const WORKLOADS: u32 = 0x0a80_0000;

/// The folder, and what is in it.
pub struct Manifests {
    dir: PathBuf,
    /// Addresses of each service's workloads.
    services: Vec<[Ipv4Addr; ENDPOINTS]>,
    next: u32,
}

/// An endpoint moved.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Which service's.
    pub service: usize,
    /// Where it is now, and was not before.
    pub address: Ipv4Addr,
}

impl Manifests {
    /// Writes `count` services, one file each.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(dir: &Path, count: usize) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut manifests = Self { dir: dir.to_owned(), services: Vec::new(), next: WORKLOADS };
        for service in 0..count {
            let addresses = [(); ENDPOINTS].map(|()| manifests.fresh());
            manifests.services.push(addresses);
            manifests.replace(service)?;
        }
        Ok(manifests)
    }

    /// How many services there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// The address of a workload, by number over all services.
    #[must_use]
    pub fn workload(&self, number: usize) -> Ipv4Addr {
        let number = number % (self.services.len() * ENDPOINTS);
        self.services[number / ENDPOINTS][number % ENDPOINTS]
    }

    /// Decides on the `n`th change: services in turn, one endpoint each. [`Self::replace`] puts it in force.
    pub fn change(&mut self, n: usize) -> Change {
        let (service, endpoint) = (n % self.services.len(), n / self.services.len() % ENDPOINTS);
        let address = self.fresh();
        self.services[service][endpoint] = address;
        Change { service, address }
    }

    /// Puts the file of a service in place.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn replace(&self, service: usize) -> io::Result<()> {
        let (hidden, path) =
            (self.dir.join(format!(".{service:05}")), self.dir.join(format!("service-{service:05}.yaml")));
        fs::write(&hidden, yaml(service, &self.services[service]))?;
        fs::rename(hidden, path)
    }

    fn fresh(&mut self) -> Ipv4Addr {
        let address = Ipv4Addr::from_bits(self.next);
        self.next += 1;
        address
    }
}

/// Where clients of a service connect to.
#[must_use]
pub fn address(service: usize) -> SocketAddr {
    let offset = u32::try_from(service).unwrap_or(u32::MAX);
    SocketAddr::new(Ipv4Addr::from_bits(SERVICES.saturating_add(offset)).into(), PORT)
}

/// What discovery calls it.
#[must_use]
pub fn backend(service: usize) -> BackendRef {
    BackendRef { namespace: NAMESPACE.to_owned(), service: name(service), port: u32::from(PORT) }
}

fn name(service: usize) -> String {
    format!("service-{service:05}")
}

fn yaml(service: usize, workloads: &[Ipv4Addr]) -> String {
    let name = name(service);
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {NAMESPACE}\nspec:\n  clusterIP: {}\n  \
         selector: {{app: {name}}}\n  ports:\n    - name: http\n      port: {PORT}\n      targetPort: {TARGET}\n      \
         appProtocol: http\n",
        address(service).ip(),
    );
    for (number, address) in workloads.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "---\napiVersion: mesh.internal/v1alpha1\nkind: Workload\nmetadata:\n  name: {name}-{number}\n  \
             namespace: {NAMESPACE}\n  labels: {{app: {name}}}\nspec:\n  addresses: [\"{address}\"]\n  serviceAccount: \
             {name}\n  meshed: true\n  ports:\n    - name: http\n      port: {TARGET}\n",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_moves_one_endpoint_to_where_none_was() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifests = Manifests::write(dir.path(), 3).unwrap();
        let before = manifests.services.clone();
        let change = manifests.change(4);
        assert_eq!(change.service, 1);
        assert!(!before.iter().flatten().any(|address| *address == change.address));
        assert_eq!(manifests.workload(ENDPOINTS + 1), change.address);
        manifests.replace(1).unwrap();
        let text = fs::read_to_string(dir.path().join("service-00001.yaml")).unwrap();
        assert_eq!(text.matches("kind: Workload").count(), ENDPOINTS);
        assert!(text.contains(&change.address.to_string()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing else is left");
    }
}

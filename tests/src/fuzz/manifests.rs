//! Manifests, from their text to what a proxy is told of them.
//!
//! Oracles: a comment in front moves every place by one line and changes nothing else; what `destination` makes of a manifest,
//! no proxy refuses.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_destination::index::{self, Backend, Dialed, Index, Marks, Resource};
use mesh_destination::manifest::{self, Manifest};
use mesh_destination::model::{Mesh, Object};
use mesh_destination::service;
use mesh_mtls::spiffe;
use mesh_proto::discovery as wire;
use mesh_proxy::control::Discovery;
use prost::Message as _;

use super::discovery;

/// Services and workloads that are followed further, of one manifest.
const FOLLOWED: usize = 8;

/// A manifest.
pub(super) fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(&data[..data.len().min(64 * 1024)]) else { return };
    let read = manifest::parse(text);
    let lines = text.bytes().filter(|byte| matches!(byte, b'\n' | b'\r')).count() as u64 + 1;
    for finding in &read.findings {
        assert!((1..=lines + 1).contains(&finding.line) && finding.column > 0, "{finding} of {lines} lines");
        assert!(!finding.to_string().contains('\n'), "{finding:?}");
    }
    if !text.starts_with(['\u{feff}', '%']) {
        moved_by_a_line(&read, &manifest::parse(&format!("# a comment\n{text}")));
    }
    if !read.is_broken() {
        PROXY.with_borrow_mut(|proxy| told(&read, proxy.get_or_insert_with(discovery::client)));
    }
}

fn moved_by_a_line(read: &Manifest, moved: &Manifest) {
    let objects = |manifest: &Manifest, by| -> Vec<_> {
        let places = manifest.objects.iter().map(|it| (format!("{:?}", it.object), it.line + by, it.column));
        places.collect()
    };
    let findings = |manifest: &Manifest, by| -> Vec<_> {
        let places = manifest.findings.iter().map(|it| (it.message.clone(), it.field.clone(), it.line + by));
        places.collect()
    };
    assert_eq!(objects(read, 1), objects(moved, 0));
    // Of a text without any place, the whole is at its beginning.
    if read.findings.iter().all(|finding| finding.line > 1) {
        assert_eq!(findings(read, 1), findings(moved, 0));
    }
}

thread_local! {
    /// A proxy's client.
    static PROXY: RefCell<Option<Discovery>> = const { RefCell::new(None) };
}

/// What the proxy is told of the services and workloads of a manifest.
fn told(manifest: &Manifest, proxy: &Discovery) {
    let mut index = Index::new("cluster.local");
    manifest.objects.iter().for_each(|declared| index.apply(declared.object.clone()));
    index.complete();
    index.publish(std::time::Instant::now());
    let marks = Arc::new(Marks::default());
    let refused = proxy.status().rejected;
    let tell = |index: &mut Index, resource: Resource| {
        let (_targets, _endpoints, _inbound);
        match &resource {
            Resource::Outbound(dialed) => _targets = proxy.outbound(dialed.addr),
            Resource::Endpoints(Backend { service, port }) => {
                let (namespace, name) = (service.namespace.as_str().into(), service.name.as_str().into());
                let backend = mesh_proxy::model::BackendId { namespace, service: name, port: *port };
                _endpoints = proxy.endpoints(&backend);
            }
            Resource::Inbound(_) => _inbound = proxy.inbound(),
        }
        let Some(id) = discovery::asked(proxy) else { panic!("nothing is asked of {resource:?}") };
        let snapshot = index.watch(resource, &marks, id).latest();
        let (encoded, _) = service::encode(&snapshot);
        let update = wire::WatchResponse::decode(encoded).expect("what we encode can be decoded");
        proxy.take(wire::WatchResponse { id, ..update });
    };
    for declared in manifest.objects.iter().take(FOLLOWED) {
        match &declared.object {
            Object::Service(service) => {
                for port in service.ports.iter().take(FOLLOWED).map(|port| port.port.get()) {
                    tell(&mut index, Resource::Endpoints(Backend { service: service.name.clone(), port }));
                    let dialed = service.addresses.iter().take(FOLLOWED);
                    dialed.for_each(|ip| tell(&mut index, outbound(*ip, port)));
                }
            }
            Object::Workload(workload) => {
                let ports = workload.ports.iter().map(|port| port.port.get()).take(FOLLOWED);
                for port in ports.chain([9]) {
                    let dialed = workload.addresses.iter().take(FOLLOWED);
                    dialed.for_each(|ip| tell(&mut index, outbound(*ip, port)));
                }
                if let Mesh::Meshed { service_account } = &workload.mesh
                    && let Ok(id) = spiffe::Id::new("cluster.local", &workload.name.namespace, service_account)
                {
                    let addresses = workload.addresses.iter().copied().collect();
                    tell(&mut index, Resource::Inbound(Arc::new(index::Proxy { addresses, id })));
                }
            }
            Object::EndpointSlice(_) | Object::HttpRoute(_) | Object::GrpcRoute(_) | Object::TrafficPolicy(_) => {}
        }
    }
    let status = proxy.status();
    assert_eq!(status.rejected, refused, "a proxy refuses what destination says: {:?}", status.last_error);
}

fn outbound(ip: IpAddr, port: u16) -> Resource {
    Resource::Outbound(Dialed { addr: SocketAddr::new(ip, port), namespace: "default".into() })
}

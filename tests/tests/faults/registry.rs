//! A registry that is torn: half-written files, files and folders that go, what cannot be read, links that swing.
//!
//! Invariant: the last good state is served through all of it, errors are counted, and a change is seen whole or not at all.
//! Non-goal: a start on a torn folder; `tests/tests/destination` has it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

use mesh_tests::client::load::Load;
use mesh_tests::mesh::{Mesh, Metrics};
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Who, count, record};

use super::{HTTP, PAUSE, SOON, answers, endpoint, endpoints, unharmed};

/// What the client's sidecar knows behind the service.
fn known(mesh: &Mesh, addr: SocketAddr) -> BTreeSet<String> {
    let all = endpoints(mesh, "client", addr);
    all.iter().filter_map(|endpoint| endpoint["addr"].as_str()).map(str::to_owned).collect()
}

fn of(mesh: &Mesh, names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| mesh.get(name).at(HTTP)[0].to_string()).collect()
}

fn errors(mesh: &Mesh) -> f64 {
    Metrics::parse(&mesh.control().destination_metrics()).sum("mesh_destination_manifest_errors_total", &[])
}

/// Waits until destination has looked at a broken file, and nothing has changed.
fn kept(mesh: &Mesh, addr: SocketAddr, what: &str, before: f64) {
    until(SOON, || errors(mesh) > before);
    assert_eq!(known(mesh, addr), of(mesh, &["web-1", "web-2"]), "{what}");
}

#[test]
fn f28_a_torn_registry_leaves_the_last_good_state_in_use() {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    for name in ["web-1", "web-2"] {
        endpoint(&mut mesh, name, "web", true);
    }
    let addr = mesh.service("web", 80, HTTP).add().v4;
    mesh.start();
    let load = Load::start(&mesh.get("client").host, addr, 8, PAUSE);
    answers(&load, 200);
    let both = of(&mesh, &["web-1", "web-2"]);
    until(SOON, || known(&mesh, addr) == both);
    for _ in 0..count(1, 20) {
        broken_files(&mesh, addr);
        lost_folder(&mesh, addr);
        half_written(&mesh, addr);
        swinging_link(&mesh, addr);
        answers(&load, 100);
    }
    let report = unharmed(load);
    let figure = format!("0 of {} failed, {} errors counted", report.answered, errors(&mesh));
    record(62, "F28, a torn registry", Who::Mesh, true, &figure);
}

/// Replaced by what is no manifest.
fn broken_files(mesh: &Mesh, addr: SocketAddr) {
    let whole = mesh.get("web-2").manifest.clone();
    let half = &whole[..whole.len() / 2];
    let unknown = whole.replace("meshed: true", "meshed: perhaps");
    let not_text = "\u{0}\u{1}";
    for (what, text) in [("half", half), ("invalid", "a: [b"), ("an unknown value", &unknown), ("no text", not_text)] {
        let before = errors(mesh);
        mesh.manifests.write("workload-web-2", text);
        kept(mesh, addr, what, before);
        mesh.publish("web-2");
    }
    let path = mesh.manifests.path().join("workload-web-2.yaml");
    let before = errors(mesh);
    mesh.withdraw("web-2");
    symlink("nowhere", &path).expect("a folder that can be written");
    kept(mesh, addr, "a link to nowhere", before);
    mesh.publish("web-2");
    until(SOON, || known(mesh, addr) == of(mesh, &["web-1", "web-2"]));
}

/// The whole folder goes and comes back, empty in between.
fn lost_folder(mesh: &Mesh, addr: SocketAddr) {
    let (folder, away) = (mesh.manifests.path().to_owned(), mesh.folder().join("away"));
    let reloads = |result: &str| {
        Metrics::parse(&mesh.control().destination_metrics())
            .sum("mesh_destination_reloads_total", &[("result", result)])
    };
    for is_empty in [false, true] {
        let before = reloads("failed");
        fs::rename(&folder, &away).expect("a folder that can be moved");
        if is_empty {
            fs::create_dir(&folder).expect("a folder");
        }
        until(SOON, || reloads("failed") > before);
        assert_eq!(known(mesh, addr), of(mesh, &["web-1", "web-2"]), "empty: {is_empty}");
        if is_empty {
            fs::remove_dir(&folder).expect("an empty folder");
        }
        fs::rename(&away, &folder).expect("a folder that can be moved");
        // It is followed again.
        mesh.withdraw("web-2");
        until(SOON, || known(mesh, addr) == of(mesh, &["web-1"]));
        mesh.publish("web-2");
        until(SOON, || known(mesh, addr) == of(mesh, &["web-1", "web-2"]));
    }
}

/// Written in place, slowly: nobody sees the half.
fn half_written(mesh: &Mesh, addr: SocketAddr) {
    let path = mesh.manifests.path().join("workload-web-2.yaml");
    let text = mesh.get("web-2").manifest.clone();
    let mut file = fs::File::create(&path).expect("a manifest");
    let (one, other) = text.split_at(text.len() / 2);
    file.write_all(one.as_bytes()).and_then(|()| file.sync_all()).expect("a manifest");
    // Something else changes, so that destination has looked at the folder for certain.
    mesh.withdraw("web-1");
    until(SOON, || known(mesh, addr) == of(mesh, &["web-2"]));
    file.write_all(other.as_bytes()).expect("a manifest");
    drop(file);
    mesh.publish("web-1");
    until(SOON, || known(mesh, addr) == of(mesh, &["web-1", "web-2"]));
}

/// Manifests that are reached through a link, as Kubernetes mounts them, which swings from one set to another: both are
/// seen whole.
fn swinging_link(mesh: &Mesh, addr: SocketAddr) {
    let folder = mesh.manifests.path();
    let set = |name: &str, workloads: &[&str]| {
        let set = folder.join(name);
        fs::create_dir(&set).expect("a folder");
        for workload in workloads {
            fs::write(set.join(format!("{workload}.yaml")), &mesh.get(workload).manifest).expect("a manifest");
        }
    };
    set("..one", &["web-1", "web-2"]);
    // The other one declares the same, but for an address of web-2 that is not there any more.
    set("..other", &["web-1", "web-2"]);
    let other = folder.join("..other/web-2.yaml");
    let moved = mesh.get("web-2").manifest.replace(&mesh.get("web-2").host.v4.to_string(), "10.77.99.99");
    fs::write(&other, moved).expect("a manifest");
    swing(folder, "..one");
    for workload in ["web-1", "web-2"] {
        symlink(format!("..data/{workload}.yaml"), folder.join(format!("{workload}.yaml"))).expect("a link");
    }
    for workload in ["web-1", "web-2"] {
        mesh.withdraw(workload);
    }
    let both = of(mesh, &["web-1", "web-2"]);
    let mut moved = of(mesh, &["web-1"]);
    moved.insert(format!("10.77.99.99:{HTTP}"));
    for (to, before, after) in [("..other", &both, &moved), ("..one", &moved, &both)] {
        swing(folder, to);
        until(SOON, || {
            let now = known(mesh, addr);
            assert!(now == *before || now == *after, "half a change was seen: {now:?}");
            now == *after
        });
    }
    for workload in ["web-1", "web-2"] {
        mesh.publish(workload);
    }
    for path in ["web-1.yaml", "web-2.yaml", "..data"] {
        fs::remove_file(folder.join(path)).expect("a link");
    }
    for set in ["..one", "..other"] {
        fs::remove_dir_all(folder.join(set)).expect("a folder");
    }
    until(SOON, || known(mesh, addr) == of(mesh, &["web-1", "web-2"]));
}

fn swing(folder: &Path, to: &str) {
    let new = folder.join("..data_tmp");
    symlink(to, &new).and_then(|()| fs::rename(&new, folder.join("..data"))).expect("a link that swings");
}

//! A disk that is full, or may not be written.
//!
//! Invariant: who writes keys leaves whole ones or none, and says what is in the way. Non-goal: disks that lie.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mesh_tests::bin;
use mesh_tests::client::http::{Version, fetch};
use mesh_tests::client::within;
use mesh_tests::mesh::{App, Mesh};
use mesh_tests::yardstick::{Who, record};

use crate::HTTP;

/// A file system of 64 KiB, as long as it is used.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs"], dir.path());
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Leaves no room at all.
    fn fill(&self) {
        let fill = self.path("filler");
        let mut size = 1 << 16;
        while size > 0 {
            let old = fs::read(&fill).unwrap_or_default();
            if fs::write(&fill, vec![b'x'; old.len() + size]).is_err() {
                // As far as there was room.
                size /= 2;
            }
        }
        assert!(fs::write(self.path("more"), vec![b'x'; 4096]).is_err(), "there is room");
        drop(fs::remove_file(self.path("more")));
    }

    fn free(&self) {
        fs::remove_file(self.path("filler")).expect("the filler");
    }

    fn read_only(&self) {
        mount(&["-o", "remount,ro"], self.0.path());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.0.path()).status());
    }
}

fn mount(args: &[&str], at: &Path) {
    let status = Command::new("mount").args(args).arg(at).status();
    assert!(status.is_ok_and(|status| status.success()), "mount {args:?}");
}

fn add_token(tokens: &Path) -> Output {
    let mut command = Command::new(bin("mesh-identity"));
    command.args(["token", "add", "--id", "spiffe://cluster.local/ns/a/sa/b", "--tokens"]).arg(tokens);
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn start_identity(dir: &Path, tokens: &Path) -> Output {
    let mut command = Command::new("timeout");
    command.arg("10").arg(bin("mesh-identity")).args(["--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--init-dir"]);
    command.arg(dir).arg("--tokens").arg(tokens);
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// It ended with a failure, and said on a line what is in the way and where.
fn is_named(output: &Output, why: &str, place: &Path) {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{said}");
    let named = |line: &str| line.contains(why) && line.contains(&*place.to_string_lossy());
    assert!(said.lines().any(named) && !said.contains("panicked"), "{said}");
}

#[test]
fn r62_f19_a_full_disk_leaves_whole_files_or_none_and_is_named() {
    const FULL: &str = "No space left on device";
    let disk = Disk::new();
    let (tokens, ca) = (disk.path("tokens"), disk.path("ca"));
    assert!(add_token(&tokens).status.success());
    let before = fs::read(&tokens).expect("a token");
    disk.fill();
    let refused = add_token(&tokens);
    is_named(&refused, FULL, disk.0.path());
    assert!(refused.stdout.is_empty(), "a token that nobody stored");
    assert_eq!(fs::read(&tokens).expect("the file is there"), before, "tokens are as they were");
    is_named(&start_identity(&ca, &tokens), FULL, disk.0.path());
    for file in fs::read_dir(&ca).into_iter().flatten().flatten() {
        let name = file.file_name();
        assert!(name.to_string_lossy().starts_with('.'), "{name:?} of a CA that is none");
    }
    disk.free();
    // With room again it begins anew, with whole files of the right modes.
    let started = start_identity(&ca, &tokens);
    assert_eq!(started.status.code(), Some(124), "it serves until it is ended: {started:?}");
    for key in ["root.key", "issuer.key"] {
        let path = ca.join(key);
        assert!(
            fs::read_to_string(&path).is_ok_and(|pem| pem.trim_end().ends_with("-----END PRIVATE KEY-----")),
            "{key}"
        );
        assert_eq!(fs::metadata(&path).expect("a key").permissions().mode() & 0o777, 0o600);
    }
    assert!(add_token(&tokens).status.success());
    record(62, "F19, a full disk", Who::Mesh, true, "3 refusals by name, no partial file, whole again with room");
}

#[test]
fn r62_f19_a_disk_that_may_not_be_written_is_named_and_serves_what_it_has() {
    const READ_ONLY: &str = "Read-only file system";
    let disk = Disk::new();
    let (tokens, ca) = (disk.path("tokens"), disk.path("ca"));
    assert!(add_token(&tokens).status.success());
    assert_eq!(start_identity(&ca, &tokens).status.code(), Some(124));
    disk.read_only();
    is_named(&add_token(&tokens), READ_ONLY, disk.0.path());
    is_named(&start_identity(&disk.path("other"), &tokens), READ_ONLY, disk.0.path());
    let started = start_identity(&ca, &tokens);
    let said = String::from_utf8_lossy(&started.stderr).into_owned();
    assert_eq!(started.status.code(), Some(124), "what is there serves: {said}");
    record(62, "F19, a read-only disk", Who::Mesh, true, "2 refusals by name; a CA that is there serves");
}

/// Bytes that a sidecar had written to disks. To start a program can be a write: that of when its file was last read.
fn written(mesh: &Mesh, name: &str) -> String {
    let pid = mesh.get(name).proxy().and_then(mesh_tests::mesh::Daemon::pid).expect("a sidecar that runs");
    let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("a process of ours");
    io.lines().find(|line| line.starts_with("write_bytes")).unwrap_or_default().to_owned()
}

#[test]
fn r62_f19_a_sidecar_writes_to_no_disk() {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    mesh.workload("web").of("web").app(App::demo("demo-http", HTTP, &[])).add();
    let service: SocketAddr = mesh.service("web", 80, HTTP).add().v4;
    mesh.start();
    let sidecars = ["client", "web"];
    let before = sidecars.map(|name| written(&mesh, name));
    for _ in 0..50 {
        let answer = within(&mesh.get("client").host, fetch(service, Version::H1, "/bytes?n=100000"));
        assert_eq!(answer.expect("an answer").status.as_u16(), 200);
    }
    assert_eq!(sidecars.map(|name| written(&mesh, name)), before);
    record(62, "F19, a sidecar", Who::Mesh, true, "0 bytes written to disks");
}

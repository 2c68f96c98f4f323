//! A real directory with real editors' habits: renames, symlink swaps, half-written files, deletions.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::index::{Backend, Marks, Resource, State, Watch};
use crate::model::{Kind, Name};

const SERVICE: &str =
    "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80}]}}\n";

fn workload(name: &str, address: &str) -> String {
    format!(
        "---\n{{apiVersion: mesh.internal/v1alpha1, kind: Workload, metadata: {{name: {name}, labels: {{app: web}}}},\n \
         spec: {{addresses: [{address}]}}}}\n"
    )
}

/// A source at work on a directory, and what it makes of it.
struct Fixture {
    dir: TempDir,
    index: Arc<Mutex<Index>>,
    marks: Arc<Marks>,
    watch: Watch,
    task: task::JoinHandle<()>,
}

impl Fixture {
    async fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let manifests = dir.path().join("manifests");
        fs::create_dir(&manifests).unwrap();
        for (name, text) in files {
            write(&manifests, name, text);
        }
        Self::of(dir, &manifests).await
    }

    async fn of(dir: TempDir, manifests: &Path) -> Self {
        let index = Arc::new(Mutex::new(Index::new("cluster.local")));
        // Only notices may find changes here, so that a test that passes by the periodic look fails.
        let settings = Settings { periodic: Duration::from_secs(3600), ..Settings::default() };
        let source = Directory::open(manifests, settings, Metrics::default(), &index).await.unwrap();
        let marks = Arc::new(Marks::default());
        let service = Name::new("default", "web");
        let backend = Resource::Endpoints(Backend { service, port: 80 });
        let watch = index.lock().unwrap().watch(backend, &marks, 1);
        let shared = Arc::clone(&index);
        let task = tokio::spawn(async move { source.run(&shared).await });
        Self { dir, index, marks, watch, task }
    }

    fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    fn addresses(&self) -> Vec<String> {
        let State::Endpoints(endpoints) = &self.watch.latest().state else { panic!() };
        endpoints.iter().map(|endpoint| endpoint.address.ip().to_string()).collect()
    }

    /// Waits until the endpoints are those.
    async fn until(&self, addresses: &[&str]) {
        let reached = async {
            while self.addresses() != addresses {
                self.marks.changed().await;
                self.marks.take();
            }
        };
        let reached = timeout(Duration::from_secs(10), reached).await;
        assert!(reached.is_ok(), "{addresses:?} expected, but there are {:?}", self.addresses());
    }

    /// Waits until everything done before has been looked at, which a new file proves.
    async fn settle(&self, address: &str) {
        let mut all = self.addresses();
        all.push(address.to_owned());
        all.sort();
        replace(&self.manifests(), &format!("zz-{address}.yaml"), &workload(&format!("w-{address}"), address));
        self.until(&all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// As editors do it.
fn replace(dir: &Path, name: &str, text: &str) {
    let temporary = dir.join(format!(".{name}.tmp"));
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, dir.join(name)).unwrap();
}

#[tokio::test]
async fn what_is_there_at_the_start_is_known_at_once() {
    let mesh = Fixture::new(&[
        ("web.yaml", SERVICE),
        ("deep/er/a.yml", &workload("a", "10.0.0.1")),
        ("b.json", &workload("b", "10.0.0.2").replace("---", "")),
        (".hidden.yaml", &workload("c", "10.0.0.3")),
        (".git/d.yaml", &workload("d", "10.0.0.4")),
        ("e.yaml~", &workload("e", "10.0.0.5")),
        ("README.md", "# no manifest"),
    ])
    .await;
    assert_eq!(mesh.addresses(), ["10.0.0.1", "10.0.0.2"]);
}

#[tokio::test]
async fn a_missing_directory_at_the_start_is_an_error() {
    let index = Mutex::new(Index::new("cluster.local"));
    let path = Path::new("/nowhere/at/all");
    let opened = Directory::open(path, Settings::default(), Metrics::default(), &index).await;
    assert!(opened.unwrap_err().to_string().starts_with("cannot read /nowhere/at/all: "));
}

#[tokio::test]
async fn files_written_renamed_and_deleted_are_noticed() {
    let mesh = Fixture::new(&[("web.yaml", SERVICE), ("a.yaml", &workload("a", "10.0.0.1"))]).await;
    let dir = mesh.manifests();
    write(&dir, "a.yaml", &workload("a", "10.0.0.9"));
    mesh.until(&["10.0.0.9"]).await;
    replace(&dir, "a.yaml", &workload("a", "10.0.0.2"));
    mesh.until(&["10.0.0.2"]).await;
    write(&dir, "new/sub/b.yaml", &workload("b", "10.0.0.3"));
    mesh.until(&["10.0.0.2", "10.0.0.3"]).await;
    fs::rename(dir.join("a.yaml"), dir.join("a.yaml.bak")).unwrap();
    mesh.until(&["10.0.0.3"]).await;
    fs::remove_dir_all(dir.join("new")).unwrap();
    mesh.until(&[]).await;
}

#[tokio::test]
async fn a_swapped_link_is_one_change() {
    let dir = tempfile::tempdir().unwrap();
    let manifests = dir.path().join("manifests");
    let (one, two) = (manifests.join("..one"), manifests.join("..two"));
    write(&one, "a.yaml", &format!("{SERVICE}{}", workload("a", "10.0.0.1")));
    write(&two, "a.yaml", &format!("{SERVICE}{}", workload("a", "10.0.0.2")));
    symlink("..one", manifests.join("..data")).unwrap();
    symlink("..data/a.yaml", manifests.join("a.yaml")).unwrap();
    // Files that were just written are waited for when they lie behind a link, at the start as well.
    let mesh = Fixture::of(dir, &manifests).await;
    mesh.until(&["10.0.0.1"]).await;
    symlink("..two", manifests.join("..new")).unwrap();
    fs::rename(manifests.join("..new"), manifests.join("..data")).unwrap();
    mesh.until(&["10.0.0.2"]).await;
}

#[tokio::test]
async fn a_directory_that_is_itself_a_link_can_be_swapped() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "one/a.yaml", &format!("{SERVICE}{}", workload("a", "10.0.0.1")));
    write(dir.path(), "two/a.yaml", &format!("{SERVICE}{}", workload("a", "10.0.0.2")));
    let manifests = dir.path().join("manifests");
    symlink("one", &manifests).unwrap();
    let mesh = Fixture::of(dir, &manifests).await;
    mesh.until(&["10.0.0.1"]).await;
    symlink("two", mesh.dir.path().join("new")).unwrap();
    fs::rename(mesh.dir.path().join("new"), &manifests).unwrap();
    mesh.until(&["10.0.0.2"]).await;
    write(mesh.dir.path(), "two/a.yaml", &format!("{SERVICE}{}", workload("a", "10.0.0.3")));
    mesh.until(&["10.0.0.3"]).await;
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_objects() {
    let mesh = Fixture::new(&[("web.yaml", SERVICE), ("a.yaml", &workload("a", "10.0.0.1"))]).await;
    write(&mesh.manifests(), "a.yaml", &workload("a", "10.0.0.300"));
    mesh.settle("10.1.0.1").await;
    assert_eq!(mesh.addresses(), ["10.0.0.1", "10.1.0.1"]);
    write(&mesh.manifests(), "a.yaml", "a: [b");
    mesh.settle("10.1.0.2").await;
    assert_eq!(mesh.addresses(), ["10.0.0.1", "10.1.0.1", "10.1.0.2"]);
    write(&mesh.manifests(), "a.yaml", &workload("a", "10.0.0.2"));
    mesh.until(&["10.0.0.2", "10.1.0.1", "10.1.0.2"]).await;
}

#[tokio::test]
async fn a_file_that_is_being_written_is_left_alone_until_it_is_closed() {
    let both = format!("{}{}", workload("a", "10.0.0.1"), workload("b", "10.0.0.2"));
    let mesh = Fixture::new(&[("web.yaml", SERVICE), ("a.yaml", &both)]).await;
    // Opening truncates; the first half is a good manifest by itself.
    let mut file = File::create(mesh.manifests().join("a.yaml")).unwrap();
    file.write_all(workload("a", "10.0.0.9").as_bytes()).unwrap();
    file.flush().unwrap();
    mesh.settle("10.1.0.1").await;
    assert_eq!(mesh.addresses(), ["10.0.0.1", "10.0.0.2", "10.1.0.1"]);
    file.write_all(workload("b", "10.0.0.8").as_bytes()).unwrap();
    drop(file);
    mesh.until(&["10.0.0.8", "10.0.0.9", "10.1.0.1"]).await;
}

#[tokio::test]
async fn a_directory_that_goes_missing_takes_nothing_along() {
    let mesh = Fixture::new(&[("web.yaml", SERVICE), ("a.yaml", &workload("a", "10.0.0.1"))]).await;
    let (dir, away) = (mesh.manifests(), mesh.dir.path().join("away"));
    fs::rename(&dir, &away).unwrap();
    write(&away, "a.yaml", &workload("a", "10.0.0.2"));
    let marks = timeout(Duration::from_millis(300), mesh.marks.changed()).await;
    assert!(marks.is_err(), "{:?}", mesh.addresses());
    assert_eq!(mesh.addresses(), ["10.0.0.1"]);
    fs::rename(&away, &dir).unwrap();
    mesh.until(&["10.0.0.2"]).await;
}

#[tokio::test]
async fn objects_that_move_between_files_do_not_go_missing_between() {
    let mesh = Fixture::new(&[("web.yaml", SERVICE), ("a.yaml", &workload("a", "10.0.0.1"))]).await;
    fs::rename(mesh.manifests().join("a.yaml"), mesh.manifests().join("b.yaml")).unwrap();
    mesh.settle("10.1.0.1").await;
    let version = mesh.watch.latest().version;
    assert_eq!(mesh.addresses(), ["10.0.0.1", "10.1.0.1"]);
    assert_eq!(version, 3, "the move alone is no change"); // 2 was the first scan
}

#[test]
fn findings_name_file_line_and_field_and_come_once() {
    let dir = tempfile::tempdir().unwrap();
    let broken = workload("a", "10.0.0.1").replace("spec: {", "spec: {zome: b, ");
    write(dir.path(), "a.yaml", &broken);
    let mut scanner = Scanner::new(dir.path().to_owned());
    let mut scan = || scanner.scan(&Writers::none(), SystemTime::now()).unwrap();
    let reports = scan().reports;
    let [Report { path, finding }] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!(*path, dir.path().join("a.yaml"));
    assert_eq!(finding.to_string(), "3:9: error: spec.zome: unknown field; did you mean zone?");
    assert!(scan().reports.is_empty());
    assert_eq!(scanner.counts(), (1, 1));
}

#[test]
fn of_two_declarations_the_first_by_path_counts_and_the_other_is_told() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.yaml", &workload("a", "10.0.0.1"));
    write(dir.path(), "b.yaml", &workload("a", "10.0.0.2"));
    let mut scanner = Scanner::new(dir.path().to_owned());
    let scan = scanner.scan(&Writers::none(), SystemTime::now()).unwrap();
    let [report] = &scan.reports[..] else { panic!("{:?}", scan.reports) };
    assert!(report.path.ends_with("b.yaml"));
    let first = dir.path().join("a.yaml");
    let message = format!("Workload default/a is declared in {}:2 already", first.display());
    assert_eq!(report.finding.message, message);
    let [Change::Apply(object)] = &scan.changes[..] else { panic!("{:?}", scan.changes) };
    let Object::Workload(workload) = &**object else { panic!() };
    assert_eq!(workload.addresses[0].to_string(), "10.0.0.1");
    fs::remove_file(first).unwrap();
    let scan = scanner.scan(&Writers::none(), SystemTime::now()).unwrap();
    assert!(matches!(scan.changes[..], [Change::Apply(_)]) && scan.reports.is_empty());
}

#[test]
fn what_cannot_be_read_is_told_and_what_is_no_file_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("latin.yaml"), b"a: \xe9").unwrap();
    fs::write(dir.path().join("large.yaml"), vec![b'#'; crate::manifest::MAX_BYTES + 1]).unwrap();
    symlink("nowhere.yaml", dir.path().join("dangling.yaml")).unwrap();
    symlink(".", dir.path().join("loop")).unwrap();
    nix::unistd::mkfifo(&dir.path().join("fifo.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut scanner = Scanner::new(dir.path().to_owned());
    let scan = scanner.scan(&Writers::none(), SystemTime::now()).unwrap();
    let messages: BTreeSet<_> = scan.reports.iter().map(|r| r.finding.message.as_str()).collect();
    let large = format!("no regular file of at most {} bytes", crate::manifest::MAX_BYTES);
    assert_eq!(messages, BTreeSet::from(["byte 3 is not UTF-8", &large]));
    assert!(scanner.scan(&Writers::none(), SystemTime::now()).unwrap().reports.is_empty());
}

#[test]
fn without_notices_a_fresh_file_is_left_alone_until_it_has_settled() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.yaml", SERVICE);
    let modified = fs::metadata(dir.path().join("a.yaml")).unwrap().modified().unwrap();
    let mut scanner = Scanner::new(dir.path().to_owned());
    let fresh = scanner.scan(&Writers::Unknown, modified + Duration::from_millis(50)).unwrap();
    assert!(fresh.held && fresh.changes.is_empty());
    let settled = scanner.scan(&Writers::Unknown, modified + scan::SETTLE).unwrap();
    assert!(!settled.held && settled.changes.len() == 1);
}

#[tokio::test]
async fn a_thousand_files_are_read() {
    let files: Vec<_> = (0..1000).map(|n| (format!("{n}.yaml"), workload(&format!("w{n}"), "10.0.0.1"))).collect();
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let mesh = Fixture::new(&files).await;
    assert_eq!(mesh.index.lock().unwrap().count(Kind::Workload), 1000);
}

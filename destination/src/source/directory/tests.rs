//! A real directory with real editors' habits: renames, symlink swaps, half-written files, deletions.

mod rejected;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::task::{Context, Poll};

use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;
use crate::index::{Backend, Completeness, Marks, Resource, State, Watch};
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
    loaded: Option<oneshot::Receiver<()>>,
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
        let mut mesh = Self::start(dir, manifests);
        mesh.until_loaded().await;
        mesh
    }

    fn start(dir: TempDir, manifests: &Path) -> Self {
        let index = Arc::new(Mutex::new(Index::new("cluster.local")));
        // Only notices may find changes here, so that a test that passes by the periodic look fails.
        let never = Duration::from_hours(1);
        let settings = Settings { periodic: never, periodic_without_notices: never, ..Settings::default() };
        let source = Directory::new(manifests, settings, Metrics::default());
        let marks = Arc::new(Marks::default());
        let watch = watch(&index, &marks);
        let shared = Arc::clone(&index);
        let (tell, loaded) = oneshot::channel();
        let told = || tell.send(()).unwrap_or_default();
        let task = tokio::spawn(async move { source.run(&shared, told).await });
        Self { dir, index, marks, watch, loaded: Some(loaded), task }
    }

    fn completeness(&self) -> Completeness {
        self.index.lock().unwrap().completeness()
    }

    async fn until_loaded(&mut self) {
        let loaded = self.loaded.take().unwrap();
        timeout(Duration::from_secs(10), loaded).await.expect("loaded in time").unwrap();
        assert_eq!(self.completeness(), Completeness::Whole);
        // Without marks of what was there at the start.
        self.marks = Arc::new(Marks::default());
        self.watch = watch(&self.index, &self.marks);
    }

    /// What is there is looked at by the time a while has passed, and found wanting.
    async fn is_not_loaded(&mut self) {
        let loaded = timeout(Duration::from_millis(300), self.loaded.as_mut().unwrap()).await;
        assert!(loaded.is_err() && self.completeness() == Completeness::Partial);
    }

    fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    fn addresses(&self) -> Vec<String> {
        let State::Endpoints(endpoints) = &self.watch.latest().state else { panic!() };
        endpoints.list.iter().map(|endpoint| endpoint.address.ip().to_string()).collect()
    }

    /// Waits for a mark, and takes it.
    async fn changed(&self) {
        let look = |cx: &mut Context<'_>| {
            if self.marks.take(cx.waker()).ids.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        };
        std::future::poll_fn(look).await;
    }

    /// Waits until the endpoints are those.
    async fn until(&self, addresses: &[&str]) {
        let reached = async {
            while self.addresses() != addresses {
                self.changed().await;
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

fn watch(index: &Mutex<Index>, marks: &Arc<Marks>) -> Watch {
    let service = Name::new("default", "web");
    let backend = Resource::Endpoints(Backend { service, port: 80 });
    index.lock().unwrap().watch(backend, marks, 1)
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
async fn a_missing_directory_at_the_start_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let manifests = dir.path().join("manifests");
    let mut mesh = Fixture::start(dir, &manifests);
    mesh.is_not_loaded().await;
    write(&manifests, "web.yaml", &format!("{SERVICE}{}", workload("a", "10.0.0.1")));
    mesh.until_loaded().await;
    mesh.until(&["10.0.0.1"]).await;
}

#[tokio::test]
async fn a_broken_file_at_the_start_is_waited_for_until_it_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let manifests = dir.path().join("manifests");
    write(&manifests, "web.yaml", SERVICE);
    write(&manifests, "a.yaml", &workload("a", "10.0.0.1"));
    write(&manifests, "b.yaml", &workload("b", "10.0.0.300"));
    let mut mesh = Fixture::start(dir, &manifests);
    mesh.until(&["10.0.0.1"]).await;
    mesh.is_not_loaded().await;
    replace(&manifests, "a.yaml", &workload("a", "10.0.0.2"));
    mesh.until(&["10.0.0.2"]).await;
    assert_eq!(mesh.completeness(), Completeness::Partial);
    replace(&manifests, "b.yaml", &workload("b", "10.0.0.3"));
    mesh.until_loaded().await;
    mesh.until(&["10.0.0.2", "10.0.0.3"]).await;
    // From now on there is a last good state.
    replace(&manifests, "b.yaml", "a: [b");
    mesh.settle("10.1.0.1").await;
    assert_eq!(mesh.addresses(), ["10.0.0.2", "10.0.0.3", "10.1.0.1"]);
    assert_eq!(mesh.completeness(), Completeness::Whole);
}

#[tokio::test]
async fn an_empty_directory_at_the_start_is_waited_for_and_an_empty_manifest_is_an_empty_mesh() {
    let dir = tempfile::tempdir().unwrap();
    let manifests = dir.path().join("manifests");
    fs::create_dir_all(manifests.join("sub")).unwrap();
    write(&manifests, "README.md", "# no manifest");
    let mut mesh = Fixture::start(dir, &manifests);
    mesh.is_not_loaded().await;
    write(&manifests, "sub/none.yaml", "# nobody yet\n");
    mesh.until_loaded().await;
    assert!(mesh.addresses().is_empty());
}

#[tokio::test]
async fn a_directory_that_becomes_empty_takes_nothing_along() {
    let mesh = Fixture::new(&[("web.yaml", SERVICE), ("a.yaml", &workload("a", "10.0.0.1"))]).await;
    let dir = mesh.manifests();
    // In one step, as a mount does it, and an unmounting.
    fs::rename(&dir, mesh.dir.path().join("away")).unwrap();
    fs::create_dir(&dir).unwrap();
    let marks = timeout(Duration::from_millis(300), mesh.changed()).await;
    assert!(marks.is_err(), "{:?}", mesh.addresses());
    assert_eq!(mesh.addresses(), ["10.0.0.1"]);
    replace(&dir, "b.yaml", &format!("{SERVICE}{}", workload("b", "10.0.0.2")));
    mesh.until(&["10.0.0.2"]).await;
}

#[tokio::test]
async fn a_directory_that_is_reached_in_two_ways_is_not_news_forever() {
    let dir = tempfile::tempdir().unwrap();
    let manifests = dir.path().join("manifests");
    fs::create_dir(&manifests).unwrap();
    symlink("..", manifests.join("up")).unwrap();
    let directories = walk::walk(&manifests).unwrap().directories;
    assert_eq!(directories.len(), 2, "{directories:?}");
    let mut notices = Notices::new(manifests);
    assert_eq!((notices.follow(&directories), notices.follow(&directories)), (true, false));
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
    let marks = timeout(Duration::from_millis(300), mesh.changed()).await;
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
    let mut scan = || scanner.scan(&Suspects::Everything, &Writers::none(), SystemTime::now()).unwrap();
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
    let scan = scanner.scan(&Suspects::Everything, &Writers::none(), SystemTime::now()).unwrap();
    let [report] = &scan.reports[..] else { panic!("{:?}", scan.reports) };
    assert!(report.path.ends_with("b.yaml"));
    let first = dir.path().join("a.yaml");
    let message = format!("Workload default/a is declared in {}:2 already", first.display());
    assert_eq!(report.finding.message, message);
    let [Change::Apply(object)] = &scan.changes[..] else { panic!("{:?}", scan.changes) };
    let Object::Workload(workload) = &**object else { panic!() };
    assert_eq!(workload.addresses[0].to_string(), "10.0.0.1");
    fs::remove_file(first).unwrap();
    let scan = scanner.scan(&Suspects::Everything, &Writers::none(), SystemTime::now()).unwrap();
    assert!(matches!(scan.changes[..], [Change::Apply(_)]) && scan.reports.is_empty());
}

#[test]
fn what_cannot_be_read_is_told_once_and_never_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("latin.yaml"), b"a: \xe9").unwrap();
    fs::write(path("large.yaml"), vec![b'#'; crate::manifest::MAX_BYTES + 1]).unwrap();
    symlink("nowhere.yaml", path("dangling.yaml")).unwrap();
    symlink("nowhere", path("unmounted")).unwrap();
    symlink("nowhere.md", path("README.md")).unwrap();
    symlink(".", path("loop")).unwrap();
    symlink("self.yaml", path("self.yaml")).unwrap();
    symlink("/dev/zero", path("device.yaml")).unwrap();
    symlink("/proc/self/mem", path("unreadable.yaml")).unwrap();
    nix::unistd::mkfifo(&path("fifo.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket.yaml")).unwrap();
    let mut scanner = Scanner::new(dir.path().to_owned());
    let scan = scanner.scan(&Suspects::Everything, &Writers::none(), SystemTime::now()).unwrap();
    let told = scan.reports.iter().map(|r| (r.path.file_name().unwrap().to_str().unwrap(), r.finding.message.as_str()));
    let large = format!("longer than {} bytes", crate::manifest::MAX_BYTES);
    let expected = BTreeSet::from([
        ("dangling.yaml", "cannot be read: a link that leads nowhere"),
        ("device.yaml", "a device, no regular file"),
        ("fifo.yaml", "a FIFO, no regular file"),
        ("large.yaml", &large),
        ("latin.yaml", "byte 3 is not UTF-8"),
        ("self.yaml", "cannot be read: Too many levels of symbolic links (os error 40)"),
        ("socket.yaml", "a socket, no regular file"),
        ("unmounted", "cannot be read: a link that leads nowhere"),
        ("unreadable.yaml", "cannot be read: Input/output error (os error 5)"),
    ]);
    assert_eq!(told.collect::<BTreeSet<_>>(), expected);
    assert_eq!((scanner.broken().count(), scanner.counts().1, scan.held), (9, 9, false));
    assert!(scanner.scan(&Suspects::Everything, &Writers::none(), SystemTime::now()).unwrap().reports.is_empty());
}

#[test]
fn a_file_that_cannot_be_read_any_more_keeps_its_last_good_objects() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "web.yaml", SERVICE);
    write(dir.path(), "a.yaml", &workload("a", "10.0.0.1"));
    let mut scanner = Scanner::new(dir.path().to_owned());
    assert_eq!(scanner.scan(&Suspects::Everything, &Writers::none(), SystemTime::now()).unwrap().changes.len(), 2);
    for target in ["nowhere", "/dev/null", "/proc/self/mem"] {
        fs::remove_file(dir.path().join("a.yaml")).unwrap();
        symlink(target, dir.path().join("a.yaml")).unwrap();
        let scan = scanner.scan(&Suspects::Everything, &Writers::none(), SystemTime::now()).unwrap();
        assert!(scan.changes.is_empty() && scanner.broken().count() == 1, "{target}: {scan:?}");
    }
}

#[test]
fn names_with_control_characters_are_told_on_one_line() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a\x1b[31m\nb.yaml", &workload("a", "10.0.0.1").replace("name: a", "name: \"a\\e[31m\\nb\""));
    let mut scanner = Scanner::new(dir.path().to_owned());
    let scan = scanner.scan(&Suspects::Everything, &Writers::none(), SystemTime::now()).unwrap();
    let told: Vec<_> = scan.reports.iter().map(ToString::to_string).collect();
    let path = format!("{}/a\\u{{1b}}[31m\\nb.yaml", dir.path().display());
    let warning = format!("{path}:1:1: warning: the name has bytes that do not print");
    assert!(told.contains(&warning), "{told:?}");
    assert!(told.len() == 2 && told.iter().all(|line| !line.contains(char::is_control)), "{told:?}");
}

#[test]
fn without_notices_a_fresh_file_is_left_alone_until_it_has_settled() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.yaml", SERVICE);
    let modified = fs::metadata(dir.path().join("a.yaml")).unwrap().modified().unwrap();
    let mut scanner = Scanner::new(dir.path().to_owned());
    let fresh = scanner.scan(&Suspects::Everything, &Writers::Unknown, modified + Duration::from_millis(50)).unwrap();
    assert!(fresh.held && fresh.changes.is_empty());
    let settled = scanner.scan(&Suspects::Everything, &Writers::Unknown, modified + scan::SETTLE).unwrap();
    assert!(!settled.held && settled.changes.len() == 1);
}

#[test]
fn an_object_that_moves_into_a_file_that_is_being_written_is_never_gone() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.yaml", SERVICE);
    write(dir.path(), "b.yaml", &workload("b", "10.0.0.1"));
    let mut scanner = Scanner::new(dir.path().to_owned());
    // All files are older than that.
    let now = SystemTime::now() + Duration::from_millis(500);
    let mut look = |writers: &Writers, now| {
        let scan = scanner.scan(&Suspects::Everything, writers, now).unwrap();
        let deleted = scan.changes.iter().filter(|change| matches!(change, Change::Delete(_))).count();
        (scan.held, scan.changes.len(), deleted, scan.reports.len())
    };
    assert_eq!(look(&Writers::none(), now), (false, 2, 0, 0));
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    write(dir.path(), "c.yaml", SERVICE);
    let writing = Writers::Known([dir.path().join("c.yaml")].into());
    assert_eq!(look(&writing, now), (true, 0, 0, 0), "it is on its way");
    assert_eq!(look(&Writers::none(), now).2, 0, "it has arrived");
    // A writer that takes its time is not waited for.
    fs::remove_file(dir.path().join("c.yaml")).unwrap();
    write(dir.path(), "d.yaml", SERVICE);
    let writing = Writers::Known([dir.path().join("d.yaml")].into());
    assert_eq!(look(&writing, now).2, 0);
    assert_eq!(look(&writing, now + Duration::from_secs(2)).2, 1);
}

#[tokio::test]
async fn a_thousand_files_are_read() {
    let files: Vec<_> = (0..1000).map(|n| (format!("{n}.yaml"), workload(&format!("w{n}"), "10.0.0.1"))).collect();
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let mesh = Fixture::new(&files).await;
    assert_eq!(mesh.index.lock().unwrap().count(Kind::Workload), 1000);
}

/// What a look at the files of these names changes, for people: `+` applied, `-` deleted.
fn look_at(scanner: &mut Scanner, dir: &Path, names: &[&str]) -> BTreeSet<String> {
    let files = names.iter().map(|name| dir.join(name)).collect();
    let scan = scanner.scan(&Suspects::Files(files), &Writers::none(), SystemTime::now()).unwrap();
    let shown = scan.changes.iter().map(|change| match change {
        Change::Apply(object) => format!("+{}", object.key().name.name),
        Change::Delete(key) => format!("-{}", key.name.name),
    });
    shown.collect()
}

#[test]
fn of_files_that_are_suspect_only_what_changed_is_applied() {
    let dir = tempfile::tempdir().unwrap();
    let two = |second: &str| format!("{}{}", workload("a", "10.0.0.1"), workload("b", second));
    replace(dir.path(), "one.yaml", &two("10.0.0.2"));
    replace(dir.path(), "other.yaml", &workload("c", "10.0.0.3"));
    let mut scanner = Scanner::new(dir.path().to_owned());
    scanner.scan(&Suspects::Everything, &Writers::none(), SystemTime::now()).unwrap();
    replace(dir.path(), "one.yaml", &two("10.0.0.9"));
    replace(dir.path(), "other.yaml", &workload("c", "10.0.0.8"));
    assert_eq!(look_at(&mut scanner, dir.path(), &["one.yaml"]), BTreeSet::from(["+b".to_owned()]));
    assert_eq!(look_at(&mut scanner, dir.path(), &["other.yaml"]), BTreeSet::from(["+c".to_owned()]));
    // An object that moves is not gone, whichever file says so first.
    replace(dir.path(), "one.yaml", &workload("a", "10.0.0.1"));
    replace(dir.path(), "other.yaml", &format!("{}{}", workload("c", "10.0.0.8"), workload("b", "10.0.0.9")));
    assert_eq!(look_at(&mut scanner, dir.path(), &["one.yaml", "other.yaml"]), BTreeSet::from(["+b".to_owned()]));
    replace(dir.path(), "other.yaml", &workload("c", "10.0.0.8"));
    assert_eq!(look_at(&mut scanner, dir.path(), &["other.yaml"]), BTreeSet::from(["-b".to_owned()]));
    let rescan = scanner.scan(&Suspects::Everything, &Writers::none(), SystemTime::now()).unwrap();
    assert!(rescan.changes.is_empty() && rescan.reports.is_empty(), "a look at everything agrees: {rescan:?}");
}

#[test]
fn which_declaration_is_the_first_is_known_whatever_was_suspect() {
    let dir = tempfile::tempdir().unwrap();
    for (name, object, address) in
        [("1.yaml", "a", "10.0.0.1"), ("2.yaml", "b", "10.0.0.2"), ("3.yaml", "c", "10.0.0.3")]
    {
        replace(dir.path(), name, &workload(object, address));
    }
    let mut scanner = Scanner::new(dir.path().to_owned());
    scanner.scan(&Suspects::Everything, &Writers::none(), SystemTime::now()).unwrap();
    // The second file takes the object of the third, and is the first to declare it; then it lets go again.
    replace(dir.path(), "2.yaml", &workload("c", "10.0.0.9"));
    let both = ["+c", "-b"].map(str::to_owned);
    assert_eq!(look_at(&mut scanner, dir.path(), &["2.yaml"]), BTreeSet::from(both));
    replace(dir.path(), "3.yaml", &workload("c", "10.0.0.4"));
    assert_eq!(look_at(&mut scanner, dir.path(), &["3.yaml"]), BTreeSet::new(), "it is the second");
    replace(dir.path(), "2.yaml", &workload("b", "10.0.0.2"));
    let both = ["+c", "+b"].map(str::to_owned);
    assert_eq!(look_at(&mut scanner, dir.path(), &["2.yaml"]), BTreeSet::from(both));
    assert!(scanner.declared().any(|(path, object, ..)| path.ends_with("3.yaml") && object.key().name.name == "c"));
}

#[test]
fn a_suspect_that_is_no_known_file_calls_for_a_look_at_everything() {
    let dir = tempfile::tempdir().unwrap();
    replace(dir.path(), "a.yaml", &workload("a", "10.0.0.1"));
    let mut scanner = Scanner::new(dir.path().to_owned());
    scanner.scan(&Suspects::Everything, &Writers::none(), SystemTime::now()).unwrap();
    replace(dir.path(), "b.yaml", &workload("b", "10.0.0.2"));
    replace(dir.path(), "c.yaml", &workload("c", "10.0.0.3"));
    let found = ["+b", "+c"].map(str::to_owned);
    assert_eq!(look_at(&mut scanner, dir.path(), &["b.yaml"]), BTreeSet::from(found), "c is found on the way");
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    assert_eq!(look_at(&mut scanner, dir.path(), &["a.yaml"]), BTreeSet::from(["-a".to_owned()]));
}

#[tokio::test]
async fn notices_name_files_that_were_replaced_and_suspect_everything_when_others_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("manifests");
    fs::create_dir(&root).unwrap();
    let mut notices = Notices::new(root.clone());
    notices.follow(std::slice::from_ref(&root));
    let soon = Duration::from_secs(10);
    replace(&root, "a.yaml", SERVICE);
    timeout(soon, notices.changed()).await.unwrap();
    assert_eq!(notices.take(), Suspects::Files(BTreeSet::from([root.join("a.yaml")])));
    assert_eq!(notices.take(), Suspects::Everything, "nothing is known to have changed");
    fs::remove_file(root.join("a.yaml")).unwrap();
    timeout(soon, notices.changed()).await.unwrap();
    assert_eq!(notices.take(), Suspects::Everything);
    fs::create_dir(root.join("more")).unwrap();
    timeout(soon, notices.changed()).await.unwrap();
    assert_eq!(notices.take(), Suspects::Everything);
}

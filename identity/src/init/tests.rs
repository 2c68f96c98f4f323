//! First starts, interrupted ones among them.

use std::os::unix::fs::PermissionsExt as _;
use std::thread;

use super::*;
use crate::authority;
use crate::testing::id;

const TD: &str = "cluster.local";

fn contents(dir: &Path) -> Vec<Vec<u8>> {
    ALL.iter().map(|name| fs::read(dir.join(name)).unwrap()).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_first_start_makes_a_ca_that_works_and_later_ones_keep_it() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/ca");
    let now = SystemTime::now();
    assert_eq!(ensure(&dir, TD, now).unwrap(), Outcome::Created);
    let made = contents(&dir);
    let read = |name: &str| fs::read(dir.join(name));
    let files = authority::Files { anchors: read(ANCHORS), certificate: read(ISSUER), key: read(ISSUER_KEY) };
    let authority = authority::first(files, &id(), now).unwrap();
    assert!(authority.issuer.not_after() > now + 364 * DAY);
    assert_eq!(ensure(&dir, TD, now).unwrap(), Outcome::Present);
    assert_eq!(contents(&dir), made);
    assert_eq!(names(&dir), ["anchors.pem", "issuer.key", "issuer.pem", "root.key"]);
    for key in [ROOT_KEY, ISSUER_KEY] {
        assert_eq!(fs::metadata(dir.join(key)).unwrap().permissions().mode() & 0o777, 0o600, "{key}");
    }
}

#[test]
fn a_start_that_died_at_any_moment_is_made_good_by_the_next() {
    let now = SystemTime::now();
    for moved in 0..=ALL.len() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path();
        write_files(&dir.join(COMPLETE), TD, now).unwrap();
        let made = contents(&dir.join(COMPLETE));
        for name in &ALL[..moved] {
            fs::rename(dir.join(COMPLETE).join(name), dir.join(name)).unwrap();
        }
        assert_eq!(ensure(dir, TD, now).unwrap(), Outcome::Created, "{moved} moved");
        assert_eq!(contents(dir), made);
        assert_eq!(ensure(dir, TD, now).unwrap(), Outcome::Present);
    }
    let parent = tempfile::tempdir().unwrap();
    let partial = parent.path().join(PARTIAL);
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join(ROOT_KEY), "half").unwrap();
    assert_eq!(ensure(parent.path(), TD, now).unwrap(), Outcome::Created);
    assert_eq!(names(parent.path()).len(), 4);
}

#[test]
fn what_somebody_has_put_there_is_not_touched() {
    for name in ALL {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join(name), "mine").unwrap();
        let refused = ensure(parent.path(), TD, SystemTime::now());
        assert!(matches!(refused, Err(Error::Incomplete(_))), "{name}: {refused:?}");
        assert_eq!(names(parent.path()), [name]);
        assert_eq!(fs::read(parent.path().join(name)).unwrap(), b"mine");
    }
}

#[test]
fn two_first_starts_at_a_time_agree() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path();
    let outcomes: Vec<_> = thread::scope(|scope| {
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| ensure(dir, TD, SystemTime::now()).unwrap())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Created).count(), 1, "{outcomes:?}");
}

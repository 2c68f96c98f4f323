//! The limit of open files. A test binary of its own, because the limit is the process's.
//!
//! Invariant: needs no privilege: the soft limit is lowered, the hard one left. Non-goal: other limits.

use mesh_kit::limits;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[test]
fn the_soft_limit_of_files_rises_to_the_hard_one() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(64), hard).unwrap();
    assert_eq!(limits::raise_files().unwrap(), hard);
    assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    assert_eq!(limits::raise_files().unwrap(), hard, "again");
}

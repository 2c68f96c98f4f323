//! Rotations, good and bad.

use std::time::Duration;

use super::*;
use crate::testing::{Ca, HOUR, files, id, lives};

fn now() -> SystemTime {
    SystemTime::now()
}

fn anchors_of(authority: &Authority) -> usize {
    authority.anchors.der().len()
}

fn gone() -> io::Result<Vec<u8>> {
    Err(io::ErrorKind::NotFound.into())
}

#[test]
fn a_rotation_of_the_root_goes_through_in_three_steps() {
    let (old, new) = (Ca::root("old"), Ca::root("new"));
    let (under_old, under_new) = (old.issuer(|_| ()), new.issuer(|_| ()));
    let both = [old.pem(), new.pem()].concat();
    let start = first(files(&old, &under_old), &id(), now()).unwrap();

    let (step, errors) = next(&start, Files { anchors: Ok(both.clone()), ..files(&old, &under_old) }, &id(), now());
    let added = step.unwrap();
    assert_eq!((anchors_of(&added), errors.len()), (2, 0));
    let (step, errors) = next(&added, Files { anchors: Ok(both), ..files(&new, &under_new) }, &id(), now());
    let moved = step.unwrap();
    assert_eq!((anchors_of(&moved), errors.len()), (2, 0));
    let (step, errors) = next(&moved, files(&new, &under_new), &id(), now());
    assert_eq!((anchors_of(&step.unwrap()), errors.len()), (1, 0));
}

#[test]
fn broken_files_change_nothing() {
    let (root, other) = (Ca::root("root"), Ca::root("other"));
    let issuer = root.issuer(|_| ());
    let current = first(files(&root, &issuer), &id(), now()).unwrap();
    let expired = root.issuer(|params| lives(params, now() - 2 * HOUR, now() - HOUR));
    let cases = [
        ("nothing is there", Files { anchors: gone(), certificate: gone(), key: gone() }),
        ("all cut", Files { anchors: Ok(root.pem()[..50].to_vec()), certificate: Ok(vec![]), key: Ok(vec![]) }),
        ("another mesh's anchors with a broken key", Files { key: Ok(vec![1]), ..files(&other, &issuer) }),
        ("anchors that do not cover the issuer", files(&other, &issuer)),
    ];
    for (what, files) in cases {
        let (taken, errors) = next(&current, files, &id(), now());
        // The last case keeps the anchors and takes the issuer, which is the same.
        let is_same = taken.is_none_or(|taken| taken.anchors == current.anchors);
        assert!(is_same && !errors.is_empty(), "{what}");
    }
    let (taken, errors) = next(&current, files(&root, &expired), &id(), now());
    assert!(Arc::ptr_eq(&taken.unwrap().issuer, &current.issuer), "the old issuer stays");
    assert!(matches!(errors[..], [Error::Issuer(Unfit::Expired)]), "{errors:?}");
}

#[test]
fn the_good_half_of_a_change_is_taken() {
    let (old, new) = (Ca::root("old"), Ca::root("new"));
    let issuer = old.issuer(|_| ());
    let current = first(files(&old, &issuer), &id(), now()).unwrap();
    let both = [old.pem(), new.pem()].concat();
    let (taken, errors) = next(&current, Files { anchors: Ok(both), certificate: gone(), key: gone() }, &id(), now());
    let taken = taken.unwrap();
    assert_eq!((anchors_of(&taken), errors.len()), (2, 1));
    assert!(Arc::ptr_eq(&taken.issuer, &current.issuer));

    let next_issuer = old.issuer(|params| lives(params, now() - HOUR, now() + 96 * HOUR));
    let (taken, errors) = next(&current, Files { anchors: gone(), ..files(&old, &next_issuer) }, &id(), now());
    assert_eq!(errors.len(), 1);
    assert!(taken.unwrap().issuer.not_after() > current.issuer.not_after() + Duration::from_secs(3600));
}

#[test]
fn a_process_does_not_start_with_unfit_files() {
    let (root, other) = (Ca::root("root"), Ca::root("other"));
    let issuer = root.issuer(|_| ());
    assert!(matches!(first(files(&other, &issuer), &id(), now()), Err(Error::Issuer(Unfit::Refused(_)))));
    assert!(matches!(first(Files { key: gone(), ..files(&root, &issuer) }, &id(), now()), Err(Error::Read { .. })));
}

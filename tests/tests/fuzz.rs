//! The committed seeds of all fuzz targets, and what a simple mutator makes of them, on the stable toolchain.
//!
//! Invariant: each target has its program, its seeds, and no finding that is known. `make fuzz` looks for new ones.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use mesh_tests::fuzz::{TARGETS, Target};
use mesh_tests::yardstick::count;

/// Bytes of a seed.
const LONGEST: usize = 8 * 1024;

fn folder(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(of)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("a listing").path())
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = folder("seeds").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut seeds: Vec<_> = entries
        .map(|entry| entry.expect("a listing").path())
        .map(|path| (path.clone(), fs::read(&path).expect("a seed that can be read")))
        .collect();
    seeds.sort();
    seeds
}

#[test]
fn r66_every_fuzz_target_has_a_program_and_seeds() {
    let mut known: Vec<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    known.sort();
    assert!(known.len() >= 14, "{known:?}");
    assert_eq!(names(&folder("fuzz_targets")), known);
    assert_eq!(names(&folder("seeds")), known);
    for target in &known {
        let seeds = seeds(target);
        assert!(seeds.len() >= 3, "{target} has {} seeds", seeds.len());
        for (path, seed) in seeds {
            assert!(seed.len() <= LONGEST, "{}: {} bytes", path.display(), seed.len());
        }
    }
}

#[test]
fn r66_no_seed_of_a_fuzz_target_is_a_finding() {
    let findings: Vec<String> = TARGETS.iter().flat_map(replay).collect();
    assert!(findings.is_empty(), "{findings:#?}");
}

fn replay((name, target): &Target) -> Vec<String> {
    let found = |(path, seed): (PathBuf, Vec<u8>)| catch_unwind(|| target(&seed)).is_err().then_some(path);
    seeds(name).into_iter().filter_map(found).map(|path| path.display().to_string()).collect()
}

#[test]
fn r66_mutated_seeds_of_fuzz_targets_are_no_findings() {
    for (name, target) in TARGETS {
        // Those that go through two sidecars take a thousand times as long.
        let rounds = if name.starts_with('h') { count(200, 5_000) } else { count(2_000, 100_000) };
        let seeds = seeds(name);
        for round in 0..rounds {
            let mut random = fastrand::Rng::with_seed(round);
            let bytes = mutated(&seeds, &mut random);
            if catch_unwind(|| target(&bytes)).is_err() {
                let to = folder("artifacts").join(format!("{name}-{round}"));
                let kept = fs::create_dir_all(folder("artifacts")).and_then(|()| fs::write(&to, &bytes));
                panic!("{name}, round {round}: {} ({kept:?} {})", bytes.escape_ascii(), to.display());
            }
        }
    }
}

/// A seed with a few changes: bits, bytes that matter, parts of other seeds, cuts and repetitions.
fn mutated(seeds: &[(PathBuf, Vec<u8>)], random: &mut fastrand::Rng) -> Vec<u8> {
    const TELLING: [u8; 12] = [0, 0xff, 0x80, b'\r', b'\n', b' ', b':', b',', b'"', b'%', b'-', b'9'];
    let mut bytes = seeds[random.usize(..seeds.len())].1.clone();
    for _ in 0..=random.usize(..6) {
        let at = random.usize(..=bytes.len());
        let end = random.usize(at..=bytes.len());
        match random.u8(..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            1 if at < bytes.len() => bytes[at] = TELLING[random.usize(..TELLING.len())],
            2 => bytes.insert(at, TELLING[random.usize(..TELLING.len())]),
            3 => drop(bytes.drain(at..end)),
            4 if end - at < 256 => bytes.splice(at..at, bytes[at..end].to_vec()).for_each(drop),
            5 => {
                let (_, other) = &seeds[random.usize(..seeds.len())];
                let from = random.usize(..=other.len());
                bytes.splice(at..end, other[from..].iter().copied()).for_each(drop);
            }
            _ => bytes.truncate(at.max(1)),
        }
    }
    bytes.truncate(2 * LONGEST);
    bytes
}

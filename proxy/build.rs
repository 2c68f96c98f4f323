//! Has the linker lay the functions that a sidecar runs side by side (`order.txt`, written by `make order`).
//!
//! Why: the kernel maps 64 KiB around each page that is touched, so functions that lie scattered make nearly all of the
//! program resident. A list that is out of date costs memory and nothing else: what it does not know stays where it was. What
//! a profile calls hot or unlikely has sections of other names. GNU ld and lld take the script; debug builds do without.
//!
//! And has it pack relocations, where the C library of the machine can unpack them (glibc 2.36): 270 KiB less to read at
//! each start, which would stay resident. A release runs on systems as new as the one that it was built on.

#![expect(clippy::disallowed_methods, reason = "Cargo tells build scripts everything by the environment")]

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const LIST: &str = "order.txt";

fn main() {
    println!("cargo::rerun-if-changed={LIST}");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    if !is("PROFILE", "release") || !is("CARGO_CFG_TARGET_OS", "linux") {
        return;
    }
    let list = fs::read_to_string(LIST).unwrap_or_else(|error| panic!("{LIST}: {error}"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR"));
    let script = write(&out, &list);
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
    if env::var("HOST") == env::var("TARGET") && glibc().is_some_and(|version| version >= (2, 36)) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of this machine's C library: `glibc 2.36`.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A linker script that only inserts: all else stays as the linker does it by itself.
fn write(folder: &Path, list: &str) -> PathBuf {
    let mut text = String::from("SECTIONS {\n  .text.order : {\n");
    for name in list.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "    *(.text.{name} .text.hot.{name} .text.unlikely.{name})");
    }
    text += "  }\n} INSERT BEFORE .text;\n";
    let script = folder.join("order.ld");
    fs::write(&script, text).unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    script
}

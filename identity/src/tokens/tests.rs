//! Tables of good and bad tokens and files.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::thread;

use super::*;

const TD: &str = "cluster.local";

fn id(name: &str) -> Id {
    Id::new(TD, "shop", name).unwrap()
}

fn hashed(token: &str) -> String {
    crate::issuer::hex(&hash(token.as_bytes()))
}

fn fault(file: &str) -> Fault {
    Table::parse(file.as_bytes(), TD).unwrap_err().fault
}

#[test]
fn a_token_is_found_by_its_hash_alone() {
    let file = format!("# tokens\n\nsha256:{} {}\n  sha256:{}\t{}  \n", hashed("a"), id("web"), hashed("b"), id("api"));
    let table = Table::parse(file.as_bytes(), TD).unwrap();
    assert_eq!(table.find(b"a"), Some(&id("web")));
    assert_eq!(table.find(b"b"), Some(&id("api")));
    assert_eq!((table.len(), table.is_empty()), (2, false));
    for wrong in ["", "A", "a ", " a", "a\0", "aa", &hashed("a"), &format!("sha256:{}", hashed("a"))] {
        assert_eq!(table.find(wrong.as_bytes()), None, "{wrong:?}");
    }
}

#[test]
fn a_file_with_any_wrong_line_is_refused_and_the_line_named() {
    let hash = hashed("a");
    let good = format!("sha256:{hash} {}\n", id("web"));
    assert_eq!(fault(&good[..good.len() - 1]), Fault::Unfinished);
    assert_eq!(fault(&good[..good.len() - 3]), Fault::Unfinished, "a cut id could be somebody else's");
    for shape in [
        format!("{hash} {}\n", id("web")),
        format!("sha256:{} {}\n", &hash[1..], id("web")),
        format!("sha256:{}+0 {}\n", &hash[2..], id("web")),
        format!("sha256:{hash}\n"),
        format!("md5:{hash} {}\n", id("web")),
    ] {
        assert_eq!(fault(&shape), Fault::Shape, "{shape}");
    }
    assert_eq!(fault(&format!("sha256:{hash} web\n")), Fault::Id(spiffe::Error::Shape));
    assert_eq!(fault(&format!("sha256:{hash} spiffe://other/ns/a/sa/b\n")), Fault::TrustDomain);
    assert_eq!(fault(&format!("{good}{good}")), Fault::Repeated);
    let error = Table::parse(format!("{good}\n\u{fc}\n").as_bytes(), TD).unwrap_err();
    assert_eq!(error.to_string(), "line 3: not of the form sha256:<64 hexadecimal digits> <SPIFFE id>");
    assert_eq!(Table::parse(b"\xff\n", TD).unwrap_err().fault, Fault::Encoding);
}

#[test]
fn an_added_token_works_and_is_not_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens");
    let tokens = [add(&path, &id("web")).unwrap(), add(&path, &id("web")).unwrap(), add(&path, &id("api")).unwrap()];
    let file = fs::read(&path).unwrap();
    let table = Table::parse(&file, TD).unwrap();
    assert_eq!(table.len(), 3);
    assert_eq!(table.find(tokens[2].as_bytes()), Some(&id("api")));
    for token in &tokens {
        assert_eq!(token.len(), 5 + 43, "{token}");
        assert!(!String::from_utf8_lossy(&file).contains(token.trim_start_matches("mesh_")));
    }
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn tokens_added_side_by_side_are_all_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens");
    let tokens: Vec<String> = thread::scope(|scope| {
        let adders: Vec<_> = (0..16).map(|_| scope.spawn(|| add(&path, &id("web")).unwrap())).collect();
        adders.into_iter().map(|adder| adder.join().unwrap()).collect()
    });
    let table = Table::parse(&fs::read(&path).unwrap(), TD).unwrap();
    assert!(tokens.iter().all(|token| table.find(token.as_bytes()).is_some()));
}

#[test]
fn nothing_is_added_to_a_broken_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens");
    fs::write(&path, "sha256:").unwrap();
    assert!(matches!(add(&path, &id("web")), Err(AddError::Broken { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"sha256:");
}

#[test]
fn a_file_is_replaced_as_a_whole_and_keeps_its_mode_and_the_links_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let (path, link) = (dir.path().join("real"), dir.path().join("tokens"));
    let first = add(&path, &id("web")).unwrap();
    symlink(&path, &link).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    // Root alone may give files away; for others the owner is theirs anyway.
    let _ = std::os::unix::fs::chown(&path, Some(12345), Some(12346));
    let before = fs::metadata(&path).unwrap();
    let (mut old, content) = (fs::File::open(&path).unwrap(), fs::read(&path).unwrap());
    fs::write(dir.path().join("real.new"), "left by a command that died").unwrap();

    let second = add(&link, &id("api")).unwrap();

    let mut seen = Vec::new();
    old.read_to_end(&mut seen).unwrap();
    assert_eq!(seen, content, "who reads the old file sees nothing half-written");
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.uid(), after.gid(), after.mode()), (before.uid(), before.gid(), before.mode()));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left lying about");
    let table = Table::parse(&fs::read(&link).unwrap(), TD).unwrap();
    assert!([first, second].iter().all(|token| table.find(token.as_bytes()).is_some()));
}

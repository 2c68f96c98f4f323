//! Tables of good and bad tokens and files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
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
    assert!(matches!(add(&path, &id("web")), Err(AddError::Broken(_))));
    assert_eq!(fs::read(&path).unwrap(), b"sha256:");
}

//! README's tables of reasons against the words that the programs have.
//!
//! Invariant: the sidecar's words stand there with their HTTP and gRPC statuses; those of the control plane stand there too.
//! Non-goal: judging cause and cure.

use std::fs;
use std::path::Path;

use http::StatusCode;

/// Where the control plane's words are: the file, and what stands before a word.
const CONTROL_PLANE: [&str; 5] = [
    "identity/src/csr.rs",
    "identity/src/service.rs",
    "identity/src/connections.rs",
    "destination/src/service/session.rs",
    "destination/src/index/status.rs",
];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A word of the sidecar, its HTTP status as a number, and its gRPC status.
fn row(line: &str) -> Option<(String, String, String)> {
    let (word, rest) = line.trim().strip_prefix("Reason::")?.split_once("=> (\"")?.1.split_once("\", StatusCode::")?;
    let (status, grpc) = rest.trim_end_matches("),").split_once(", ")?;
    let status = (100..600).filter_map(|code| StatusCode::from_u16(code).ok()).find(|code| {
        code.canonical_reason().is_some_and(|name| name.to_uppercase().replace([' ', '-'], "_") == status)
    })?;
    Some((word.to_owned(), status.as_str().to_owned(), grpc.to_owned()))
}

#[test]
fn readme_lists_each_reason_with_its_statuses() {
    let (readme, source) = (read("README.md"), read("proxy/src/http/answer.rs"));
    let rows: Vec<_> = source.lines().filter_map(row).collect();
    assert!(rows.len() > 5, "{rows:?}");
    let is_listed = |(word, status, grpc): &&(String, String, String)| {
        let mut lines = readme.lines().filter_map(|line| line.strip_prefix(&format!("| `{word}` |")));
        lines.any(|line| {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            cells.len() > 4
                && cells[0].contains(status.as_str())
                && cells[1] == grpc
                && cells[2..4].iter().all(|cell| !cell.is_empty())
        })
    };
    let missing: Vec<_> = rows.iter().filter(|row| !is_listed(row)).collect();
    assert!(missing.is_empty(), "README has no row, or another one, for {missing:#?}");
}

#[test]
fn readme_lists_the_reasons_of_the_control_plane() {
    let readme = read("README.md");
    let mut missing = Vec::new();
    for file in CONTROL_PLANE {
        let source = read(file);
        let word =
            |line: &str| Some(line.trim().strip_prefix("Self::")?.split_once("=> \"")?.1.split_once('"')?.0.to_owned());
        let words: Vec<_> = source.lines().filter_map(word).collect();
        assert!(!words.is_empty(), "{file}");
        missing.extend(words.into_iter().filter(|word| !readme.contains(&format!("`{word}`"))));
    }
    assert!(missing.is_empty(), "README does not say what these mean: {missing:?}");
}

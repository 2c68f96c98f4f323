//! Holds the code to its design: who may import whom, what each room may mention, how long files and functions are.
//!
//! Invariant: reads tokens, not text, so comments and strings never count; what macros are given does.
//! Non-goal: what the compiler and clippy check already.

mod budgets;
mod crates;
mod rooms;
mod source;
mod supply;

use source::Workspace;

/// Prints what was found, then fails with all findings at once.
fn verdict(report: &str, findings: &[String]) {
    println!("{report}");
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn rooms_of_the_proxy_import_only_what_the_design_lists() {
    let (report, findings) = rooms::arrows(&Workspace::read());
    verdict(&report, &findings);
}

#[test]
fn rooms_of_the_proxy_keep_to_their_trade() {
    verdict("", &rooms::trades(&Workspace::read()));
}

#[test]
fn crates_import_only_what_the_design_lists() {
    let (report, findings) = crates::arrows(&Workspace::read());
    verdict(&report, &findings);
}

#[test]
fn files_and_functions_stay_within_their_budgets() {
    let (report, findings) = budgets::check(&Workspace::read());
    verdict(&report, &findings);
}

#[test]
fn every_file_says_what_it_is_for_and_no_test_is_skipped() {
    let workspace = Workspace::read();
    let mut findings = Vec::new();
    for file in &workspace.files {
        if !file.text.starts_with("//!") {
            findings.push(format!("{}: does not open with //!", file.path));
        }
        for word in file.words().filter(|word| word.text == "ignore" && word.in_attribute) {
            findings.push(format!("{}:{}: a test that is ignored", file.path, word.line));
        }
    }
    verdict(&format!("{} files", workspace.files.len()), &findings);
}

#[test]
fn r66_no_dependency_is_older_than_its_known_faults() {
    verdict("", &supply::floors(&Workspace::read()));
}

#[test]
fn r66_all_but_one_crate_forbid_unsafe_code() {
    verdict("", &supply::unforbidden(&Workspace::read()));
}

#[test]
fn a_release_of_the_sidecar_is_built_as_its_profile_was() {
    verdict("", &supply::beside_others(&Workspace::read()));
}

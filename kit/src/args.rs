//! What is said of a bad command line, fit for a log.
//!
//! Invariant: no control character of an argument is repeated as it is. Non-goal: judging arguments; `clap` does that.

use std::ffi::OsString;

/// A report on `args` with each of them escaped that holds a control character: a line end in a value would begin a line of
/// its own.
#[must_use]
pub fn printable(mut report: String, args: impl Iterator<Item = OsString>) -> String {
    for arg in args {
        let arg = arg.to_string_lossy();
        for value in [Some(&*arg), arg.split_once('=').map(|(_, value)| value)].into_iter().flatten() {
            if value.contains(char::is_control) {
                report = report.replace(value, &value.escape_debug().to_string());
            }
        }
    }
    let keep = |c: char| c == '\n' || !c.is_control();
    report.chars().map(|c| if keep(c) { c.to_string() } else { c.escape_default().to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_and_escapes_of_arguments_stay_visible() {
        let args = ["mesh", "--log=a\nmesh: all is well", "\u{1b}[2J"].map(OsString::from);
        let report = "error: 'a\nmesh: all is well' and '\u{1b}[2J'\n\nusage\n".to_owned();
        let said = printable(report, args.into_iter());
        assert_eq!(said, "error: 'a\\nmesh: all is well' and '\\u{1b}[2J'\n\nusage\n");
    }
}

//! Lines as they come out of a subscriber that is local to the test.

use std::cell::RefCell;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use super::*;

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn lines_of(handle: &Handle, code: impl FnOnce()) -> Vec<String> {
    LINES.with_borrow_mut(Vec::clear);
    tracing::subscriber::with_default(handle.clone(), code);
    LINES.with_borrow(Clone::clone)
}

fn handle(format: Format, level: &str) -> Handle {
    Handle::new(format, level.parse().unwrap(), |line| LINES.with_borrow_mut(|lines| lines.push(line.to_owned())))
}

#[test]
fn an_event_is_one_line_with_its_fields() {
    let lines = lines_of(&handle(Format::Plain, "info"), || {
        tracing::info!(peer = "10.0.0.1:80", tries = 3, "connected");
        tracing::debug!("not wanted");
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].ends_with(" INFO mesh_kit::log::tests: connected peer=10.0.0.1:80 tries=3\n"), "{lines:?}");
}

#[test]
fn json_lines_parse_and_hold_what_was_said() {
    let lines = lines_of(&handle(Format::Json, "info"), || {
        tracing::warn!(path = "a\"b\\c\n\u{1b}[31m\u{202e}", "odd \"path\"");
    });
    let value: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(value["message"], "odd \"path\"");
    assert_eq!(value["path"], "a\"b\\c\n\u{1b}[31m\u{202e}");
    assert_eq!(value["level"], "WARN");
    assert_eq!(lines[0].matches(|c: char| c.is_control()).count(), 1, "{lines:?}");
}

#[test]
fn r38_hostile_values_stay_on_one_short_line() {
    let values = ["\r\nINFO forged", "\u{1b}[2J\u{7}", &"x".repeat(1 << 20), &"\u{1f600}\"\\\n".repeat(1 << 16)];
    for format in [Format::Plain, Format::Json] {
        for value in values {
            let lines = lines_of(&handle(format, "info"), || {
                tracing::info!(value, other = ?value, third = %value, "{value}");
                tracing::info!(value, "short");
            });
            assert_eq!(lines.len(), 2);
            for line in lines {
                assert!(line.len() <= LINE_LIMIT, "{} bytes", line.len());
                assert!(line.ends_with('\n') && line.matches(char::is_control).count() == 1, "{line:?}");
                if format == Format::Json {
                    serde_json::from_str::<serde_json::Value>(&line).unwrap_or_else(|err| panic!("{err}: {line}"));
                }
            }
        }
    }
}

#[test]
fn a_cut_json_line_is_valid_at_every_length() {
    for length in 0..LINE_LIMIT {
        for value in ["y".repeat(length), "\"".repeat(length)] {
            let lines = lines_of(&handle(Format::Json, "info"), || tracing::info!(value, next = 1, "m"));
            let parsed: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
            assert!(lines[0].len() <= LINE_LIMIT && parsed["message"] == "m");
        }
    }
}

#[test]
fn the_level_changes_while_running() {
    let handle = handle(Format::Plain, "warn");
    let lines = lines_of(&handle, || {
        for level in ["warn", "debug", "mesh_kit=off,debug"] {
            handle.set_level(level).unwrap();
            tracing::debug!("now {level}");
        }
        assert_eq!(handle.set_level("loud"), Err(BadLevel));
        assert_eq!(handle.level(), "mesh_kit=off,debug");
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("now debug"), "{lines:?}");
}

#[test]
fn levels_that_are_none_are_refused() {
    for bad in ["", "inof", "3", "info,", "=info", "h2=", "h2=loud", "a b=info", "info\n", &"a=info,".repeat(1000)] {
        assert!(bad.parse::<Level>().is_err(), "{bad:?}");
    }
    for good in ["off", "ERROR", "trace,h2=warn,mesh_proxy::outbound=debug", "h2=trace"] {
        assert!(good.parse::<Level>().is_ok(), "{good:?}");
    }
}

#[test]
fn one_place_writes_ten_lines_a_second_and_then_tells_how_many_it_dropped() {
    let handle = handle(Format::Plain, "info");
    let dropped = || pin!(handle.dropped()).poll(&mut Context::from_waker(Waker::noop())).is_ready();
    let lines = lines_of(&handle, || {
        tracing::info!("elsewhere before");
        assert!(!dropped(), "nothing is left over");
        for n in 0..200 {
            tracing::info!(n, "again");
        }
        assert!(dropped() && !dropped(), "told once, and of all");
        tracing::info!("elsewhere");
        handle.sweep(Instant::now() + Duration::from_secs(2));
    });
    // A slow machine may take more than a second for the loop; then each window tells of its own.
    let said = lines.iter().filter(|line| line.contains(" again n=")).count() as u64;
    let dropped: u64 =
        lines.iter().filter_map(|line| line.split("dropped=").nth(1)?.split(' ').next()?.parse::<u64>().ok()).sum();
    assert!(said >= 10 && said + dropped == 200, "said {said}, dropped {dropped}: {lines:?}");
    assert_eq!(lines.iter().filter(|line| line.contains("elsewhere")).count(), 2);
}

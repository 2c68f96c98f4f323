//! Tables of good and bad variables.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

fn env(vars: &[(&str, &str)]) -> Env {
    Env::from_vars("MESH_", vars.iter().copied())
}

fn is_good<T: Value>(text: &str) -> bool {
    let mut env = env(&[("MESH_X", text)]);
    env.optional::<T>("MESH_X", "x");
    env.finish().is_ok()
}

#[test]
fn defaults_hold_when_nothing_is_set() {
    let mut env = env(&[("OTHER", "1")]);
    assert_eq!(env.get::<u16>("MESH_PORT", "4143", "the port"), 4143);
    assert_eq!(env.get::<Duration>("MESH_GRACE", "30s", "the grace"), Duration::from_secs(30));
    assert_eq!(env.optional::<PathBuf>("MESH_FILE", "a file"), None);
    assert_eq!(env.finish(), Ok(()));
}

#[test]
fn set_values_win_over_defaults() {
    let mut env = env(&[("MESH_LISTEN", "127.0.0.1:1,[::1]:2"), ("MESH_WORKERS", "2"), ("MESH_TICK", "1500ms")]);
    let addrs: Vec<SocketAddr> = env.get("MESH_LISTEN", "0.0.0.0:9", "where");
    assert_eq!(addrs, ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
    assert_eq!(env.count("MESH_WORKERS", "1", 1..=64, "threads"), 2);
    let range = Duration::from_secs(1)..=Duration::from_secs(2);
    assert_eq!(env.duration("MESH_TICK", "1s", range, "tick"), Duration::from_millis(1500));
    assert_eq!(env.finish(), Ok(()));
}

#[test]
fn all_faults_are_told_at_once_in_one_line_each() {
    let vars = [("MESH_PORT", "70000"), ("MESH_WORKERS", "65"), ("MESH_GRACE", "30"), ("MESH_WORKRES", "1")];
    let mut env = env(&vars);
    env.get::<u16>("MESH_PORT", "1", "the port");
    env.count("MESH_WORKERS", "1", 1..=64, "threads");
    env.get::<Duration>("MESH_GRACE", "1s", "grace");
    env.required::<String>("MESH_ID", "who");
    let lines: Vec<String> = env.finish().unwrap_err().iter().map(Error::to_string).collect();
    assert_eq!(
        lines,
        [
            "MESH_PORT=\"70000\": expected a whole number from 0 to 65535",
            "MESH_WORKERS=\"65\": expected a whole number from 1 to 64",
            "MESH_GRACE=\"30\": expected a duration like 500ms, 30s, 5m or 24h",
            "MESH_ID is not set: expected text, not empty, without control characters",
            "MESH_WORKRES is not known; did you mean MESH_WORKERS?",
        ]
    );
}

#[test]
fn hostile_values_are_escaped_and_cut() {
    let value = OsString::from_vec([b"\x1b[31m\n\xff".as_slice(), &[b'x'; 100_000]].concat());
    let mut env = Env::from_vars("MESH_", [("MESH_PORT", value)]);
    env.get::<u16>("MESH_PORT", "1", "the port");
    let line = env.finish().unwrap_err()[0].to_string();
    assert!(line.starts_with("MESH_PORT=\"\\u{1b}[31m\\n"), "{line}");
    assert!(line.len() < 300 && !line.chars().any(char::is_control), "{line}");
}

#[test]
fn each_type_refuses_empty_huge_negative_and_wrong_units() {
    let huge = "9".repeat(5000);
    for bad in ["", " ", "-1", "1 ", "+1", "1.5", "x", "\n", "99999999999999999999", huge.as_str()] {
        assert!(!is_good::<u16>(bad) && !is_good::<u32>(bad) && !is_good::<u64>(bad), "{bad:?}");
        assert!(!is_good::<Duration>(bad) && !is_good::<Size>(bad), "{bad:?}");
        assert!(!is_good::<SocketAddr>(bad) && !is_good::<Vec<SocketAddr>>(bad) && !is_good::<bool>(bad), "{bad:?}");
    }
    for bad in ["30", "s", "-1s", "30 s", "30sec", "1d", "1.5s", "18446744073709551615h"] {
        assert!(!is_good::<Duration>(bad), "{bad:?}");
    }
    for bad in ["KiB", "64kb", "64 KiB", "99999999999999999GiB"] {
        assert!(!is_good::<Size>(bad), "{bad:?}");
    }
    for bad in ["127.0.0.1", "localhost:80", "::1:80", "1.2.3.4:70000", "1.2.3.4:1,", ",1.2.3.4:1"] {
        assert!(!is_good::<Vec<SocketAddr>>(bad), "{bad:?}");
    }
    assert!(!is_good::<String>("") && !is_good::<PathBuf>("") && !is_good::<String>("a\nb"));
    assert!(!is_good::<crate::log::Format>("JSON") && !is_good::<crate::log::Level>("inof"));
}

#[test]
fn each_type_takes_what_it_says() {
    assert_eq!(Duration::parse("2h"), Some(Duration::from_secs(7200)));
    assert_eq!(Duration::parse("0s"), Some(Duration::ZERO));
    assert_eq!(Size::parse("64KiB"), Some(Size(65536)));
    assert_eq!(Size::parse("7"), Some(Size(7)));
    assert!(is_good::<crate::log::Level>("info,h2=warn") && is_good::<crate::log::Format>("json"));
}

#[test]
fn variables_that_kubernetes_makes_for_services_are_let_be() {
    let links = [
        ("MESH_IDENTITY_SERVICE_HOST", "10.0.0.1"),
        ("MESH_IDENTITY_SERVICE_PORT_GRPC", "8080"),
        ("MESH_IDENTITY_PORT", "tcp://10.0.0.1:8080"),
        ("MESH_IDENTITY_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(env(&links).finish(), Ok(()));
    assert!(env(&[("MESH_IDENTITY_PORT", "8080")]).finish().is_err());
}

#[test]
fn help_lists_what_was_asked() {
    let mut env = env(&[]);
    env.get::<u16>("MESH_PORT", "4143", "Where it listens");
    env.required::<String>("MESH_ID", "Who it is");
    let help = env.help();
    assert!(help.contains("MESH_PORT=4143\n      Where it listens: a whole number from 0 to 65535"), "{help}");
    assert!(help.contains("MESH_ID (required)\n"), "{help}");
}

//! R39: whatever is wrong with an argument is refused before anything is touched.

use mesh_tests::netns::Net;
use mesh_tests::yardstick::{Who, record};

use crate::{add_foreign_rules, apply, mesh_init, rules, run};

/// Flag, value, and a word of the cause.
const HOSTILE: [(&str, &str, &str); 40] = [
    ("--skip-inbound-ports", "22;reboot", "no port"),
    ("--skip-inbound-ports", "$(id)", "no port"),
    ("--skip-inbound-ports", "`id`", "no port"),
    ("--skip-inbound-ports", "22\n-A OUTPUT -j ACCEPT", "no port"),
    ("--skip-inbound-ports", "22 -j ACCEPT", "no port"),
    ("--skip-inbound-ports", "70000", "no port"),
    ("--skip-inbound-ports", "0", "no port"),
    ("--skip-inbound-ports", "1-0", "no port"),
    ("--skip-inbound-ports", "100-99", "ends before"),
    ("--skip-inbound-ports", "22,,80", "empty"),
    ("--skip-inbound-ports", "22,", "empty"),
    ("--skip-inbound-ports", "", "empty"),
    ("--skip-outbound-ports", "-1", "no port"),
    ("--skip-outbound-ports", "+22", "no port"),
    ("--skip-outbound-ports", "0x16", "no port"),
    ("--skip-outbound-ports", "1:65535", "no port"),
    ("--skip-outbound-ports", "18446744073709551638", "no port"),
    ("--inbound-ports", "80-", "no port"),
    ("--inbound-ports", "http", "no port"),
    ("--inbound-ports", "4143,4190-4191", "skipped"),
    ("--inbound-port", "0", "no port"),
    ("--inbound-port", "65536", "no port"),
    ("--inbound-port", "4140", "outbound port is the same"),
    ("--outbound-port", "4191", "admin"),
    ("--outbound-port", "4140 4141", "no port"),
    ("--proxy-uid", "0", "root"),
    ("--proxy-uid", "-1", "number"),
    ("--proxy-uid", "4294967295", "no user"),
    ("--proxy-uid", "2102 -j ACCEPT", "number"),
    ("--skip-subnets", "10.0.0.0", "no subnet"),
    ("--skip-subnets", "10.0.0.0/33", "prefix"),
    ("--skip-subnets", "10.0.0.1/8", "host bits"),
    ("--skip-subnets", "0.0.0.0/0", "every address"),
    ("--skip-subnets", "fd00::/129", "prefix"),
    ("--skip-subnets", "10.0.0.0/8 ! -j ACCEPT", "no subnet"),
    ("--skip-subnets", "::ffff:10.0.0.0/104", "IPv4"),
    ("--ipv6", "maybe", "possible values"),
    ("--backend", "nft;id", "possible values"),
    ("--wait", "0", "0 is not in"),
    ("--netns", "/etc/passwd", "no network namespace"),
];

#[test]
fn r39_forty_hostile_values_are_refused_and_no_rule_changes() {
    let net = Net::new();
    let host = net.host("workload");
    add_foreign_rules(&host, "nft");
    apply(&host, "--skip-inbound-ports 22");
    let before = rules(&host);
    for (flag, value, cause) in HOSTILE {
        // The namespace is the host's all the same: a refusal must not depend on not finding it.
        let mut command =
            if flag == "--netns" { host.command(mesh_tests::bin("mesh-init")) } else { mesh_init(&host, "") };
        let ran = run(command.arg(format!("{flag}={value}")));
        assert_eq!(ran.code, Some(64), "{flag}={value:?}: {ran:?}");
        let shown = value.escape_debug().to_string();
        for part in [flag, &shown, cause] {
            assert!(ran.stderr.contains(part), "{flag}={value:?} does not tell {part:?}: {}", ran.stderr);
        }
        assert!(ran.stdout.is_empty(), "{ran:?}");
    }
    assert_eq!(rules(&host), before);
    record(39, "hostile values", Who::Mesh, true, "40 of 40 refused, rules as before");
}

#[test]
fn r39_contradictions_between_flags_are_refused_and_no_rule_changes() {
    let net = Net::new();
    let host = net.host("workload");
    let before = rules(&host);
    for args in [
        "--dry-run --cleanup",
        "--verify --cleanup",
        "--dry-run --verify",
        "--ipv6 off --skip-subnets fd00::/8",
        "--inbound-port 4200 --outbound-port 4200",
        "--inbound-ports 80 --skip-inbound-ports 1-100",
        "--skip-inbound-ports 22 --skip-inbound-ports 23",
        "--no-such-flag",
        "stray",
    ] {
        let ran = run(&mut mesh_init(&host, args));
        assert_eq!(ran.code, Some(64), "{args}: {ran:?}");
    }
    assert_eq!(rules(&host), before);
}

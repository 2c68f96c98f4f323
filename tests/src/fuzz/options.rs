//! What a user may type at `mesh-init`: port lists, and whole command lines.
//!
//! Oracles: what is printed means what was read; a set of ports agrees with a plain list of them; rules name our chains only.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use mesh_init::args::{self, Request};
use mesh_init::{Family, Ports, Ruleset, rules};

/// The slots of a multiport rule, of which a range takes two.
const SLOTS: usize = 15;

/// A list of ports.
pub(super) fn ports(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let ports: Ports = match text.parse() {
        Ok(ports) => ports,
        Err(error) => {
            let message = format!("{error}");
            assert!(!message.contains(char::is_control), "{message:?}");
            return;
        }
    };
    assert_eq!(ports.to_string().parse::<Ports>().as_ref(), Ok(&ports), "printed as {ports}");
    let mut plain = vec![false; 1 << 16];
    for item in text.split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let bounds = [first, last].map(|bound| bound.parse::<usize>().expect("it was accepted"));
        plain[bounds[0]..=bounds[1]].fill(true);
    }
    assert!(!plain[0], "port 0");
    let mut grouped = vec![false; 1 << 16];
    for group in ports.groups() {
        assert!(group.split([',', ':']).count() <= SLOTS, "{group}");
        for item in group.split(',') {
            let (first, last) = item.split_once(':').unwrap_or((item, item));
            let bounds = [first, last].map(|bound| bound.parse::<usize>().expect("printed by us"));
            assert!(!grouped[bounds[0]..=bounds[1]].contains(&true), "twice: {item}");
            grouped[bounds[0]..=bounds[1]].fill(true);
        }
    }
    assert_eq!(plain, grouped);
    for port in [1, 22, 80, 8080, u16::MAX] {
        assert_eq!(ports.contains(port), plain[usize::from(port)], "{port}");
    }
}

/// A command line, one argument per line.
pub(super) fn options(data: &[u8]) {
    let typed: Vec<OsString> =
        data.split(|byte| *byte == b'\n').map(|line| OsString::from_vec(line.to_vec())).collect();
    // A path would be opened, and what is there is not for the bytes to choose.
    if data.windows(2).any(|pair| pair == b"--") && data.windows(4).any(|word| word.eq_ignore_ascii_case(b"--ne")) {
        return;
    }
    let line = std::iter::once(OsString::from("mesh-init")).chain(typed.iter().cloned());
    let request = match Request::parse(line) {
        Ok(request) => request,
        Err(error) => {
            let shown = args::printable(&error, typed.into_iter());
            assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
            return;
        }
    };
    assert!(request.wait_seconds > 0);
    for family in [Family::V4, Family::V6] {
        let text = rules::text(&request.options, family);
        only_ours(&text);
        // What the kernel would list once it is in.
        let listed: String = text.lines().map(as_listed).collect();
        let there = Ruleset::parse(&listed);
        let wanted = Ruleset::wanted(&request.options, family, &there);
        assert_eq!(there.transaction(&wanted), None, "a second run would change something:\n{listed}");
        assert!(Ruleset::parse("").transaction(&wanted).is_some());
    }
}

fn only_ours(text: &str) {
    for line in text.lines() {
        let own = ["*nat", "COMMIT", ":MESH_INBOUND - ", ":MESH_OUTBOUND - ", "-A MESH_INBOUND ", "-A MESH_OUTBOUND "];
        let jump = (line.starts_with("-I PREROUTING 1 ") && line.ends_with("-j MESH_INBOUND"))
            || (line.starts_with("-I OUTPUT 1 ") && line.ends_with("-j MESH_OUTBOUND"));
        assert!(jump || own.iter().any(|own| line.starts_with(own)), "{line:?}");
        let plain = |c: char| c.is_ascii_alphanumeric() || " _-:./,[]*".contains(c);
        assert!(line.chars().all(plain), "{line:?}");
    }
}

fn as_listed(line: &str) -> String {
    line.replace("-I PREROUTING 1", "-A PREROUTING").replace("-I OUTPUT 1", "-A OUTPUT") + "\n"
}

//! The rows of the yardstick, by number.
//!
//! Invariant: all 66, in order.

/// A row.
pub(crate) struct Row {
    pub(crate) number: u8,
    pub(crate) what: &'static str,
    /// The feature without which there is nothing to test yet.
    pub(crate) waits_for: Option<&'static str>,
}

impl Row {
    /// `R14`.
    pub(crate) fn name(&self) -> String {
        format!("R{}", self.number)
    }

    /// What runs it alone: its tests begin with its number.
    pub(crate) fn command(&self) -> String {
        match self.waits_for {
            Some(_) => String::new(),
            None => format!("`cargo test --workspace r{}_`", self.number),
        }
    }
}

const fn row(number: u8, what: &'static str) -> Row {
    Row { number, what, waits_for: None }
}

const fn later(number: u8, what: &'static str, feature: &'static str) -> Row {
    Row { number, what, waits_for: Some(feature) }
}

pub(crate) const ROWS: [Row; 66] = [
    row(1, "h2 rapid reset"),
    row(2, "HTTP/2 resets that the server is made to send (six ways)"),
    row(3, "endless CONTINUATION"),
    row(4, "HPACK and HTTP/2 bombs"),
    row(5, "floods of control frames"),
    row(6, "empty and tiny DATA"),
    row(7, "answers held by a window of zero"),
    row(8, "HTTP/2 conformance, server side"),
    row(9, "HTTP/2 conformance, client side"),
    row(10, "requests with two readings (Content-Length, Transfer-Encoding)"),
    row(11, "RFC 9110 and 9112, request by request"),
    row(12, "malformed chunks, both directions"),
    row(13, "injection by downgrade from HTTP/2 to HTTP/1"),
    row(14, "exactly one authority goes onward"),
    row(15, "number of Host fields"),
    row(16, "bytes before an upgrade or CONNECT is agreed to"),
    row(17, "answers before the end of a request"),
    row(18, "too large heads"),
    row(19, "endless bodies"),
    row(20, "slow clients"),
    row(21, "floods of connections"),
    row(22, "spoofed identity fields"),
    row(23, "spoofed error fields"),
    row(24, "loops, outbound"),
    row(25, "loops, inbound and through two proxies"),
    row(26, "original destinations"),
    later(27, "path confusion against policy", "authorization policies"),
    later(28, "bypass of header rules", "authorization policies"),
    row(29, "bad certificate chains"),
    row(30, "key usages and types of names"),
    row(31, "versions and suites of TLS"),
    row(32, "resumption of TLS sessions"),
    row(33, "shapes of a ClientHello"),
    later(34, "strict ports without a certificate", "authorization policies"),
    row(35, "who may ask the admin port"),
    row(36, "number of series"),
    later(37, "tap: rights and redaction", "tap"),
    row(38, "safety of logs"),
    row(39, "arguments of init"),
    row(40, "init again and again, and undone"),
    row(41, "what init captures"),
    row(42, "errors of configuration"),
    row(43, "certificate requests"),
    row(44, "tokens"),
    row(45, "serial numbers and validity"),
    row(46, "floods at identity"),
    row(47, "rotation of the issuer"),
    row(48, "a slow reader at destination"),
    row(49, "a storm of updates"),
    row(50, "stale endpoints, against a model"),
    row(51, "a hostile control plane"),
    row(52, "no control plane"),
    row(53, "certificates that expire without identity"),
    row(54, "drain under load"),
    row(55, "rollout under load"),
    row(56, "all endpoints dead, and back"),
    row(57, "black holes"),
    row(58, "truncated bodies"),
    row(59, "GOAWAY and other ends of connections"),
    row(60, "out of file descriptors"),
    row(61, "little memory"),
    row(62, "disk full, clocks, names"),
    later(63, "scripts of a Kubernetes watch", "Kubernetes as a source"),
    row(64, "gRPC interoperability"),
    row(65, "Gateway API conformance of meshes"),
    row(66, "hygiene of the code"),
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// All sources below `folder`, as one text.
    fn sources(folder: &Path) -> String {
        let entries = std::fs::read_dir(folder).expect("a folder of the repository");
        let text = |path: &Path| match path.is_dir() {
            true => sources(path),
            false => std::fs::read_to_string(path).unwrap_or_default(),
        };
        entries.map(|entry| text(&entry.expect("an entry").path())).collect()
    }

    #[test]
    fn a_row_has_a_command_as_soon_as_it_has_a_test_and_not_before() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
        let crates = ["tests/tests", "proxy/src", "identity/src", "destination/src", "init/src", "mtls/src", "kit/src"];
        let tests: String = crates.iter().map(|folder| sources(&root.join(folder))).collect();
        for row in &ROWS {
            let name = format!("r{}_", row.number);
            // A test may show several rows: `r51_r52_...`.
            let has_test = [format!("fn {name}"), format!("_{name}")].iter().any(|begin| tests.contains(begin));
            assert_eq!(has_test, row.waits_for.is_none(), "{}: {}", row.name(), row.what);
        }
    }
}

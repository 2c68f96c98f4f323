//! The proxy's environment, any variables in it.
//!
//! Oracles: faults are one line each and name a variable; what is accepted is within the bounds that `--help` tells; the
//! order of variables does not matter.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use mesh_proxy::config::{self, Config};

const NEEDED: [(&str, &str); 4] = [
    ("MESH_IDENTITY_ADDR", "identity:8080"),
    ("MESH_DESTINATION_ADDR", "destination:8086"),
    ("MESH_TRUST_ANCHORS", "/anchors.pem"),
    ("MESH_TOKEN_FILE", "/token"),
];

/// Lines of `NAME=VALUE`; a line that begins with a zero byte stands for none of the four that are needed.
pub(super) fn environment(data: &[u8]) {
    let bare = data.first() == Some(&0);
    let mut vars: Vec<(OsString, OsString)> = Vec::new();
    if !bare {
        vars.extend(NEEDED.map(|(name, value)| (name.into(), value.into())));
    }
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let Some(equals) = line.iter().position(|byte| *byte == b'=') else { continue };
        let (name, value) = (line[..equals].to_vec(), line[equals + 1..].to_vec());
        vars.push((OsString::from_vec(name), OsString::from_vec(value)));
    }
    // The last of two of a name holds, whatever stands between.
    let mut last = std::collections::BTreeMap::new();
    last.extend(vars.iter().cloned());
    let (as_given, sorted) = (config::from_vars(vars), config::from_vars(last));
    assert_eq!(format!("{as_given:?}"), format!("{sorted:?}"));
    match as_given {
        Ok(config) => within_bounds(&config),
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                let line = error.to_string();
                assert!(!line.contains(char::is_control) && line.chars().count() < 600, "{line:?}");
                assert!(line.contains("MESH_"), "{line}");
            }
        }
    }
}

fn within_bounds(config: &Config) {
    let positive = [config.grace, config.http.head_timeout, config.http.idle_timeout, config.outbound.copy.half_closed];
    assert!(positive.iter().all(|time| (Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(time)));
    assert!((1..=256).contains(&config.workers) && config.http.max_streams > 0 && config.outbound.targets.most > 0);
    assert!(config.control.max_targets >= config.outbound.targets.most);
    assert!(!config.outbound_listen.addrs.is_empty() && !config.admin_listen.addrs.is_empty());
    // Whatever else, the proxy's own ports are known to be its own.
    let listening = [&config.outbound_listen, &config.inbound_listen, &config.admin_listen];
    for addr in listening.iter().flat_map(|listen| &listen.addrs) {
        assert!(config.inbound.own_ports.contains(&addr.port()) && config.outbound.own_ports.contains(&addr.port()));
    }
    assert!(config.inbound_listen.addrs.iter().any(|addr| addr.port() == config.inbound.tunnel_port));
}

//! Fuzz targets: each takes any bytes, and panics when the product breaks a promise about them.
//!
//! `fuzz/` runs them under libFuzzer (`make fuzz`), `tests/tests/fuzz.rs` replays the committed seeds on the stable
//! toolchain. Invariant: a target judges by an oracle (a fixed point, a model, another implementation), not only by the
//! absence of panics; what it does depends on its bytes alone.
//! Non-goal: speed of single steps; a target that needs a running pair of sidecars keeps one.

mod captured;
mod detection;
pub mod discovery;
mod environment;
mod fields;
mod input;
mod manifests;
mod messages;
mod options;
mod proxied;
mod recorder;
mod requests;
mod talk;
mod tokens;

/// A target: the name of its program and of its folder of seeds, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("detect", detection::detect),
    ("sniff", detection::sniff),
    ("sni", detection::sni),
    ("headers", fields::headers),
    ("tunnel", fields::tunnel),
    ("ports", options::ports),
    ("options", options::options),
    ("h1_head", proxied::h1_head),
    ("h1_chunked", proxied::h1_chunked),
    ("h2_frames", proxied::h2_frames),
    ("hpack", proxied::hpack),
    ("iptables_save", captured::save),
    ("csr", requests::csr),
    ("discovery", discovery::update),
    ("messages", messages::messages),
    ("talk", talk::talk),
    ("manifest", manifests::manifest),
    ("environment", environment::environment),
    ("tokens", tokens::tokens),
];

/// Runs the target `name`.
///
/// # Panics
/// When there is none, or it finds something.
pub fn run(name: &str, data: &[u8]) {
    let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) else {
        panic!("no target {name}");
    };
    target(data);
}

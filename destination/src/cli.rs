//! What was typed.
//!
//! Invariant: values are checked here, all other rooms get final types. Non-goal: environment variables.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mesh_kit::env::Value as _;
use mesh_kit::{build, log};
use mesh_mtls::spiffe::Id;

/// Tells the mesh's proxies who is where and how to speak to them, from a directory of manifests.
///
/// Manifests are YAML or JSON as kubectl takes them, in files that end in .yaml, .yml or .json: Service (v1),
/// EndpointSlice (discovery.k8s.io/v1), HTTPRoute and GRPCRoute (gateway.networking.k8s.io/v1), Workload and TrafficPolicy
/// (mesh.internal/v1alpha1). The directory is followed: changes are in force at once, and a broken file keeps its last good
/// state. A route or a policy with an error is rejected alone; /state and `validate` say why.
#[derive(Debug, Parser)]
#[command(
    name = "mesh-destination",
    version = build::VERSION,
    args_conflicts_with_subcommands = true,
    after_help = "Example:\n  mesh-destination --manifests /etc/mesh/manifests --identity-addr 10.0.0.2:8080 \\\n      \
                  --trust-anchors /etc/mesh/anchors.pem --token-file /etc/mesh/destination.token\n  \
                  mesh-destination validate /etc/mesh/manifests"
)]
pub struct Cli {
    /// Serving is what is done without one.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// For serving.
    #[command(flatten)]
    pub serve: Option<Serve>,
}

/// What to do besides serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check manifests and print findings as file:line:column: severity: field: message
    ///
    /// The exit status is 0 when the manifests can be used, 1 when there is an error in them, and 64 when the command
    /// line is wrong, the path cannot be read or there is no manifest at all.
    Validate {
        /// A directory of manifests, or one manifest
        #[arg(value_name = "PATH")]
        path: PathBuf,
    },
}

/// How to serve.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// The directory of manifests, with those within it; followed. Nobody is served until all of it could be used once
    #[arg(long, value_name = "DIR")]
    pub manifests: PathBuf,
    /// Where to serve proxies, messages over mutual TLS; may be repeated
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8086", value_delimiter = ',')]
    pub listen: Vec<SocketAddr>,
    /// Where to serve health, metrics and controls; may be repeated
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:9996", value_delimiter = ',')]
    pub admin: Vec<SocketAddr>,
    /// Where identity is
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
    pub identity_addr: String,
    /// Whom identity has to prove to be [default: ns/mesh-system/sa/identity of the trust domain]
    #[arg(long, value_name = "SPIFFE")]
    pub identity_id: Option<Id>,
    /// PEM certificates of the roots to begin with; later ones come from identity
    #[arg(long, value_name = "FILE")]
    pub trust_anchors: PathBuf,
    /// The token that says to identity who we are; read again for each certificate
    #[arg(long, value_name = "FILE")]
    pub token_file: PathBuf,
    /// The trust domain of all workloads
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = trust_domain)]
    pub trust_domain: String,
    /// Connections of proxies open at a time
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: u32,
    /// Connections open at a time from one source address
    #[arg(long, value_name = "N", default_value_t = 2_048, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub source_connections: u32,
    /// Subscriptions of one proxy
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub subscriptions: u32,
    /// A proxy that does not read what is due to it for so long is disconnected (one that takes nothing at all, after 20s)
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub stall_timeout: Duration,
    /// How long streams may take to end after a signal
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub shutdown_grace: Duration,
    /// Log level, and exceptions by target: info,h2=warn
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = level)]
    pub log: String,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", default_value = "plain")]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Plain,
    /// One object a line.
    Json,
}

impl From<LogFormat> for log::Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Plain => Self::Plain,
            LogFormat::Json => Self::Json,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    Duration::parse(text).ok_or_else(|| format!("expected {}", Duration::EXPECTED))
}

fn level(text: &str) -> Result<String, log::BadLevel> {
    text.parse::<log::Level>().map(|level| level.to_string())
}

/// A name is resolved for each connection, so that only its form can be checked here.
fn host_and_port(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let port = port.and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(1..) => Ok(text.to_owned()),
        _ => Err("not of the form host:port".to_owned()),
    }
}

fn trust_domain(text: &str) -> Result<String, String> {
    let probe = Id::new(text, "a", "a").map_err(|error| error.to_string())?;
    if probe.trust_domain() == text { Ok(text.to_owned()) } else { Err("not a trust domain".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVE: [&str; 9] = [
        "mesh-destination",
        "--manifests",
        "dir",
        "--identity-addr",
        "[::1]:8080",
        "--trust-anchors",
        "anchors.pem",
        "--token-file",
        "token",
    ];

    #[test]
    fn four_options_are_enough_to_serve() {
        let cli = Cli::try_parse_from(SERVE).unwrap();
        let serve = cli.serve.unwrap();
        assert_eq!(serve.listen, ["0.0.0.0:8086".parse().unwrap()]);
        assert_eq!(serve.admin, ["0.0.0.0:9996".parse().unwrap()]);
        assert_eq!(serve.stall_timeout, Duration::from_secs(10));
    }

    #[test]
    fn bad_values_are_refused() {
        for (option, value) in [
            ("--trust-domain", "Not A Domain"),
            ("--identity-id", "spiffe://a/b"),
            ("--identity-addr", "host"),
            ("--identity-addr", "host:0"),
            ("--connections", "0"),
            ("--stall-timeout", "soon"),
            ("--log", "loud"),
        ] {
            let typed = SERVE.into_iter().chain([option, value]);
            assert!(Cli::try_parse_from(typed).is_err(), "{option} {value}");
        }
        assert!(Cli::try_parse_from(&SERVE[..7]).is_err(), "an option is missing");
    }

    #[test]
    fn validating_needs_a_path_and_nothing_else() {
        let cli = Cli::try_parse_from(["mesh-destination", "validate", "dir"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Validate { .. })) && cli.serve.is_none());
        assert!(Cli::try_parse_from(["mesh-destination", "validate"]).is_err());
    }
}

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

use crate::init;

/// The mesh's certificate authority.
#[derive(Debug, Parser)]
#[command(name = "mesh-identity", version = build::VERSION, args_conflicts_with_subcommands = true)]
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
    /// Manage the tokens file
    #[command(subcommand)]
    Token(Token),
}

/// What to do with the tokens file.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token for an identity: prints it, and stores its hash
    Add {
        /// The tokens file; made if it is not there
        #[arg(long, value_name = "FILE")]
        tokens: PathBuf,
        /// Whom the token stands for: spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT
        #[arg(long, value_name = "SPIFFE")]
        id: Id,
    },
}

/// How to serve.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// A folder with anchors.pem, issuer.pem and issuer.key, made on the first start; watched
    #[arg(long, value_name = "DIR", conflicts_with_all = ["anchors", "issuer_cert", "issuer_key"])]
    pub init_dir: Option<PathBuf>,
    /// PEM certificates of the roots; watched
    #[arg(long, value_name = "FILE", required_unless_present = "init_dir")]
    pub anchors: Option<PathBuf>,
    /// PEM certificate of the issuer, followed by those between it and a root; watched
    #[arg(long, value_name = "FILE", required_unless_present = "init_dir")]
    pub issuer_cert: Option<PathBuf>,
    /// PEM key of the issuer, ECDSA P-256; watched
    #[arg(long, value_name = "FILE", required_unless_present = "init_dir")]
    pub issuer_key: Option<PathBuf>,
    /// The tokens file: lines of sha256:HASH SPIFFE-ID; watched
    #[arg(long, value_name = "FILE")]
    pub tokens: PathBuf,
    /// Where to serve gRPC over TLS
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Where to serve health, metrics and controls
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:9990")]
    pub admin: SocketAddr,
    /// The trust domain of all identities
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = trust_domain)]
    pub trust_domain: String,
    /// How long leaves live, within the issuer's life: 10s to 8760h
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = lifetime)]
    pub leaf_lifetime: Duration,
    /// Certificates per second that one source address may ask for in the long run
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub source_rate: u32,
    /// Certificates that one source address may ask for at once
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub source_burst: u32,
    /// Connections open at a time
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: u32,
    /// Connections open at a time from one source address
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub source_connections: u32,
    /// How long requests under way may take after a signal to end
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub shutdown_grace: Duration,
    /// Log level, and exceptions by target: info,h2=warn
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = level)]
    pub log: String,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", default_value = "plain")]
    pub log_format: LogFormat,
}

impl Serve {
    /// Anchors, issuer and key, wherever they are: in the folder that is filled on a first start, or where three
    /// options say.
    #[must_use]
    pub fn authority_paths(&self) -> [PathBuf; 3] {
        if let Some(dir) = &self.init_dir {
            return [init::ANCHORS, init::ISSUER, init::ISSUER_KEY].map(|name| dir.join(name));
        }
        // clap has made sure of all three.
        [&self.anchors, &self.issuer_cert, &self.issuer_key].map(|path| path.clone().unwrap_or_default())
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Plain,
    /// For machines.
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

fn lifetime(text: &str) -> Result<Duration, String> {
    let range = Duration::from_secs(10)..=Duration::from_secs(8760 * 3600);
    let lifetime = duration(text)?;
    if range.contains(&lifetime) { Ok(lifetime) } else { Err("expected 10s to 8760h".to_owned()) }
}

fn level(text: &str) -> Result<String, log::BadLevel> {
    text.parse::<log::Level>().map(|level| level.to_string())
}

fn trust_domain(text: &str) -> Result<String, String> {
    let probe = Id::new(text, "a", "a").map_err(|error| error.to_string())?;
    Ok(probe.trust_domain().to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn serve(args: &str) -> Result<Serve, clap::Error> {
        let cli = Cli::try_parse_from(std::iter::once("mesh-identity").chain(args.split_whitespace()))?;
        cli.serve.ok_or_else(|| clap::Error::new(clap::error::ErrorKind::MissingRequiredArgument))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_folder_or_three_files_say_where_the_ca_is() {
        let of_dir = serve("--tokens t --init-dir d").unwrap();
        assert_eq!(of_dir.authority_paths()[2], PathBuf::from("d/issuer.key"));
        let of_files = serve("--tokens t --anchors a --issuer-cert c --issuer-key k").unwrap();
        assert_eq!(of_files.authority_paths(), ["a", "c", "k"].map(PathBuf::from));
        for wrong in ["--tokens t", "--tokens t --anchors a", "--tokens t --init-dir d --anchors a", "--init-dir d", ""]
        {
            assert!(serve(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bad_values_are_refused() {
        for wrong in [
            "--leaf-lifetime 9s",
            "--leaf-lifetime 24",
            "--trust-domain Cluster",
            "--listen 8080",
            "--log loud",
            "--source-rate 0",
            "--log-format xml",
        ] {
            assert!(serve(&format!("--tokens t --init-dir d {wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tokens_are_added_without_a_ca() {
        let args = "mesh-identity token add --tokens t --id spiffe://cluster.local/ns/a/sa/b";
        let cli = Cli::try_parse_from(args.split(' ')).unwrap();
        assert!(matches!(cli.command, Some(Command::Token(Token::Add { .. }))), "{cli:?}");
        assert!(Cli::try_parse_from("mesh-identity token add --tokens t --id web".split(' ')).is_err());
    }
}

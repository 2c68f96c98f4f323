//! The command line of `bench-load`.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand, value_parser};

use super::client::{Protocol, Target};
use super::grpc::Mode;

/// Loads a server and prints one line of JSON: requests, errors, seconds, bytes, p50_us to p999_us.
#[derive(Debug, Parser)]
#[command(after_help = "Errors are counted; the text of the first one goes to stderr. Everything has a deadline.")]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub load: Load,
}

/// The kinds of load.
#[derive(Debug, Subcommand)]
pub enum Load {
    /// An open loop: evenly spaced requests, latency from when each was due. One exchange on each connection goes before
    Rate {
        /// What to speak
        #[arg(long)]
        proto: Protocol,
        /// Where to.
        #[command(flatten)]
        to: To,
        /// Requests per second
        #[arg(long, default_value = "1000", value_parser = value_parser!(u32).range(1..=100_000))]
        rate: u32,
        /// For how long.
        #[command(flatten)]
        time: Time,
        /// Connections to spread them over, in turn
        #[arg(long, default_value = "16", value_parser = places)]
        connections: usize,
    },
    /// A connection for each request; the server closes it
    Churn {
        /// What to speak
        #[arg(long)]
        proto: Protocol,
        /// Where to.
        #[command(flatten)]
        to: To,
        /// Connections at a time
        #[arg(long, default_value = "16", value_parser = places)]
        at_once: usize,
        /// For how long.
        #[command(flatten)]
        time: Time,
    },
    /// Opens connections, makes one exchange on each, prints {"held":N,"errors":N} and holds them until stdin ends
    Hold {
        /// What to speak
        #[arg(long)]
        proto: Protocol,
        /// Where to.
        #[command(flatten)]
        to: To,
        /// How many connections
        #[arg(long, value_parser = places)]
        count: usize,
    },
    /// gRPC echo calls; each message is a request
    Grpc {
        /// What each client does
        #[arg(long)]
        mode: Mode,
        /// Where to.
        #[command(flatten)]
        to: To,
        /// Connections
        #[arg(long, default_value = "4", value_parser = places)]
        connections: usize,
        /// Clients in all, each with one message at a time
        #[arg(long, default_value = "64", value_parser = places)]
        concurrency: usize,
        /// For how long.
        #[command(flatten)]
        time: Time,
    },
}

/// Where to.
#[derive(Args, Debug)]
pub struct To {
    /// Address and port
    #[arg(long, value_name = "ADDR")]
    pub target: SocketAddr,
    /// What to ask for over HTTP
    #[arg(long, default_value = "/b/100")]
    pub path: String,
}

/// For how long.
#[derive(Args, Debug)]
pub struct Time {
    /// How long, in seconds
    #[arg(long, default_value = "10", value_parser = value_parser!(u32).range(1..=600))]
    pub seconds: u32,
}

impl From<To> for Target {
    fn from(to: To) -> Self {
        Self { addr: to.target, path: to.path }
    }
}

/// A number of connections or clients: as many as one address has ports.
fn places(text: &str) -> Result<usize, String> {
    let count = text.parse::<u16>().ok().filter(|count| *count > 0);
    count.map(usize::from).ok_or_else(|| format!("a number from 1 to {}", u16::MAX))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Load, String> {
        let words = std::iter::once("bench-load").chain(line.split(' '));
        Options::try_parse_from(words).map(|options| options.load).map_err(|error| error.to_string())
    }

    #[test]
    fn the_flags_fit_together() {
        Options::command().debug_assert();
    }

    #[test]
    fn a_rate_says_where_how_often_and_how_long() {
        let load = parse("rate --proto h2 --target 10.0.0.1:80 --rate 500 --seconds 3 --connections 2").unwrap();
        let Load::Rate { proto, to, rate, time, connections } = load else { panic!("{load:?}") };
        assert_eq!((proto, rate, time.seconds, connections), (Protocol::H2, 500, 3, 2));
        assert_eq!((to.target.port(), to.path.as_str()), (80, "/b/100"));
    }

    #[test]
    fn http_is_another_word_for_h1() {
        let load = parse("churn --proto http --target [::1]:80 --at-once 3").unwrap();
        assert!(matches!(load, Load::Churn { proto: Protocol::H1, at_once: 3, .. }), "{load:?}");
        let load = parse("hold --proto tcp --target 10.0.0.1:9 --count 9000").unwrap();
        assert!(matches!(load, Load::Hold { proto: Protocol::Tcp, count: 9000, .. }), "{load:?}");
        let load = parse("grpc --mode stream --target 10.0.0.1:9 --concurrency 8").unwrap();
        assert!(matches!(load, Load::Grpc { mode: Mode::Stream, concurrency: 8, .. }), "{load:?}");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (line, word) in [
            ("rate --proto h3 --target 10.0.0.1:80", "h3"),
            ("rate --proto h1 --target example:80", "--target"),
            ("rate --proto h1 --target 10.0.0.1:80 --rate 0", "--rate"),
            ("churn --proto h1 --target 10.0.0.1:80 --seconds 1000", "--seconds"),
            ("hold --proto h1 --target 10.0.0.1:80 --count 0", "--count"),
            ("hold --proto h1 --target 10.0.0.1:80", "--count"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}

//! The command line: what may be typed, and what it means.
//!
//! Invariant: whatever is wrong with the arguments ends here, with exit status 64, before anything is read or touched.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::num::NonZeroU16;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, ValueEnum};

use crate::{Options, Ports, Subnets, Valid, ports};

/// The longest `--wait`.
const LONGEST_WAIT: i64 = 600;

/// What to do, all arguments being sound.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub mode: Mode,
    /// With which rules.
    pub options: Valid,
    /// Whether for IPv6 as well.
    pub ipv6: Ipv6,
    /// In which iptables.
    pub backend: Choice,
    /// The namespace to act in and the path it was opened by; `None` is our own.
    pub netns: Option<(PathBuf, File)>,
    /// How long to wait for others who are changing the rules.
    pub wait_seconds: u32,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Put the rules in.
    Apply,
    /// Print what would be put in.
    DryRun,
    /// Take them out.
    Cleanup,
    /// Prove that they work.
    Verify,
}

/// Whether IPv6 is redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ipv6 {
    /// Yes, or it is an error.
    On,
    /// No.
    Off,
    /// If the kernel has it.
    Auto,
}

/// Which iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// The one that is in use.
    Auto,
    /// `iptables-nft`.
    Nft,
    /// `iptables-legacy`.
    Legacy,
}

/// Redirects the TCP traffic of this network namespace to its mesh-proxy.
///
/// Writes two chains into the nat table, MESH_INBOUND and MESH_OUTBOUND, and a jump to each. The rules of each address
/// family go in as one transaction; if a family fails, the other one is put back. Running it again replaces the rules,
/// or changes nothing if they are in place. UDP is left alone.
#[derive(Parser)]
#[command(name = "mesh-init", version, after_help = AFTER_HELP, args_override_self = false)]
struct Args {
    /// The proxy's port for connections that come in
    #[arg(long, value_name = "PORT", default_value = "4143", value_parser = port)]
    inbound_port: NonZeroU16,

    /// The proxy's port for connections that go out
    #[arg(long, value_name = "PORT", default_value = "4140", value_parser = port)]
    outbound_port: NonZeroU16,

    /// The user that the proxy runs as; its traffic is never redirected
    #[arg(long, value_name = "UID", default_value = "2102", value_parser = uid)]
    proxy_uid: u32,

    /// Redirect these inbound ports only, like 80,8000-8100 [default: all]
    #[arg(long, value_name = "PORTS")]
    inbound_ports: Option<Ports>,

    /// Inbound ports that go straight to the workload, like 22,8000-8100
    #[arg(long, value_name = "PORTS")]
    skip_inbound_ports: Option<Ports>,

    /// Outbound ports that leave directly, like 25,3306
    #[arg(long, value_name = "PORTS")]
    skip_outbound_ports: Option<Ports>,

    /// Peers to leave alone, like 10.1.0.0/16,fd00:1::/32: as source of inbound and destination of outbound traffic
    #[arg(long, value_name = "CIDRS")]
    skip_subnets: Option<Subnets>,

    /// Redirect IPv6 too; auto does unless the kernel has none
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    ipv6: Ipv6,

    /// Which iptables; auto takes the one that has rules already, else nft if it works, else legacy
    #[arg(long, value_name = "NAME", default_value = "auto")]
    backend: Choice,

    /// Act in this network namespace, like /run/netns/web or /proc/1234/ns/net
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,

    /// Seconds to wait for others who are changing the rules, 1 to 600
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = wait())]
    wait: u32,

    /// Print what would be applied, in the form of iptables-restore, and change nothing
    #[arg(long, conflicts_with_all = ["verify", "cleanup"])]
    dry_run: bool,

    /// Change no rule; connect through and prove that both directions are redirected and that the proxy is exempt
    #[arg(long, conflicts_with = "cleanup")]
    verify: bool,

    /// Remove all that mesh-init has put in, and nothing else
    #[arg(long)]
    cleanup: bool,
}

const AFTER_HELP: &str = "\
Order of the rules:
  inbound   own ports (--inbound-port, 4190, 4191), skipped ports and subnets pass; the rest is redirected
  outbound  the proxy's user, loopback, skipped ports and subnets pass; the rest is redirected

Exit status:
  0   done (or nothing to do)
  1   failed; the rules are as they were
  2   --verify: the traffic is not redirected as it should be, or that could not be found out
  3   failed, and putting the rules back failed as well
  64  an argument was refused; nothing was touched

Needs: CAP_NET_ADMIN and iptables; --netns and --verify also CAP_SYS_ADMIN, --verify also CAP_SETUID and ip (iproute2).
--verify takes the same arguments as the run that it checks. It makes a pair of devices (mesh-verify) to a network
namespace of its own, connects both ways, and takes it all away again; with a proxy running it counts that
connections arrive at the proxy, without one it listens on the proxy's ports itself.

Examples:
  mesh-init                                       redirect everything
  mesh-init --skip-inbound-ports 22               leave ssh alone
  mesh-init --netns /run/netns/web --dry-run      show what would be done there
  mesh-init --skip-inbound-ports 22 --verify      is that in force?
  mesh-init --cleanup                             take it all away";

impl Request {
    /// Reads arguments, the program's name being the first.
    ///
    /// # Errors
    /// What clap reports, `--help` and `--version` among it.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let args = Args::try_parse_from(args)?;
        let netns = args.netns.clone().map(open_namespace).transpose().map_err(refused)?;
        let ipv6_skipped = args.skip_subnets.iter().flat_map(Subnets::iter).find(|subnet| subnet.is_ipv6());
        if let (Ipv6::Off, Some(subnet)) = (args.ipv6, ipv6_skipped) {
            return Err(refused(format!(
                "invalid value '{subnet}' for '--skip-subnets': IPv6, which --ipv6 off leaves out"
            )));
        }
        let mode = args.mode();
        let (ipv6, backend, wait_seconds) = (args.ipv6, args.backend, args.wait);
        let options = args.options().validate().map_err(|conflict| refused(conflict.to_string()))?;
        Ok(Self { mode, options, ipv6, backend, netns, wait_seconds })
    }
}

impl Args {
    fn mode(&self) -> Mode {
        match (self.dry_run, self.cleanup, self.verify) {
            (true, _, _) => Mode::DryRun,
            (_, true, _) => Mode::Cleanup,
            (_, _, true) => Mode::Verify,
            _ => Mode::Apply,
        }
    }

    fn options(self) -> Options {
        Options {
            inbound_port: self.inbound_port,
            outbound_port: self.outbound_port,
            proxy_uid: self.proxy_uid,
            inbound_ports: self.inbound_ports.unwrap_or_default(),
            skip_inbound_ports: self.skip_inbound_ports.unwrap_or_default(),
            skip_outbound_ports: self.skip_outbound_ports.unwrap_or_default(),
            skip_subnets: self.skip_subnets.unwrap_or_default(),
        }
    }
}

/// Clap's report without the control characters, line ends among them, that a hostile value may have brought in.
pub fn printable(error: &clap::Error, args: impl Iterator<Item = OsString>) -> String {
    let mut report = error.render().to_string();
    for arg in args {
        let arg = arg.to_string_lossy();
        for value in [Some(&*arg), arg.split_once('=').map(|(_, value)| value)].into_iter().flatten() {
            if value.contains(char::is_control) {
                report = report.replace(value, &value.escape_debug().to_string());
            }
        }
    }
    let keep = |c: char| c == '\n' || !c.is_control();
    report.chars().map(|c| if keep(c) { c.to_string() } else { c.escape_default().to_string() }).collect()
}

fn refused(message: impl std::fmt::Display) -> clap::Error {
    Args::command().error(ErrorKind::ValueValidation, message)
}

fn port(text: &str) -> Result<NonZeroU16, ports::Error> {
    NonZeroU16::new(ports::port(text)?).ok_or_else(|| ports::Error::NotAPort(text.to_owned()))
}

fn wait() -> impl clap::builder::TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(1..=LONGEST_WAIT)
}

fn uid(text: &str) -> Result<u32, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("a user is named by its number".to_owned());
    }
    text.parse().map_err(|_| "larger than any user id".to_owned())
}

/// Opens the namespace already here, so that a wrong path counts as a wrong argument.
fn open_namespace(path: PathBuf) -> Result<(PathBuf, File), String> {
    let refused =
        |cause: String| format!("invalid value '{}' for '--netns': {cause}", path.display().to_string().escape_debug());
    // A pipe that nobody writes to would keep a plain open waiting.
    let no_waiting = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let opened = OpenOptions::new().read(true).custom_flags(no_waiting).open(&path);
    let file = opened.map_err(|error| refused(error.to_string()))?;
    match nix::sys::statfs::fstatfs(&file) {
        Ok(found) if found.filesystem_type() == nix::sys::statfs::NSFS_MAGIC => Ok((path, file)),
        Ok(_) => Err(refused("no network namespace (see ls /run/netns, or /proc/PID/ns/net)".to_owned())),
        Err(error) => Err(refused(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(args: &[&str]) -> String {
        let error = Args::try_parse_from(["mesh-init"].iter().chain(args)).err().expect("refused");
        printable(&error, args.iter().map(OsString::from))
    }

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_refusal_names_flag_value_and_cause() {
        let message = refusal(&["--skip-inbound-ports", "22,99999"]);
        for part in ["22,99999", "--skip-inbound-ports", "\"99999\" is no port"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(refusal(&["--wait", "0"]).contains("--wait"));
        assert!(refusal(&["--dry-run", "--cleanup"]).contains("--cleanup"));
        assert!(refusal(&["--proxy-uid", "root"]).contains("number"));
    }

    #[test]
    fn a_refusal_prints_no_control_character() {
        let message = refusal(&["--skip-subnets", "10.0.0.0/8\x1b[2J\r"]);
        assert!(message.chars().all(|c| c == '\n' || !c.is_control()), "{message:?}");
    }
}

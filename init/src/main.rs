//! `mesh-init`: redirects the TCP traffic of a network namespace to its mesh-proxy.
//!
//! Invariant: the order is arguments, namespace, lock, look, plan, act; nothing is changed before "act", and only one
//! mesh-init acts in a namespace at a time; a signal to end waits until "act" is over. Rules go to stdout on `--dry-run`; everything said goes to stderr.

#![forbid(unsafe_code)]

mod apply;
mod namespace;
mod plan;
mod probe;
mod signals;
mod verify;
mod xtables;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use mesh_init::Family;
use mesh_init::args::{self, Ipv6, Mode, Request};
use plan::{Step, Support, Survey};
use xtables::{Backend, Tables};

const EXIT_FAILED: u8 = 1;
const EXIT_UNVERIFIED: u8 = 2;
const EXIT_MIXED: u8 = 3;
const EXIT_USAGE: u8 = 64;

/// Everything that can go wrong once the arguments are accepted.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("invalid value '{}' for '--netns': no network namespace", .0.display())]
    NotANamespace(PathBuf),
    #[error("entering {}: {source} (needs CAP_SYS_ADMIN)", path.display())]
    Enter { path: PathBuf, source: io::Error },
    #[error("locking the network namespace: {0}")]
    Lock(#[source] io::Error),
    #[error("holding signals back: {0}")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Plan(#[from] plan::Refused),
    #[error(transparent)]
    Apply(#[from] apply::Failure),
    #[error("not verified: {0}")]
    Verify(#[from] verify::Failure),
}

fn main() -> ExitCode {
    let request = match Request::parse(std::env::args_os()) {
        Ok(request) => request,
        Err(error) if error.use_stderr() => {
            eprint!("{}", args::printable(&error, std::env::args_os()));
            return ExitCode::from(EXIT_USAGE);
        }
        Err(help) => {
            // A closed stdout is the reader's choice.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    let code = match run(&request) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("mesh-init: error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    };
    signals::honour();
    code
}

fn run(request: &Request) -> Result<(), Failure> {
    if let Some((path, namespace)) = &request.netns {
        // A namespace of another kind looks the same until one tries to enter it.
        namespace::enter(namespace).map_err(|source| match source.kind() {
            io::ErrorKind::InvalidInput => Failure::NotANamespace(path.clone()),
            _ => Failure::Enter { path: path.clone(), source },
        })?;
    }
    let _lock = namespace::lock(request.wait_seconds).map_err(Failure::Lock)?;
    let support = namespace::ipv6();
    let families = plan::families(request.ipv6, support)?;
    if (request.ipv6, support) == (Ipv6::Auto, Support::Absent) {
        info("this kernel has no IPv6, so only IPv4 is taken care of");
    }
    if request.mode == Mode::Verify {
        return Ok(verify::run(&request.options, request.ipv6, &families)?);
    }
    let steps = steps(request, &families, support)?;
    if request.mode == Mode::DryRun {
        print(&steps);
        return Ok(());
    }
    // Whoever ends us between the families would leave one redirected and the other not.
    signals::hold().map_err(|errno| Failure::Signals(errno.into()))?;
    apply::execute(&steps)?;
    for step in &steps {
        info(&format!("{}: changed", step.tables));
    }
    if steps.is_empty() {
        info("nothing to do");
    }
    Ok(())
}

fn steps(request: &Request, families: &[Family], support: Support) -> Result<Vec<Step>, plan::Refused> {
    let present: &[Family] = if support == Support::Present { &[Family::V4, Family::V6] } else { &[Family::V4] };
    let all =
        [Backend::Nft, Backend::Legacy].into_iter().flat_map(|backend| present.iter().map(move |f| (backend, *f)));
    let surveys: Vec<Survey> = all
        .map(|(backend, family)| Tables { backend, family, wait_seconds: request.wait_seconds })
        .map(|tables| Survey { tables, found: tables.read() })
        .collect();
    if request.mode == Mode::Cleanup {
        return plan::cleanup(request.backend, families, &surveys);
    }
    let (backend, reason) = plan::backend(request.backend, &surveys)?;
    info(&format!("backend {backend}: {reason}"));
    plan::apply(&request.options, backend, families, &surveys)
}

fn print(steps: &[Step]) {
    if steps.is_empty() {
        println!("# nothing to do: the rules are in place");
    }
    for step in steps {
        println!("# {}", step.tables.restore_command());
        print!("{}", step.transaction);
    }
}

fn info(message: &str) {
    eprintln!("mesh-init: info: {message}");
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Verify(_) => EXIT_UNVERIFIED,
            Self::Apply(apply::Failure::Mixed { .. }) => EXIT_MIXED,
            Self::NotANamespace(_) => EXIT_USAGE,
            Self::Apply(apply::Failure::RolledBack(_))
            | Self::Enter { .. }
            | Self::Lock(_)
            | Self::Signals(_)
            | Self::Plan(_) => EXIT_FAILED,
        }
    }
}

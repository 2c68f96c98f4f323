//! `bench-relay`: what two hops take without a mesh. No contestant, but what the kernel takes, and hardly more.

use std::path::PathBuf;

use anyhow::Context as _;
use mesh_tests::bins;
use mesh_tests::mesh::{ADMIN_PORT, INBOUND_PORT, Metrics};

use super::{Counters, Plan, Side, Work};
use crate::rig::{OUTBOUND_PORT, Rig};

pub(super) fn program() -> anyhow::Result<PathBuf> {
    bins::find("bench-relay").context("bench-relay is not built: `make bench` builds it")
}

pub(super) fn plan(rig: &Rig, side: Side, work: Work) -> anyhow::Result<Plan> {
    let (listen, dial) = match side {
        Side::Client => (format!("127.0.0.1:{OUTBOUND_PORT}"), rig.far().to_string()),
        Side::Server => (format!("0.0.0.0:{INBOUND_PORT}"), format!("127.0.0.1:{}", work.port)),
    };
    let args = ["--listen".to_owned(), listen, "--dial".to_owned(), dial, "--admin".to_owned()];
    let args = args.into_iter().chain([format!("127.0.0.1:{ADMIN_PORT}")]).collect();
    Ok(Plan { program: program()?, args, env: Vec::new(), metrics: "/metrics", ready: "/ready", comm: "bench-relay" })
}

/// A small request is one piece.
pub(super) fn counters(metrics: &Metrics) -> Counters {
    Counters {
        requests: metrics.sum("relay_pieces_total", &[]),
        connections: metrics.sum("relay_connections_total", &[]),
    }
}

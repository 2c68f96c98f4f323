//! Calls between two implementations of gRPC: R64. Each proxy speaks HTTP/2 on both sides.

use std::time::Duration;

use mesh_tests::interop::{Tally, both, grpcio_server, serve};
use mesh_tests::netns::Proc;
use mesh_tests::yardstick::{Peer, Speaks, Who};

use super::note;
use crate::records::Record;

/// For grpcio's server to listen, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// R64: all cases, in both directions. Each server has a way through the proxy of its own.
pub(super) fn interop(who: Who) -> anyhow::Result<Vec<Record>> {
    let peer = Peer::start(who, Speaks::Http2)?;
    let (grpcio, tonic) = (&peer.front, &peer.polite);
    serve(&tonic.back, tonic.port);
    let server = Proc::spawn(&mut grpcio_server(grpcio.port).command(&grpcio.back));
    server.wait_for_line("listening", SOON);
    let one = |Tally { between, failures, figure }: Tally| {
        failures.iter().for_each(|failure| eprintln!("  {failure}"));
        note(who, 64, between, failures.is_empty(), figure)
    };
    Ok(both(&grpcio.client, grpcio.addr, tonic.addr).map(one).into())
}

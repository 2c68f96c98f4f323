//! Bytes that are not HTTP, or not any more: copied both ways and counted.

use crate::metrics::Connection;
use crate::net::{Stream, copy};

/// Copies until both directions have ended or one side broke, and counts what passed on `connection`.
///
/// In a task of its own, which lasts long and has room for nothing else; `ended` hears of its end, and what it holds ends with
/// it.
pub fn spawn_copy(
    client: Stream,
    upstream: Stream,
    settings: copy::Settings,
    connection: Connection,
    ended: impl FnOnce(copy::End) + Send + 'static,
) {
    tokio::spawn(async move {
        let count = |way, bytes| match way {
            copy::Way::Up => connection.sent(bytes),
            copy::Way::Down => connection.received(bytes),
        };
        let end = copy::copy(client, upstream, settings, count).await;
        connection.close(end.reason());
        ended(end);
    });
}

//! What counting costs, and reading what was counted.

use std::hint::black_box;
use std::time::Instant;

use anyhow::ensure;
use mesh_proxy::metrics::{Direction, Metrics, Settings, Tls};

use crate::meter::Meter;

const SERIES: usize = 1000;

/// One request through its handles; a page.
pub(crate) fn all(meter: &mut Meter) -> anyhow::Result<()> {
    let metrics = Metrics::new(Settings::default());
    let http = metrics.http(Direction::Outbound, "shop/orders:80", Tls::Mutual);
    meter.step("metrics/request", || {
        let now = Instant::now();
        let mut request = http.request(now);
        request.response(200, now);
        request.finish(now);
    });
    let connections = metrics.tcp(Direction::Outbound, "shop/orders:80", Tls::Mutual);
    meter.step("metrics/connection", || drop(black_box(connections.open())));
    let mut targets = 0;
    while series(&metrics) < SERIES {
        targets += 1;
        ensure!(targets < SERIES, "{targets} targets have {} series", series(&metrics));
        let http = metrics.http(Direction::Outbound, &format!("shop/service-{targets}:80"), Tls::Mutual);
        http.request(Instant::now()).finish(Instant::now());
    }
    meter.step(&format!("metrics/render-{SERIES}-series"), || drop(black_box(metrics.render())));
    Ok(())
}

fn series(metrics: &Metrics) -> usize {
    metrics.render().lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count()
}

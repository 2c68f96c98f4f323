//! What is counted, seen through the rendered text.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use super::*;

fn metrics() -> Metrics {
    Metrics::new(Settings::default())
}

/// The value of a series, written as it is rendered; `None` when it is not there.
fn find(text: &str, series: &str) -> Option<f64> {
    text.lines()
        .filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .map(|value| value.parse().unwrap())
        .next()
}

#[track_caller]
fn shows(metrics: &Metrics, series: &str, value: f64) {
    let text = metrics.render();
    let found = find(&text, series);
    assert!(found.is_some_and(|found| (found - value).abs() < 1e-9), "{series} {found:?}:\n{text}");
}

/// The sum over all series of a family.
fn sum(text: &str, family: &str) -> f64 {
    let lines = text.lines().filter_map(|line| line.strip_prefix(family)?.strip_prefix('{'));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

/// Series in the text, without those of the process.
fn series(text: &str) -> usize {
    let comment = |line: &&str| line.is_empty() || line.starts_with('#');
    text.lines().filter(|line| !comment(line) && !line.starts_with("process_")).count()
}

const WEB: &str = r#"direction="outbound",target="demo/web:80",tls="mutual""#;

fn web(metrics: &Metrics) -> Arc<Http> {
    metrics.http(Direction::Outbound, "demo/web:80", Tls::Mutual)
}

/// Uses every method at least once.
fn populated() -> Metrics {
    let metrics = metrics();
    let now = Instant::now();
    for (direction, tls) in
        [(Direction::Inbound, Tls::Mutual), (Direction::Inbound, Tls::None), (Direction::Outbound, Tls::Foreign)]
    {
        let http = metrics.http(direction, "demo/web:80", tls);
        for status in [101, 200, 204, 302, 404, 503, 777] {
            let mut request = http.request(now);
            request.response(status, now + Duration::from_micros(150));
            request.grpc(status % 20);
            request.finish(now + Duration::from_millis(3));
        }
        drop(http.request(now));
        let connection = metrics.tcp(direction, "demo/db:5432", tls).open();
        connection.sent(100);
        connection.received(1000);
        connection.close("eof");
        metrics.error(direction, "connect_failed");
        metrics.detected(direction, "server_first");
        metrics.handshake(direction, "ok");
        metrics.foreign_sni(direction, Some("web.example"));
        metrics.foreign_sni(direction, None);
        metrics.refused(direction, "loop");
        metrics.http2_abuse(direction, "protocol_error");
        metrics.accept_error(direction);
    }
    metrics.healthy(true);
    metrics.health_check("ok");
    metrics.fault("delay");
    metrics.mirrored("answered");
    let balancer = metrics.balancer("demo/web:80");
    balancer.endpoints(2, 1);
    balancer.retry("connect_failed");
    balancer.retry_result("attempted");
    balancer.timeouts().count("request");
    for zone in [Zone::Local, Zone::Other] {
        balancer.zones().request(zone);
        balancer.zones().sent(zone, 10);
        balancer.zones().received(zone, 100);
    }
    metrics.identity().certified(SystemTime::now());
    metrics.identity().renewal("ok");
    metrics.identity().trust_bundle_updated();
    let discovery = metrics.discovery();
    discovery.connected(true);
    discovery.update("endpoints");
    discovery.rejected();
    discovery.subscriptions("endpoints", 3);
    metrics
}

#[test]
fn promtool_finds_nothing_in_a_populated_rendering() {
    let text = populated().render();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&said));
    assert_eq!(String::from_utf8_lossy(&said), "", "{text}");
}

#[test]
fn every_family_is_rendered_with_its_help_and_type() {
    let text = populated().render();
    let mut names = BTreeSet::new();
    for family in family::ALL {
        assert!(names.insert(family.name), "{} twice", family.name);
        let kind = format!("{:?}", family.kind).to_lowercase();
        assert!(text.contains(&format!("# TYPE {} {kind}\n", family.name)), "{}", family.name);
        let help = format!("# HELP {} {}\n", family.name, family.help);
        assert!(text.contains(&help), "{help}");
    }
}

#[test]
fn a_finished_request_is_counted_with_its_status_and_times() {
    let metrics = metrics();
    let begin = Instant::now();
    let mut request = web(&metrics).request(begin);
    shows(&metrics, &format!("mesh_http_requests_total{{{WEB}}}"), 1.0);
    shows(&metrics, &format!("mesh_http_requests_in_flight{{{WEB}}}"), 1.0);
    request.response(200, begin + Duration::from_millis(2));
    request.finish(begin + Duration::from_millis(30));
    let status = r#"status="200",class="2xx",end="complete""#;
    shows(&metrics, &format!("mesh_http_responses_total{{{WEB},{status}}}"), 1.0);
    shows(&metrics, &format!("mesh_http_requests_in_flight{{{WEB}}}"), 0.0);
    shows(&metrics, &format!("mesh_http_first_byte_seconds_sum{{{WEB}}}"), 0.002);
    shows(&metrics, &format!("mesh_http_first_byte_seconds_bucket{{{WEB},le=\"0.001\"}}"), 0.0);
    shows(&metrics, &format!("mesh_http_first_byte_seconds_bucket{{{WEB},le=\"0.0025\"}}"), 1.0);
    shows(&metrics, &format!("mesh_http_response_duration_seconds_sum{{{WEB}}}"), 0.03);
    shows(&metrics, &format!("mesh_http_response_duration_seconds_bucket{{{WEB},le=\"+Inf\"}}"), 1.0);
}

#[test]
fn a_dropped_request_is_counted_as_cut_with_what_was_seen() {
    let metrics = metrics();
    let now = Instant::now();
    drop(web(&metrics).request(now));
    let mut request = web(&metrics).request(now);
    request.response(206, now);
    drop(request);
    let none = r#"status="none",class="none",end="cut""#;
    let partial = r#"status="206",class="2xx",end="cut""#;
    shows(&metrics, &format!("mesh_http_responses_total{{{WEB},{none}}}"), 1.0);
    shows(&metrics, &format!("mesh_http_responses_total{{{WEB},{partial}}}"), 1.0);
    shows(&metrics, &format!("mesh_http_requests_in_flight{{{WEB}}}"), 0.0);
    // The one without a response has no duration of one.
    shows(&metrics, &format!("mesh_http_response_duration_seconds_count{{{WEB}}}"), 1.0);
}

#[test]
fn interim_responses_are_neither_first_byte_nor_status() {
    let metrics = metrics();
    let begin = Instant::now();
    let mut request = web(&metrics).request(begin);
    request.response(100, begin);
    request.response(103, begin);
    request.response(200, begin + Duration::from_secs(1));
    request.finish(begin + Duration::from_secs(1));
    shows(&metrics, &format!("mesh_http_first_byte_seconds_sum{{{WEB}}}"), 1.0);
    shows(&metrics, &format!("mesh_http_first_byte_seconds_count{{{WEB}}}"), 1.0);
    let mut upgrade = web(&metrics).request(begin);
    upgrade.response(101, begin);
    upgrade.finish(begin);
    let switching = r#"status="101",class="1xx",end="complete""#;
    shows(&metrics, &format!("mesh_http_responses_total{{{WEB},{switching}}}"), 1.0);
}

#[test]
fn grpc_statuses_have_their_names() {
    let metrics = metrics();
    let now = Instant::now();
    for status in [0, 14, 14, 16, 17, 999] {
        let mut request = web(&metrics).request(now);
        request.response(200, now);
        request.grpc(status);
        request.finish(now);
    }
    for (name, count) in [("OK", 1.0), ("UNAVAILABLE", 2.0), ("UNAUTHENTICATED", 1.0), ("other", 2.0)] {
        let series = format!("mesh_grpc_responses_total{{{WEB},grpc_status=\"{name}\"}}");
        shows(&metrics, &series, count);
    }
}

#[test]
fn a_target_with_many_statuses_counts_the_rest_by_class() {
    let metrics = metrics();
    let now = Instant::now();
    for _ in 0..2 {
        for status in 100..700 {
            let mut request = web(&metrics).request(now);
            request.response(status, now);
            request.finish(now);
        }
    }
    let text = metrics.render();
    assert!((sum(&text, "mesh_http_responses_total") - 1200.0).abs() < 0.1, "{text}");
    let lines = text.lines().filter(|line| line.starts_with("mesh_http_responses_total{")).count();
    assert!(lines <= 16 + 7, "{lines} series:\n{text}");
    let rest = r#"status="other",class="5xx",end="complete""#;
    assert_eq!(find(&text, &format!("mesh_http_responses_total{{{WEB},{rest}}}")), Some(200.0));
}

#[test]
fn opaque_connections_are_counted_with_bytes_and_reasons() {
    let metrics = metrics();
    let tcp = metrics.tcp(Direction::Outbound, "demo/web:80", Tls::Mutual);
    let first = tcp.open();
    let second = tcp.open();
    first.sent(10);
    first.received(7);
    second.received(1);
    shows(&metrics, &format!("mesh_tcp_connections_open{{{WEB}}}"), 2.0);
    first.close("eof");
    drop(second);
    shows(&metrics, &format!("mesh_tcp_connections_open{{{WEB}}}"), 0.0);
    shows(&metrics, &format!("mesh_tcp_connections_opened_total{{{WEB}}}"), 2.0);
    shows(&metrics, &format!("mesh_tcp_sent_bytes_total{{{WEB}}}"), 10.0);
    shows(&metrics, &format!("mesh_tcp_received_bytes_total{{{WEB}}}"), 8.0);
    shows(&metrics, &format!("mesh_tcp_connections_closed_total{{{WEB},reason=\"eof\"}}"), 1.0);
    shows(&metrics, &format!("mesh_tcp_connections_closed_total{{{WEB},reason=\"cut\"}}"), 1.0);
}

#[test]
fn r36_targets_beyond_the_cap_count_as_overflow_and_nothing_is_lost() {
    let metrics = Metrics::new(Settings { max_series: 1000, ..Settings::default() });
    let now = Instant::now();
    for n in 0..10_000 {
        let target = format!("192.0.2.1:{n}");
        let mut request = metrics.http(Direction::Outbound, &target, Tls::None).request(now);
        request.response(200, now);
        request.finish(now);
        metrics.tcp(Direction::Inbound, &target, Tls::None).open().close("eof");
        metrics.balancer(&target).endpoints(3, 0);
    }
    let text = metrics.render();
    let shown = series(&text);
    assert!((900..1100).contains(&shown), "{shown} series");
    assert_eq!(find(&text, "mesh_series"), Some(balancer::float(shown)), "{text}");
    assert!((sum(&text, "mesh_http_responses_total") - 10_000.0).abs() < 0.1);
    assert!((sum(&text, "mesh_tcp_connections_closed_total") - 10_000.0).abs() < 0.1);
    assert!(sum(&text, "mesh_balancer_endpoints").abs() < 0.1);
    let overflow = r#"direction="outbound",target="overflow",tls="none""#;
    let counted = find(&text, &format!("mesh_http_requests_total{{{overflow}}}"));
    assert!(counted.is_some_and(|counted| counted > 9000.0), "{counted:?}");
    assert!(find(&text, "mesh_series_overflow_total").unwrap() > 9000.0);
}

#[test]
fn r36_series_of_targets_that_nobody_uses_end_and_make_room() {
    let idle = Duration::from_secs(120);
    let metrics = Metrics::new(Settings { max_series: 1000, idle });
    let start = Instant::now();
    let bare = series(&metrics.render());
    let fill = |round: u32| {
        for n in 0..100 {
            let target = format!("192.0.2.{round}:{n}");
            drop(metrics.http(Direction::Outbound, &target, Tls::None).request(start));
            metrics.tcp(Direction::Inbound, &target, Tls::None).open().close("eof");
            metrics.balancer(&target).endpoints(3, 0);
        }
    };
    let held = web(&metrics).request(start);
    fill(1);
    let full = series(&metrics.render());
    assert!(full > 900, "{full}");
    // Not before its time, counted from the sweep that found it unused; and a look in between begins it anew.
    metrics.sweep(start);
    metrics.sweep(start + idle / 2);
    drop(metrics.http(Direction::Outbound, "192.0.2.1:0", Tls::None));
    metrics.sweep(start + idle - Duration::from_millis(1));
    assert_eq!(series(&metrics.render()), full);
    metrics.sweep(start + idle);
    let text = metrics.render();
    let kept = r#"direction="outbound",target="192.0.2.1:0",tls="none""#;
    assert_eq!(find(&text, &format!("mesh_http_requests_total{{{kept}}}")), Some(1.0), "{text}");
    assert_eq!(find(&text, &format!("mesh_http_requests_in_flight{{{WEB}}}")), Some(1.0), "in use");
    assert!(!text.contains("192.0.2.1:1\""), "{text}");
    assert_eq!(find(&text, "mesh_series"), Some(balancer::float(series(&text))), "{text}");
    // There is room for as many as before.
    let overflowed = find(&text, "mesh_series_overflow_total");
    fill(2);
    assert!(metrics.render().contains("192.0.2.2:1\""));
    held.finish(start);
    for n in 1..5 {
        metrics.sweep(start + idle * 2 * n);
    }
    let text = metrics.render();
    assert!(series(&text) < bare + 140, "what overflowed stays: {text}");
    assert!(find(&text, "mesh_series_overflow_total") > overflowed);
}

#[test]
fn what_is_counted_by_zone_ends_with_its_target_and_not_before_what_is_on_its_way() {
    let idle = Duration::from_secs(120);
    let metrics = Metrics::new(Settings { idle, ..Settings::default() });
    let start = Instant::now();
    let zones = metrics.balancer("demo/web:80").zones();
    zones.request(Zone::Other);
    let labels = r#"target="demo/web:80",zone="other""#;
    let counted = || find(&metrics.render(), &format!("mesh_zone_requests_total{{{labels}}}"));
    // A body that takes longer than a target is remembered: the series is still the same one.
    metrics.sweep(start);
    metrics.sweep(start + idle);
    metrics.balancer("demo/web:80").zones().request(Zone::Other);
    assert_eq!(counted(), Some(2.0));
    drop(zones);
    metrics.sweep(start + 2 * idle);
    metrics.sweep(start + 3 * idle);
    assert_eq!(counted(), None, "{}", metrics.render());
}

#[test]
fn a_status_that_is_new_beyond_the_cap_is_counted_by_class() {
    let metrics = Metrics::new(Settings { max_series: 80, ..Settings::default() });
    let http = web(&metrics);
    let now = Instant::now();
    for status in 400..500 {
        let mut request = http.request(now);
        request.response(status, now);
        request.finish(now);
    }
    let text = metrics.render();
    assert!((sum(&text, "mesh_http_responses_total") - 100.0).abs() < 0.1, "{text}");
    assert!(series(&text) <= 81, "{text}");
}

#[test]
fn asking_twice_for_a_target_gives_the_same_handles() {
    let metrics = metrics();
    assert!(Arc::ptr_eq(&web(&metrics), &web(&metrics)));
    let inbound = metrics.http(Direction::Inbound, "demo/web:80", Tls::Mutual);
    assert!(!Arc::ptr_eq(&web(&metrics), &inbound));
}

#[test]
fn labels_from_outside_cannot_break_the_text() {
    let metrics = metrics();
    let http = metrics.http(Direction::Outbound, "a\"} 1\nx\\\u{fc}", Tls::None);
    drop(http.request(Instant::now()));
    let clean = r#"direction="outbound",target="a_}_1_x___",tls="none""#;
    shows(&metrics, &format!("mesh_http_requests_total{{{clean}}}"), 1.0);
}

#[test]
fn server_names_are_cleaned_and_at_most_a_hundred_are_told_apart() {
    let metrics = metrics();
    let long = "x".repeat(1000);
    metrics.foreign_sni(Direction::Outbound, Some("WEB.Example"));
    metrics.foreign_sni(Direction::Outbound, Some("web.example"));
    metrics.foreign_sni(Direction::Outbound, Some("a\"\nb"));
    metrics.foreign_sni(Direction::Outbound, Some(&long));
    metrics.foreign_sni(Direction::Inbound, None);
    for n in 0..500 {
        metrics.foreign_sni(Direction::Outbound, Some(&format!("host-{n}.example")));
    }
    let name = "mesh_tls_passthrough_connections_total";
    shows(&metrics, &format!("{name}{{direction=\"outbound\",sni=\"web.example\"}}"), 2.0);
    shows(&metrics, &format!("{name}{{direction=\"outbound\",sni=\"a__b\"}}"), 1.0);
    shows(&metrics, &format!("{name}{{direction=\"outbound\",sni=\"{}\"}}", &long[..253]), 1.0);
    shows(&metrics, &format!("{name}{{direction=\"inbound\",sni=\"\"}}"), 1.0);
    // 100 names, of which web.example, a__b, the long one and none are four.
    shows(&metrics, &format!("{name}{{direction=\"outbound\",sni=\"overflow\"}}"), 404.0);
    metrics.foreign_sni(Direction::Outbound, Some("host-0.example"));
    shows(&metrics, &format!("{name}{{direction=\"outbound\",sni=\"host-0.example\"}}"), 2.0);
}

#[test]
fn balancers_of_one_target_add_up_and_leave_when_dropped() {
    let metrics = metrics();
    let one = metrics.balancer("demo/web:80");
    let two = metrics.balancer("demo/web:80");
    one.endpoints(3, 1);
    two.endpoints(2, 0);
    one.endpoints(2, 2);
    let name = r#"mesh_balancer_endpoints{target="demo/web:80",state="#;
    shows(&metrics, &format!("{name}\"available\"}}"), 4.0);
    shows(&metrics, &format!("{name}\"failing\"}}"), 2.0);
    drop(one);
    shows(&metrics, &format!("{name}\"available\"}}"), 2.0);
    shows(&metrics, &format!("{name}\"failing\"}}"), 0.0);
}

#[test]
fn tunnels_are_open_as_long_as_their_guards() {
    let metrics = metrics();
    let tunnels = metrics.tunnels();
    let connection = tunnels.connection(Direction::Outbound);
    let streams = [tunnels.stream(Direction::Outbound), tunnels.stream(Direction::Outbound)];
    shows(&metrics, r#"mesh_tunnel_connections{direction="outbound"}"#, 1.0);
    shows(&metrics, r#"mesh_tunnel_streams{direction="outbound"}"#, 2.0);
    shows(&metrics, r#"mesh_tunnel_streams{direction="inbound"}"#, 0.0);
    drop((connection, streams));
    shows(&metrics, r#"mesh_tunnel_connections{direction="outbound"}"#, 0.0);
    shows(&metrics, r#"mesh_tunnel_streams{direction="outbound"}"#, 0.0);
}

#[test]
fn reasons_are_counted_apart_per_direction() {
    let metrics = metrics();
    metrics.error(Direction::Inbound, "overload");
    metrics.error(Direction::Inbound, "overload");
    metrics.error(Direction::Inbound, "draining");
    metrics.error(Direction::Outbound, "overload");
    shows(&metrics, r#"mesh_errors_total{direction="inbound",reason="overload"}"#, 2.0);
    shows(&metrics, r#"mesh_errors_total{direction="inbound",reason="draining"}"#, 1.0);
    shows(&metrics, r#"mesh_errors_total{direction="outbound",reason="overload"}"#, 1.0);
}

#[test]
fn two_proxies_of_one_process_do_not_mix() {
    let one = metrics();
    let other = metrics();
    one.error(Direction::Inbound, "loop");
    assert!(!other.render().contains("mesh_errors_total"));
}

#[test]
fn counts_of_threads_that_meet_new_labels_at_once_are_exact() {
    const WORDS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let metrics = metrics();
    let now = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let metrics = &metrics;
            scope.spawn(move || {
                for n in 0..4000 {
                    metrics.error(Direction::Inbound, WORDS[(n + thread) % 8]);
                    let mut request = web(metrics).request(now);
                    request.response(if n % 2 == 0 { 200 } else { 404 }, now);
                    request.finish(now);
                }
            });
        }
    });
    let text = metrics.render();
    for word in WORDS {
        let series = format!("mesh_errors_total{{direction=\"inbound\",reason=\"{word}\"}}");
        assert_eq!(find(&text, &series), Some(4000.0), "{text}");
    }
    let count = find(&text, &format!("mesh_http_response_duration_seconds_count{{{WEB}}}"));
    assert_eq!(count, Some(32_000.0), "{text}");
    for status in [r#"status="200",class="2xx""#, r#"status="404",class="4xx""#] {
        let series = format!("mesh_http_responses_total{{{WEB},{status},end=\"complete\"}}");
        assert_eq!(find(&text, &series), Some(16_000.0), "{text}");
    }
    assert_eq!(find(&text, "mesh_series"), Some(balancer::float(series(&text))), "{text}");
}

#[test]
fn guards_are_small() {
    assert!(size_of::<Request>() <= 32, "{}", size_of::<Request>());
    assert!(size_of::<Connection>() <= 32, "{}", size_of::<Connection>());
    assert!(size_of::<Open>() <= 16, "{}", size_of::<Open>());
    assert!(size_of::<Http>() <= 2048, "{}", size_of::<Http>());
    assert!(size_of::<Tcp>() <= 1024, "{}", size_of::<Tcp>());
}

//! From the environment to each room's own settings. The only place that reads `MESH_*` variables.
//!
//! Invariant: all bad variables are reported together, and nothing starts with one of them.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use mesh_kit::env::{Env, Error, Value};
use mesh_kit::log::{Format, Level};
use mesh_mtls::{certify, spiffe};

use crate::net::connect::LivenessSettings;
use crate::net::{connect, copy, listen};
use crate::resilience::{backoff, idle_cache};
use crate::{balance, control, http, inbound, metrics, outbound, sniff};

/// All settings, each in the shape of the room that it is for.
#[derive(Debug)]
pub struct Config {
    /// Number of worker threads.
    pub workers: usize,
    /// How the kernel schedules them.
    pub scheduling: Scheduling,
    /// Format and level of the log.
    pub log: (Format, String),
    /// Where the application's connections are taken.
    pub outbound_listen: listen::Settings,
    /// Where connections to the application are taken.
    pub inbound_listen: listen::Settings,
    /// Where the admin port listens.
    pub admin_listen: listen::Settings,
    /// PEM file of the trust anchors to begin with.
    pub trust_anchors: PathBuf,
    /// How the certificate is got.
    pub certify: certify::Settings,
    /// Where discovery is.
    pub control: control::Settings,
    /// The workload's namespace and name, and its addresses when the interfaces do not tell.
    pub workload: Workload,
    /// Outbound story.
    pub outbound: outbound::Settings,
    /// Inbound story.
    pub inbound: inbound::Settings,
    /// HTTP limits.
    pub http: http::Settings,
    /// Balancing.
    pub balance: balance::Settings,
    /// Most open connections at a time, of each direction.
    pub max_connections: usize,
    /// Connections to other sidecars and endpoints.
    pub connect_out: connect::Settings,
    /// Connections to the application.
    pub connect_in: connect::Settings,
    /// Series cap.
    pub metrics: metrics::Settings,
    /// Longest time between SIGTERM and the end.
    pub grace: Duration,
}

/// Length of the kernel's accept queues.
const BACKLOG: i32 = 1024;

/// Whom the proxy stands beside.
#[derive(Clone, Debug, Default)]
pub struct Workload {
    /// Kubernetes namespace; empty: the certificate's.
    pub namespace: String,
    /// Name, for logs and status.
    pub name: String,
    /// Own addresses; empty: those of the interfaces.
    pub addresses: Vec<IpAddr>,
}

const PREFIX: &str = "MESH_";
/// The mesh's own as well, whether or not anything listens there: mesh-init exempts it from redirection.
const TAP_PORT: u16 = 4190;

/// Reads the process's environment.
pub fn from_process() -> Result<Config, Vec<Error>> {
    from_env(Env::from_process(PREFIX))
}

/// Reads variables that are given, not the process's. For programs that hold more than one proxy, or less.
pub fn from_vars<N: Into<OsString>, V: Into<OsString>>(
    vars: impl IntoIterator<Item = (N, V)>,
) -> Result<Config, Vec<Error>> {
    from_env(Env::from_vars(PREFIX, vars))
}

fn from_env(mut env: Env) -> Result<Config, Vec<Error>> {
    let config = read(&mut env);
    env.finish()?;
    // `finish` has failed if a required variable was missing.
    config.ok_or_else(Vec::new)
}

/// What `--help` prints of the variables.
pub fn help() -> String {
    let mut env = Env::from_vars::<String, String>(PREFIX, []);
    let _ = read(&mut env);
    env.help()
}

/// How the kernel schedules the sidecar among what else is ready to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduling {
    /// Each worker chooses by what it waits.
    Auto,
    /// Who wakes it runs on until it waits: fewer switches, hence less CPU.
    Batch,
    /// As it was started, which is as most programs unless somebody has chosen: it may stop who runs.
    Other,
}

impl Value for Scheduling {
    const EXPECTED: &'static str = "auto, batch or other";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "batch" => Some(Self::Batch),
            "other" => Some(Self::Other),
            _ => None,
        }
    }
}

struct LogFormat(Format);

impl Value for LogFormat {
    const EXPECTED: &'static str = "plain or json";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "plain" => Some(Self(Format::Plain)),
            "json" => Some(Self(Format::Json)),
            _ => None,
        }
    }
}

struct Addresses(Vec<IpAddr>);

impl Value for Addresses {
    const EXPECTED: &'static str = "IP addresses like 10.0.0.7,fd00::7";

    fn parse(text: &str) -> Option<Self> {
        text.split(',').map(|ip| ip.parse().ok()).collect::<Option<_>>().map(Self)
    }
}

fn read(env: &mut Env) -> Option<Config> {
    let help = "worker threads";
    let workers = count(env, "MESH_WORKERS", "1", 1, 256, help);
    let help = "batch: takes less CPU; other: waits less where all processors are busy; auto: by what it waits";
    let scheduling = env.get("MESH_SCHEDULING", "auto", help);
    let liveness = liveness(env);
    // The application, on this host or in front of an inbound port, may take nothing for as long as it likes.
    let patient = LivenessSettings { user_timeout: None, ..liveness };
    let (connect_out, connect_in) = connect_settings(env, liveness, patient);
    let (outbound_listen, inbound_listen, admin_listen) = listeners(env, workers, patient);
    let own_ports = ports(&[&outbound_listen, &inbound_listen, &admin_listen]);
    let tunnel_port = inbound_listen.addrs.first().map_or(4143, SocketAddr::port);
    let control_plane = control_plane(env);
    let workload = workload(env);
    let (outbound, inbound) = stories(env, own_ports, (tunnel_port, liveness));
    let http = http_settings(env);
    let balance = balance_settings(env);
    let log = log_settings(env);
    let help = "beyond so many series new targets are counted together";
    let max_series = count(env, "MESH_METRICS_MAX_SERIES", "4000", 100, 1_000_000, help);
    let help = "most connections at a time that are accepted of each direction; more are refused";
    let max_connections = count(env, "MESH_MAX_CONNECTIONS", "10000", 1, 1_000_000, help);
    let help = "series of targets that nobody has used for so long end, and make room for others";
    let idle = seconds(env, "MESH_METRICS_IDLE", "2m", help);
    let grace = seconds(env, "MESH_SHUTDOWN_GRACE", "30s", "longest time from SIGTERM to the end");
    let (certify, control, trust_anchors) = control_plane?;
    Some(Config {
        workers,
        scheduling,
        log,
        outbound_listen,
        inbound_listen,
        admin_listen,
        trust_anchors,
        certify,
        // Each worker holds its own; the slack is for those that are in use beyond its cache.
        control: control::Settings { max_targets: outbound.targets.most * workers + 1000, ..control },
        workload,
        outbound,
        inbound,
        http,
        balance,
        max_connections,
        connect_out,
        connect_in,
        metrics: metrics::Settings { max_series, idle },
        grace,
    })
}

fn listeners(
    env: &mut Env,
    workers: usize,
    liveness: LivenessSettings,
) -> (listen::Settings, listen::Settings, listen::Settings) {
    let shared = |addrs| listen::Settings { addrs, backlog: BACKLOG, workers, liveness };
    let help = "takes the application's own connections, redirected by mesh-init";
    let outbound = env.get("MESH_OUTBOUND_LISTEN", "127.0.0.1:4140,[::1]:4140", help);
    let help = "takes connections to the application, and tunnels from other sidecars";
    let inbound = env.get("MESH_INBOUND_LISTEN", "0.0.0.0:4143,[::]:4143", help);
    let help = "health and metrics for everybody, state and control for loopback";
    let admin = env.get("MESH_ADMIN_LISTEN", "0.0.0.0:4191,[::]:4191", help);
    (shared(outbound), shared(inbound), listen::Settings { workers: 1, ..shared(admin) })
}

fn control_plane(env: &mut Env) -> Option<(certify::Settings, control::Settings, PathBuf)> {
    let identity = service(env, "MESH_IDENTITY_ADDR", "MESH_IDENTITY_ID", "identity");
    let help = "file with the token that says who this workload is";
    let token_file: Option<PathBuf> = env.required("MESH_TOKEN_FILE", help);
    let help = "PEM file of the trust anchors to begin with; later ones come from identity";
    let trust_anchors: Option<PathBuf> = env.required("MESH_TRUST_ANCHORS", help);
    let destination = service(env, "MESH_DESTINATION_ADDR", "MESH_DESTINATION_ID", "destination");
    let ((identity_addr, identity_id), (destination_addr, destination_id)) = (identity?, destination?);
    Some((
        certify::Settings::new(identity_addr, identity_id, token_file?),
        control::Settings::new(destination_addr, destination_id),
        trust_anchors?,
    ))
}

fn workload(env: &mut Env) -> Workload {
    let help = "the workload's namespace; else the certificate's";
    let namespace = env.optional("MESH_NAMESPACE", help).unwrap_or_default();
    let name = env.optional("MESH_WORKLOAD", "the workload's name, for logs and status").unwrap_or_default();
    let help = "the workload's own addresses; else those of its interfaces";
    let addresses = env.optional::<Addresses>("MESH_ADDRESSES", help);
    Workload { namespace, name, addresses: addresses.map(|addresses| addresses.0).unwrap_or_default() }
}

fn stories(
    env: &mut Env,
    own_ports: Vec<u16>,
    (tunnel_port, tunnel_liveness): (u16, LivenessSettings),
) -> (outbound::Settings, inbound::Settings) {
    let help = "a client silent for so long gets its upstream connection; then the first speaker decides";
    let silence = millis(env, "MESH_DETECT_SILENCE", "20ms", 1, 10_000, help);
    let help = "from a client's first byte to one that decides; then it is opaque";
    let sniff = sniff::Settings { silence, decide: seconds(env, "MESH_DETECT_DECIDE", "10s", help) };
    let help = "silence allowed once one direction has ended";
    let copy = copy::Settings { half_closed: seconds(env, "MESH_HALF_CLOSED_TIMEOUT", "5m", help), idle: None };
    let most = count(env, "MESH_MAX_TARGETS", "10000", 1, 1_000_000, "most destinations known at a time");
    let idle = seconds(env, "MESH_TARGET_IDLE", "5m", "a destination not dialed for so long is let go");
    let targets = idle_cache::Settings { most, idle };
    let help = "a new destination waits so long for discovery, then it is passed through as it is";
    let discovery_wait = millis(env, "MESH_DISCOVERY_WAIT", "500ms", 0, 60_000, help);
    (
        outbound::Settings { discovery_wait, targets, own_ports: own_ports.clone(), sniff: sniff.clone(), copy },
        inbound::Settings { tunnel_port, tunnel_liveness, own_ports, apps: targets, sniff, copy },
    )
}

fn log_settings(env: &mut Env) -> (Format, String) {
    let format = env.get::<LogFormat>("MESH_LOG_FORMAT", "plain", "form of the log lines on stderr").0;
    let expected = "a level (off, error, warn, info, debug, trace) with exceptions like h2=warn";
    let level = |text: &str| text.parse::<Level>().ok().map(|_| text.to_owned());
    (format, env.get_with("MESH_LOG", "info", expected, "what is logged", level))
}

fn http_settings(env: &mut Env) -> http::Settings {
    http::Settings {
        head_timeout: seconds(env, "MESH_HTTP_HEAD_TIMEOUT", "10s", "from the first byte of a request head to its end"),
        idle_timeout: seconds(
            env,
            "MESH_HTTP_IDLE_TIMEOUT",
            "1h",
            "an HTTP/1 connection without a request is closed after this",
        ),
        stall_timeout: seconds(
            env,
            "MESH_HTTP_STALL_TIMEOUT",
            "5m",
            "an exchange whose client neither sends the rest of its request nor takes any of the answer ends after this",
        ),
        max_head: count(env, "MESH_HTTP_MAX_HEAD", "61440", 8192, 1 << 20, "largest request or response head, bytes"),
        max_headers: count(env, "MESH_HTTP_MAX_HEADERS", "100", 10, 1000, "most header fields in an HTTP/1 head"),
        max_streams: count(env, "MESH_HTTP_MAX_STREAMS", "200", 1, 10_000, "most open streams on an HTTP/2 connection")
            .try_into()
            .unwrap_or(200),
        stream_window: 64 * 1024 - 1,
        tunnel_stream_window: 300 * 1024,
        app_stream_window: 75 * 1024,
        connection_window: 1 << 20,
        send_buffer: 64 * 1024,
        tunnel_send_buffer: 120 * 1024,
        pool_idle: seconds(
            env,
            "MESH_HTTP_POOL_IDLE",
            "3s",
            "how long an unused HTTP/1 connection to an application is kept",
        ),
        pool_size: count(
            env,
            "MESH_HTTP_POOL_SIZE",
            "64",
            0,
            10_000,
            "most unused HTTP/1 connections kept per application",
        ),
        continue_wait: seconds(
            env,
            "MESH_HTTP_CONTINUE_WAIT",
            "1s",
            "a body held back by expect: 100-continue is sent after this all the same",
        ),
        response_timeout: seconds(
            env,
            "MESH_RESPONSE_TIMEOUT",
            "5m",
            "from the end of a request to the head of its response; gRPC calls have their own deadlines",
        ),
        open_timeout: millis(
            env,
            "MESH_TUNNEL_TIMEOUT",
            "3s",
            1,
            60_000,
            "to set up a connection to another sidecar, and to open a byte stream through it",
        ),
        tunnel_age: seconds(env, "MESH_TUNNEL_AGE", "12h", "a tunnel from another sidecar is renewed after this"),
        drain_linger: seconds(
            env,
            "MESH_DRAIN_LINGER",
            "2s",
            "how long idle HTTP/1 connections may make a last request at shutdown",
        ),
    }
}

fn balance_settings(env: &mut Env) -> balance::Settings {
    balance::Settings {
        initial_latency: millis(
            env,
            "MESH_BALANCE_INITIAL_LATENCY",
            "30ms",
            1,
            60_000,
            "latency that a new endpoint is credited with",
        ),
        decay: seconds(env, "MESH_BALANCE_DECAY", "10s", "time in which an observed latency loses its weight"),
        reconnect: backoff::Settings {
            min: millis(
                env,
                "MESH_RECONNECT_MIN",
                "100ms",
                1,
                60_000,
                "first pause before a failed endpoint is tried again",
            ),
            max: seconds(env, "MESH_RECONNECT_MAX", "3s", "longest such pause"),
        },
        tries: count(
            env,
            "MESH_BALANCE_TRIES",
            "3",
            1,
            100,
            "most endpoints that one request or connection is tried on",
        ),
    }
}

fn liveness(env: &mut Env) -> LivenessSettings {
    let keepalive = seconds(env, "MESH_TCP_KEEPALIVE", "10s", "silence before the first TCP keep-alive probe");
    let help = "how long another host may leave sent data unacknowledged, or a plain endpoint take nothing";
    let user_timeout = seconds(env, "MESH_TCP_USER_TIMEOUT", "20s", help);
    LivenessSettings { keepalive, user_timeout: Some(user_timeout) }
}

fn connect_settings(
    env: &mut Env,
    others: LivenessSettings,
    application: LivenessSettings,
) -> (connect::Settings, connect::Settings) {
    let help = "to connect to another sidecar or endpoint";
    let out = millis(env, "MESH_OUTBOUND_CONNECT_TIMEOUT", "1s", 1, 60_000, help);
    let inb = millis(env, "MESH_INBOUND_CONNECT_TIMEOUT", "300ms", 1, 60_000, "to connect to the application");
    let settings = |timeout, liveness| connect::Settings { timeout, liveness };
    (settings(out, others), settings(inb, application))
}

/// Address and identity of a control-plane service.
fn service(env: &mut Env, addr: &'static str, id: &'static str, name: &'static str) -> Option<(String, spiffe::Id)> {
    let help = if name == "identity" { "host:port of mesh-identity" } else { "host:port of mesh-destination" };
    let at: Option<HostPort> = env.required(addr, help);
    let default = format!("spiffe://cluster.local/ns/mesh-system/sa/{name}");
    let id = env.get_with(id, &default, "a SPIFFE id", "who it must prove to be", |text| text.parse().ok());
    Some((at?.0, id))
}

struct HostPort(String);

impl Value for HostPort {
    const EXPECTED: &'static str = "host:port";

    fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':').filter(|(host, _)| host.bytes().all(|b| b.is_ascii_graphic()))?;
        let port: u16 = port.parse().ok()?;
        (!host.is_empty() && port > 0).then(|| Self(text.to_owned()))
    }
}

fn ports(listeners: &[&listen::Settings]) -> Vec<u16> {
    let listening = listeners.iter().flat_map(|l| l.addrs.iter().map(SocketAddr::port));
    let mut ports: Vec<u16> = listening.chain([TAP_PORT]).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn count(env: &mut Env, name: &'static str, default: &str, least: u64, most: u64, help: &'static str) -> usize {
    usize::try_from(env.count(name, default, least..=most, help)).unwrap_or(usize::MAX)
}

fn millis(env: &mut Env, name: &'static str, default: &str, least: u64, most: u64, help: &'static str) -> Duration {
    env.duration(name, default, Duration::from_millis(least)..=Duration::from_millis(most), help)
}

fn seconds(env: &mut Env, name: &'static str, default: &str, help: &'static str) -> Duration {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    env.duration(name, default, Duration::from_millis(1)..=DAY, help)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 4] = [
        ("MESH_IDENTITY_ADDR", "identity:8080"),
        ("MESH_DESTINATION_ADDR", "destination:8086"),
        ("MESH_TRUST_ANCHORS", "/anchors.pem"),
        ("MESH_TOKEN_FILE", "/token"),
    ];

    fn errors(vars: &[(&str, &str)]) -> Vec<String> {
        let mut env = Env::from_vars(PREFIX, vars.iter().copied());
        let _ = read(&mut env);
        env.finish().err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn four_variables_are_enough() {
        assert_eq!(errors(&GOOD), [""; 0]);
    }

    #[test]
    fn r36_with_the_defaults_idle_series_are_gone_within_ten_minutes() {
        let config = from_vars(GOOD.map(|(name, value)| (name, value.to_owned()))).unwrap();
        // A sweep each minute lets go of the target first, and of its series later.
        let sweeps = Duration::from_mins(2);
        assert!(config.outbound.targets.idle + config.metrics.idle + sweeps <= Duration::from_mins(10));
    }

    #[test]
    fn every_bad_variable_is_named_at_once() {
        let bad = [("MESH_WORKERS", "0"), ("MESH_SHUTDOWN_GRACE", "soon"), ("MESH_INBOUND_LISTEN", "4143")];
        let errors = errors(&[&GOOD[1..], &bad].concat());
        for name in ["MESH_IDENTITY_ADDR", "MESH_WORKERS", "MESH_SHUTDOWN_GRACE", "MESH_INBOUND_LISTEN"] {
            assert_eq!(errors.iter().filter(|error| error.contains(name)).count(), 1, "{name} in {errors:#?}");
        }
    }

    #[test]
    fn help_lists_every_variable_with_its_default() {
        let help = help();
        assert!(help.contains("MESH_OUTBOUND_LISTEN=127.0.0.1:4140,[::1]:4140"), "{help}");
        assert!(help.contains("MESH_TOKEN_FILE"), "{help}");
    }
}

//! `--verify`: proves what holds, names what does not, and leaves nothing behind.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use mesh_tests::bin;
use mesh_tests::netns::{Host, Net, Proc, until};
use nix::sys::signal::Signal;

use crate::{apply, mesh_init, rules, run};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn rules_that_are_in_force_are_proved_and_nothing_is_left_behind() {
    let net = Net::new();
    for backend in ["nft", "legacy"] {
        let host = net.host(backend);
        let args = format!("--backend {backend} --skip-inbound-ports 60000-65535 --skip-subnets 192.0.2.0/24");
        apply(&host, &args);
        let before = (rules(&host), devices(&host));
        let said = apply(&host, &format!("{args} --verify")).stderr;
        assert!(said.contains("verified V4") && said.contains("verified V6"), "{said}");
        assert_eq!((rules(&host), devices(&host)), before);
    }
}

#[test]
fn a_host_without_any_route_is_proved() {
    let net = Net::new();
    let host = net.host("workload");
    assert_eq!(run(host.command("ip").args(["link", "delete", "eth0"])).code, Some(0));
    apply(&host, "");
    apply(&host, "--verify");
}

#[test]
fn a_running_proxy_is_proved_by_the_connections_that_it_gets() {
    let net = Net::new();
    let host = net.host("workload");
    apply(&host, "");
    // Dual stack on the inbound port: IPv4 clients have mapped addresses there.
    let listeners = ["[::]:4143", "127.0.0.1:4140", "[::1]:4140"];
    let _proxy = host.enter(|| listeners.map(|address| TcpListener::bind(address).unwrap()));
    apply(&host, "--verify");
    assert_eq!(run(host.command("iptables-nft").args(["-t", "nat", "-F", "PREROUTING"])).code, Some(0));
    refused(&host, "inbound");
}

#[test]
fn each_missing_piece_is_named() {
    let net = Net::new();
    let none = net.host("none");
    refused(&none, "was not redirected; run mesh-init");

    for (rule, told) in [
        ("-D OUTPUT 1", "outbound 192.0.2.1"),
        ("-D PREROUTING 1", "inbound 192.0.2.2"),
        ("-D MESH_OUTBOUND 1", "user 2102 (the proxy) is redirected"),
        ("-I MESH_OUTBOUND 3 -p tcp -j REDIRECT --to-ports 4999", "nobody listens"),
    ] {
        for family in ["iptables", "ip6tables"] {
            let host = net.host(&format!("{family}{}", rule.replace([' ', '-'], "")));
            apply(&host, "");
            let spec = format!("-t nat {rule}");
            assert_eq!(run(host.command(format!("{family}-nft")).args(spec.split(' '))).code, Some(0), "{rule}");
            refused(&host, if family == "iptables" { told } else { "" });
        }
    }
}

#[test]
fn the_missing_right_to_act_as_the_proxy_is_not_taken_for_a_missing_rule() {
    let net = Net::new();
    let host = net.host("workload");
    apply(&host, "");
    let mut command = host.command("setpriv");
    command.args(["--bounding-set=-setuid", "--inh-caps=-setuid"]).arg(bin("mesh-init")).arg("--verify");
    let ran = run(&mut command);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("CAP_SETUID") && !ran.stderr.contains("is redirected"), "{ran:?}");
}

#[test]
fn a_firewall_is_told_within_seconds() {
    let net = Net::new();
    let host = firewalled(&net);
    let start = Instant::now();
    refused(&host, "firewall");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn a_killed_verification_leaves_nothing_behind() {
    let net = Net::new();
    let host = firewalled(&net);
    let before = (rules(&host), devices(&host));
    let mut verification = Proc::spawn(&mut mesh_init(&host, "--verify"));
    until(SOON, || devices(&host).contains("mesh-verify"));
    verification.signal(Signal::SIGKILL);
    verification.wait(SOON);
    until(SOON, || devices(&host) == before.1);
    assert_eq!(rules(&host), before.0);
}

/// Where what is redirected inbound is dropped, so that verification has to wait.
fn firewalled(net: &Net) -> Host {
    let host = net.host("workload");
    apply(&host, "");
    let drop = "-A INPUT -p tcp --dport 4143 -j DROP";
    assert_eq!(run(host.command("iptables-nft").args(drop.split(' '))).code, Some(0));
    host
}

fn refused(host: &Host, told: &str) {
    let before = (rules(host), devices(host));
    let ran = run(&mut mesh_init(host, "--verify"));
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains(told), "{told:?} is not told: {ran:?}");
    assert_eq!((rules(host), devices(host)), before);
}

/// Names and addresses of all devices.
fn devices(host: &Host) -> String {
    run(host.command("ip").args(["-brief", "address"])).stdout
}

//! Start, first start, end, and what the admin port says.
//!
//! Invariant: exit statuses are those of the README. Non-goal: the admin server itself, which has tests of its own.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::process::Command;

use mesh_proto::identity::TrustBundleRequest;
use mesh_tests::netns::{Net, Proc, until};
use mesh_tests::{bin, promtool};
use nix::sys::signal::Signal;

use crate::openssl::{self, CA};
use crate::server::{Home, SOON, WEB, certify, plain_csr};

#[tokio::test]
async fn a_first_start_makes_a_ca_with_private_keys_and_a_second_one_uses_it() {
    let home = Home::new();
    let (token, csr) = (home.token(WEB), plain_csr(WEB));
    drop(home.start(&[]));
    for key in ["ca/root.key", "ca/issuer.key", "tokens"] {
        assert_eq!(fs::metadata(home.path(key)).unwrap().permissions().mode() & 0o7777, 0o600, "{key}");
    }
    let before = fs::read(home.path("ca/anchors.pem")).unwrap();
    let server = home.start(&[]);
    assert_eq!(fs::read(home.path("ca/anchors.pem")).unwrap(), before);
    certify(&mut server.client(), &token, WEB, &csr).await.unwrap();
}

// The client must be able to answer the goodbye while the test waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sigterm_ends_open_streams_and_the_process() {
    let home = Home::new();
    let mut server = home.start(&[]);
    let mut client = server.client();
    let mut bundles = client.trust_bundle(TrustBundleRequest {}).await.unwrap().into_inner();
    bundles.message().await.unwrap().expect("the first bundle");
    server.process.signal(Signal::SIGTERM);
    assert!(matches!(bundles.message().await, Ok(None) | Err(_)), "the stream ends");
    let status = server.process.wait(SOON);
    assert!(status.success(), "{status}: {}", server.process.output());
}

#[tokio::test]
async fn health_and_metrics_are_as_prometheus_likes_them() {
    let home = Home::new();
    let (token, csr) = (home.token(WEB), plain_csr(WEB));
    let server = home.start(&[]);
    let mut client = server.client();
    certify(&mut client, &token, WEB, &csr).await.unwrap();
    certify(&mut client, "wrong", WEB, &csr).await.unwrap_err();
    let _bundles = client.trust_bundle(TrustBundleRequest {}).await.unwrap();
    assert_eq!(server.get("/live"), (200, "live\n".to_owned()));
    assert_eq!(server.get("/ready"), (200, "ready\n".to_owned()));
    assert_eq!(promtool::findings(&server.metrics()), "");
    for gauge in ["issuer_not_after_timestamp_seconds", "anchor_not_after_timestamp_seconds", "connections"] {
        assert!(server.metric(&format!("mesh_identity_{gauge}")) > 0.0, "{gauge}:\n{}", server.metrics());
    }
}

#[test]
fn a_folder_and_a_tokens_file_are_all_that_it_needs() {
    let (home, net) = (Home::new(), Net::new());
    let host = net.host("identity"); // the default ports are taken in a namespace of their own
    let mut command = host.command(bin("mesh-identity"));
    command.arg("--tokens").arg(home.path("tokens")).arg("--init-dir").arg(home.path("ca"));
    let mut process = Proc::spawn(&mut command);
    let line = process.wait_for_line(" serving ", SOON);
    assert!(line.contains("listen=0.0.0.0:8080") && line.contains("admin=0.0.0.0:9990"), "{line}");
    process.signal(Signal::SIGTERM);
    assert!(process.wait(SOON).success(), "{}", process.output());
}

#[test]
fn a_tokens_file_that_hangs_does_not_hold_the_end_up() {
    let home = Home::new();
    home.token(WEB);
    let mut server = home.start(&[]);
    let fifo = home.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::rename(&fifo, home.path("tokens")).unwrap();
    // A FIFO opens for writing, without waiting, once somebody waits for a writer.
    let mut writer = None;
    until(SOON, || {
        let no_waiting = nix::fcntl::OFlag::O_NONBLOCK.bits();
        writer = OpenOptions::new().write(true).custom_flags(no_waiting).open(home.path("tokens")).ok();
        writer.is_some()
    });
    server.process.signal(Signal::SIGTERM);
    let status = server.process.wait(SOON); // it reads until the writer closes
    assert!(status.success(), "{status}: {}", server.process.output());
    drop(writer);
}

#[test]
fn bad_command_lines_and_unfit_files_end_with_one_reason() {
    let home = Home::new();
    home.token(WEB);
    openssl::ca(home.dir(), "root", None, CA);
    openssl::expired_ca(home.dir(), "issuer", "root");
    let at = |name: &str| home.path(name).to_str().unwrap().to_owned();
    let (tokens, ca, root, issuer, key) = (at("tokens"), at("ca"), at("root.pem"), at("issuer.pem"), at("issuer.key"));
    let files = ["--anchors", &root, "--issuer-cert", &issuer, "--issuer-key", &key, "--tokens", &tokens];
    let unreadable = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--init-dir", &ca, "--tokens", &ca];
    let cases: [(&[&str], i32, &str); 6] = [
        (&unreadable, 1, "tokens file"),
        (&[], 64, "required"),
        (&["--tokens", &tokens], 64, "required"),
        (&["--tokens", &tokens, "--init-dir", &ca, "--leaf-lifetime", "1y"], 64, "--leaf-lifetime"),
        (&files, 1, "expired"),
        (&["token", "add", "--tokens", "/dev/null/x", "--id", WEB], 1, "tokens file"),
    ];
    for (args, status, reason) in cases {
        let mut command = Command::new(bin("mesh-identity"));
        command.args(args);
        if args == files {
            command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        }
        let mut process = Proc::spawn(&mut command);
        assert_eq!(process.wait(SOON).code(), Some(status), "{args:?}");
        process.wait_for_line(reason, SOON);
    }
}

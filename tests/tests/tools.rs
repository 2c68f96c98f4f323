//! curl and h2load through two sidecars: clients that are not ours and forgive nothing.
//!
//! Invariant: one mesh; every case is tried, and all that fail are reported together.
//! Non-goal: speed.

use std::net::SocketAddr;
use std::process::{Command, Output};

use mesh_tests::mesh::{App, Mesh};
use mesh_tests::netns::Host;

struct Case {
    name: &'static str,
    /// After `curl --silent --show-error --max-time 20`; `URL` stands for the service, `BODY` for a file of 2 MB.
    args: &'static [&'static str],
    /// In what curl prints, with `code=.. version=.. size=..` at the end.
    expect: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case { name: "HTTP/1.1", args: &["URL/headers"], expect: &["\"version\":\"HTTP/1.1\"", "code=200 version=1.1"] },
    Case { name: "HTTP/1.0", args: &["-0", "URL/"], expect: &["\"version\":\"HTTP/1.", "code=200"] },
    Case {
        name: "HTTP/1.0 reads to the end",
        args: &["-0", "URL/chunked?n=7&size=9"],
        expect: &["code=200", "size=63"],
    },
    Case {
        name: "HTTP/2 with prior knowledge",
        args: &["--http2-prior-knowledge", "URL/headers"],
        expect: &["\"version\":\"HTTP/2.0\"", "code=200 version=2"],
    },
    Case { name: "HEAD", args: &["--head", "URL/bytes?n=12345"], expect: &["content-length: 12345", "code=200"] },
    Case {
        name: "HEAD over HTTP/2",
        args: &["--http2-prior-knowledge", "--head", "URL/bytes?n=12345"],
        expect: &["content-length: 12345", "code=200"],
    },
    Case {
        name: "a large POST that waits for 100 Continue",
        args: &["-i", "--expect100-timeout", "15", "--data-binary", "@BODY", "URL/continue"],
        expect: &["HTTP/1.1 100 Continue", "2000000", "code=200"],
    },
    Case {
        name: "a large POST that is refused before its body",
        args: &["-i", "--expect100-timeout", "15", "--data-binary", "@BODY", "URL/continue?reject"],
        // The connection ends with it, as the body was never read; curl must be told, or else it goes on using it.
        expect: &["417 Expectation Failed", "connection: close", "code=417"],
    },
    Case {
        name: "a chunked upload",
        args: &["-H", "transfer-encoding: chunked", "--data-binary", "@BODY", "URL/count"],
        expect: &["2000000", "code=200"],
    },
    Case {
        name: "an upload that comes back",
        args: &["-o", "/dev/null", "-T", "BODY", "URL/echo"],
        expect: &["code=200", "size=2000000"],
    },
    Case {
        name: "an upload over HTTP/2 that comes back",
        args: &["--http2-prior-knowledge", "-o", "/dev/null", "-T", "BODY", "URL/echo"],
        expect: &["code=200 version=2 size=2000000"],
    },
    Case {
        name: "103 before the answer",
        args: &["-i", "URL/early-hints"],
        expect: &["103 Early Hints", "after the hints"],
    },
    Case { name: "no content", args: &["-i", "URL/status/204"], expect: &["204 No Content", "code=204", "size=0"] },
    Case { name: "a status of the app's own", args: &["URL/status/599"], expect: &["code=599"] },
    Case { name: "a server that closes", args: &["-i", "URL/?close"], expect: &["code=200"] },
    Case {
        name: "two requests on one connection",
        args: &["URL/", "--next", "--silent", "-w", "connects=%{num_connects}", "URL/"],
        expect: &["connects=0"],
    },
    Case {
        name: "trailers",
        args: &["--raw", "-i", "-H", "te: trailers", "URL/trailers"],
        expect: &["x-digest: 0123abcd", "code=200"],
    },
];

fn curl(host: &Host, addr: SocketAddr, case: &Case, body: &str) -> Result<(), String> {
    let mut command = host.command("curl");
    command.args(["--silent", "--show-error", "--max-time", "20", "--globoff"]);
    command.args(["-w", "\ncode=%{http_code} version=%{http_version} size=%{size_download}\n"]);
    let args = case.args.iter().map(|arg| arg.replace("URL", &format!("http://{addr}")).replace("BODY", body));
    let output = output(command.args(args))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let missing: Vec<_> =
        case.expect.iter().filter(|part| !text.to_lowercase().contains(&part.to_lowercase())).collect();
    if output.status.success() && missing.is_empty() {
        return Ok(());
    }
    Err(format!("{}: {} {errors}\nwithout {missing:?}:\n{text}", case.name, output.status))
}

fn output(command: &mut Command) -> Result<Output, String> {
    command.output().map_err(|error| format!("{command:?}: {error}"))
}

/// `h2load` with these arguments; all requests must succeed.
fn h2load(host: &Host, args: &[&str], count: usize) -> Result<(), String> {
    let output = output(host.command("h2load").arg(format!("-n{count}")).args(args))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("requests:")).unwrap_or_default();
    let speed = text.lines().find(|line| line.starts_with("finished in")).unwrap_or_default();
    println!("h2load {args:?}\n  {speed}\n  {line}");
    let all = format!("{count} succeeded, 0 failed, 0 errored, 0 timeout");
    let codes = format!("status codes: {count} 2xx");
    if line.contains(&all) && text.contains(&codes) {
        return Ok(());
    }
    Err(format!("h2load {args:?}: {line}\n{text}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn curl_and_h2load_find_nothing_to_complain_of() {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    mesh.workload("web").of("web").app(App::demo("demo-http", 8000, &[])).add();
    let service = mesh.service("web", 80, 8000).add();
    mesh.start();
    let body = mesh.folder().join("body");
    std::fs::write(&body, vec![b'x'; 2_000_000]).expect("a file in the mesh's folder");
    let (body, host) = (body.display().to_string(), &mesh.get("client").host);
    let mut failures = Vec::new();
    for addr in [service.v4, service.v6] {
        for case in CASES {
            let result = curl(host, addr, case, &body);
            println!("{}, {addr}: {}", case.name, if result.is_ok() { "ok" } else { "FAILED" });
            failures.extend(result.err());
        }
        // h2load makes an authority without brackets of an IPv6 address, which is none; so it gets a name.
        let to = format!("--connect-to={addr}");
        let (url, large) = ("http://web/bytes?n=100", "http://web/bytes?n=100000");
        let runs: [&[&str]; 4] = [
            &["-c8", "-m32", &to, url],
            &["--h1", "-c16", &to, url],
            &["-c2", "-m100", &to, large],
            &["--h1", "-c4", "-m1", &to, large],
        ];
        failures.extend(runs.into_iter().filter_map(|args| h2load(host, args, 2000).err()));
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

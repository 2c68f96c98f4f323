//! Which authority a request names: each spelling goes in as it is, and the app's server keeps what comes out.
//!
//! Invariant: either exactly one authority arrives, or the answer is 400 and not a byte arrives.
//! Non-goal: which route a name leads to; there are no routes by name yet.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::HOST;
use http::{Request, Response, Version};
use mesh_tests::client::within;
use mesh_tests::netns::Host;
use mesh_tests::yardstick::{self, Who};
use mesh_tests::{raw, streams};

use super::{APP, mesh, verdict};

const APP_H2: u16 = 8002;

enum Expected {
    /// One authority, this one.
    Onward(&'static str),
    /// 400, and nothing at the app.
    Refused,
}

use Expected::{Onward, Refused};

/// Name, request, what must become of it. `connection: close` is added, and the empty line.
const SPELLINGS: &[(&str, &str, Expected)] = &[
    ("origin form", "GET / HTTP/1.1\r\nHost: web", Onward("web")),
    ("with a port", "GET / HTTP/1.1\r\nHost: web:80", Onward("web:80")),
    ("field name and space in odd ways", "GET / HTTP/1.1\r\nhOsT: \t web \t", Onward("web")),
    ("absolute form that agrees", "GET http://web/ HTTP/1.1\r\nHost: web", Onward("web")),
    ("absolute form that differs: it wins", "GET http://web/ HTTP/1.1\r\nHost: other", Onward("web")),
    ("asterisk form", "OPTIONS * HTTP/1.1\r\nHost: web", Onward("web")),
    ("two that differ", "GET / HTTP/1.1\r\nHost: web\r\nHost: other", Refused),
    ("two that agree", "GET / HTTP/1.1\r\nHost: web\r\nHost: web", Refused),
    ("two, with an absolute form", "GET http://web/ HTTP/1.1\r\nHost: web\r\nHost: other", Refused),
    ("none", "GET / HTTP/1.1\r\nX-Other: web", Refused),
    ("empty", "GET / HTTP/1.1\r\nHost:", Refused),
    ("user information", "GET / HTTP/1.1\r\nHost: user@web", Refused),
    ("user information in an absolute form", "GET http://web@other/ HTTP/1.1\r\nHost: other", Refused),
    ("a space", "GET / HTTP/1.1\r\nHost: web other", Refused),
    ("a list", "GET / HTTP/1.1\r\nHost: web, other", Refused),
    ("a path", "GET / HTTP/1.1\r\nHost: web/other", Refused),
    ("a space before the colon", "GET / HTTP/1.1\r\nHost : other\r\nHost: web", Refused),
    ("a folded line", "GET / HTTP/1.1\r\nHost: web\r\n other", Refused),
    ("a port that is none", "GET / HTTP/1.1\r\nHost: web:x", Refused),
    ("a port that is none in an absolute form", "GET http://web:99999/ HTTP/1.1\r\nHost: web", Refused),
    ("an asterisk with GET", "GET * HTTP/1.1\r\nHost: web", Refused),
    ("a fragment", "GET /#@other HTTP/1.1\r\nHost: web", Refused),
];

fn fields<'a>(request: &'a str, name: &str) -> Vec<&'a str> {
    let pairs = request.lines().filter_map(|line| line.split_once(':'));
    pairs.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}

/// What is wrong with what came of a spelling.
fn judge(expected: &Expected, status: Option<u16>, arrived: &[Vec<u8>]) -> Option<String> {
    let arrived: Vec<_> = arrived.iter().map(|bytes| String::from_utf8_lossy(bytes)).collect();
    let right = match (expected, &arrived[..]) {
        (Refused, []) => status == Some(400),
        (Onward(name), [request]) => {
            let target = request.split(' ').nth(1).unwrap_or_default();
            let in_target = target.strip_prefix("http://").map(|rest| rest.split('/').next().unwrap_or_default());
            status == Some(200) && fields(request, "host") == [*name] && in_target.is_none_or(|other| other == *name)
        }
        _ => false,
    };
    (!right).then(|| format!("answered {status:?}, and at the app arrived {arrived:?}"))
}

#[test]
fn r14_one_authority_arrives_or_the_request_is_refused() {
    let mut mesh = mesh();
    let service = mesh.service("web", 80, APP).add();
    let server = raw::Server::ok(&mesh.get("web").host, APP);
    mesh.start();
    let paths: [(&str, SocketAddr); 2] = [("client", service.v4), ("outsider", mesh.get("web").at(APP)[0])];
    let mut findings = Vec::new();
    for (client, addr) in paths {
        for (name, request, expected) in SPELLINGS {
            let before = server.received().len();
            let bytes = format!("{request}\r\nConnection: close\r\n\r\n");
            let answer = raw::send(&mesh.get(client).host, addr, bytes.as_bytes());
            let status = answer.as_ref().ok().and_then(|answer| raw::status(answer));
            let arrived = server.received().split_off(before);
            let arrived: Vec<_> = arrived.into_iter().filter(|bytes| !bytes.is_empty()).collect();
            let finding = judge(expected, status, &arrived);
            let answer = answer.map(|answer| String::from_utf8_lossy(&answer).into_owned());
            findings.extend(finding.map(|what| format!("{client}, {name}: {what}; {answer:?}")));
        }
    }
    // Whatever a request calls its target, it is counted under the one that was dialed, and a refusal once.
    let wanted = f64::from(
        u32::try_from(SPELLINGS.iter().filter(|(_, _, expected)| matches!(expected, Refused)).count()).unwrap_or(0),
    );
    for (client, direction, target) in [("client", "outbound", "default/web:80"), ("web", "inbound", ":8000")] {
        let sum = |name, labels: &[(&str, &str)]| mesh.get(client).metric(name, labels);
        let all = sum("mesh_http_requests_total", &[("direction", direction)]);
        let named = sum("mesh_http_requests_total", &[("direction", direction), ("target", target)]);
        let refused = sum("mesh_errors_total", &[("direction", direction), ("reason", "bad_request")]);
        if named != all || refused != wanted {
            findings
                .push(format!("{client}: {named} of {all} requests under {target}, {refused} of {wanted} refusals"));
        }
    }
    let figure =
        format!("{} spellings x 2 ways, {} wrong; one refusal counted for each", SPELLINGS.len(), findings.len());
    yardstick::record(14, "HTTP/1", Who::Mesh, findings.is_empty(), &figure);
    verdict(paths.len() * SPELLINGS.len(), &findings);
}

/// `:authority` and Host fields.
type Named = (Option<&'static str>, &'static [&'static str]);

const H2_SPELLINGS: &[(Named, Expected)] = &[
    ((Some("web"), &[]), Onward("web")),
    ((Some("web:80"), &[]), Onward("web:80")),
    ((Some("web"), &["web"]), Onward("web")),
    ((None, &["web"]), Onward("web")),
    ((Some("web"), &["other"]), Refused),
    ((Some("web"), &["web", "other"]), Refused),
    ((Some("web"), &[""]), Refused),
    ((None, &[]), Refused),
    ((None, &["web", "web"]), Refused),
    ((None, &["user@web"]), Refused),
];

type Seen = Arc<Mutex<Vec<Vec<String>>>>;

/// Records all authorities of each request.
fn record(host: &Host) -> Seen {
    let seen = Seen::default();
    let recorded = Arc::clone(&seen);
    streams::serve(host, APP_H2, move |request, mut respond| {
        let hosts = request.headers().get_all(HOST).iter().map(|host| String::from_utf8_lossy(host.as_bytes()).into());
        let authority = request.uri().authority().map(ToString::to_string);
        recorded.lock().unwrap_or_else(PoisonError::into_inner).push(authority.into_iter().chain(hosts).collect());
        async move {
            let _ = respond.send_response(Response::new(()), true);
        }
    });
    seen
}

async fn ask(addr: SocketAddr, (authority, hosts): Named) -> anyhow::Result<u16> {
    let mut sender = streams::connect(addr).await?;
    let request = match authority {
        Some(authority) => Request::builder().version(Version::HTTP_2).uri(format!("http://{authority}/")),
        // The h2 crate sends no :authority for what a client says is forwarded from HTTP/1.
        None => Request::builder().version(Version::HTTP_11).uri("/"),
    };
    let request = hosts.iter().fold(request, |request, host| request.header(HOST, *host)).body(())?;
    let (response, _) = sender.send_request(request, true)?;
    Ok(response.await?.status().as_u16())
}

#[test]
fn r14_one_authority_arrives_over_http2_or_the_request_is_refused() {
    let mut mesh = mesh();
    let service = mesh.service("web", 80, APP_H2).add();
    let seen: Seen = record(&mesh.get("web").host);
    mesh.start();
    let paths = [("client", service.v4), ("outsider", mesh.get("web").at(APP_H2)[0])];
    let mut findings = Vec::new();
    for (client, addr) in paths {
        for (named, expected) in H2_SPELLINGS {
            let status = within(&mesh.get(client).host, ask(addr, *named));
            let arrived: Vec<_> = seen.lock().expect("no panic").drain(..).collect();
            let right = match expected {
                Onward(name) => matches!(&status, Ok(200)) && arrived == [vec![(*name).to_owned()]],
                Refused => matches!(&status, Ok(400)) && arrived.is_empty(),
            };
            if !right {
                findings.push(format!("{client}, {named:?}: answered {status:?}, and at the app arrived {arrived:?}"));
            }
        }
    }
    let figure = format!("{} spellings x 2 ways, {} wrong", H2_SPELLINGS.len(), findings.len());
    yardstick::record(14, "HTTP/2", Who::Mesh, findings.is_empty(), &figure);
    verdict(paths.len() * H2_SPELLINGS.len(), &findings);
}

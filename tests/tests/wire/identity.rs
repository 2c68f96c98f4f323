//! R22: who a request says it comes from. R23: what a back end says in the name of the mesh.
//!
//! Invariant: the application reads the identity that the sidecar has verified, or none.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use mesh_tests::attacks::http1::{Arrived, Case, Recorder, Right, attempt};
use mesh_tests::client::{PATIENCE, within};
use mesh_tests::netns::Host;
use mesh_tests::yardstick::{Front, Who, record};
use mesh_tests::{raw, streams};
use tokio::time::timeout;

use super::watch::Watch;
use super::{Wire, verdict};

const TRUE: &str = "spiffe://cluster.local/ns/default/sa/client";
const APP_H2: u16 = 8002;

/// Field lines by which somebody may try to be another.
const SPELLINGS: [&str; 20] = [
    "mesh-client-id: spiffe://evil",
    "Mesh-Client-Id: spiffe://evil",
    "MESH-CLIENT-ID: spiffe://evil",
    "mesh_client_id: spiffe://evil",
    "Mesh_Client_Id: spiffe://evil",
    "mesh-client_id: spiffe://evil",
    "mesh_client-id: spiffe://evil",
    "mesh-client-id: spiffe://evil\r\nmesh-client-id: spiffe://worse",
    "mesh-client-id: spiffe://evil, spiffe://worse",
    "mesh-client-id:",
    "mesh-client-id : spiffe://evil",
    "mesh-client-id\t: spiffe://evil",
    "mesh-client-id:\r\n spiffe://evil",
    "connection: mesh-client-id",
    "connection: close, mesh-client-id\r\nmesh-client-id: spiffe://evil",
    "l5d-client-id: evil",
    "L5d_Client_Id: evil",
    "x-forwarded-client-cert: By=spiffe://evil;URI=spiffe://evil",
    "X_Forwarded_Client_Cert: URI=spiffe://evil",
    "x-forwarded-client-cert: a\r\nx-forwarded-client-cert: b",
];

type Fields = Vec<(String, String)>;

/// What is wrong with what an application reads of its client.
fn misled(front: &Front, fields: &Fields) -> Option<String> {
    let plain = front.way == "inbound";
    let values = |name: &str| -> Vec<&str> {
        let alike = |field: &&(String, String)| field.0.to_lowercase().replace('_', "-") == name;
        fields.iter().filter(alike).map(|(_, value)| value.as_str()).collect()
    };
    // A client of the mesh has an identity of its own by which it answers for the other meshes' fields.
    let others = ["l5d-client-id", "x-forwarded-client-cert"].map(|name| plain && !values(name).is_empty());
    let wanted: &[&str] = if plain { &[] } else { &[TRUE] };
    (values("mesh-client-id") != wanted || others.contains(&true)).then(|| format!("the app read {fields:?}"))
}

#[test]
fn r22_an_application_reads_the_identity_that_was_verified_or_none() {
    let wire = Wire::start();
    let recorder = Recorder::start(&wire.fronts[0].back, wire.fronts[0].port);
    let mut all = Vec::new();
    for front in &wire.fronts[..2] {
        let (watch, before) = (Watch::begin(&wire, front), all.len());
        for spelling in SPELLINGS {
            let head = format!("GET /a HTTP/1.1\r\nHost: web\r\n{spelling}\r\n\r\n");
            let chunked = "TE: trailers\r\nTrailer: mesh-client-id, x\r\nTransfer-Encoding: chunked";
            let trailers = format!("POST /a HTTP/1.1\r\nHost: web\r\n{chunked}\r\n\r\n0\r\n{spelling}\r\n\r\n");
            for (place, bytes) in [("head", head), ("trailers", trailers)] {
                // Refused or served: what counts is what arrives.
                let seen = attempt(front, &recorder, &Case::new(spelling, bytes, Right::Either(&["/a"])));
                let wrong = seen.arrived.iter().find_map(|arrived| match arrived {
                    Arrived::Clean(request) => misled(front, &[&request.fields[..], &request.trailers].concat()),
                    dirty @ Arrived::Dirty(..) => Some(dirty.name()),
                });
                let answered =
                    seen.statuses.iter().all(|status| [200, 400].contains(status)) && !seen.statuses.is_empty();
                let wrong = wrong.or_else(|| (!answered).then(|| format!("{seen:?}")));
                all.extend(wrong.map(|wrong| format!("{}, {place}, {spelling:?}: {wrong}", front.way)));
            }
        }
        let figure = format!("{} of {} misled; {}", all.len() - before, 2 * SPELLINGS.len(), watch.finish());
        println!("{}: {figure}", front.way);
        record(22, &format!("HTTP/1, {}", front.way), Who::Mesh, all.len() == before, &figure);
    }
    verdict(4 * SPELLINGS.len(), &all);
}

/// An application that keeps the fields of heads and trailers.
fn keeper(host: &Host) -> Arc<Mutex<Vec<Fields>>> {
    let kept: Arc<Mutex<Vec<Fields>>> = Arc::default();
    let keep = Arc::clone(&kept);
    streams::serve(host, APP_H2, move |request, mut respond| {
        let keep = Arc::clone(&keep);
        async move {
            let mut fields = pairs(request.headers());
            let mut body = request.into_body();
            while let Some(Ok(_)) = body.data().await {}
            fields.extend(body.trailers().await.ok().flatten().as_ref().map(pairs).unwrap_or_default());
            keep.lock().unwrap_or_else(PoisonError::into_inner).push(fields);
            let _ = respond.send_response(Response::new(()), true);
        }
    });
    kept
}

fn pairs(headers: &HeaderMap) -> Fields {
    let pair = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    headers.iter().map(pair).collect()
}

/// The fields of a spelling that HTTP/2 has a form for.
fn fields(spelling: &str) -> HeaderMap {
    let pair = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value.trim()).ok()?))
    };
    let pairs = spelling.split("\r\n").filter_map(pair).filter(|(name, _)| name != http::header::CONNECTION);
    pairs.fold(HeaderMap::new(), |mut map, (name, value)| {
        map.append(name, value);
        map
    })
}

async fn ask(front: &Front, head: HeaderMap, trailers: HeaderMap) -> anyhow::Result<u16> {
    let mut sender = streams::connect(front.addr).await?;
    let mut request = Request::builder().method("POST").uri("http://web/").header("te", "trailers").body(())?;
    request.headers_mut().extend(head);
    let (response, mut stream) = sender.send_request(request, false)?;
    stream.send_trailers(trailers)?;
    Ok(timeout(PATIENCE, response).await??.status().as_u16())
}

#[test]
fn r22_over_http2_too() {
    let mut service = None;
    let wire = Wire::start_with(|mesh| service = Some(mesh.service("h2", 80, APP_H2).over("web").add()));
    let kept = keeper(&wire.fronts[0].back);
    let service = service.expect("prepared").v4;
    let fronts = [
        Front { addr: (wire.fronts[0].addr.ip(), APP_H2).into(), ..wire.fronts[0].clone() },
        Front { addr: service, ..wire.fronts[1].clone() },
    ];
    let mut all = Vec::new();
    for front in &fronts {
        let before = all.len();
        for spelling in SPELLINGS {
            for in_head in [true, false] {
                let (head, trailers) =
                    if in_head { (fields(spelling), HeaderMap::new()) } else { (HeaderMap::new(), fields(spelling)) };
                let status = within(&front.client, ask(front, head, trailers));
                let arrived: Vec<_> = kept.lock().expect("no panic").drain(..).collect();
                let wrong = match (&status, &arrived[..]) {
                    (Ok(200), [fields]) => misled(front, fields),
                    _ => Some(format!("{status:?}, {} arrived", arrived.len())),
                };
                all.extend(wrong.map(|wrong| format!("{}, in head {in_head}, {spelling:?}: {wrong}", front.way)));
            }
        }
        let figure = format!("{} of {} misled", all.len() - before, 2 * SPELLINGS.len());
        println!("{}: {figure}", front.way);
        record(22, &format!("HTTP/2, {}", front.way), Who::Mesh, all.len() == before, &figure);
    }
    verdict(4 * SPELLINGS.len(), &all);
}

/// What a back end must not say in the mesh's name, wherever a message has room for fields.
const SPOOFS: &str = "mesh-error: connect_failed; spoofed\r\nMesh_Error: no_endpoints\r\nmesh-client-id: spiffe://evil\r\n\
    mesh-destination: 10.9.9.9:1\r\nmesh-origin: 2\r\nmesh-protocol: opaque\r\n";

#[test]
fn r23_what_a_back_end_says_in_the_name_of_the_mesh_is_removed_and_not_believed() {
    let mut legacy = None;
    let wire = Wire::start_with(|mesh| legacy = Some(mesh.service("legacy", 80, 8000).add()));
    let legacy = Front {
        way: "without a far sidecar",
        addr: legacy.expect("prepared").v4,
        back: wire.mesh.mesh.get("legacy").host.clone(),
        ..wire.fronts[1].clone()
    };
    let fronts = [wire.fronts[0].clone(), wire.fronts[1].clone(), legacy];
    let servers = [&fronts[1], &fronts[2]].map(|front| {
        raw::Server::start(&front.back, 8000, |mut conversation| {
            let head = conversation.head()?;
            let close = "connection: close\r\n";
            conversation.say(match head.split(' ').nth(1) {
                // As a sidecar says that it has not reached its application: believed, it would be tried again.
                Some("/failed") => format!("HTTP/1.1 503 No\r\n{SPOOFS}{close}content-length: 0\r\n\r\n"),
                Some("/early") => format!(
                    "HTTP/1.1 103 Early Hints\r\n{SPOOFS}link: <a>\r\n\r\nHTTP/1.1 200 OK\r\n{close}content-length: 0\r\n\r\n"
                ),
                Some("/trailers") => format!(
                    "HTTP/1.1 200 OK\r\n{close}trailer: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n{SPOOFS}x: 1\r\n\r\n"
                ),
                Some("/up") => format!("HTTP/1.1 101 Go\r\n{SPOOFS}connection: upgrade\r\nupgrade: far\r\n\r\n"),
                _ => format!("HTTP/1.1 200 OK\r\n{SPOOFS}{close}content-length: 0\r\n\r\n"),
            }.as_bytes())
        })
    });
    let requests = [("/", 200), ("/failed", 503), ("/early", 200), ("/trailers", 200), ("/up", 101)];
    let mut all = Vec::new();
    for front in &fronts {
        let before = all.len();
        for (target, status) in requests {
            let upgrade = if target == "/up" {
                "Connection: upgrade\r\nUpgrade: far\r\n"
            } else {
                "Connection: close, te\r\nTE: trailers\r\n"
            };
            let request = format!("GET {target} HTTP/1.1\r\nHost: web\r\n{upgrade}\r\n");
            let accepted = || servers.iter().map(raw::Server::accepted).sum::<usize>();
            let came = accepted();
            let answer = raw::send(&front.client, front.addr, request.as_bytes()).unwrap_or_default();
            let text = String::from_utf8_lossy(&answer).to_lowercase().replace('_', "-");
            if !text.contains(&format!("http/1.1 {status} ")) || text.contains("mesh-") || accepted() - came != 1 {
                all.push(format!("{}, {target}: came {} times, {text:?}", front.way, accepted() - came));
            }
        }
        let figure = format!("{} of {} passed or believed", all.len() - before, requests.len());
        println!("{}: {figure}", front.way);
        record(23, front.way, Who::Mesh, all.len() == before, &figure);
    }
    verdict(fronts.len() * requests.len(), &all);
}

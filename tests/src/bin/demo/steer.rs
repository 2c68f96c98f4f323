//! The steps in which manifests steer and protect: a canary, a circuit breaker, a retry budget.
//!
//! Invariant: each manifest comes and goes while the mesh runs, and nothing restarts.
//! Non-goal: all that policies can do; `COOKBOOK.md` shows it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mesh_tests::body;
use mesh_tests::client::http::{Answer, Connection, Version};
use mesh_tests::client::within;

use crate::scene::{Held, Scene, wait};

const SETTLE: Duration = Duration::from_secs(10);
/// Requests at a time to the service of which a replica fails.
const BROKEN: usize = 1000;
/// Between these: who has failed is asked again only when that is some time ago.
const PAUSE: Duration = Duration::from_millis(500);
const PUT_OUT_WITHIN: Duration = Duration::from_mins(1);
/// What a retry budget looks back on.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);
const CANARY: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: canary}, spec: {
  parentRefs: [{group: \"\", kind: Service, name: web, port: 80}], rules: [
    {matches: [{headers: [{name: x-canary, value: \"yes\"}]}], backendRefs: [{name: next, port: 80}]},
    {backendRefs: [{name: web, port: 80, weight: 95}, {name: next, port: 80, weight: 5}]}]}}\n";
const RETRIES: &str = "{apiVersion: mesh.internal/v1alpha1, kind: TrafficPolicy, metadata: {name: again}, spec: {
  targetRefs: [{kind: Service, name: cart}], retries: {on: [5xx], attempts: 3, backoff: {initial: 1ms, max: 5ms}}}}\n";

/// Requests one after the other on one connection, by the status and by who answered.
fn ask(scene: &Scene, addr: SocketAddr, count: usize, path: &str, fields: &[(&str, &str)]) -> io::Result<Vec<Answer>> {
    within(&scene.mesh.get("client").host, async {
        let mut connection = Connection::open(addr, Version::H1).await?;
        let mut answers = Vec::new();
        for _ in 0..count {
            let request = http::Request::get(path).header("host", "demo");
            let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            answers.push(connection.fetch(request.body(body::empty()).map_err(io::Error::other)?).await?);
        }
        Ok(answers)
    })
}

fn served_by(answer: &Answer) -> String {
    let name = answer.headers.get("x-served-by").map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
    name.unwrap_or_default()
}

fn failures(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.status.is_server_error()).count()
}

pub(crate) fn canary(scene: &mut Scene) -> Held {
    let to_next = |scene: &Scene, count, fields: &[(&str, &str)]| -> Result<usize, String> {
        let answers = ask(scene, scene.web.v4, count, "/", fields).map_err(|error| error.to_string())?;
        match failures(&answers) {
            0 => Ok(answers.iter().filter(|answer| served_by(answer) == "next-1").count()),
            failed => Err(format!("{failed} requests failed")),
        }
    };
    scene.mesh.manifests.write("canary", CANARY);
    wait(SETTLE, "the route is in force", || to_next(scene, 1, &[("x-canary", "yes")]) == Ok(1))?;
    let (drawn, asked) = (to_next(scene, 2000, &[])?, to_next(scene, 100, &[("x-canary", "yes")])?);
    scene.mesh.manifests.remove("canary");
    println!("   weights 95 and 5: {drawn} of 2000 requests went to the new version ({:.1} %)", drawn as f64 / 20.0);
    println!("   with the header x-canary: {asked} of 100");
    if !(50..=160).contains(&drawn) || asked != 100 {
        return Err("shares are not as they should be".to_owned());
    }
    Ok(())
}

pub(crate) fn breaker(scene: &mut Scene) -> Held {
    let ejected = |scene: &Scene| scene.mesh.get("client").metric("mesh_balancer_ejections_total", &[]);
    let before = ejected(scene);
    let mut answers = Vec::new();
    // Who fails is asked less often at once, so it may take a while until it has failed often enough to be put out.
    let begin = Instant::now();
    loop {
        answers.extend(ask(scene, scene.cart.v4, BROKEN, "/", &[]).map_err(|error| error.to_string())?);
        if ejected(scene) > before || begin.elapsed() > PUT_OUT_WITHIN {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    let mut shares = BTreeMap::<String, usize>::new();
    for answer in &answers {
        *shares.entry(served_by(answer)).or_default() += 1;
    }
    println!("   cart-3 answers each request with 500; nobody has configured anything");
    for (name, share) in &shares {
        println!("   {name}: {share} of {} requests", answers.len());
    }
    println!("   put out {:.0} times by the client's sidecar", ejected(scene) - before);
    if answers.len() > BROKEN {
        // The next step's budget counts requests of the last 10 s, and knows of no more.
        std::thread::sleep(BUDGET_WINDOW);
    }
    let failed = failures(&answers);
    if failed > answers.len() / 10 || failed == 0 || ejected(scene) == before {
        return Err(format!("{failed} requests failed"));
    }
    Ok(())
}

pub(crate) fn budget(scene: &mut Scene) -> Held {
    scene.mesh.manifests.write("again", RETRIES);
    let retries = |scene: &Scene| scene.mesh.get("client").metric("mesh_retries_total", &[]);
    wait(SETTLE, "the policy is in force", || {
        let before = retries(scene);
        ask(scene, scene.cart.v4, 1, "/status/503", &[]).is_ok() && retries(scene) - before > 1.0
    })?;
    let before = retries(scene);
    let answers = ask(scene, scene.cart.v4, 500, "/status/503", &[]).map_err(|error| error.to_string())?;
    let (failed, sent) = (failures(&answers), retries(scene) - before);
    scene.mesh.manifests.remove("again");
    println!("   the policy: up to 3 tries more after a 5xx; every replica fails: {failed} of 500 requests failed");
    println!(
        "   {sent:.0} tries more: a fifth of the service's requests of the last 10 s and 3 a second; 1500 without a budget"
    );
    // Those of this step and of the one before, and what waiting for the policy took.
    let most = 0.2 * (BROKEN as f64 + 600.0) + 40.0;
    if failed < 500 || sent == 0.0 || sent > most {
        return Err(format!("at most {most:.0} tries were to be expected"));
    }
    Ok(())
}

//! Ways of balancing: by hash, by zone, by turns, slow start, and other backends when all else fails.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use mesh_tests::mesh::SOON;
use mesh_tests::netns::until;

use crate::switchable::Endpoint;
use crate::{APP, Tally, World, get, name, of, tally};

#[test]
fn a_key_stays_with_its_endpoint_and_only_keys_of_one_that_goes_move() {
    let (world, [keyed, cookies]) = World::start(4, ["keyed", "cookies"]);
    world.policy("keyed", "  balancing: {policy: ConsistentHash, hash: [{header: x-user}, {query: user}]}\n");
    world.policy(
        "cookies",
        "  balancing: {policy: ConsistentHash, hash: [{cookie: {name: sid, set: true, ttl: 1h}}]}\n",
    );
    let user = |i: usize| format!("x-user: user-{i}\r\n");
    let places = || -> BTreeMap<usize, String> { (0..120).map(|i| (i, world.who(keyed.v4, &user(i)))).collect() };
    world.who(keyed.v4, "");
    until(SOON, || world.state(keyed.v4)["balancing"] == "ConsistentHash");
    let hash = &world.state(keyed.v4)["hash"];
    assert_eq!(*hash, serde_json::json!({"keys": ["header x-user", "query user"], "bounded_load_percent": 125}));
    assert!(world.state(world.web.v4)["hash"].is_null(), "where nothing goes by hash nothing is shown");
    let first = places();
    assert_eq!(first, places());
    let query = world.get(keyed.v4, "/?user=user-7", "").body;
    assert_eq!(query, first[&7], "by whatever a request has");
    assert!((1..=4).all(|i| first.values().any(|place| *place == name(i))), "all take part: {first:?}");
    world.mesh.withdraw("web-2");
    until(SOON, || world.state(keyed.v4)["endpoints"].as_array().is_some_and(|all| all.len() == 3));
    for (key, place) in places() {
        assert!(place == first[&key] || first[&key] == "web-2", "user-{key} moved from {} to {place}", first[&key]);
        assert_ne!(place, "web-2");
    }
    world.mesh.publish("web-2");
    until(SOON, || world.state(keyed.v4)["endpoints"].as_array().is_some_and(|all| all.len() == 4));
    assert_eq!(first, places(), "it has its keys back");
    until(SOON, || world.get(cookies.v4, "/", "").head.contains("set-cookie: sid="));
    for _ in 0..10 {
        let given = world.get(cookies.v4, "/", "");
        let cookie = given.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
        let pair = cookie.split(';').next().expect("a value");
        let back = world.get(cookies.v4, "/", &format!("cookie: {pair}\r\n"));
        assert_eq!((back.body, back.head.contains("set-cookie")), (given.body, false), "{cookie}");
    }
}

#[test]
fn the_own_zone_goes_first_and_what_is_too_much_for_it_goes_elsewhere() {
    let (world, [anywhere]) = World::start(4, ["anywhere"]);
    world.policy("anywhere", "  balancing: {policy: RoundRobin, ignoreZones: true}\n");
    for (workload, zone) in [("client", "a"), ("web-1", "a"), ("web-2", "a"), ("web-3", "b"), ("web-4", "b")] {
        let manifest = world.mesh.get(workload).manifest.replace("spec:\n", &format!("spec:\n  zone: {zone}\n"));
        world.mesh.manifests.write(&format!("workload-{workload}"), &manifest);
    }
    let web = world.web.v4;
    until(SOON, || {
        world.get(web, "/", "");
        let near = |it: &serde_json::Value| it["near"] == (it["zone"] == "a") && !it["near"].is_null();
        world.state(web)["endpoints"].as_array().is_some_and(|all| all.len() == 4 && all.iter().all(near))
    });
    let far = |tally: &Tally| of(tally, "web-3") + of(tally, "web-4");
    let calm = world.tally(web, 100);
    assert!(far(&calm) <= 30, "some, when a busy machine makes the own zone slow: {calm:?}");
    until(SOON, || {
        world.get(anywhere.v4, "/", "");
        world.state(anywhere.v4)["balancing"] == "RoundRobin"
    });
    let all = world.tally(anywhere.v4, 100);
    assert_eq!(far(&all), 50, "a policy may ignore zones: {all:?}");
    // Two workers for sixteen clients: the own zone is overloaded.
    world.endpoints[..2].iter().for_each(|near| near.takes(Duration::from_millis(50), 1));
    let host = world.mesh.get("client").host.clone();
    let spilled: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..16).map(|_| scope.spawn(|| far(&tally(&host, web, 20)))).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).sum()
    });
    assert!((60..320).contains(&spilled), "{spilled} of 320 went to the other zone");
    world.endpoints[..2].iter().for_each(|near| near.takes(Duration::ZERO, 0));
    until(Duration::from_secs(60), || far(&world.tally(web, 40)) <= 4);
    // The own zone fails: all of it goes to the other.
    world.endpoints[..2].iter().for_each(|near| near.answers(503));
    until(SOON, || {
        let tally = world.tally(web, 40);
        of(&tally, "web-1") + of(&tally, "web-2") <= 2
    });
}

#[test]
fn another_backend_stands_in_while_none_of_the_own_endpoints_is_well() {
    let (mut world, [first]) = World::start(2, ["first"]);
    // Over nobody, so far.
    let over = "apiVersion: v1\nkind: Service\nmetadata: {name: first}\nspec:\n  clusterIP: ADDR\n  selector: {app: primary}\n  \
                ports: [{name: main, port: 80, targetPort: 8000}]\n";
    world.mesh.manifests.write("service-first", &over.replace("ADDR", &first.v4.ip().to_string()));
    world.policy("first", "  failover: [{name: web, port: 80}]\n");
    until(SOON, || world.get(first.v4, "/", "").status == 200);
    assert!(world.who(first.v4, "").starts_with("web-"));
    let host = world.mesh.workload("primary").of("primary").add();
    let primary = Endpoint::start(&host, APP, "primary");
    until(SOON, || world.who(first.v4, "") == "primary");
    assert_eq!(of(&world.tally(first.v4, 30), "primary"), 30, "nobody stands in while it is well");
    primary.answers(500);
    until(SOON, || world.get(first.v4, "/", "").body.starts_with("web-"));
    primary.answers(0);
    until(Duration::from_secs(90), || of(&world.tally(first.v4, 10), "primary") >= 9);
}

#[test]
fn turns_are_taken_by_weight_and_a_new_endpoint_starts_slowly() {
    let (mut world, [slowly]) = World::start(2, ["slowly"]);
    world.policy("web", "  balancing: {policy: RoundRobin}\n");
    world.policy("slowly", "  balancing: {policy: RoundRobin, slowStart: 60s}\n");
    let weighted = world.mesh.get("web-1").manifest.replace("spec:\n", "spec:\n  weight: 3\n");
    world.mesh.manifests.write("workload-web-1", &weighted);
    let web = world.web.v4;
    until(SOON, || {
        world.get(web, "/", "");
        let state = world.state(web);
        state["balancing"] == "RoundRobin" && state["endpoints"][0]["weight"] == 3
    });
    let tally = world.tally(web, 80);
    assert_eq!((of(&tally, "web-1"), of(&tally, "web-2")), (60, 20), "{tally:?}");
    let at = slowly.v4;
    until(SOON, || {
        world.get(at, "/", "");
        world.state(at)["balancing"] == "RoundRobin"
    });
    let shares = |world: &World| -> Vec<f64> {
        let state = world.state(at);
        let all = state["endpoints"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|it| it["share"].as_f64()).collect()
    };
    assert_eq!(shares(&world), [1.0, 1.0], "who was there from the begin is not new");
    let host = world.mesh.workload("web-3").of("web").add();
    let _new = Endpoint::start(&host, APP, "web-3");
    until(SOON, || world.state(at)["endpoints"].as_array().is_some_and(|all| all.len() == 3));
    assert_eq!(shares(&world).iter().filter(|share| **share < 1.0).count(), 1, "{:?}", shares(&world));
    let tally = world.tally(at, 120);
    assert!(of(&tally, "web-3") * 3 < of(&tally, "web-2") * 2, "{tally:?}");
}

#[test]
fn the_least_busy_is_asked_and_of_those_that_are_alike_each_by_its_weight() {
    let (world, []) = World::start(2, []);
    let web = world.web.v4;
    world.policy("web", "  balancing: {policy: LeastRequest}\n");
    let weighs = |weight: u64| {
        let manifest = world.mesh.get("web-1").manifest.replace("spec:\n", &format!("spec:\n  weight: {weight}\n"));
        world.mesh.manifests.write("workload-web-1", &manifest);
        until(SOON, || {
            world.get(web, "/", "");
            let state = world.state(web);
            state["balancing"] == "LeastRequest" && state["endpoints"][0]["weight"] == weight
        });
    };
    weighs(3);
    let by_weight = world.tally(web, 400);
    assert!((260..=340).contains(&of(&by_weight, "web-1")), "three quarters: {by_weight:?}");
    weighs(1);
    let host = &world.mesh.get("client").host;
    thread::scope(|scope| {
        let held: Vec<_> = (0..2).map(|_| scope.spawn(|| get(host, web, "/hang", ""))).collect();
        until(SOON, || {
            let state = world.state(web);
            let in_flight = |i: usize| state["endpoints"][i]["in_flight"].as_u64().unwrap_or_default();
            in_flight(0) + in_flight(1) == 2
        });
        let state = world.state(web);
        let busy: Vec<_> =
            state["endpoints"].as_array().into_iter().flatten().map(|it| it["in_flight"].clone()).collect();
        world.endpoints.iter().for_each(Endpoint::release);
        held.into_iter().for_each(|request| assert_eq!(request.join().expect("a request").status, 200));
        assert_eq!(busy, [1, 1], "the second one goes where the first one is not");
    });
}

#[test]
fn hints_of_a_slice_say_more_than_its_zones() {
    let (world, [hinted]) = World::start(2, ["hinted"]);
    let [first, second] = ["web-1", "web-2"].map(|name| world.mesh.get(name).host.v4);
    let slice = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: hinted}}\nspec:\n  clusterIP: {}\n  ports: [{{name: main, port: 80}}]\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: hinted-1, labels: {{kubernetes.io/service-name: hinted}}}}\naddressType: IPv4\n\
         ports: [{{name: main, port: {APP}}}]\nendpoints:\n\
         - {{addresses: [{first}], zone: a, hints: {{forZones: [{{name: b}}]}}}}\n\
         - {{addresses: [{second}], zone: b, hints: {{forZones: [{{name: a}}]}}}}\n",
        hinted.v4.ip()
    );
    world.mesh.manifests.write("service-hinted", &slice);
    let client = world.mesh.get("client").manifest.replace("spec:\n", "spec:\n  zone: a\n");
    world.mesh.manifests.write("workload-client", &client);
    until(SOON, || {
        world.get(hinted.v4, "/", "");
        let near = |it: &serde_json::Value| it["near"] == (it["zone"] == "b") && !it["near"].is_null();
        world.state(hinted.v4)["endpoints"].as_array().is_some_and(|all| all.len() == 2 && all.iter().all(near))
    });
    // By zones alone nearly all would go to the other one; a busy machine makes any zone slow, and then some go elsewhere.
    let tally = world.tally(hinted.v4, 100);
    assert!(of(&tally, "web-2") >= 60, "{tally:?}");
}

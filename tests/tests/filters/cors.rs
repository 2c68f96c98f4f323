//! CORS as a browser would use it, with curl in its place.

use std::process::Command;

use mesh_tests::mesh::{Mesh, SOON};
use mesh_tests::netns::{Host, until};

use super::{APP, replica, route};

/// Status and fields, in lower case, as curl saw them.
fn curl(host: &Host, args: &[&str]) -> (u16, Vec<(String, String)>) {
    let mut command: Command = host.command("curl");
    let output = command.args(["-sS", "-m", "10", "-i"]).args(args).output().expect("curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    (status, fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect())
}

fn of<'f>(fields: &'f [(String, String)], name: &str) -> Vec<&'f str> {
    fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
}

#[test]
fn preflights_are_answered_by_the_mesh_and_simple_requests_get_what_the_filter_allows() {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    replica(&mut mesh, "web-1", "web", &[]);
    let web = mesh.service("web", 80, APP).add().v4;
    let rule = "matches: [{path: {value: /}, method: PUT}, {path: {value: /}, method: GET}]\n    \
                filters: [{type: CORS, cors: {allowOrigins: [\"https://*.example.com\", \"http://one.test:8080\"],\n      \
                allowCredentials: true, allowMethods: [PUT], allowHeaders: [X-Token], exposeHeaders: [X-Served-By]}}]\n    \
                backendRefs: [{name: web, port: 80}]";
    mesh.manifests.write("route", &route("web", rule));
    mesh.start();
    let host = &mesh.get("client").host;
    let url = format!("http://{web}/");
    let ask = |args: &[&str]| curl(host, &[&[url.as_str()], args].concat());
    let simple = |origin: &str| ask(&["-H", &format!("origin: {origin}")]);
    let preflight = |origin: &str| {
        let origin = format!("origin: {origin}");
        ask(&[
            "-X",
            "OPTIONS",
            "-H",
            &origin,
            "-H",
            "access-control-request-method: PUT",
            "-H",
            "access-control-request-headers: x-token",
        ])
    };
    until(SOON, || preflight("https://a.example.com").0 == 204);
    let before = mesh.get("web-1").metric("mesh_http_requests_total", &[("direction", "inbound")]);

    for origin in ["https://a.example.com", "https://a.b.example.com", "http://one.test:8080"] {
        let (status, fields) = preflight(origin);
        assert_eq!(status, 204);
        for (name, value) in [
            ("access-control-allow-origin", origin),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "PUT"),
            ("access-control-allow-headers", "x-token"),
            ("access-control-max-age", "5"),
        ] {
            assert_eq!(of(&fields, name), [value], "{origin}: {fields:?}");
        }
        assert_eq!(of(&fields, "vary").len(), 3, "{fields:?}");
    }
    for origin in
        ["https://example.com", "http://a.example.com", "https://example.com.evil.test", "http://one.test", "null"]
    {
        let (status, fields) = preflight(origin);
        assert_eq!(status, 204);
        assert!(!fields.iter().any(|(name, _)| name.starts_with("access-control")), "{origin}: {fields:?}");
    }
    let after = mesh.get("web-1").metric("mesh_http_requests_total", &[("direction", "inbound")]);
    assert!((after - before).abs() < 0.5, "the application saw {} of them", after - before);

    let (status, fields) = simple("https://a.example.com");
    assert_eq!((status, of(&fields, "x-served-by")), (200, vec!["web-1"]));
    assert_eq!(of(&fields, "access-control-allow-origin"), ["https://a.example.com"]);
    assert_eq!(of(&fields, "access-control-allow-credentials"), ["true"]);
    assert_eq!(of(&fields, "access-control-expose-headers"), ["x-served-by"]);
    assert_eq!(of(&fields, "vary"), ["origin"]);
    for args in [&["-H", "origin: https://evil.test"][..], &[]] {
        let (status, fields) = ask(args);
        assert_eq!((status, of(&fields, "vary")), (200, vec!["origin"]));
        assert!(!fields.iter().any(|(name, _)| name.starts_with("access-control")), "{args:?}: {fields:?}");
    }
}

//! Which endpoints leave and return by what sidecars report.

use super::*;

const KEPT: Duration = Duration::from_secs(60);

/// A Service over so many workloads, each with a service account of its own number.
fn of(workloads: u8) -> Index {
    let workloads = (1..=workloads).map(|n| workload(&format!("w{n}"), &format!("10.1.0.{n}"), &account(n)));
    index(&format!("{WEB}{}", workloads.collect::<String>()))
}

fn account(n: u8) -> String {
    format!(", serviceAccount: sa{n}")
}

fn proxy(n: u8, account: u8) -> Proxy {
    let id = mesh_mtls::spiffe::Id::new("cluster.local", "shop", &format!("sa{account}")).unwrap();
    Proxy { addresses: [[10, 1, 0, n].into()].into(), id }
}

fn report(index: &mut Index, n: u8, is_healthy: bool) -> Reporter {
    let by = index.reporter();
    index.report(&proxy(n, n), by, is_healthy, "port 8080: refused");
    index.publish(Instant::now());
    by
}

/// The last bytes of endpoints' addresses.
fn there(watch: &Watch) -> Vec<u8> {
    let State::Endpoints(endpoints) = &watch.latest().state else { panic!() };
    let last = |endpoint: &Endpoint| match endpoint.address.ip() {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(_) => panic!(),
    };
    endpoints.list.iter().map(last).collect()
}

#[test]
fn an_endpoint_leaves_and_returns_with_what_its_own_sidecar_says() {
    let mut index = of(3);
    let watch = watch(&mut index, backend("web", 80));
    report(&mut index, 2, false);
    assert_eq!(there(&watch), [1, 3]);
    assert_eq!(index.unhealthy().collect::<Vec<_>>(), [("shop/w2", "port 8080: refused")]);
    report(&mut index, 2, true);
    assert_eq!((there(&watch), index.unhealthy().count()), (vec![1, 2, 3], 0));
}

#[test]
fn nobody_reports_for_another() {
    let mut index = of(3);
    let by = index.reporter();
    assert_eq!(index.report(&proxy(2, 1), by, false, ""), Reported::Nobody);
    assert_eq!(index.report(&proxy(9, 1), by, false, ""), Reported::Nobody);
    assert_eq!(index.report(&proxy(1, 1), by, true, ""), Reported::Unchanged);
    assert_eq!(index.unhealthy().count(), 0);
}

#[test]
fn when_more_than_half_would_be_out_all_stay() {
    let mut index = of(4);
    let watch = watch(&mut index, backend("web", 80));
    report(&mut index, 1, false);
    report(&mut index, 2, false);
    assert_eq!((there(&watch), index.preserved().len()), (vec![3, 4], 0));
    report(&mut index, 3, false);
    assert_eq!(there(&watch), [1, 2, 3, 4]);
    let backend = Backend { service: Name::new("shop", "web"), port: 80 };
    assert_eq!(index.preserved(), [(backend, 3)]);
    report(&mut index, 3, true);
    assert_eq!((there(&watch), index.preserved().len()), (vec![3, 4], 0));
}

#[test]
fn a_report_outlives_its_stream_for_a_while_and_a_newer_stream_s_counts_instead() {
    let mut index = of(3);
    let watch = watch(&mut index, backend("web", 80));
    let first = report(&mut index, 2, false);
    let begin = Instant::now();
    assert!(index.departed(first, begin));
    assert!(index.forget_reports(KEPT, begin + KEPT - Duration::from_secs(1)));
    index.publish(begin);
    assert_eq!(there(&watch), [1, 3]);
    // It comes back before that.
    let second = report(&mut index, 2, false);
    assert!(!index.departed(first, begin), "what it said was overtaken");
    assert!(!index.forget_reports(KEPT, begin + 2 * KEPT));
    assert_eq!(there(&watch), [1, 3]);
    // And does not.
    assert!(index.departed(second, begin));
    assert!(!index.forget_reports(KEPT, begin + KEPT));
    index.publish(begin);
    assert_eq!((there(&watch), index.unhealthy().count()), (vec![1, 2, 3], 0));
}

#[test]
fn endpoints_of_slices_leave_by_the_workload_at_their_address() {
    let service = WEB.replace("selector: {app: web},", "");
    let slice = slice("x", "web", "{addresses: [10.1.0.1]}, {addresses: [10.1.0.2]}, {addresses: [10.1.0.3]}");
    let mut index = index(&format!("{service}{slice}{}", workload("w2", "10.1.0.2", &account(2))));
    let watch = watch(&mut index, backend("web", 80));
    report(&mut index, 2, false);
    assert_eq!(there(&watch), [1, 3]);
}

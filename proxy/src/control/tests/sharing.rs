//! Who holds what, and what the wire sees of it.

use super::destination::outbound;
use super::*;
use wire::resource::Kind as Resource;
use wire::watch_request::Kind;

#[tokio::test(start_paused = true)]
async fn a_subscription_is_told_answered_and_acknowledged() {
    let mut destination = Destination::start();
    let client = start(&destination, settings());
    let mut session = destination.session().await;
    let web = client.discovery.outbound(addr(1));
    assert_eq!(web.current(), None);

    let (id, resource) = session.subscribed().await;
    assert_eq!(resource, outbound(addr(1)));
    session.send(id, 7, service(wire::Protocol::Http2)).await;
    assert_eq!(Values::of(&web).next().await, target(Protocol::Http2));
    assert_eq!(session.ack().await, (id, 7, String::new()));

    let text = client.metrics.render();
    for line in [
        "mesh_discovery_connected 1",
        r#"mesh_discovery_updates_total{kind="outbound"} 1"#,
        r#"mesh_discovery_subscriptions{kind="outbound"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_resource_is_asked_for_and_parsed() {
    let mut destination = Destination::start();
    let client = start(&destination, settings());
    let mut session = destination.session().await;
    let set = client.discovery.endpoints(&backend());
    let (id, resource) = session.subscribed().await;
    assert_eq!(resource, Resource::Endpoints(wire_backend()));
    session.send(id, 1, endpoints(&[2, 1])).await;
    assert_eq!(Values::of(&set).next().await, endpoint_set(&[1, 2]));
    session.ack().await;

    let own = client.discovery.inbound();
    let (id, resource) = session.subscribed().await;
    assert_eq!(resource, Resource::Inbound(wire::Inbound {}));
    session.send(id, 1, policy(&[(8080, 3)])).await;
    let policy = Values::of(&own).next().await;
    assert_eq!((policy.protocol(8080), policy.protocol(80)), (Protocol::Grpc, Protocol::Detect));
}

#[tokio::test(start_paused = true)]
async fn two_subscribers_of_a_resource_share_one_line_on_the_wire() {
    let mut destination = Destination::start();
    let client = start(&destination, settings());
    let mut session = destination.session().await;
    let first = client.discovery.outbound(addr(1));
    let (id, _) = session.subscribed().await;
    // The same address in its IPv4-mapped form.
    let second = client.discovery.outbound("[::ffff:10.0.0.1]:80".parse().expect("an address"));
    let third = client.discovery.outbound(addr(1));
    session.is_silent().await;

    session.send(id, 1, service(wire::Protocol::Grpc)).await;
    for subscription in [&first, &second, &third] {
        assert_eq!(Values::of(subscription).next().await, target(Protocol::Grpc));
    }
    session.ack().await;
    let late = client.discovery.outbound(addr(1));
    assert_eq!(late.current().as_deref(), Some(&target(Protocol::Grpc)), "known at once");

    drop((first, second, late));
    session.is_silent().await;
    assert!(third.current().is_some());
}

#[tokio::test(start_paused = true)]
async fn the_last_drop_unsubscribes_and_forgets() {
    let mut destination = Destination::start();
    let client = start(&destination, settings());
    let mut session = destination.session().await;
    let web = client.discovery.outbound(addr(1));
    let (id, _) = session.subscribed().await;
    session.send(id, 1, service(wire::Protocol::Grpc)).await;
    assert!(web.first(SOON).await.is_some());
    session.ack().await;
    drop(web);
    assert_eq!(session.request().await, Kind::Unsubscribe(wire::Unsubscribe { id }));
    assert!(client.discovery.status().outbound.is_empty());

    // What crosses the unsubscription on the wire is neither applied nor an error.
    session.send(id, 2, service(wire::Protocol::Http1)).await;
    session.is_silent().await;
    assert_eq!(client.discovery.status().rejected, 0);

    let again = client.discovery.outbound(addr(1));
    assert_eq!(again.current(), None);
    let (new, _) = session.subscribed().await;
    assert!(new > id, "{new} was used before");
}

#[tokio::test(start_paused = true)]
async fn beyond_the_limit_nothing_is_asked_and_nobody_waits() {
    let mut destination = Destination::start();
    let client = start(&destination, Settings { max_targets: 2, ..settings() });
    let mut session = destination.session().await;
    let held = [1, 2].map(|last| client.discovery.outbound(addr(last)));
    for _ in &held {
        session.subscribed().await;
    }
    let over = client.discovery.outbound(addr(3));
    assert!(over.is_over_limit() && !held[0].is_over_limit());
    let begun = tokio::time::Instant::now();
    assert_eq!(over.first(SOON).await, None);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    session.is_silent().await;
    assert!(!client.discovery.outbound(addr(1)).is_over_limit(), "known ones can be shared");
    assert!(!client.discovery.endpoints(&backend()).is_over_limit(), "kinds have limits of their own");
    assert_eq!(client.discovery.status().over_limit, 1);

    drop(held);
    assert!(!client.discovery.outbound(addr(3)).is_over_limit(), "there is room again");
}

#[tokio::test(start_paused = true)]
async fn an_equal_snapshot_is_acknowledged_and_nobody_is_told() {
    let mut destination = Destination::start();
    let client = start(&destination, settings());
    let mut session = destination.session().await;
    let set = client.discovery.endpoints(&backend());
    let mut values = Values::of(&set);
    let (id, _) = session.subscribed().await;
    session.send(id, 1, endpoints(&[1, 2])).await;
    values.next().await;
    let first = set.current().expect("a value");
    session.ack().await;
    session.send(id, 2, endpoints(&[2, 1])).await;
    assert_eq!(session.ack().await, (id, 2, String::new()));
    values.are_silent().await;
    assert!(Arc::ptr_eq(&first, &set.current().expect("a value")));
    assert_eq!(client.discovery.status().endpoints[0].version, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_follower_hears_of_every_value_while_it_exists() {
    let mut destination = Destination::start();
    let client = start(&destination, settings());
    let mut session = destination.session().await;
    let set = client.discovery.endpoints(&backend());
    let (id, _) = session.subscribed().await;
    let (told, mut sizes) = tokio::sync::mpsc::channel(16);
    let follower = Arc::new(told);
    set.follow(&follower, |told, set: &EndpointSet| told.try_send(set.list.len()).expect("room"));
    for (version, last) in [(1, &[1][..]), (2, &[1, 2]), (3, &[1, 2, 3])] {
        session.send(id, version, endpoints(last)).await;
        session.ack().await;
    }
    drop(follower);
    session.send(id, 4, endpoints(&[4])).await;
    session.ack().await;
    assert_eq!([sizes.recv().await, sizes.recv().await, sizes.recv().await], [Some(1), Some(2), Some(3)]);
    assert_eq!(sizes.recv().await, None, "let go of");
    assert_eq!(set.current().as_deref(), Some(&endpoint_set(&[4])));
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_is_gone_makes_room_for_the_next() {
    let destination = Destination::start();
    let client = start(&destination, settings());
    let set = client.discovery.endpoints(&backend());
    let kept = Arc::new(());
    for _ in 0..3 {
        let held = Arc::clone(&kept);
        set.follow(&Arc::new(()), move |(), _: &EndpointSet| drop(Arc::clone(&held)));
    }
    assert_eq!(Arc::strong_count(&kept), 2, "the test's own, and that of the last follower");
}

#[tokio::test(start_paused = true)]
async fn endpoints_of_different_backends_keep_what_they_have_in_common_once() {
    let mut destination = Destination::start();
    let client = start(&destination, settings());
    let mut session = destination.session().await;
    let mut ports = Vec::new();
    for (port, last) in [(80, &[1, 2][..]), (81, &[3])] {
        ports.push(client.discovery.endpoints(&BackendId { port, ..backend() }));
        let (id, _) = session.subscribed().await;
        session.send(id, 1, endpoints(last)).await;
        session.ack().await;
    }
    let sets: Vec<_> = ports.iter().map(|port| port.current().expect("a value")).collect();
    let traits: Vec<_> = sets.iter().flat_map(|set| set.list.iter().map(|endpoint| &endpoint.traits)).collect();
    assert_eq!(traits.len(), 3);
    assert!(traits.iter().all(|other| Arc::ptr_eq(traits[0], other)), "{traits:?}");
}

#[tokio::test(start_paused = true)]
async fn many_targets_that_come_and_go_cost_few_words() {
    let mut destination = Destination::start();
    let client = start(&destination, settings());
    let mut session = destination.session().await;
    for round in 0..100_u16 {
        for port in 1..=100 {
            drop(client.discovery.outbound(SocketAddr::from(([10, 1, 1, 1], round * 100 + port))));
        }
    }
    let _web = client.discovery.outbound(addr(1));
    let (id, resource) = session.subscribed().await;
    assert_eq!((id, resource), (10_001, outbound(addr(1))));
    session.is_silent().await;
}

#[test]
fn threads_that_subscribe_and_drop_at_once_leave_an_empty_table() {
    let metrics = Metrics::new(crate::metrics::Settings::default());
    let shared = Arc::new(Shared::new(100, metrics.discovery()));
    let discovery = Discovery { shared };
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let discovery = discovery.clone();
            scope.spawn(move || {
                for round in 0..2_000_u16 {
                    let own = discovery.outbound(SocketAddr::from(([10, 0, 1, thread], 80)));
                    let common = discovery.outbound(SocketAddr::from(([10, 0, 0, 1], round % 7 + 1)));
                    assert!(!own.is_over_limit() && !common.is_over_limit());
                }
            });
        }
    });
    assert!(discovery.status().outbound.is_empty());
    assert!(metrics.render().contains(r#"mesh_discovery_subscriptions{kind="outbound"} 0"#));
}

//! The stream's life: lost, refused, silent, and back again.

use super::destination::outbound;
use super::*;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn r52_a_lost_stream_loses_no_value_and_a_new_one_is_told_everything_that_lives() {
    let mut destination = Destination::start();
    let client = start(&destination, settings());
    let mut session = destination.session().await;
    let (web, set) = (client.discovery.outbound(addr(1)), client.discovery.endpoints(&backend()));
    let (mut targets, mut sets) = (Values::of(&web), Values::of(&set));
    let dropped = client.discovery.outbound(addr(9));
    let ids = [session.subscribed().await.0, session.subscribed().await.0];
    session.subscribed().await;
    session.send(ids[0], 40, service(wire::Protocol::Http1)).await;
    session.send(ids[1], 41, endpoints(&[1, 2])).await;
    assert_eq!(targets.next().await, target(Protocol::Http1));
    assert_eq!(sets.next().await, endpoint_set(&[1, 2]));

    session.fail("going away").await;
    drop(dropped);
    let late = client.discovery.outbound(addr(3));
    let mut session = destination.session().await;
    assert_eq!(web.current().as_deref(), Some(&target(Protocol::Http1)));
    assert_eq!(set.current().as_deref(), Some(&endpoint_set(&[1, 2])));
    assert_eq!(late.current(), None);

    let told = [session.subscribed().await, session.subscribed().await, session.subscribed().await];
    assert_eq!([told[0].0, told[1].0], ids);
    assert_eq!(told[2].1, outbound(addr(3)));
    session.is_silent().await;

    // Another replica: its versions begin anew, one value is the same and one is not.
    session.send(ids[0], 1, service(wire::Protocol::Http1)).await;
    session.send(ids[1], 1, endpoints(&[2, 3])).await;
    assert_eq!(sets.next().await, endpoint_set(&[2, 3]));
    targets.are_silent().await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_stream_shows_in_status_and_metrics_until_the_next_one_is_up() {
    let mut destination = Destination::start();
    let client = start(&destination, settings());
    let web = client.discovery.outbound(addr(1));
    let mut session = destination.session().await;
    let (id, _) = session.subscribed().await;
    session.send(id, 3, service(wire::Protocol::Http1)).await;
    session.ack().await;
    assert!(client.discovery.status().connected);

    session.fail("not \n you").await;
    let shows = |line: &str| client.metrics.render().lines().any(|found| found == line);
    let error = client.error().await;
    assert!(!client.discovery.status().connected);
    assert!(shows("mesh_discovery_connected 0"));
    let status = client.discovery.status();
    assert_eq!(error, "destination says: not  you");
    let known = (status.outbound[0].resource.as_str(), status.outbound[0].version);
    assert_eq!(known, ("10.0.0.1:80", Some(3)));
    serde_json::to_string(&client.discovery.status()).expect("it is JSON");

    let _session = destination.session().await;
    assert!(client.discovery.status().connected && shows("mesh_discovery_connected 1"));
    drop(web);
}

#[tokio::test(start_paused = true)]
async fn attempts_are_paced_and_the_pauses_grow() {
    let mut destination = Destination::start();
    let _client = start(&destination, settings());
    let mut begun = Vec::new();
    for _ in 0..12 {
        let session = destination.session().await;
        begun.push(Instant::now());
        session.fail("try again").await;
    }
    let pauses: Vec<_> = begun.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.iter().all(|pause| *pause >= Duration::from_millis(100)), "{pauses:?}");
    assert!(pauses[0] <= Duration::from_millis(210), "{pauses:?}");
    assert!(pauses.iter().any(|pause| *pause > Duration::from_secs(1)), "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_stream_that_lasted_the_pause_is_short_again() {
    let mut destination = Destination::start();
    let _client = start(&destination, settings());
    for _ in 0..10 {
        destination.session().await.fail("try again").await;
    }
    let session = destination.session().await;
    tokio::time::advance(Duration::from_secs(11)).await;
    let lost = Instant::now();
    session.fail("a new version").await;
    let _session = destination.session().await;
    assert!(lost.elapsed() <= Duration::from_millis(210), "{:?}", lost.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_cannot_be_reached_is_tried_again_and_callers_do_not_wait_for_it() {
    let mut destination = Destination::start();
    destination.streams.close();
    let client = start(&destination, settings());
    let web = client.discovery.outbound(addr(1));
    let begun = Instant::now();
    assert_eq!(web.first(Duration::from_millis(200)).await, None);
    assert_eq!(begun.elapsed(), Duration::from_millis(200));
    assert_eq!(client.discovery.status().outbound[0].version, None);
    client.error().await;
    assert!(!client.discovery.status().connected);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_does_not_open_is_given_up() {
    let destination = Destination::deaf();
    let client = start(&destination, Settings { open_within: Duration::from_secs(3), ..settings() });
    let begun = Instant::now();
    assert_eq!(client.error().await, "no answer within 3s");
    assert!(begun.elapsed() >= Duration::from_secs(3));
    assert!(!client.discovery.status().connected);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_updates_ends_in_the_newest_value_and_few_acknowledgements() {
    let mut destination = Destination::start();
    let client = start(&destination, settings());
    let set = client.discovery.endpoints(&backend());
    let mut session = destination.session().await;
    let (id, _) = session.subscribed().await;
    for version in 1..=1_000_u64 {
        let last = u8::try_from(version % 250).expect("small");
        session.send(id, version, endpoints(&[last, 251])).await;
    }
    let mut acknowledged = 0;
    while acknowledged < 1_000 {
        let (_, version, error) = session.ack().await;
        assert!(version > acknowledged && error.is_empty(), "{version} {error}");
        acknowledged = version;
    }
    session.is_silent().await;
    assert_eq!(set.current().as_deref(), Some(&endpoint_set(&[0, 251])));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_message_ends_the_stream_and_loses_no_value() {
    let mut destination = Destination::start();
    let client = start(&destination, settings());
    let web = client.discovery.outbound(addr(1));
    let mut refused = 0;
    for (raw, error) in [
        (&[0xff; 4][..], "a message of more than 4194304 bytes"),
        (&[0, 0x40, 0, 1, 0], "a message of more than 4194304 bytes"),
        (&[0, 0, 0, 1, 0xff], "what came cannot be read"),
        (&[0, 0, 0, 9, 8, 1], "the last message ends before its end"),
    ] {
        let mut session = destination.session().await;
        let (id, _) = session.subscribed().await;
        session.send(id, 1, service(wire::Protocol::Http1)).await;
        session.ack().await;
        session.write_raw(raw).await.expect("an open stream");
        drop(session);
        let shown = async {
            while !client.discovery.status().last_error.is_some_and(|shown| shown.contains(error)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let status = |_| panic!("{raw:?}: {:?}", client.discovery.status());
        tokio::time::timeout(SOON, shown).await.unwrap_or_else(status);
        refused += u64::from(!error.contains("ends before"));
        assert_eq!(web.current().as_deref(), Some(&target(Protocol::Http1)));
    }
    let counted = format!("mesh_discovery_rejections_total {refused}");
    assert!(client.metrics.render().lines().any(|line| line == counted), "no {counted}");
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_says_nothing_for_long_is_left_and_one_that_pings_is_not() {
    let mut destination = Destination::start();
    let client = start(&destination, settings());
    let mut session = destination.session().await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(30)).await;
        session.write(&[]).await.expect("an open stream");
        session.is_silent().await;
    }
    assert!(client.discovery.status().connected);
    let begun = Instant::now();
    let _next = destination.session().await;
    let waited = begun.elapsed();
    assert!((39..42).contains(&waited.as_secs()), "{waited:?}");
}

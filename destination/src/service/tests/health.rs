//! What a sidecar says of its own workload, over its stream.

use super::*;

async fn say(stream: &mut Subscriber, healthy: bool) {
    stream.send(Kind::Health(wire::Health { healthy, detail: "port 80: refused".to_owned() })).await;
}

const THREE: [&str; 3] = ["10.1.0.1", "10.1.0.2", "10.1.0.3"];

fn three() -> String {
    THREE.iter().enumerate().map(|(n, address)| workload(&format!("w{n}"), address)).collect()
}

#[tokio::test]
async fn an_endpoint_that_is_not_well_leaves_all_subscribers_and_returns() {
    let mesh = Mesh::start(Settings::default());
    mesh.apply(&format!("{WEB}{}", three()));
    // The stream's address is that of the first workload.
    let mut own = mesh.greeted().await;
    let mut others = [mesh.greeted().await, mesh.greeted().await];
    for other in &mut others {
        other.subscribe(1, web(80)).await;
        assert_eq!(addresses(&other.next().await), THREE);
    }
    for (healthy, left) in [(false, &THREE[1..]), (true, &THREE[..])] {
        say(&mut own, healthy).await;
        for other in &mut others {
            assert_eq!(addresses(&other.next().await), left);
        }
    }
}

#[tokio::test]
async fn what_was_said_is_forgotten_some_time_after_the_stream_has_ended() {
    let mesh = Mesh::start(Settings { health_kept: Duration::from_millis(200), ..Settings::default() });
    mesh.apply(&format!("{WEB}{}", three()));
    let mut other = mesh.greeted().await;
    other.subscribe(1, web(80)).await;
    other.next().await;
    let mut own = mesh.greeted().await;
    say(&mut own, false).await;
    assert_eq!(addresses(&other.next().await), THREE[1..]);
    let before = Instant::now();
    drop(own);
    assert_eq!(addresses(&other.next().await), THREE);
    assert!(before.elapsed() >= Duration::from_millis(200), "it is kept for a while");
}

#[tokio::test]
async fn a_stream_beside_no_workload_is_not_heard() {
    let mesh = Mesh::start(Settings::default());
    mesh.apply(&format!("{WEB}{}", three().replace("serviceAccount: web", "serviceAccount: other")));
    let nobody = "mesh_destination_health_reports_total{result=\"nobody\"}";
    let before = counted(nobody);
    let mut stream = mesh.greeted().await;
    say(&mut stream, false).await;
    until_counted(nobody, before).await;
    assert_eq!(mesh.index.lock().unwrap().unhealthy().count(), 0);
}

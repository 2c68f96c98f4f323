//! R61, F18: a control group that has less memory than the load wants.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use mesh_tests::attacks::connections::hold;
use mesh_tests::attacks::slow::READ;
use mesh_tests::mesh::Spec;
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Front, Group, Mesh, Source, count, record};

use crate::{APP, LATE, alone, demo, recovery, refused, soon};

const LIMIT: u64 = 64 << 20;
/// How long the app takes: all requests are in hand at once.
const SLOW: &[u8] = b"GET /?delay=4s HTTP/1.1\r\nhost: web\r\n\r\n";

/// Twice what fits: connections that are idle take little, and those at work about 60 KiB.
fn clients() -> usize {
    count(3000, 6000)
}

/// Each answer's head; empty where the connection was refused or broke.
fn answers(streams: Vec<TcpStream>) -> Vec<String> {
    let answer = |mut stream: TcpStream| {
        let mut bytes = vec![0; 4096];
        stream.set_nonblocking(false).ok()?;
        stream.set_read_timeout(Some(LATE)).ok()?;
        let read = stream.read(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..read]).into_owned())
    };
    streams.into_iter().map(|stream| answer(stream).unwrap_or_default()).collect()
}

/// While all of that is in hand, who comes anew is refused, and counted. Tunnels are there already.
fn refused_at_the_door(mesh: &Mesh, front: &Front) {
    if front.way != "inbound" {
        return;
    }
    let before = refused(mesh, front, "memory");
    let mut come = Vec::new();
    until(LATE, || {
        come.push(hold(&front.client, front.addr, 5, b""));
        refused(mesh, front, "memory") > before
    });
}

fn pressed(mesh: &Mesh, front: &Front, group: &Group) {
    let process = front.proxy;
    // Either sidecar may be the one that runs short; the other one passes its answer on.
    let overload = |name| mesh.mesh.get(name).metric("mesh_errors_total", &[("reason", "overload")]);
    let shed_by_now = || overload("web") + overload("client");
    let (shed_before, threads) = (shed_by_now(), process.threads());
    let mut held = hold(&front.client, front.addr, clients(), b"G");
    held.look();
    for stream in &mut held.open {
        // One that was refused meanwhile is seen below.
        let _ = stream.write_all(&SLOW[1..]);
    }
    refused_at_the_door(mesh, front);
    let answers = answers(held.open);
    let of = |part: &str| answers.iter().filter(|answer| answer.contains(part)).count();
    let (served, shed) = (of("HTTP/1.1 200 "), of("mesh-error: overload"));
    let none = held.refused + answers.iter().filter(|answer| answer.is_empty()).count();
    // A busy machine may not connect the app in its time; that is no shedding.
    let late = of("mesh-error: connect_failed");
    assert_eq!(served + shed + late + none, clients(), "{}: other answers: {answers:?}", front.way);
    let counted = shed_by_now() - shed_before;
    assert_eq!(group.kills(), 0, "{}: killed for want of memory", front.way);
    assert!(served > 0 && shed > 0, "{}: {served} served, {shed} shed", front.way);
    assert_eq!(counted, f64::from(u32::try_from(shed).unwrap_or(0)), "{}: shed and not counted", front.way);
    let took = recovery(&front.client, front.addr);
    assert!(took < soon(), "{}: {took:?} to recover", front.way);
    assert!(process.threads() <= threads, "{}: more threads", front.way);
    let figure = format!(
        "{served} served, {shed} shed with 503, {none} refused; peak {} of {} MiB, 0 kills, back after {took:.0?}",
        group.peak() >> 20,
        LIMIT >> 20
    );
    record(61, front.way, front.who, true, &figure);
    println!("{}: {figure}", front.way);
}

/// A mesh whose sidecars have little memory, and their groups in the order of its fronts.
fn within_limits(web: impl for<'a> Fn(Spec<'a>) -> Spec<'a>) -> (Mesh, [Arc<Group>; 2]) {
    let groups = [(); 2].map(|()| Arc::new(Group::new(LIMIT)));
    let mesh = Mesh::start_with(
        |name, spec| {
            let group = Arc::clone(&groups[usize::from(name == "client")]);
            let spec = spec.within(move |command| group.run(command));
            if name == "web" { web(spec) } else { spec }
        },
        |_| {},
    );
    (mesh, groups)
}

#[test]
fn r61_f18_a_load_that_does_not_fit_is_shed_before_the_kernel_kills() {
    let _alone = alone();
    let (mesh, groups) = within_limits(|spec| spec.app(demo()));
    for (front, group) in mesh.fronts.iter().zip(&groups) {
        pressed(&mesh, front, group);
    }
}

/// Answers grow long after their requests were let in, where nobody takes them.
#[test]
fn r61_who_does_not_read_is_let_go_before_the_kernel_kills() {
    let _alone = alone();
    let (mesh, groups) = within_limits(|spec| spec);
    let _app = Source::start(&mesh.mesh.get("web").host, APP);
    let readers = count(600, 2000);
    for (front, group) in mesh.fronts.iter().zip(&groups) {
        let too_slow = || mesh.metric(front, "mesh_errors_total", &[("reason", "too_slow")]);
        let before = too_slow();
        let held = hold(&front.client, front.addr, readers, READ.hello);
        until(LATE, || group.kills() > 0 || too_slow() > before);
        assert_eq!(group.kills(), 0, "{}: killed for want of memory", front.way);
        let taken = held.open.len();
        drop(held);
        let took = recovery(&front.client, front.addr);
        assert!(took < soon(), "{}: {took:?} to recover", front.way);
        let figure = format!(
            "{taken} of {readers} who do not read were let in, {} let go; peak {} of {} MiB, 0 kills, back after {took:.0?}",
            too_slow() - before,
            group.peak() >> 20,
            LIMIT >> 20
        );
        record(61, &format!("who does not read, {}", front.way), front.who, true, &figure);
        println!("{}: {figure}", front.way);
    }
}

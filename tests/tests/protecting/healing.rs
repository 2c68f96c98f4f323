//! An endpoint that was out has its share again soon after it is well, whether many ask or few.
//!
//! Invariant: time counts from when it is well to the begin of a second in which it has three quarters of an even share.
//! Non-goal: how soon it is out; `breaking` has that.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use mesh_tests::mesh::SOON;
use mesh_tests::netns::{Host, until};
use mesh_tests::yardstick::count;

use crate::{World, get};

const ENDPOINTS: usize = 3;
/// Over which shares are counted.
const WINDOW: Duration = Duration::from_secs(1);
/// What the mesh promises.
const BACK: Duration = Duration::from_secs(5);
/// A busy machine makes an answer slow, and peak-EWMA leaves a slow endpoint alone for a while, up to a minute: the outage is made
/// again, so many times at most.
const TRIES: usize = 5;
/// After it, another failure is no relapse, with a longer ejection than the one before.
const HEALTHY: Duration = Duration::from_secs(12);

/// Clients that ask all the time, until this is stopped.
#[derive(Default)]
struct Clients {
    stop: AtomicBool,
    answers: Mutex<Vec<Answer>>,
}

struct Answer {
    at: Instant,
    /// Given by the endpoint.
    own: bool,
}

impl Clients {
    fn run(&self, host: &Host, to: SocketAddr, pause: Duration) {
        while !self.stop.load(Ordering::Relaxed) {
            let answer = get(host, to, "/", "");
            let own = answer.status == 200 && answer.body == "web-1";
            self.all().push(Answer { at: Instant::now(), own });
            thread::sleep(pause);
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Answer>> {
        self.answers.lock().expect("nobody panicked")
    }

    /// Its share of those that came within the window after `begin`, in even shares; none before that is over.
    fn share(&self, begin: Instant) -> Option<f64> {
        if begin.elapsed() < WINDOW {
            return None;
        }
        let answers = self.all();
        let within = answers.iter().filter(|answer| (begin..begin + WINDOW).contains(&answer.at));
        let (all, own) = within.fold((0, 0), |(all, own), answer| (all + 1, own + usize::from(answer.own)));
        // Where nobody was answered, it had no share either.
        Some((own * ENDPOINTS) as f64 / all.max(1) as f64)
    }
}

/// Also when a test fails.
struct Stop<'c>(&'c Clients);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Has `web-1` fail until a probe has failed as well; how long after its recovery it was asked again, and had its share again.
/// `None`: not in time.
fn heals(world: &World, clients: &Clients) -> Option<[Duration; 2]> {
    let client = world.mesh.get("client");
    let ejections = || client.metric("mesh_balancer_ejections_total", &[]);
    let before = ejections();
    world.endpoints[0].answers(503);
    until(4 * SOON, || ejections() - before > 1.5);
    world.endpoints[0].answers(0);
    let healed = Instant::now();
    let mut begin = healed;
    let share = loop {
        match clients.share(begin) {
            None => thread::sleep(Duration::from_millis(10)),
            Some(share) if share >= 0.75 => break begin - healed,
            Some(_) => begin += WINDOW / 10,
        }
        if begin - healed > BACK {
            println!("no share within {BACK:?}: {:?}", clients.share(begin - WINDOW));
            return None;
        }
    };
    let first = clients.all().iter().find(|answer| answer.own && answer.at > healed).map(|answer| answer.at - healed);
    Some([first.unwrap_or(share), share])
}

#[test]
fn an_endpoint_that_is_well_again_has_its_share_within_five_seconds() {
    // What one learns of an endpoint is not known to the other.
    let (world, [light, heavy]) = World::start(ENDPOINTS, ["light", "heavy"]);
    let host = &world.mesh.get("client").host;
    for (load, to, threads, pause) in
        [("light", light.v4, 1, Duration::from_millis(10)), ("heavy", heavy.v4, 16, Duration::ZERO)]
    {
        let clients = Clients::default();
        thread::scope(|scope| {
            let _stop = Stop(&clients);
            (0..threads).for_each(|_| drop(scope.spawn(|| clients.run(host, to, pause))));
            for round in 0..count(1, 20) {
                thread::sleep(if round == 0 { Duration::ZERO } else { HEALTHY });
                let healed = (0..TRIES).find_map(|_| {
                    clients.all().clear();
                    // All are in use.
                    until(4 * SOON, || clients.all().len() > 50 && clients.all().iter().any(|answer| answer.own));
                    heals(&world, &clients).or_else(|| {
                        thread::sleep(HEALTHY);
                        None
                    })
                });
                let [asked, share] =
                    healed.unwrap_or_else(|| panic!("{load} load: not within {BACK:?}, {TRIES} times"));
                println!("{load} load: asked again {asked:?} after it was well, and has its share after {share:?}");
            }
        });
    }
}

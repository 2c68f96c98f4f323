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
/// An answer so many times slower than the others are on average, after the return, is a slow endpoint's, which peak-EWMA leaves
/// alone for up to a minute. On a busy machine it is nobody's fault, and the outage is made again, so many times at most.
const SLOW: u32 = 3;
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
    took: Duration,
    /// Given by the endpoint.
    own: bool,
}

impl Clients {
    fn run(&self, host: &Host, to: SocketAddr, pause: Duration) {
        while !self.stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let answer = get(host, to, "/", "");
            let own = answer.status == 200 && answer.body == "web-1";
            self.all().push(Answer { at: Instant::now(), took: begin.elapsed(), own });
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

    /// Its slowest answer after `begin`, if that was slow.
    fn slow(&self, begin: Instant) -> Option<Duration> {
        let answers = self.all();
        let (own, others): (Vec<_>, Vec<_>) =
            answers.iter().filter(|answer| answer.at > begin).partition(|answer| answer.own);
        let average = others.iter().map(|answer| answer.took).sum::<Duration>()
            / u32::try_from(others.len().max(1)).expect("few");
        own.iter().map(|answer| answer.took).max().filter(|slowest| *slowest > SLOW * average)
    }
}

/// Also when a test fails.
struct Stop<'c>(&'c Clients);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Has `web-1` fail until a probe has failed as well; how long after its recovery it was asked again, and had its share again,
/// or its slow answer, because of which it has not.
fn heals(world: &World, clients: &Clients) -> Result<[Duration; 2], Duration> {
    let client = world.mesh.get("client");
    let ejections = || client.metric("mesh_balancer_ejections_total", &[]);
    let before = ejections();
    world.endpoints[0].answers(503);
    until(SOON, || ejections() - before > 1.5);
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
            let slow = clients.slow(healed);
            return Err(slow.unwrap_or_else(|| panic!("no share within {BACK:?}: {:?}", clients.share(begin - WINDOW))));
        }
    };
    let first = clients.all().iter().find(|answer| answer.own && answer.at > healed).map(|answer| answer.at - healed);
    Ok([first.unwrap_or(share), share])
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
                    let slow = match heals(&world, &clients) {
                        Ok(healed) => return Some(healed),
                        Err(slow) => slow,
                    };
                    println!("{load} load: an answer took {slow:?}, so that it is left alone: again");
                    thread::sleep(HEALTHY);
                    None
                });
                let [asked, share] = healed.expect("a try without a slow answer");
                println!("{load} load: asked again {asked:?} after it was well, and has its share after {share:?}");
            }
        });
    }
}

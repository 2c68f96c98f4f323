//! An application that does what it is told at each moment.

use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use mesh_tests::netns::Host;
use mesh_tests::raw::Server;

/// See the module.
pub(crate) struct Endpoint {
    mood: Arc<Mood>,
    _server: Server,
}

#[derive(Default)]
struct Mood {
    /// 0: 200.
    status: AtomicU16,
    /// Before each answer.
    delay_ms: AtomicU64,
    /// So many at a time; 0: any number.
    workers: AtomicUsize,
    busy: AtomicUsize,
    requests: AtomicUsize,
    /// `/hang` does not wait.
    released: Mutex<bool>,
    told: Condvar,
}

impl Endpoint {
    /// On `host`; each answer has `name` as its body.
    pub(crate) fn start(host: &Host, port: u16, name: &str) -> Self {
        let (mood, name) = (Arc::<Mood>::default(), name.to_owned());
        let told = Arc::clone(&mood);
        let server = Server::start(host, port, move |mut conversation| {
            loop {
                let head = conversation.head()?;
                if head.starts_with("GET /hang ") {
                    told.until_released();
                }
                let status = told.serve();
                let length = name.len();
                conversation.say(
                    format!("HTTP/1.1 {status} X\r\nretry-after: 0\r\ncontent-length: {length}\r\n\r\n{name}")
                        .as_bytes(),
                )?;
            }
        });
        Self { mood, _server: server }
    }

    /// Answers with `status` from now on.
    pub(crate) fn answers(&self, status: u16) {
        self.mood.status.store(status, Ordering::Relaxed);
    }

    /// Takes so long from now on, and serves so many at a time.
    pub(crate) fn takes(&self, time: Duration, workers: usize) {
        self.mood.delay_ms.store(u64::try_from(time.as_millis()).expect("a short time"), Ordering::Relaxed);
        self.mood.workers.store(workers, Ordering::Relaxed);
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.mood.requests.load(Ordering::Relaxed)
    }

    /// Lets those go on that hang.
    pub(crate) fn release(&self) {
        *self.mood.released.lock().expect("a mood") = true;
        self.mood.told.notify_all();
    }

    /// The opposite.
    pub(crate) fn hold(&self) {
        *self.mood.released.lock().expect("a mood") = false;
    }
}

impl Mood {
    fn until_released(&self) {
        let released = self.released.lock().expect("a mood");
        drop(self.told.wait_while(released, |released| !*released).expect("a mood"));
    }

    /// Takes the time, and says the status.
    fn serve(&self) -> u16 {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let busy = self.busy.fetch_add(1, Ordering::Relaxed) + 1;
        // Who is beyond the workers waits for one of them, as long as those before take.
        let workers = self.workers.load(Ordering::Relaxed).max(1);
        let rounds = if self.workers.load(Ordering::Relaxed) == 0 { 1 } else { busy.div_ceil(workers) };
        let rounds = u32::try_from(rounds).expect("few requests");
        thread::sleep(Duration::from_millis(self.delay_ms.load(Ordering::Relaxed)) * rounds);
        self.busy.fetch_sub(1, Ordering::Relaxed);
        match self.status.load(Ordering::Relaxed) {
            0 => 200,
            status => status,
        }
    }
}

//! Bodies without end, and a far end that takes next to nothing (R19).

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::PATIENCE;
use crate::yardstick::{Front, Source, count};

/// What the proxies on the way may grow by, KiB.
pub const GROWTH: u64 = 2 << 10;
/// What is declared, and never sent whole.
const SIZE: u64 = 10 << 30;
/// Who has taken so much does not hold back.
const MOST: u64 = SIZE / 8;
/// What has not moved for so long is held back.
const REST: Duration = Duration::from_secs(1);
/// By then it has to rest.
const LATE: Duration = Duration::from_secs(30);

/// Waits until `moved` has begun and grows no faster than a sink takes; what it is then. None when that is not within bounds.
fn rest(mut moved: impl FnMut() -> u64) -> Option<u64> {
    const SINK: u64 = 256 << 10;
    let (begin, mut last, mut since) = (Instant::now(), 0, Instant::now());
    while begin.elapsed() < LATE && last < MOST {
        let now = moved();
        if now > last + SINK {
            (last, since) = (now, Instant::now());
        }
        if last > 0 && since.elapsed() >= REST {
            return Some(last);
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}

fn connect(front: &Front, request: &str) -> io::Result<TcpStream> {
    let mut stream = front.client.enter(|| TcpStream::connect_timeout(&front.addr, PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    Ok(stream)
}

/// The source is at the back end, and the client takes 1 KiB of it ten times a second. After how many bytes the source was held
/// back; none if it was not.
///
/// # Errors
/// When the proxy cannot be reached.
pub fn down(front: &Front, app: &Source) -> io::Result<Option<u64>> {
    let before = app.counts.pushed.load(Relaxed);
    let mut stream = connect(front, "GET /endless HTTP/1.1\r\nhost: web\r\n\r\n")?;
    let end = Instant::now() + Duration::from_secs(count(3, 60));
    thread::scope(|scope| {
        scope.spawn(move || {
            while Instant::now() < end && stream.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {
                thread::sleep(Duration::from_millis(100));
            }
        });
        Ok(rest(|| app.counts.pushed.load(Relaxed) - before))
    })
}

/// The source is the client, and the back end takes 1 KiB of it ten times a second. As [`down`].
///
/// # Errors
/// When the proxy cannot be reached.
pub fn up(front: &Front) -> io::Result<Option<u64>> {
    let head = format!("POST /sink HTTP/1.1\r\nhost: web\r\ncontent-length: {SIZE}\r\n\r\n");
    let mut stream = connect(front, &head)?;
    stream.set_nonblocking(true)?;
    let mut sent = 0;
    Ok(rest(|| {
        while sent < MOST
            && let Ok(n) = stream.write(&[b'x'; 16 << 10])
        {
            sent += n as u64;
        }
        sent
    }))
}

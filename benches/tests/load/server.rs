//! A server of one thread that does with each message what a test says.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What to do with a message.
pub(crate) enum Next {
    Echo,
    EchoAndClose,
    Answer(&'static str),
    AnswerAndClose(&'static str),
}

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Server {
    /// Messages are counted from 0, over all connections.
    pub(crate) fn that(next: impl Fn(usize) -> Next + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (addr, stop) = (listener.local_addr().expect("an address"), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || serve(&listener, &stopped, next));
        Self { addr, stop, thread: Some(thread) }
    }

    /// The address at which nobody listens any more.
    pub(crate) fn stop(self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let served = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(served, Some(Ok(Ok(())))), "{served:?}");
    }
}

fn serve(listener: &TcpListener, stop: &AtomicBool, next: impl Fn(usize) -> Next) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let (mut streams, mut message): (Vec<TcpStream>, usize) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            streams.push(stream);
        }
        streams.retain_mut(|stream| {
            let mut buffer = [0; 1024];
            let read = match stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(read) => read,
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            };
            let (answer, keep) = match next(message) {
                Next::Echo => (&buffer[..read], true),
                Next::EchoAndClose => (&buffer[..read], false),
                Next::Answer(text) => (text.as_bytes(), true),
                Next::AnswerAndClose(text) => (text.as_bytes(), false),
            };
            message += 1;
            stream.write_all(answer).is_ok() && keep
        });
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

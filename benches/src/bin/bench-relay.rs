//! `bench-relay`: a sidecar that only passes bytes on.
//!
//! Invariant: neither TLS nor HTTP nor anything else of a mesh, and no runtime: one thread that waits, receives and sends. So
//! what it takes is what the kernel takes for two more hops of each connection, and next to nothing else.
//! Non-goal: fairness. Who reads slowly holds up all others.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use clap::Parser;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

const PIECE: usize = 16 << 10;
/// Each edge is told once; that a peer has ended, as well.
const EDGES: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP).union(EpollFlags::EPOLLET);
/// What events of the listeners carry; streams count up from 0.
const LISTENER: u64 = u64::MAX;
const ADMIN: u64 = u64::MAX - 1;

#[derive(Parser)]
#[command(about = "Passes bytes from one address on to another one, on one thread")]
struct Options {
    /// Where connections come in
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Where each one goes
    #[arg(long, value_name = "ADDR")]
    dial: SocketAddr,
    /// Answers each request with what was passed on so far
    #[arg(long, value_name = "ADDR")]
    admin: SocketAddr,
}

struct Relay {
    to: SocketAddr,
    epoll: Epoll,
    /// A connection's two streams, client and server, in one line; an event carries twice its key, and one more for the server.
    pairs: HashMap<u64, Pair>,
    piece: Vec<u8>,
    connections: u64,
    /// Pieces from clients.
    pieces: u64,
}

struct Pair {
    streams: [TcpStream; 2],
    /// Directions that have ended.
    ended: [bool; 2],
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    mesh_kit::limits::raise_files()?;
    let (listener, admin) = (TcpListener::bind(options.listen)?, TcpListener::bind(options.admin)?);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    epoll.add(&admin, EpollEvent::new(EpollFlags::EPOLLIN, ADMIN))?;
    let (pairs, piece) = (HashMap::new(), vec![0; PIECE]);
    let mut relay = Relay { to: options.dial, epoll, pairs, piece, connections: 0, pieces: 0 };
    let mut events = [EpollEvent::empty(); 64];
    loop {
        let count = match relay.epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            count => count?,
        };
        for event in &events[..count] {
            // A connection that fails ends; its client notices.
            let _ = match event.data() {
                LISTENER => relay.open(&listener),
                ADMIN => relay.answer(&admin),
                key => relay.pass(key, event.events().contains(EpollFlags::EPOLLRDHUP)),
            };
        }
    }
}

impl Relay {
    fn open(&mut self, listener: &TcpListener) -> io::Result<()> {
        let (client, _) = listener.accept()?;
        let streams = [client, TcpStream::connect(self.to)?];
        let key = self.connections;
        for (stream, side) in streams.iter().zip(0..) {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            self.epoll.add(stream, EpollEvent::new(EDGES, 2 * key + side))?;
        }
        self.pairs.insert(key, Pair { streams, ended: [false; 2] });
        self.connections += 1;
        Ok(())
    }

    /// What has come on one stream; to its end, if that has come too.
    fn pass(&mut self, key: u64, is_last: bool) -> io::Result<()> {
        let (from, pair) = (usize::from(key % 2 == 1), key / 2);
        let Some(Pair { streams, ended }) = self.pairs.get_mut(&pair) else { return Ok(()) };
        let passed = loop {
            match (&streams[from]).read(&mut self.piece) {
                Ok(0) => break streams[1 - from].shutdown(Shutdown::Write).map(|()| ended[from] = true),
                Ok(length) => {
                    self.pieces += u64::from(from == 0);
                    if let Err(error) = send(&streams[1 - from], &self.piece[..length]) {
                        break Err(error);
                    }
                    // What comes after a short piece is another edge.
                    if length < PIECE && !is_last {
                        break Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if passed.is_err() || *ended == [true; 2] {
            self.pairs.remove(&pair);
        }
        passed
    }

    fn answer(&self, admin: &TcpListener) -> io::Result<()> {
        let (mut asker, _) = admin.accept()?;
        let _ = asker.read(&mut [0; 1024])?;
        let body = format!("relay_connections_total {}\nrelay_pieces_total {}\n", self.connections, self.pieces);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        asker.write_all([head, body].concat().as_bytes())
    }
}

/// All of `bytes`, however slowly it is taken.
fn send(mut stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

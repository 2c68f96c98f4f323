//! A connection that sends what it is told and waits for what it is asked for.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use loona_hpack::Decoder;
use socket2::Socket;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::frame::{Frame, PREFACE, flag, kind};
use crate::client::PATIENCE;
use crate::netns::Host;

/// How many frames `seen` holds.
const KEPT: usize = 256;

/// Our side of a connection.
pub struct Connection {
    socket: Socket,
    decoder: Decoder<'static>,
    /// Bytes that came and are no whole frame yet.
    unread: Vec<u8>,
    /// The beginning of a field block that CONTINUATION goes on with.
    block: Vec<u8>,
    patience: Duration,
    /// The frames that came, the newest last; an attack's first ones are forgotten.
    pub seen: VecDeque<Frame>,
    /// Whether the far end has closed; by RST, or by FIN.
    pub closed: Option<ErrorKind>,
}

/// What came of waiting.
#[derive(Debug)]
pub enum Read {
    /// A frame.
    Frame(Frame),
    /// FIN ([`ErrorKind::UnexpectedEof`]) or RST.
    Closed(ErrorKind),
    /// Nothing in time.
    Silence,
}

impl Read {
    /// The frame, if it is one.
    #[must_use]
    pub fn frame(self) -> Option<Frame> {
        match self {
            Self::Frame(frame) => Some(frame),
            _ => None,
        }
    }
}

impl Connection {
    /// Connects from `host`, and says nothing.
    ///
    /// # Errors
    /// When the address cannot be reached.
    pub fn dial(host: &Host, addr: SocketAddr) -> io::Result<Self> {
        let stream = host.enter(|| TcpStream::connect_timeout(&addr, PATIENCE))?;
        stream.set_nodelay(true)?;
        Self::over(OwnedFd::from(stream))
    }

    /// Over any stream socket: one that was accepted, or an end of [`through_tls`].
    ///
    /// # Errors
    /// When it is no socket.
    pub fn over(socket: impl Into<OwnedFd>) -> io::Result<Self> {
        let socket = Socket::from(socket.into());
        socket.set_write_timeout(Some(PATIENCE))?;
        let (unread, block, seen) = Default::default();
        let (decoder, closed) = (Decoder::new(), None);
        Ok(Self { socket, decoder, unread, block, patience: PATIENCE, seen, closed })
    }

    /// How long to wait for a frame, in place of [`PATIENCE`].
    pub fn patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// The socket, for options and for FIN and RST at will.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The socket alone; what has been read is lost.
    #[must_use]
    pub fn into_socket(self) -> Socket {
        self.socket
    }

    /// Begins as an honest client: preface and SETTINGS; waits for the server's, and acknowledges them.
    ///
    /// # Errors
    /// When the server does not send SETTINGS in time.
    pub fn begin(&mut self, settings: &[(u16, u32)]) -> io::Result<()> {
        self.write(PREFACE);
        self.send(&Frame::settings(settings));
        self.agree()
    }

    /// Begins as an honest server: reads the preface, sends SETTINGS, and acknowledges the client's.
    ///
    /// # Errors
    /// When the client does not send preface and SETTINGS in time.
    pub fn begin_server(&mut self, settings: &[(u16, u32)]) -> io::Result<()> {
        self.read_preface()?;
        self.send(&Frame::settings(settings));
        self.agree()
    }

    /// Reads a client's preface.
    ///
    /// # Errors
    /// When it does not come in time, or something else does.
    pub fn read_preface(&mut self) -> io::Result<()> {
        let first = self.take(PREFACE.len());
        let first = first.map_err(|read| io::Error::other(format!("{read:?} in place of the preface")))?;
        if first == PREFACE { Ok(()) } else { Err(io::Error::other(format!("no preface: {first:?}"))) }
    }

    fn agree(&mut self) -> io::Result<()> {
        match self.until(|frame| frame.kind == kind::SETTINGS && !frame.has(flag::ACK)) {
            Read::Frame(_) => {
                self.send(&Frame::settings_ack());
                Ok(())
            }
            read => Err(io::Error::other(format!("{read:?} in place of SETTINGS"))),
        }
    }

    /// Sends a frame; whether it could be sent. A far end that has closed is for the reader to see.
    pub fn send(&mut self, frame: &Frame) -> bool {
        self.write(&frame.bytes())
    }

    /// Sends bytes; whether they could be sent. False also when the far end has taken nothing for [`PATIENCE`].
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    /// The next `n` bytes, whatever they are.
    ///
    /// # Errors
    /// [`Read`], when they do not come.
    pub fn take(&mut self, n: usize) -> Result<Vec<u8>, Read> {
        let deadline = Instant::now() + self.patience;
        while self.unread.len() < n {
            self.fill(deadline)?;
        }
        let rest = self.unread.split_off(n);
        Ok(std::mem::replace(&mut self.unread, rest))
    }

    /// The next frame.
    pub fn read(&mut self) -> Read {
        self.until(|_| true)
    }

    /// The next frame of the kind that is wanted; others are passed over, and kept in `seen`.
    pub fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Read {
        let deadline = Instant::now() + self.patience;
        loop {
            let Some(frame) = self.take_frame() else {
                match self.fill(deadline) {
                    Ok(()) => continue,
                    Err(read) => return read,
                }
            };
            self.keep(frame.clone());
            if wanted(&frame) {
                return Read::Frame(frame);
            }
        }
    }

    /// Reads to the end, whatever comes.
    pub fn end(&mut self) -> Read {
        let deadline = Instant::now() + self.patience;
        loop {
            self.unread.clear();
            if let Err(read) = self.fill(deadline) {
                return read;
            }
        }
    }

    fn keep(&mut self, frame: Frame) {
        if self.seen.len() == KEPT {
            self.seen.pop_front();
        }
        self.seen.push_back(frame);
    }

    /// Reads more bytes.
    fn fill(&mut self, deadline: Instant) -> Result<(), Read> {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Some(kind) = self.closed {
            return Err(Read::Closed(kind));
        }
        if left.is_zero() || self.socket.set_read_timeout(Some(left)).is_err() {
            return Err(Read::Silence);
        }
        let mut chunk = [0; 16 << 10];
        let end = match self.socket.read(&mut chunk) {
            Ok(0) => ErrorKind::UnexpectedEof,
            Ok(n) => {
                self.unread.extend_from_slice(&chunk[..n]);
                return Ok(());
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(Read::Silence);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => error.kind(),
        };
        self.closed = Some(end);
        Err(Read::Closed(end))
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let &[a, b, c, kind, flags, d, e, f, g, ..] = self.unread.as_slice() else { return None };
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
        let payload = self.unread.get(9..9 + length)?.to_vec();
        self.unread.drain(..9 + length);
        let mut frame = Frame::new(kind, flags, u32::from_be_bytes([d, e, f, g]), payload);
        if matches!(kind, kind::HEADERS | kind::CONTINUATION) {
            self.block.extend_from_slice(frame.block().unwrap_or_default());
            if frame.has(flag::END_HEADERS) {
                frame.fields = self.decode();
            }
        }
        Some(frame)
    }

    fn decode(&mut self) -> Option<Vec<(String, String)>> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let block = std::mem::take(&mut self.block);
        let fields = self.decoder.decode(&block).ok()?;
        Some(fields.into_iter().map(|(name, value)| (text(name), text(value))).collect())
    }
}

/// Accepts connections one by one; the listener ends with its value.
pub struct Listener(TcpListener);

impl Listener {
    /// Listens on `port` of all addresses of `host`, both families.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn bind(host: &Host, port: u16) -> Self {
        let bound = host.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)));
        let listener = bound.unwrap_or_else(|error| panic!("port {port}: {error}"));
        listener.set_nonblocking(true).expect("a socket");
        Self(listener)
    }

    /// The next connection; `None` when there is none in time.
    #[must_use]
    pub fn accept(&self, patience: Duration) -> Option<Connection> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            match self.0.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).ok()?;
                    stream.set_nodelay(true).ok()?;
                    return Connection::over(OwnedFd::from(stream)).ok();
                }
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
        None
    }
}

/// A blocking end of an asynchronous stream (TLS, mostly), which a thread carries until one side closes. RST becomes FIN.
///
/// # Errors
/// When `connect` fails.
pub fn through_tls<S>(connect: impl Future<Output = io::Result<S>> + Send + 'static) -> io::Result<Connection>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (ours, theirs) = UnixStream::pair()?;
    let (connected, result) = std::sync::mpsc::sync_channel(1);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime in a test");
        runtime.block_on(async move {
            match connect.await {
                Ok(stream) => {
                    let _ = connected.send(Ok(()));
                    theirs.set_nonblocking(true).expect("a socket");
                    let mut theirs = tokio::net::UnixStream::from_std(theirs).expect("within a runtime");
                    let (mut said, mut heard) = theirs.split();
                    let (mut read, mut write) = tokio::io::split(stream);
                    let there = async {
                        // An end is an end; how it came is not for this side to know. What the far end said before it still
                        // comes, though nothing more can be said.
                        let _ = tokio::io::copy(&mut said, &mut write).await;
                        let _ = write.shutdown().await;
                    };
                    let back = async {
                        let _ = tokio::io::copy(&mut read, &mut heard).await;
                        let _ = heard.shutdown().await;
                    };
                    tokio::join!(there, back);
                }
                Err(error) => drop(connected.send(Err(error))),
            }
        });
    });
    result.recv().map_err(io::Error::other)??;
    Connection::over(OwnedFd::from(ours))
}

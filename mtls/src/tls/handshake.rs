//! A handshake, on rustls's unbuffered interface, up to its last byte.
//!
//! Invariant: rustls sees no byte that follows the handshake; those are for [`Records`].

use std::io;
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{CommonState, ContentType};
use tokio::io::{AsyncRead, AsyncWrite};

use super::buffer::Buffer;
use super::records::{HEAD, Records};
use super::stream::Stream;

/// From this length on, rustls refuses a record by its head.
const TOO_LONG: usize = (1 << 14) + 2048;

/// Either side of a session.
pub(super) enum Session {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

impl Session {
    fn common(&self) -> &CommonState {
        match self {
            Session::Client(client) => client,
            Session::Server(server) => server,
        }
    }

    fn into_records(self) -> Result<Records, rustls::Error> {
        match self {
            Session::Client(client) => Records::of_client(*client),
            Session::Server(server) => Records::of_server(*server),
        }
    }
}

/// What became of one look at the session.
enum Step {
    /// Look again.
    More,
    /// More bytes are needed.
    Blocked,
}

/// A handshake over `IO`.
pub(super) struct Handshake<IO> {
    io: IO,
    session: Session,
    incoming: Buffer,
    /// Of `incoming`: whole records that rustls has been shown, or what is no record. It keeps places in them from one look to the next.
    shown: usize,
    outgoing: Buffer,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Handshake<IO> {
    pub(super) fn new(io: IO, session: Session) -> Self {
        Self { io, session, incoming: Buffer::default(), shown: 0, outgoing: Buffer::default() }
    }

    /// Performs it.
    pub(super) async fn perform(mut self) -> io::Result<Self> {
        std::future::poll_fn(|cx| self.poll(cx)).await?;
        Ok(self)
    }

    /// What was agreed on.
    pub(super) fn agreed(&self) -> &CommonState {
        self.session.common()
    }

    /// The stream that it was for.
    pub(super) fn into_stream(self) -> Result<Stream<IO>, rustls::Error> {
        debug_assert_eq!(self.shown, 0, "rustls has seen more than the handshake");
        Ok(Stream::new(self.io, self.session.into_records()?, self.incoming))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let stepped = self.advance();
            // What the peer did wrong it is told by an alert, if the socket takes that.
            let sent = self.outgoing.poll_send(&mut self.io, cx, 0);
            stepped?;
            ready!(sent)?;
            if self.is_done() {
                return Poll::Ready(Ok(()));
            }
            while !self.show_more() {
                if ready!(self.incoming.poll_fill(&mut self.io, cx))? == 0 {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
            }
        }
    }

    fn is_done(&self) -> bool {
        let common = self.session.common();
        !common.is_handshaking() && !common.wants_write()
    }

    /// Shows one record more, or all that is no record; whether there was one.
    fn show_more(&mut self) -> bool {
        let rest = &self.incoming.filled()[self.shown..];
        let Some(more) = next_record(rest) else {
            return false;
        };
        self.shown += more;
        true
    }

    /// Goes as far as what was shown brings us.
    fn advance(&mut self) -> io::Result<()> {
        while !self.is_done() {
            match self.step() {
                Ok(Step::More) => {}
                Ok(Step::Blocked) => break,
                Err(error) => {
                    // What is left to say goes out: the alert, and before it what was ready when the error came. Where nothing is
                    // left, rustls does not bear a further look.
                    while self.session.common().wants_write() && self.step().is_ok() {}
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn step(&mut self) -> io::Result<Step> {
        let Self { session, incoming, shown, outgoing, .. } = self;
        let incoming_tls = &mut incoming.filled_mut()[..*shown];
        let (discard, step) = match session {
            Session::Client(client) => act(client.process_tls_records(incoming_tls), outgoing),
            Session::Server(server) => act(server.process_tls_records(incoming_tls), outgoing),
        };
        *shown -= discard;
        incoming.consume(discard);
        step
    }
}

/// The length of the record that `bytes` begin with, once it is there as a whole. What is no record is rustls's to refuse.
fn next_record(bytes: &[u8]) -> Option<usize> {
    let kind = ContentType::from(*bytes.first()?);
    if matches!(kind, ContentType::Unknown(_)) {
        return Some(bytes.len());
    }
    let &[.., high, low] = bytes.first_chunk::<HEAD>()?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length >= TOO_LONG {
        return Some(bytes.len());
    }
    (HEAD + length <= bytes.len()).then_some(HEAD + length)
}

/// Acts on what rustls says; how much of what was received is done with.
fn act<Data>(
    UnbufferedStatus { discard, state }: UnbufferedStatus<'_, '_, Data>,
    outgoing: &mut Buffer,
) -> (usize, io::Result<Step>) {
    let step = match state {
        Err(error) => Err(invalid(error)),
        Ok(ConnectionState::EncodeTlsData(mut data)) => match data.encode(outgoing.room()) {
            Ok(n) => {
                outgoing.fill(n);
                Ok(Step::More)
            }
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        },
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            transmit.done();
            Ok(Step::More)
        }
        // A server may write before it has heard who the client is; we do not.
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Ok(Step::Blocked),
        // Nothing but a handshake was shown.
        Ok(_) => Err(invalid(rustls::Error::HandshakeNotComplete)),
    };
    (discard, step)
}

pub(super) fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

//! What a peer may say beside data once the handshake is over: alerts, new keys, tickets.
//!
//! Invariant: what is neither of these ends the session with the alert of RFC 8446, and nothing that costs us work can be
//! said without end. Non-goal: records and keys; see `records`.

use rustls::{AlertDescription, ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved};

/// Records without content, one after another.
const MOST_EMPTY: u8 = 32;
/// New keys between two records of data.
const MOST_UPDATES: u8 = 32;
/// Alerts that mean nothing.
const MOST_WARNINGS: u8 = 4;
/// A ticket that is longer is no ticket.
const LONGEST_TICKET: u32 = 0xffff;
/// The type and length of a handshake message.
const HEAD: usize = 4;

/// What the peer did wrong, and the alert that tells it.
#[derive(Debug, PartialEq)]
pub struct Fault {
    /// What our side says about it.
    pub error: Error,
    /// None for a fault that the peer has told us of.
    pub alert: Option<AlertDescription>,
}

impl Fault {
    /// A fault that the peer is told of.
    pub fn new(error: impl Into<Error>, alert: AlertDescription) -> Self {
        Self { error: error.into(), alert: Some(alert) }
    }

    /// A record of a kind that is not expected.
    pub fn unexpected(got_type: ContentType) -> Self {
        let expect_types = vec![ContentType::ApplicationData, ContentType::Handshake, ContentType::Alert];
        Self::new(Error::InappropriateMessage { expect_types, got_type }, AlertDescription::UnexpectedMessage)
    }
}

/// What a record asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing that is to be done.
    Nothing,
    /// It holds data.
    Data,
    /// Nothing follows.
    Closed,
    /// The next record has new keys.
    NewKeys {
        /// We are to change ours too.
        answer: bool,
    },
}

/// One side's account of what the other said.
#[derive(Debug)]
pub struct Talk {
    /// Servers give tickets, which we do not keep.
    tickets: bool,
    /// A handshake message that has begun, as far as its first bytes have come.
    begun: [u8; HEAD + 1],
    length: usize,
    /// Bytes of a ticket that are to come.
    ticket: u32,
    empty: u8,
    updates: u8,
    warnings: u8,
}

impl Talk {
    /// The other side is a server.
    pub fn with_server() -> Self {
        Self { tickets: true, ..Self::with_client() }
    }

    /// The other side is a client.
    pub fn with_client() -> Self {
        Self { tickets: false, begun: [0; HEAD + 1], length: 0, ticket: 0, empty: 0, updates: 0, warnings: 0 }
    }

    /// Hears a record's `content`, without padding; one of at most 2^14 bytes.
    ///
    /// # Errors
    /// What ends the session (RFC 8446 4.6, 5.1, 6).
    pub fn hear(&mut self, kind: ContentType, content: &[u8]) -> Result<Said, Fault> {
        let amid = self.length > 0 || self.ticket > 0;
        if amid && kind != ContentType::Handshake {
            let error = PeerMisbehaved::MessageInterleavedWithHandshakeMessage;
            return Err(Fault::new(error, AlertDescription::UnexpectedMessage));
        }
        match kind {
            ContentType::ApplicationData => self.hear_data(content),
            ContentType::Handshake => self.hear_handshake(content),
            ContentType::Alert => self.hear_alert(content),
            other => Err(Fault::unexpected(other)),
        }
    }

    fn hear_data(&mut self, content: &[u8]) -> Result<Said, Fault> {
        if content.is_empty() {
            self.empty = counted(self.empty, MOST_EMPTY, PeerMisbehaved::TooManyEmptyFragments)?;
            return Ok(Said::Nothing);
        }
        (self.empty, self.updates) = (0, 0);
        Ok(Said::Data)
    }

    /// RFC 8446 6: the level says nothing, and all alerts but two are the end.
    fn hear_alert(&mut self, content: &[u8]) -> Result<Said, Fault> {
        let &[_level, description] = content else {
            return Err(Fault::new(InvalidMessage::MissingData("Alert"), AlertDescription::DecodeError));
        };
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => Ok(Said::Closed),
            AlertDescription::UserCanceled => {
                let error = PeerMisbehaved::TooManyWarningAlertsReceived;
                self.warnings = counted(self.warnings, MOST_WARNINGS, error)?;
                Ok(Said::Nothing)
            }
            fatal => Err(Fault { error: Error::AlertReceived(fatal), alert: None }),
        }
    }

    fn hear_handshake(&mut self, mut content: &[u8]) -> Result<Said, Fault> {
        if content.is_empty() {
            // RFC 8446 5.1: only data may be.
            return Err(Fault::new(InvalidMessage::InvalidEmptyPayload, AlertDescription::UnexpectedMessage));
        }
        while !content.is_empty() {
            if self.ticket > 0 {
                let passed = content.len().min(self.ticket as usize);
                self.ticket -= passed as u32;
                content = &content[passed..];
                continue;
            }
            self.begun[self.length] = content[0];
            self.length += 1;
            content = &content[1..];
            let [kind, l0, l1, l2, asked] = self.begun;
            let announced = u32::from_be_bytes([0, l0, l1, l2]);
            match (HandshakeType::from(kind), self.length) {
                (HandshakeType::NewSessionTicket, 1..HEAD) if self.tickets => {}
                (HandshakeType::NewSessionTicket, HEAD) if self.tickets && announced <= LONGEST_TICKET => {
                    (self.length, self.ticket) = (0, announced);
                }
                (HandshakeType::KeyUpdate, 1..HEAD) => {}
                (HandshakeType::KeyUpdate, HEAD) if announced == 1 => {}
                (HandshakeType::KeyUpdate, length) if length > HEAD => {
                    self.length = 0;
                    return self.hear_update(asked, content);
                }
                (HandshakeType::NewSessionTicket | HandshakeType::KeyUpdate, HEAD) => {
                    return Err(Fault::new(InvalidMessage::HandshakePayloadTooLarge, AlertDescription::DecodeError));
                }
                (got_type, _) => {
                    let expect_types = vec![HandshakeType::NewSessionTicket, HandshakeType::KeyUpdate];
                    let error = Error::InappropriateHandshakeMessage { expect_types, got_type };
                    return Err(Fault::new(error, AlertDescription::UnexpectedMessage));
                }
            }
        }
        Ok(Said::Nothing)
    }

    fn hear_update(&mut self, asked: u8, rest: &[u8]) -> Result<Said, Fault> {
        if !rest.is_empty() {
            // It would be under the old keys (RFC 8446 5.1).
            let error = PeerMisbehaved::KeyEpochWithPendingFragment;
            return Err(Fault::new(error, AlertDescription::UnexpectedMessage));
        }
        self.updates = counted(self.updates, MOST_UPDATES, PeerMisbehaved::TooManyKeyUpdateRequests)?;
        match asked {
            0 => Ok(Said::NewKeys { answer: false }),
            1 => Ok(Said::NewKeys { answer: true }),
            _ => Err(Fault::new(InvalidMessage::InvalidKeyUpdate, AlertDescription::IllegalParameter)),
        }
    }
}

/// One more than `n`, unless that is more than `most`.
fn counted(n: u8, most: u8, error: PeerMisbehaved) -> Result<u8, Fault> {
    if n < most { Ok(n + 1) } else { Err(Fault::new(error, AlertDescription::UnexpectedMessage)) }
}

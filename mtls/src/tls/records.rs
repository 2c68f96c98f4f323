//! Records of a session whose handshake is over (RFC 8446 5): sealed into one buffer, opened into where they are read.
//!
//! rustls agrees on the keys and derives the next ones, AWS-LC encrypts; between them lies what this file does, so that no
//! record is an allocation that its bytes are copied into and out of, as through rustls's own records. Invariant: no nonce is used twice
//! under a key, no key beyond its suite's limit, and nothing is handed on that was not authenticated.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::{AlertDescription, ConnectionTrafficSecrets, ContentType, Error, ExtractedSecrets, SupportedCipherSuite};
use tokio::io::ReadBuf;

use super::buffer::{self, Buffer};
use super::talk::{Fault, Said, Talk};

/// Type, version and length.
pub(super) const HEAD: usize = 5;
/// The content's type, which is encrypted with it, and the tag of all our suites.
const TAIL: usize = 1 + TAG;
const TAG: usize = 16;
/// All that a record of ours takes beside its content.
pub(super) const OVERHEAD: usize = HEAD + TAIL;
/// Of a peer's record after its head: content with its type and padding, and the tag (RFC 8446 5.4).
const MOST_ENCRYPTED: usize = (1 << 14) + 1 + TAG;
/// A `KeyUpdate` that asks for none.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
/// What [preparing](Records::prepare) for a record takes at most.
pub(super) const PREPARATION: usize = KEY_UPDATE.len() + OVERHEAD;
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// Both directions of a session.
pub(super) struct Records {
    session: Session,
    talk: Talk,
    tx: Direction,
    rx: Direction,
    /// Records under one key.
    limit: u64,
    /// The peer asked for new keys of ours.
    update_due: bool,
}

/// What is left of rustls's session: the secrets that the next keys come from.
enum Session {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

/// What became of a record.
pub(super) enum Opened {
    /// Its content, if there was any, is with the reader.
    Read,
    /// Its content is so many bytes after its head, where it was.
    Kept(usize),
    /// The peer says that nothing follows.
    End,
}

impl Records {
    pub(super) fn of_client(session: UnbufferedClientConnection) -> Result<Self, Error> {
        let (secrets, session) = session.dangerous_into_kernel_connection()?;
        let suite = session.negotiated_cipher_suite();
        Self::new(secrets, Session::Client(session), suite, Talk::with_server())
    }

    pub(super) fn of_server(session: UnbufferedServerConnection) -> Result<Self, Error> {
        let (secrets, session) = session.dangerous_into_kernel_connection()?;
        let suite = session.negotiated_cipher_suite();
        Self::new(secrets, Session::Server(session), suite, Talk::with_client())
    }

    fn new(
        secrets: ExtractedSecrets,
        session: Session,
        suite: SupportedCipherSuite,
        talk: Talk,
    ) -> Result<Self, Error> {
        let limit = suite.tls13().ok_or(Error::HandshakeNotComplete)?.common.confidentiality_limit;
        let (tx, rx) = (Direction::new(secrets.tx)?, Direction::new(secrets.rx)?);
        Ok(Self { session, talk, tx, rx, limit, update_due: false })
    }

    /// Makes ready for a record of data: changes our keys if that is due.
    pub(super) fn prepare(&mut self, out: &mut Buffer) -> Result<(), Error> {
        if self.update_due || self.tx.used + 1 >= self.limit {
            self.tx.seal(ContentType::Handshake, &KEY_UPDATE, out)?;
            self.renew_tx()?;
            self.update_due = false;
        }
        Ok(())
    }

    fn renew_tx(&mut self) -> Result<(), Error> {
        self.tx = Direction::new(match &mut self.session {
            Session::Client(session) => session.update_tx_secret()?,
            Session::Server(session) => session.update_tx_secret()?,
        })?;
        Ok(())
    }

    /// Appends a record of data, [prepared](Self::prepare) for, to `out`.
    pub(super) fn seal(&mut self, data: &[u8], out: &mut Buffer) -> Result<(), Error> {
        self.tx.seal(ContentType::ApplicationData, data, out)
    }

    /// The same where the data is at the end of `out` already, behind room for a head.
    pub(super) fn seal_in_place(&mut self, length: usize, out: &mut Buffer) -> Result<(), Error> {
        if self.update_due {
            // The peer asked while the data gathered, and new keys come before the next data (RFC 8446 4.6.3).
            let data = out.last_mut(length).to_vec();
            out.forget(HEAD + length);
            self.prepare(out)?;
            return self.seal(&data, out);
        }
        self.tx.seal_in_place(length, out)
    }

    pub(super) fn seal_alert(&mut self, alert: AlertDescription, out: &mut Buffer) -> Result<(), Error> {
        // Of a level nothing depends, but some look at it.
        let level = if alert == AlertDescription::CloseNotify { WARNING } else { FATAL };
        self.tx.seal(ContentType::Alert, &[level, alert.into()], out)
    }

    /// Opens a whole `record`: for `reader` if it has room for all of it, else in place.
    pub(super) fn open(&mut self, record: &mut [u8], reader: &mut ReadBuf<'_>) -> Result<Opened, Fault> {
        let (head, encrypted) = record.split_at_mut(HEAD);
        let length = encrypted.len().checked_sub(TAG).ok_or_else(undecipherable)?;
        let (encrypted, tag) = encrypted.split_at_mut(length);
        let direct = length <= reader.remaining();
        let plain = if direct {
            let room = reader.initialize_unfilled_to(length);
            self.rx.open(head, encrypted, tag, room)?;
            room
        } else {
            self.rx.open_in_place(head, encrypted, tag)?;
            encrypted
        };
        // Zeros after the type are padding.
        let Some(end) = plain.iter().rposition(|byte| *byte != 0) else {
            return Err(Fault::unexpected(ContentType::Unknown(0)));
        };
        let (kind, content) = (ContentType::from(plain[end]), &plain[..end]);
        match self.talk.hear(kind, content)? {
            Said::Data if direct => {
                reader.advance(end);
                Ok(Opened::Read)
            }
            Said::Data => Ok(Opened::Kept(end)),
            Said::Nothing => Ok(Opened::Read),
            Said::Closed => Ok(Opened::End),
            Said::NewKeys { answer } => self.renew_rx(answer),
        }
    }

    fn renew_rx(&mut self, answer: bool) -> Result<Opened, Fault> {
        let secrets = match &mut self.session {
            Session::Client(session) => session.update_rx_secret(),
            Session::Server(session) => session.update_rx_secret(),
        };
        let renewed = secrets.and_then(Direction::new);
        self.rx = renewed.map_err(|error| Fault::new(error, AlertDescription::InternalError))?;
        self.update_due |= answer;
        Ok(Opened::Read)
    }
}

/// Room that a reader needs for a record of this length to be opened where it is read to.
pub(super) fn plain_room(record: usize) -> usize {
    record.saturating_sub(HEAD + TAG)
}

/// The length of the record that `bytes` begin with, if it is there as a whole.
pub(super) fn first_record(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let Some(&[kind, _, _, high, low]) = bytes.first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let kind = ContentType::from(kind);
    if kind != ContentType::ApplicationData {
        return Err(Fault::unexpected(kind));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MOST_ENCRYPTED {
        return Err(Fault::new(Error::PeerSentOversizedRecord, AlertDescription::RecordOverflow));
    }
    Ok((HEAD + length <= bytes.len()).then_some(HEAD + length))
}

fn undecipherable() -> Fault {
    Fault::new(Error::DecryptError, AlertDescription::BadRecordMac)
}

/// The key of one direction.
struct Direction {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    /// Records so far: the next one's number.
    used: u64,
}

impl Direction {
    fn new((used, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("a cipher suite that we have not offered".into())),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Error::EncryptError)?;
        let iv = iv.as_ref().try_into().map_err(|_| Error::EncryptError)?;
        Ok(Self { key: LessSafeKey::new(key), iv, used })
    }

    /// The next record's (RFC 8446 5.3).
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.used.to_be_bytes()) {
            *byte ^= number;
        }
        self.used += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&mut self, kind: ContentType, content: &[u8], out: &mut Buffer) -> Result<(), Error> {
        let head = head_of(content.len())?;
        let record = out.room().get_mut(..content.len() + OVERHEAD).ok_or(Error::EncryptError)?;
        let (place, rest) = record.split_at_mut(HEAD);
        let (encrypted, tail) = rest.split_at_mut(content.len());
        place.copy_from_slice(&head);
        let nonce = self.nonce();
        self.key
            .seal_out_of_place_scatter(nonce, Aad::from(&head), content, encrypted, &[kind.into()], tail)
            .map_err(|_| Error::EncryptError)?;
        out.fill(content.len() + OVERHEAD);
        Ok(())
    }

    fn seal_in_place(&mut self, length: usize, out: &mut Buffer) -> Result<(), Error> {
        let head = head_of(length)?;
        let kind = ContentType::ApplicationData.into();
        if out.append(&[0; TAIL], buffer::SIZE) < TAIL {
            return Err(Error::EncryptError);
        }
        let record = out.last_mut(length + OVERHEAD);
        let (place, rest) = record.split_at_mut(HEAD);
        let (content, tail) = rest.split_at_mut(length);
        place.copy_from_slice(&head);
        let nonce = self.nonce();
        self.key.seal_in_place_scatter(nonce, Aad::from(&head), content, &[kind], tail).map_err(|_| Error::EncryptError)
    }

    fn open(&mut self, head: &[u8], encrypted: &[u8], tag: &[u8], plain: &mut [u8]) -> Result<(), Fault> {
        let nonce = self.nonce();
        self.key.open_separate_gather(nonce, Aad::from(head), encrypted, tag, plain).map_err(|_| undecipherable())
    }

    fn open_in_place(&mut self, head: &[u8], encrypted: &mut [u8], tag: &[u8]) -> Result<(), Fault> {
        let nonce = self.nonce();
        self.key
            .open_in_place_separate_tag(nonce, Aad::from(head), tag, encrypted)
            .map(|_| ())
            .map_err(|_| undecipherable())
    }
}

/// Of a record with `content` bytes. All encrypted records claim to be data of TLS 1.2.
fn head_of(content: usize) -> Result<[u8; HEAD], Error> {
    let length = u16::try_from(content + TAIL).map_err(|_| Error::EncryptError)?;
    let [high, low] = length.to_be_bytes();
    Ok([ContentType::ApplicationData.into(), 3, 3, high, low])
}

/// For peers that do what they may not.
#[cfg(test)]
impl Records {
    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    pub(super) fn seal_any(&mut self, kind: ContentType, content: &[u8], out: &mut Buffer) {
        self.tx.seal(kind, content, out).unwrap();
    }

    pub(super) fn change_keys(&mut self) {
        self.renew_tx().unwrap();
    }

    /// Tells our key from the ones before it.
    pub(super) fn iv(&self) -> [u8; NONCE_LEN] {
        self.tx.iv
    }

    pub(super) fn used(&self) -> u64 {
        self.tx.used
    }
}

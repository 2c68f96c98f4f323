//! Why a handshake failed, and whose fault that is.
//!
//! Invariant: each failure has one reason word, the same in metrics, logs and answers. Non-goal: more kinds than a
//! caller tells apart.

use std::io;
use std::time::Duration;

use rustls::AlertDescription;

use crate::chain::Refusal;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// We have no certificate, or it has expired.
    #[error("we hold no valid certificate")]
    NotCertified,
    /// The client showed none where one is due.
    #[error("the peer showed no certificate")]
    NoPeerCertificate,
    /// We refuse the peer's certificate.
    #[error("the peer's certificate: {0}")]
    Certificate(#[source] Refusal),
    /// The peer refuses the handshake, and says why.
    #[error("the peer refused the handshake: {0:?}")]
    Alert(AlertDescription),
    /// No protocol in common.
    #[error("no application protocol in common")]
    Alpn,
    /// The peer does not speak our TLS.
    #[error("{0}")]
    Protocol(#[source] rustls::Error),
    /// The handshake did not end in time.
    #[error("no handshake within {0:?}")]
    Timeout(Duration),
    /// The stream failed, or ended early.
    #[error("the stream failed: {0}")]
    Io(#[source] io::Error),
}

/// Who has to do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// This side: no certificate, or one that the peer refuses.
    Local,
    /// The other side.
    Peer,
    /// What lies between.
    Network,
}

impl Error {
    /// One of `no_certificate`, `expired`, `not_yet_valid`, `unknown_issuer`, `identity_mismatch`, `bad_certificate`,
    /// `alpn`, `timeout`, `io`, `protocol`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotCertified | Self::NoPeerCertificate => "no_certificate",
            Self::Certificate(refusal) => refusal.reason(),
            Self::Alert(alert) => reason_of(*alert),
            Self::Alpn => "alpn",
            Self::Protocol(_) => "protocol",
            Self::Timeout(_) => "timeout",
            Self::Io(_) => "io",
        }
    }

    /// Who has to do something about it.
    pub fn blame(&self) -> Blame {
        match self {
            Self::NotCertified => Blame::Local,
            Self::Alert(alert) if reason_of(*alert) != "protocol" => Blame::Local,
            Self::NoPeerCertificate | Self::Certificate(_) | Self::Alert(_) | Self::Alpn | Self::Protocol(_) => {
                Blame::Peer
            }
            Self::Timeout(_) | Self::Io(_) => Blame::Network,
        }
    }
}

/// RFC 8446 6.2.
fn reason_of(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => "no_certificate",
        AlertDescription::CertificateExpired => "expired",
        AlertDescription::UnknownCA => "unknown_issuer",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown => "bad_certificate",
        AlertDescription::NoApplicationProtocol => "alpn",
        _ => "protocol",
    }
}

impl From<rustls::Error> for Error {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::Certificate(error.into()),
            rustls::Error::NoCertificatesPresented => Self::NoPeerCertificate,
            rustls::Error::NoApplicationProtocol => Self::Alpn,
            rustls::Error::AlertReceived(alert) => Self::Alert(alert),
            other => Self::Protocol(other),
        }
    }
}

/// A stream hands out rustls's errors inside of `io::Error`.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(error) => error.into(),
            Err(error) => Self::Io(error),
        }
    }
}

/// The reason word of the TLS failure at the bottom of `error`, if there is one: an [`Error`], or what a read or write
/// on a TLS stream returned after the handshake.
pub fn reason_in(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<Error>() {
            return Some(error.reason());
        }
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(Error::from(error.clone()).reason());
        }
        // `io::Error::source` passes over the error that it wraps.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

//! Which anchors and which issuer are in force.
//!
//! Invariant: an [`Authority`] is consistent: leaves of its issuer are trusted by who trusts its anchors. Broken or
//! unfit files change nothing; a good part of a change is taken when it fits what stays of the rest.
//! Non-goal: reading files, and the clock.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use mesh_mtls::anchors::{self, Anchors};
use mesh_mtls::spiffe::Id;

use crate::issuer::{Issuer, Unfit};

/// What signs, and what is trusted. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    /// The roots.
    pub anchors: Anchors,
    /// Who signs under one of them.
    pub issuer: Arc<Issuer>,
}

/// The contents of the three files.
#[derive(Debug)]
pub struct Files {
    /// PEM certificates of the roots.
    pub anchors: io::Result<Vec<u8>>,
    /// PEM certificates: the issuer, and what leads to a root.
    pub certificate: io::Result<Vec<u8>>,
    /// PEM key of the issuer.
    pub key: io::Result<Vec<u8>>,
}

/// What is wrong with the files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{name}: {source}")]
    Read {
        /// Which one.
        name: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The anchors' file is unfit.
    #[error("trust anchors: {0}")]
    Anchors(#[from] anchors::Error),
    /// The issuer is unfit.
    #[error(transparent)]
    Issuer(#[from] Unfit),
}

/// The authority of a process that starts. `probe` is an identity to try the issuer with.
///
/// # Errors
/// Any part is unfit.
pub fn first(files: Files, probe: &Id, now: SystemTime) -> Result<Authority, Error> {
    let anchors = read_anchors(files.anchors)?;
    let issuer = read_issuer(files.certificate, files.key, now)?;
    issuer.verify(&anchors, probe, now)?;
    Ok(Authority { anchors, issuer: Arc::new(issuer) })
}

/// The authority after the files have changed, and what is wrong with them. `None` when nothing new can be taken.
pub fn next(current: &Authority, files: Files, probe: &Id, now: SystemTime) -> (Option<Authority>, Vec<Error>) {
    let mut errors = Vec::new();
    let anchors = read_anchors(files.anchors).map_err(|error| errors.push(error)).ok();
    let issuer = read_issuer(files.certificate, files.key, now).map_err(|error| errors.push(error)).ok();
    let (anchors, issuer) = (anchors.as_ref(), issuer.map(Arc::new));
    // The newest that fits together comes first.
    let pairs =
        [(anchors, issuer.as_ref()), (Some(&current.anchors), issuer.as_ref()), (anchors, Some(&current.issuer))];
    for (anchors, issuer) in pairs {
        let (Some(anchors), Some(issuer)) = (anchors, issuer) else { continue };
        match issuer.verify(anchors, probe, now) {
            Ok(()) => {
                let taken = Authority { anchors: anchors.clone(), issuer: Arc::clone(issuer) };
                return (Some(taken), errors);
            }
            Err(unfit) => errors.push(unfit.into()),
        }
    }
    (None, errors)
}

fn read_anchors(file: io::Result<Vec<u8>>) -> Result<Anchors, Error> {
    let pem = file.map_err(|source| Error::Read { name: "trust anchors", source })?;
    Ok(Anchors::from_pem(&pem)?)
}

fn read_issuer(certificate: io::Result<Vec<u8>>, key: io::Result<Vec<u8>>, now: SystemTime) -> Result<Issuer, Error> {
    let certificate = certificate.map_err(|source| Error::Read { name: "issuer certificate", source })?;
    let key = key.map_err(|source| Error::Read { name: "issuer key", source })?;
    Ok(Issuer::from_pem(&certificate, &key, now)?)
}

#[cfg(test)]
mod tests;

//! Names of workloads: `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`.
//!
//! Invariant: an [`Id`] is canonical, so equal identities are equal strings: lower case only, no percent-encoding, no
//! port, query, wildcard or control character. Non-goal: SPIFFE ids of other shapes; the mesh issues and accepts this
//! one.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

const SCHEME: &str = "spiffe://";
const NAMESPACE: &str = "/ns/";
const SERVICE_ACCOUNT: &str = "/sa/";

/// Why a string is no [`Id`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not of the form `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`.
    #[error("not of the form spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>")]
    Shape,
    /// SPIFFE ID 2.1: 1 to 255 of `a-z 0-9 . - _`.
    #[error("the trust domain is not 1 to 255 of a-z, 0-9, '.', '-', '_'")]
    TrustDomain,
    /// A namespace is a DNS label (RFC 1123).
    #[error("the namespace is not a DNS label of 1 to 63 characters")]
    Namespace,
    /// A service account is a DNS subdomain (RFC 1123).
    #[error("the service account is not a DNS subdomain of 1 to 253 characters")]
    ServiceAccount,
}

/// A workload's identity. Cheap to clone.
#[derive(Clone)]
pub struct Id {
    text: Arc<str>,
    trust_domain_end: usize,
    namespace_end: usize,
}

impl Id {
    /// Builds the id of a service account.
    ///
    /// # Errors
    /// A part is malformed.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, Error> {
        format!("{SCHEME}{trust_domain}{NAMESPACE}{namespace}{SERVICE_ACCOUNT}{service_account}").parse()
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain, `cluster.local` by default.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.trust_domain_end]
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.text[self.trust_domain_end + NAMESPACE.len()..self.namespace_end]
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.text[self.namespace_end + SERVICE_ACCOUNT.len()..]
    }
}

impl FromStr for Id {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let rest = text.strip_prefix(SCHEME).ok_or(Error::Shape)?;
        let (trust_domain, path) = rest.split_once(NAMESPACE).ok_or(Error::Shape)?;
        let (namespace, service_account) = path.split_once(SERVICE_ACCOUNT).ok_or(Error::Shape)?;
        if !is_trust_domain(trust_domain) {
            return Err(Error::TrustDomain);
        }
        if !is_label(namespace) {
            return Err(Error::Namespace);
        }
        if service_account.len() > 253 || !service_account.split('.').all(is_label) {
            return Err(Error::ServiceAccount);
        }
        let trust_domain_end = SCHEME.len() + trust_domain.len();
        let namespace_end = trust_domain_end + NAMESPACE.len() + namespace.len();
        Ok(Self { text: text.into(), trust_domain_end, namespace_end })
    }
}

fn is_trust_domain(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    (1..=255).contains(&text.len()) && text.bytes().all(allowed)
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Id {}

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl PartialOrd for Id {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Id {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_an_id_come_back_as_they_went_in() {
        let id = Id::new("cluster.local", "shop", "web.v2").unwrap();
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/shop/sa/web.v2");
        assert_eq!((id.trust_domain(), id.namespace(), id.service_account()), ("cluster.local", "shop", "web.v2"));
        assert_eq!(id, id.to_string().parse().unwrap());
    }

    #[test]
    fn a_string_that_is_not_canonical_is_no_id() {
        let long = "a".repeat(64);
        let cases = [
            ("", Error::Shape),
            ("spiffe://", Error::Shape),
            ("https://cluster.local/ns/a/sa/b", Error::Shape),
            ("SPIFFE://cluster.local/ns/a/sa/b", Error::Shape),
            ("spiffe://cluster.local/ns/a", Error::Shape),
            ("spiffe://cluster.local/a/b", Error::Shape),
            ("spiffe:///ns/a/sa/b", Error::TrustDomain),
            ("spiffe://Cluster.local/ns/a/sa/b", Error::TrustDomain),
            ("spiffe://user@cluster.local/ns/a/sa/b", Error::TrustDomain),
            ("spiffe://cluster.local:443/ns/a/sa/b", Error::TrustDomain),
            ("spiffe://cluster.local/x/ns/a/sa/b", Error::TrustDomain),
            ("spiffe://*/ns/a/sa/b", Error::TrustDomain),
            ("spiffe://cluster.local/ns//sa/b", Error::Namespace),
            ("spiffe://cluster.local/ns/A/sa/b", Error::Namespace),
            ("spiffe://cluster.local/ns/-a/sa/b", Error::Namespace),
            ("spiffe://cluster.local/ns/a.b/sa/b", Error::Namespace),
            ("spiffe://cluster.local/ns/../sa/b", Error::Namespace),
            ("spiffe://cluster.local/ns/*/sa/b", Error::Namespace),
            ("spiffe://cluster.local/ns/a%20/sa/b", Error::Namespace),
            ("spiffe://cluster.local/ns/a/sa/", Error::ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/b/", Error::ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/b\0", Error::ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/b\n", Error::ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/*", Error::ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/b?c=d", Error::ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/b#c", Error::ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/b..c", Error::ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/b/sa/c", Error::ServiceAccount),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Id>(), Err(error), "{text:?}");
        }
        assert_eq!(Id::new("t", &long, "b"), Err(Error::Namespace));
        assert_eq!(Id::new("t", "a", &long), Err(Error::ServiceAccount));
        assert_eq!(Id::new(&"t".repeat(256), "a", "b"), Err(Error::TrustDomain));
    }
}

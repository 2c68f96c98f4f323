//! What a user asks for, and the check that its parts agree with each other.
//!
//! Invariant: rules are only ever made from [`Valid`], so a contradiction is refused before anything is touched.

use std::num::NonZeroU16;
use std::ops::Deref;

use crate::{Ports, Subnets};

/// Port of the tap service (mTLS); never redirected.
pub const TAP_PORT: u16 = 4190;
/// Port of the proxy's admin server; never redirected.
pub const ADMIN_PORT: u16 = 4191;

const OUTBOUND_PORT: NonZeroU16 = NonZeroU16::new(4140).expect("not zero");
const INBOUND_PORT: NonZeroU16 = NonZeroU16::new(4143).expect("not zero");
const PROXY_UID: u32 = 2102;

/// What to capture and where to send it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The proxy's port for traffic that comes to the workload.
    pub inbound_port: NonZeroU16,
    /// The proxy's port for traffic that the workload opens.
    pub outbound_port: NonZeroU16,
    /// The user whose traffic is never captured: the proxy itself.
    pub proxy_uid: u32,
    /// Take these inbound ports only; empty takes all.
    pub inbound_ports: Ports,
    /// Inbound ports that go to the workload directly.
    pub skip_inbound_ports: Ports,
    /// Outbound ports that leave directly.
    pub skip_outbound_ports: Ports,
    /// Peers (sources of inbound, destinations of outbound traffic) that are left alone.
    pub skip_subnets: Subnets,
}

/// Options that do not contradict themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Valid(Options);

/// Two settings that cannot both hold, told in terms of the command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value '{value}' for '--{flag}': {cause}")]
pub struct Conflict {
    /// Name of the flag, without dashes.
    pub flag: &'static str,
    /// Its value as understood.
    pub value: String,
    /// What speaks against it.
    pub cause: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            inbound_port: INBOUND_PORT,
            outbound_port: OUTBOUND_PORT,
            proxy_uid: PROXY_UID,
            inbound_ports: Ports::default(),
            skip_inbound_ports: Ports::default(),
            skip_outbound_ports: Ports::default(),
            skip_subnets: Subnets::default(),
        }
    }
}

impl Options {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// The first [`Conflict`] found.
    pub fn validate(self) -> Result<Valid, Conflict> {
        let conflict = |flag, value: String, cause| Err(Conflict { flag, value, cause });
        if self.inbound_port == self.outbound_port {
            return conflict("inbound-port", self.inbound_port.to_string(), "the outbound port is the same");
        }
        for (flag, port) in [("inbound-port", self.inbound_port), ("outbound-port", self.outbound_port)] {
            if [TAP_PORT, ADMIN_PORT].contains(&port.get()) {
                return conflict(flag, port.to_string(), "the proxy's tap (4190) and admin (4191) ports are not free");
            }
        }
        if self.proxy_uid == 0 {
            return conflict("proxy-uid", "0".into(), "every process of root would escape the mesh");
        }
        if self.proxy_uid == u32::MAX {
            return conflict("proxy-uid", self.proxy_uid.to_string(), "no user can have this id");
        }
        if let (false, None) = (self.inbound_ports.is_empty(), self.inbound_ports.find(|port| self.takes(port))) {
            return conflict("inbound-ports", self.inbound_ports.to_string(), "all of them are skipped");
        }
        Ok(Valid(self))
    }

    /// Whether traffic that comes to `port` is redirected to the proxy.
    #[must_use]
    pub fn takes(&self, port: u16) -> bool {
        let own = [self.inbound_port.get(), TAP_PORT, ADMIN_PORT];
        let listed = self.inbound_ports.is_empty() || self.inbound_ports.contains(port);
        listed && !own.contains(&port) && !self.skip_inbound_ports.contains(port)
    }
}

impl Deref for Valid {
    type Target = Options;

    fn deref(&self) -> &Options {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_agree_with_each_other() {
        assert!(Options::default().validate().is_ok());
    }

    #[test]
    fn contradictions_are_refused_by_name_value_and_cause() {
        let base = Options::default;
        let cases = [
            (Options { inbound_port: OUTBOUND_PORT, ..base() }, "--inbound-port'", "4140"),
            (Options { outbound_port: NonZeroU16::new(ADMIN_PORT).unwrap(), ..base() }, "--outbound-port'", "4191"),
            (Options { inbound_port: NonZeroU16::new(TAP_PORT).unwrap(), ..base() }, "--inbound-port'", "4190"),
            (Options { proxy_uid: 0, ..base() }, "--proxy-uid'", "root"),
            (Options { proxy_uid: u32::MAX, ..base() }, "--proxy-uid'", "4294967295"),
            (Options { inbound_ports: "4191".parse().unwrap(), ..base() }, "--inbound-ports'", "skipped"),
            (
                Options {
                    inbound_ports: "80".parse().unwrap(),
                    skip_inbound_ports: "1-100".parse().unwrap(),
                    ..base()
                },
                "--inbound-ports'",
                "skipped",
            ),
        ];
        for (options, flag, detail) in cases {
            let message = options.validate().unwrap_err().to_string();
            assert!(message.contains(flag) && message.contains(detail), "{message}");
        }
    }
}

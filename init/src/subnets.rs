//! Lists of subnets in CIDR form, both families mixed.
//!
//! Invariant: no host bits, no prefix of length 0, no IPv4 in IPv6 clothes, so each subnet means in the kernel what it
//! says on paper.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// One network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    network: IpAddr,
    prefix: u8,
}

/// Networks, sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subnets(Vec<Subnet>);

/// Why a text is no list of subnets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not `address/prefix` at all.
    #[error("\"{}\" is no subnet; write it like 10.0.0.0/8 or fd00::/8", .0.escape_debug())]
    NotASubnet(String),
    /// A prefix that the family does not have.
    #[error("\"{}\" has a prefix beyond /{longest}", .text.escape_debug())]
    Prefix {
        /// The item as written.
        text: String,
        /// The longest prefix of its family.
        longest: u8,
    },
    /// Address bits behind the prefix.
    #[error("{0} has host bits set; the network is {1}")]
    HostBits(String, Subnet),
    /// A prefix of length 0.
    #[error("{0} holds every address, so nothing would be meshed")]
    Everything(Subnet),
    /// `::ffff:a.b.c.d`, which no packet on the wire carries.
    #[error("{0} is IPv4 in IPv6 form and would never match; write it as IPv4")]
    Mapped(String),
}

impl Subnet {
    /// Whether it is an IPv6 network.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.network.is_ipv6()
    }

    /// Whether `address` lies in this network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv6() == self.is_ipv6() && masked(address, self.prefix) == self.network
    }
}

impl Subnets {
    /// The networks of one list.
    pub fn iter(&self) -> impl Iterator<Item = &Subnet> {
        self.0.iter()
    }

    /// Whether any of the networks holds `address`.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.iter().any(|subnet| subnet.contains(address))
    }
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refused = || Error::NotASubnet(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(refused)?;
        let network: IpAddr = address.parse().map_err(|_| refused())?;
        let longest: u8 = if network.is_ipv6() { 128 } else { 32 };
        if prefix.is_empty() || prefix.len() > 3 || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refused());
        }
        let Some(prefix) = prefix.parse().ok().filter(|prefix: &u8| *prefix <= longest) else {
            return Err(Error::Prefix { text: text.to_owned(), longest });
        };
        if matches!(network, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
            return Err(Error::Mapped(text.to_owned()));
        }
        let subnet = Self { network: masked(network, prefix), prefix };
        if prefix == 0 {
            return Err(Error::Everything(subnet));
        }
        if subnet.network != network {
            return Err(Error::HostBits(text.to_owned(), subnet));
        }
        Ok(subnet)
    }
}

impl FromStr for Subnets {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut list = text.split(',').map(Subnet::from_str).collect::<Result<Vec<_>, _>>()?;
        list.sort();
        list.dedup();
        Ok(Self(list))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & !u32::MAX.checked_shr(prefix).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::MAX.checked_shr(prefix).unwrap_or(0)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_parse_and_are_listed_once() {
        let list: Subnets = "fd00::/8,10.0.0.0/8,10.0.0.0/8,192.0.2.1/32,::1/128".parse().unwrap();
        let shown: Vec<String> = list.iter().map(Subnet::to_string).collect();
        assert_eq!(shown, ["10.0.0.0/8", "192.0.2.1/32", "::1/128", "fd00::/8"]);
    }

    #[test]
    fn hostile_lists_are_refused_without_echoing_control_characters() {
        let hostile = [
            "",
            ",",
            "10.0.0.0/8,",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/64",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.1/8",
            "010.0.0.0/8",
            "10.0.0/8",
            "0.0.0.0/0",
            "::/0",
            "fd00::/129",
            "fd00::1/8",
            "fe80::%eth0/64",
            "::ffff:10.0.0.0/104",
            " 10.0.0.0/8",
            "10.0.0.0/8 -j ACCEPT",
            "!10.0.0.0/8",
            "10.0.0.0/255.0.0.0",
            "example.com/8",
            "10.0.0.0/8\nCOMMIT",
            "10.0.0.0/8;reboot",
            "$(id)/8",
            "10.0.0.0/999",
        ];
        for text in hostile {
            let error = Subnets::from_str(text).expect_err(text);
            assert!(!error.to_string().contains('\n'), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_network_holds_its_own_addresses_only() {
        let list: Subnets = "10.0.0.0/8,fd00::/8".parse().unwrap();
        assert!(list.contains("10.255.0.1".parse().unwrap()));
        assert!(list.contains("fd12::1".parse().unwrap()));
        assert!(!list.contains("11.0.0.1".parse().unwrap()));
        assert!(!list.contains("2001:db8::1".parse().unwrap()));
    }
}

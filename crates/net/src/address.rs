//! Addresses with their subnets, and link-layer addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that names no subnet or no link-layer address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not `ADDRESS/LENGTH`.
    #[error("\"{0}\" is no subnet: write an address and a prefix length, such as 172.20.0.0/16 or fd00:1::/64")]
    Subnet(String),
    /// Not six pairs of hexadecimal digits.
    #[error("\"{0}\" is no link-layer address: write six pairs of digits, such as 02:42:ac:11:00:02")]
    Mac(String),
}

/// An address and the length of its subnet's prefix, in bits: `172.17.0.2/16`.
///
/// The same type stands for a subnet, whose address then has zeros after the prefix, see [`Self::network`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Subnet {
    address: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// An address in its subnet; `None` when the prefix is longer than the address.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        (prefix <= width(address)).then_some(Self { address, prefix })
    }

    /// The address alone: a prefix as long as the address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self { address, prefix: width(address) }
    }

    /// The address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The length of the prefix, in bits.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether this is IPv6.
    #[must_use]
    pub fn is_v6(self) -> bool {
        self.address.is_ipv6()
    }

    /// The subnet: the address with zeros after the prefix.
    #[must_use]
    pub fn network(self) -> Self {
        let address = from_number(number(self.address) & !self.host_mask(), self.is_v6());
        Self { address, prefix: self.prefix }
    }

    /// The subnet's last address.
    #[must_use]
    pub fn last(self) -> IpAddr {
        from_number(number(self.address) | self.host_mask(), self.is_v6())
    }

    /// Whether `address` is of this subnet.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv6() == self.is_v6() && number(address) & !self.host_mask() == number(self.network().address)
    }

    /// Whether all of `other` is within this subnet.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.contains(other.address) && other.prefix >= self.prefix
    }

    /// Whether an address is of both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network().address) || other.contains(self.network().address)
    }

    fn host_mask(self) -> u128 {
        match width(self.address) - self.prefix {
            128 => u128::MAX,
            bits => (1_u128 << bits) - 1,
        }
    }
}

/// How many bits an address has.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

/// The address as a number.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address that [`number`] gives `number` for.
pub(crate) fn from_number(number: u128, v6: bool) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::from_bits(number))
    } else {
        IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(number & u128::from(u32::MAX)).unwrap_or(0)))
    }
}

/// The bytes of an address, in network order.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The address of some bytes in network order.
pub(crate) fn from_octets(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(|bytes| IpAddr::V4(bytes.into()))
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| IpAddr::V6(bytes.into())))
        .ok()
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            Self::new(address.parse().ok()?, prefix.parse().ok()?)
        };
        parse().ok_or_else(|| AddressError::Subnet(text.to_owned()))
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl TryFrom<String> for Subnet {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

/// A link-layer address of Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The one that belongs to an address, so that a container that keeps its address keeps this too: `02:42` and the
    /// four bytes of an IPv4 address, or `02` and five bytes made of an IPv6 address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                Self([0x02, 0x42, a, b, c, d])
            }
            IpAddr::V6(address) => {
                // FNV-1a: neighbours differ, and nobody has to be kept from finding two alike.
                let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
                let hash = address.octets().into_iter().fold(0xcbf2_9ce4_8422_2325, mix);
                let [a, b, c, d, e, ..] = hash.to_be_bytes();
                Self([0x02, a, b, c, d, e])
            }
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let parse = || {
            let mut bytes = [0; 6];
            let mut parts = text.split([':', '-']);
            for byte in &mut bytes {
                let part = parts.next().filter(|part| part.len() == 2)?;
                *byte = u8::from_str_radix(part, 16).ok()?;
            }
            parts.next().is_none().then_some(Self(bytes))
        };
        parse().ok_or_else(|| AddressError::Mac(text.to_owned()))
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_are_read_and_compared() {
        assert_eq!(subnet("172.17.3.4/16").network(), subnet("172.17.0.0/16"));
        assert_eq!(subnet("172.17.3.4/16").last().to_string(), "172.17.255.255");
        assert_eq!(subnet("fd00::1:2/64").network().to_string(), "fd00::/64");
        assert!(
            subnet("10.0.0.0/8").overlaps(subnet("10.9.0.0/16"))
                && subnet("10.9.0.0/16").overlaps(subnet("10.0.0.0/8"))
        );
        assert!(!subnet("10.0.0.0/9").overlaps(subnet("10.128.0.0/9")));
        assert!(!subnet("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(subnet("::/0").contains("::1".parse().unwrap()) && subnet("0.0.0.0/0").covers(subnet("1.2.3.4/32")));
        for wrong in ["10.0.0.0", "10.0.0.0/33", "x/8", "::/129", "1.2.3.4/-1", ""] {
            assert!(wrong.parse::<Subnet>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn link_addresses_follow_their_addresses() {
        assert_eq!(Mac::of("172.17.0.2".parse().unwrap()).to_string(), "02:42:ac:11:00:02");
        let (one, two) = (Mac::of("fd00::2".parse().unwrap()), Mac::of("fd00::3".parse().unwrap()));
        assert!(one != two && one.0[0] == 2);
        assert_eq!("02-42-AC-11-00-02".parse(), Ok(Mac([2, 0x42, 0xac, 0x11, 0, 2])));
        for wrong in ["", "02:42", "02:42:ac:11:00:02:03", "2:42:ac:11:00:02", "0g:42:ac:11:00:02"] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }
}

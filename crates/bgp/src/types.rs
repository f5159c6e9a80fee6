//! Values that cannot be wrong: parsed once at the edge, trusted afterwards.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

/// AS number that stands for a four-octet one where only two octets fit (RFC 6793 section 9).
pub const AS_TRANS: u16 = 23456;

/// An autonomous system number, two or four octets (RFC 6793); never 0 (RFC 7607).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(NonZeroU32);

impl Asn {
    /// `None` for AS 0, which RFC 7607 reserves.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// The number where only two octets fit: itself or [`AS_TRANS`].
    #[must_use]
    pub fn two_octets(self) -> u16 {
        u16::try_from(self.get()).unwrap_or(AS_TRANS)
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A hold time in seconds: 0 (never expires) or at least 3 (RFC 4271 section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldTime(u16);

impl HoldTime {
    /// "0 or at least three seconds"; `None` for 1 and 2.
    #[must_use]
    pub fn new(seconds: u16) -> Option<Self> {
        (!matches!(seconds, 1 | 2)).then_some(Self(seconds))
    }

    /// Seconds; 0 means that the timer does not run.
    #[must_use]
    pub fn seconds(self) -> u16 {
        self.0
    }

    /// The duration, or `None` when the hold timer does not run.
    #[must_use]
    pub fn duration(self) -> Option<Duration> {
        (self.0 != 0).then(|| Duration::from_secs(u64::from(self.0)))
    }
}

/// An address family with subsequent family unicast (RFC 4760).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4Unicast,
    /// AFI 2, SAFI 1.
    Ipv6Unicast,
}

impl Family {
    /// Both, in the order in which they are offered.
    pub const ALL: [Self; 2] = [Self::Ipv4Unicast, Self::Ipv6Unicast];

    /// The family that carries a host route for this address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4Unicast,
            IpAddr::V6(_) => Self::Ipv6Unicast,
        }
    }

    /// The family that carries this prefix.
    #[must_use]
    pub fn of_prefix(prefix: IpNet) -> Self {
        Self::of(prefix.addr())
    }
}

/// Some of the families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FamilySet {
    ipv4: bool,
    ipv6: bool,
}

impl FamilySet {
    /// Both.
    pub const ALL: Self = Self {
        ipv4: true,
        ipv6: true,
    };

    /// Whether the family is one of them.
    #[must_use]
    pub fn contains(self, family: Family) -> bool {
        match family {
            Family::Ipv4Unicast => self.ipv4,
            Family::Ipv6Unicast => self.ipv6,
        }
    }
}

impl FromIterator<Family> for FamilySet {
    fn from_iter<I: IntoIterator<Item = Family>>(families: I) -> Self {
        let mut set = Self::default();
        for family in families {
            match family {
                Family::Ipv4Unicast => set.ipv4 = true,
                Family::Ipv6Unicast => set.ipv6 = true,
            }
        }
        set
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4Unicast => "IPv4 unicast",
            Self::Ipv6Unicast => "IPv6 unicast",
        })
    }
}

/// A standard community (RFC 1997).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// RFC 1997: not outside the confederation.
    pub const NO_EXPORT: Self = Self(0xFFFF_FF01);
    /// RFC 1997: not to any peer.
    pub const NO_ADVERTISE: Self = Self(0xFFFF_FF02);
    /// RFC 1997: not to external peers, confederation members included.
    pub const LOCAL_AS: Self = Self(0xFFFF_FF03);
    /// The word "internet" of router configuration languages: 0:0, meaning no restriction.
    pub const INTERNET: Self = Self(0);
    /// RFC 8326: about to go away, prefer another path.
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xFFFF_0000);
}

/// A text that is no standard community.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no community: use AS:VALUE with numbers up to 65535, or no-export, no-advertise, local-AS, internet, graceful-shutdown"
)]
pub struct CommunityParseError(pub String);

impl FromStr for Community {
    type Err = CommunityParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().to_ascii_lowercase().as_str() {
            "no-export" => Ok(Self::NO_EXPORT),
            "no-advertise" => Ok(Self::NO_ADVERTISE),
            "local-as" => Ok(Self::LOCAL_AS),
            "internet" => Ok(Self::INTERNET),
            "graceful-shutdown" => Ok(Self::GRACEFUL_SHUTDOWN),
            pair => parse_pair(pair).ok_or_else(|| CommunityParseError(text.to_owned())),
        }
    }
}

fn parse_pair(text: &str) -> Option<Community> {
    let (high, low) = text.split_once(':')?;
    let (high, low) = (high.parse::<u16>().ok()?, low.parse::<u16>().ok()?);
    Some(Community(u32::from(high) << 16 | u32::from(low)))
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NO_EXPORT => f.write_str("no-export"),
            Self::NO_ADVERTISE => f.write_str("no-advertise"),
            Self::LOCAL_AS => f.write_str("local-AS"),
            Self::INTERNET => f.write_str("internet"),
            Self::GRACEFUL_SHUTDOWN => f.write_str("graceful-shutdown"),
            Self(value) => write!(f, "{}:{}", value >> 16, value & 0xFFFF),
        }
    }
}

/// A large community (RFC 8092): global administrator and two local parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

/// A text that is no large community.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no large community: use AS:VALUE:VALUE with numbers up to 4294967295 (RFC 8092)"
)]
pub struct LargeCommunityParseError(pub String);

impl FromStr for LargeCommunity {
    type Err = LargeCommunityParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<u32> = text
            .trim()
            .split(':')
            .map_while(|part| part.parse().ok())
            .collect();
        match parts.as_slice() {
            [a, b, c] if text.matches(':').count() == 2 => Ok(Self(*a, *b, *c)),
            _ => Err(LargeCommunityParseError(text.to_owned())),
        }
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hold_times_of_one_and_two_seconds_do_not_exist() {
        assert_eq!(HoldTime::new(1), None);
        assert_eq!(HoldTime::new(2), None);
        assert_eq!(HoldTime::new(0).unwrap().duration(), None);
        assert_eq!(
            HoldTime::new(3).unwrap().duration(),
            Some(Duration::from_secs(3))
        );
    }

    #[test]
    fn a_four_octet_as_number_shrinks_to_as_trans() {
        assert_eq!(Asn::new(0), None);
        assert_eq!(Asn::new(65_535).unwrap().two_octets(), 65_535);
        assert_eq!(Asn::new(65_536).unwrap().two_octets(), AS_TRANS);
    }

    #[test]
    fn communities_read_back_as_written() {
        for text in [
            "65000:100",
            "no-export",
            "no-advertise",
            "local-AS",
            "internet",
            "graceful-shutdown",
        ] {
            assert_eq!(text.parse::<Community>().unwrap().to_string(), text);
        }
        for text in ["65536:1", "1:65536", "1", "a:b", "1:2:3", ""] {
            assert!(text.parse::<Community>().is_err(), "{text}");
        }
    }

    #[test]
    fn large_communities_read_back_as_written() {
        for text in ["65000:1:2", "4294967295:0:4294967295"] {
            assert_eq!(text.parse::<LargeCommunity>().unwrap().to_string(), text);
        }
        for text in ["1:2", "1:2:3:4", "4294967296:1:1", "a:1:1", "1:2:", ""] {
            assert!(text.parse::<LargeCommunity>().is_err(), "{text}");
        }
    }
}

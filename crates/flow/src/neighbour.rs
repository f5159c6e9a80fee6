//! ARP and neighbour discovery, as frames (RFC 826, RFC 5227, RFC 4861).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A MAC address.
pub type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Ethernet, IPv4, lengths of their addresses.
const ARP_HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ICMP6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Nobody on the way has passed it on (RFC 4861 section 7.1).
const HOP_LIMIT: u8 = 255;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// What a frame says about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Who has it? The question came from this MAC address and IP address; an unspecified one belongs to somebody who
    /// wants to use the address himself.
    WhoHas {
        /// The address that is asked for.
        target: IpAddr,
        /// Of whoever asks.
        mac: Mac,
        /// Of whoever asks.
        ip: IpAddr,
    },
    /// Whoever has this MAC address has it.
    Has {
        /// The IP address.
        address: IpAddr,
        /// Its MAC address.
        mac: Mac,
    },
}

/// `02:00:00:00:00:01`, as people write it.
#[must_use]
pub fn mac(text: &str) -> Option<Mac> {
    let bytes = text.split(':').map(|b| u8::from_str_radix(b, 16));
    let bytes: Vec<u8> = bytes.collect::<Result<_, _>>().ok()?;
    bytes.try_into().ok()
}

/// What the frame says; an ARP request says two things: who asks, and whom for.
#[must_use]
pub fn read(frame: &[u8]) -> Vec<Said> {
    match frame.get(12..14).and_then(|t| t.first_chunk()) {
        Some(&ETHERTYPE_ARP) => read_arp(&frame[14..]).unwrap_or_default(),
        Some(&ETHERTYPE_IPV6) => read_nd(frame).into_iter().collect(),
        _ => Vec::new(),
    }
}

fn read_arp(arp: &[u8]) -> Option<Vec<Said>> {
    let operation = *arp.get(7)?;
    let mac: Mac = *arp.get(8..14)?.first_chunk()?;
    let ip: [u8; 4] = *arp.get(14..18)?.first_chunk()?;
    let target: [u8; 4] = *arp.get(24..28)?.first_chunk()?;
    if arp[..6] != ARP_HEAD || arp[6] != 0 {
        return None;
    }
    let (ip, target) = (IpAddr::from(ip), IpAddr::from(target));
    let mut said = Vec::new();
    if !ip.is_unspecified() {
        said.push(Said::Has { address: ip, mac });
    }
    if operation == REQUEST && ip != target {
        said.push(Said::WhoHas { target, mac, ip });
    }
    Some(said)
}

/// IPv6 without extension headers: nobody puts any before these.
fn read_nd(frame: &[u8]) -> Option<Said> {
    let ip = frame.get(14..54)?;
    let icmp = frame.get(54..)?;
    let target: [u8; 16] = *icmp.get(8..24)?.first_chunk()?;
    if ip[6] != ICMP6 || ip[7] != HOP_LIMIT || icmp[1] != 0 {
        return None;
    }
    let ethernet: Mac = *frame.get(6..12)?.first_chunk()?;
    let option = |kind| link_layer(icmp.get(24..)?, kind);
    let source: [u8; 16] = *ip.get(8..24)?.first_chunk()?;
    let target = IpAddr::from(target);
    match icmp[0] {
        SOLICITATION => Some(Said::WhoHas {
            target,
            mac: option(SOURCE_LINK_LAYER).unwrap_or(ethernet),
            ip: source.into(),
        }),
        ADVERTISEMENT => Some(Said::Has {
            address: target,
            mac: option(TARGET_LINK_LAYER).unwrap_or(ethernet),
        }),
        _ => None,
    }
}

/// An option with a MAC address, among others (RFC 4861 section 4.6).
fn link_layer(mut options: &[u8], kind: u8) -> Option<Mac> {
    while let [k, eights, ..] = *options {
        let length = usize::from(eights) * 8;
        if k == kind {
            return options.get(2..8)?.first_chunk().copied();
        }
        options = options.get(length.max(8)..)?;
    }
    None
}

/// To whoever has asked from there: it is us.
#[must_use]
pub fn answer(vip: IpAddr, us: Mac, mac: Mac, asker: IpAddr) -> Vec<u8> {
    match (vip, asker) {
        (IpAddr::V4(vip), IpAddr::V4(asker)) => arp(REPLY, (us, vip), (mac, asker), mac),
        (IpAddr::V6(vip), IpAddr::V6(asker)) if !asker.is_unspecified() => {
            advertisement(vip, us, (mac, asker), SOLICITED | OVERRIDE)
        }
        _ => all_hear(vip, us),
    }
}

/// To all: it is us.
#[must_use]
pub fn announcements(vip: IpAddr, us: Mac) -> Vec<Vec<u8>> {
    match vip {
        // RFC 5227 section 3 has requests; some devices heed replies only.
        IpAddr::V4(vip) => {
            let reply = arp(REPLY, (us, vip), (BROADCAST, vip), BROADCAST);
            vec![all_hear(vip.into(), us), reply]
        }
        IpAddr::V6(_) => vec![all_hear(vip, us)],
    }
}

fn all_hear(vip: IpAddr, us: Mac) -> Vec<u8> {
    match vip {
        IpAddr::V4(vip) => arp(REQUEST, (us, vip), ([0; 6], vip), BROADCAST),
        IpAddr::V6(vip) => advertisement(vip, us, (multicast(ALL_NODES), ALL_NODES), OVERRIDE),
    }
}

/// To all: who has it? From somebody with an address of his own, to whom the answer comes.
#[must_use]
pub fn question(target: IpAddr, us: Mac, own: IpAddr) -> Vec<u8> {
    match (target, own) {
        (IpAddr::V4(target), IpAddr::V4(own)) => {
            arp(REQUEST, (us, own), ([0; 6], target), BROADCAST)
        }
        (IpAddr::V6(target), IpAddr::V6(own)) => solicitation(target, us, own),
        _ => probe(target, us),
    }
}

/// To all: does anybody have it? Nobody learns from it that we ask for ourselves.
#[must_use]
pub fn probe(vip: IpAddr, us: Mac) -> Vec<u8> {
    match vip {
        IpAddr::V4(vip) => arp(
            REQUEST,
            (us, Ipv4Addr::UNSPECIFIED),
            ([0; 6], vip),
            BROADCAST,
        ),
        IpAddr::V6(vip) => solicitation(vip, us, Ipv6Addr::UNSPECIFIED),
    }
}

/// RFC 4861 section 4.3: with a source there is its MAC address, without one there must be none.
fn solicitation(target: Ipv6Addr, us: Mac, own: Ipv6Addr) -> Vec<u8> {
    let to = solicited_node(target);
    let mut icmp = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend(target.octets());
    if !own.is_unspecified() {
        icmp.extend([SOURCE_LINK_LAYER, 1]);
        icmp.extend(us);
    }
    icmp6(us, multicast(to), own, to, icmp)
}

fn arp(
    operation: u8,
    (mac, ip): (Mac, Ipv4Addr),
    (to_mac, to_ip): (Mac, Ipv4Addr),
    to: Mac,
) -> Vec<u8> {
    let head = [0, operation];
    let sender = [&mac[..], &ip.octets()].concat();
    let target = [&to_mac[..], &to_ip.octets()].concat();
    [
        &to[..],
        &mac,
        &ETHERTYPE_ARP,
        &ARP_HEAD,
        &head,
        &sender,
        &target,
    ]
    .concat()
}

fn advertisement(vip: Ipv6Addr, us: Mac, (mac, to): (Mac, Ipv6Addr), flags: u8) -> Vec<u8> {
    let mut icmp = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    icmp.extend(vip.octets());
    icmp.extend([TARGET_LINK_LAYER, 1]);
    icmp.extend(us);
    icmp6(us, mac, vip, to, icmp)
}

fn icmp6(us: Mac, mac: Mac, from: Ipv6Addr, to: Ipv6Addr, mut icmp: Vec<u8>) -> Vec<u8> {
    let length = icmp.len() as u16; // 32 at most
    // RFC 8200 section 8.1: the pseudo header.
    let mut summed = [from.octets(), to.octets()].concat();
    summed.extend(u32::from(length).to_be_bytes());
    summed.extend([0, 0, 0, ICMP6]);
    summed.extend(&icmp);
    let check = checksum(&summed);
    icmp[2..4].copy_from_slice(&check.to_be_bytes());
    let head = [
        &[0x60, 0, 0, 0][..],
        &length.to_be_bytes(),
        &[ICMP6, HOP_LIMIT],
    ]
    .concat();
    [
        &mac[..],
        &us,
        &ETHERTYPE_IPV6,
        &head,
        &from.octets(),
        &to.octets(),
        &icmp,
    ]
    .concat()
}

/// RFC 1071; of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks_exact(2)
        .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// RFC 4291 section 2.7.1: where those listen who may have the address.
#[must_use]
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(a),
        u16::from(b) << 8 | u16::from(c),
    )
}

/// RFC 2464 section 7.
fn multicast(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const US: Mac = [2, 0, 0, 0, 0, 1];
    const THEM: Mac = [2, 0, 0, 0, 0, 2];

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn a_question_is_answered_to_whoever_asked() {
        let (vip, asker) = (ip("10.1.0.100"), ip("10.1.0.7"));
        let question = question(vip, THEM, asker);
        let asked = Said::WhoHas {
            target: vip,
            mac: THEM,
            ip: asker,
        };
        let there = Said::Has {
            address: asker,
            mac: THEM,
        };
        assert_eq!(read(&question), [there, asked]);
        let reply = answer(vip, US, THEM, asker);
        assert_eq!(reply[..6], THEM);
        assert_eq!(
            read(&reply),
            [Said::Has {
                address: vip,
                mac: US
            }]
        );
    }

    #[test]
    fn a_solicitation_is_answered_and_one_without_a_source_so_that_all_hear() {
        let (vip, asker) = (ip("2001:db8::100"), ip("2001:db8::7"));
        let asked = Said::WhoHas {
            target: vip,
            mac: THEM,
            ip: asker,
        };
        assert_eq!(read(&question(vip, THEM, asker)), [asked]);
        let has = [Said::Has {
            address: vip,
            mac: US,
        }];
        let reply = answer(vip, US, THEM, asker);
        assert_eq!((&reply[..6], read(&reply)), (&THEM[..], has.to_vec()));
        let all = answer(vip, US, THEM, ip("::"));
        assert_eq!(
            (&all[..6], read(&all)),
            (&[0x33, 0x33, 0, 0, 0, 1][..], has.to_vec())
        );
    }

    #[test]
    fn announcements_say_it_and_probes_do_not() {
        for vip in [ip("10.1.0.100"), ip("2001:db8::100")] {
            let has = Said::Has {
                address: vip,
                mac: US,
            };
            for frame in announcements(vip, US) {
                assert_eq!(read(&frame), [has]);
            }
            let asked = read(&probe(vip, US));
            assert!(
                matches!(asked[..], [Said::WhoHas { target, ip, .. }] if target == vip && ip.is_unspecified()),
                "{asked:?}"
            );
        }
    }

    /// A checksum over what contains it is zero.
    #[test]
    fn icmp6_has_a_checksum() {
        for frame in [
            probe(ip("2001:db8::aa:1234"), US),
            answer(ip("2001:db8::100"), US, THEM, ip("2001:db8::7")),
        ] {
            let icmp = &frame[54..];
            let pseudo = [
                &frame[22..54],
                &[0, 0, 0, icmp.len() as u8, 0, 0, 0, ICMP6],
                icmp,
            ];
            assert_eq!(checksum(&pseudo.concat()), 0);
        }
    }

    #[test]
    fn a_solicited_node_address_has_the_last_three_octets() {
        let IpAddr::V6(address) = ip("2001:db8::aabb:ccdd") else {
            unreachable!("it is IPv6")
        };
        assert_eq!(IpAddr::V6(solicited_node(address)), ip("ff02::1:ffbb:ccdd"));
        assert_eq!(
            multicast(solicited_node(address)),
            [0x33, 0x33, 0xff, 0xbb, 0xcc, 0xdd]
        );
    }

    proptest! {
        #[test]
        fn random_frames_never_panic(frame in proptest::collection::vec(any::<u8>(), 0..120), kind in 0..3) {
            let mut frame = frame;
            let types = [ETHERTYPE_ARP, ETHERTYPE_IPV6, [8, 0]];
            if frame.len() >= 14 {
                frame[12..14].copy_from_slice(&types[kind as usize]);
            }
            let _ = read(&frame);
        }

        #[test]
        fn frames_that_are_cut_short_or_changed_never_panic(len in 0usize..86, at in 0usize..86, value: u8) {
            for vip in [ip("10.1.0.100"), ip("2001:db8::100")] {
                let mut frame = answer(vip, US, THEM, ip("2001:db8::7"));
                frame.truncate(len);
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
                let _ = read(&frame);
            }
        }
    }
}

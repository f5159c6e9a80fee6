//! Filters that the kernel runs on a socket before it queues a packet.

#![allow(unsafe_code)] // the program is passed by pointer, and SO_MEMINFO has no safe wrapper

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

use crate::packet::Frames;
use crate::sockopt::{SockoptError, refused, set};

/// Where TTL or hop limit is, from the start of the network header.
const TTL_OFFSET_V4: i32 = 8;
const HOP_LIMIT_OFFSET_V6: i32 = 7;

/// Index of the drops in what SO_MEMINFO returns, and the length of that (`linux/sock_diag.h`).
const SK_MEMINFO_DROPS: usize = 8;
const SK_MEMINFO_VARS: usize = 9;

/// Where the Your Discriminator of a BFD packet is (RFC 5880 section 4.1), from the start of the UDP header.
const YOUR_DISCRIMINATOR_OFFSET: u32 = 8 + 8;

/// Of packets that name no session one in so many is admitted, a power of two: a flood of them is thinned, and a router
/// that tries to start a session is heard all the same.
const NAMELESS_ONE_IN: u32 = 32;

/// The kernel takes 4096 steps (`BPF_MAXINSNS`), two for each discriminator.
const DISCRIMINATORS_MAX: usize = 2000;

/// Which datagrams of BFD are queued while more come than can be read. All others are dropped before the receiver sees
/// them.
#[derive(Debug, Clone, Copy)]
pub struct BfdAdmission<'a> {
    /// The family of the socket.
    pub v6: bool,
    /// The only TTL (hop limit) that is admitted; without it all are.
    pub ttl: Option<u8>,
    /// What a packet that is meant for one of our sessions says as Your Discriminator. Beyond 2000 of them any is
    /// admitted.
    pub discriminators: &'a [u32],
}

/// Attaches it to the socket, in place of one that is there.
///
/// # Errors
///
/// The kernel refused.
pub fn admit_bfd(socket: &impl AsFd, which: BfdAdmission<'_>) -> Result<(), SockoptError> {
    attach(socket, bfd_program(which))
}

/// Of what a raw TCP socket of this family sees, only segments from this port to that one are queued: all others of the
/// same server would be copied for nothing.
///
/// # Errors
///
/// The kernel refused.
pub fn admit_segments(
    socket: &impl AsFd,
    v6: bool,
    [from, to]: [u16; 2],
) -> Result<(), SockoptError> {
    attach(socket, segment_program(v6, [from, to]))
}

/// IPv4 is seen from its header on, whose length varies (raw(7)); IPv6 from the TCP header on (RFC 3542 section 3).
fn segment_program(v6: bool, [from, to]: [u16; 2]) -> Vec<libc::sock_filter> {
    let header_len = step(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0);
    let load = |mode| step(libc::BPF_LD | libc::BPF_W | mode, 0);
    let mut steps = match v6 {
        true => vec![load(libc::BPF_ABS)],
        false => vec![header_len, load(libc::BPF_IND)],
    };
    let ports = (u32::from(from) << 16) | u32::from(to);
    let admit = step(libc::BPF_RET | libc::BPF_K, u32::MAX);
    let drop = step(libc::BPF_RET | libc::BPF_K, 0);
    steps.extend([unless(ports, 1), admit, drop]);
    steps
}

/// Where the next header of IPv6 and the type of ICMPv6 are in an Ethernet frame (RFC 8200 section 3, RFC 4443 section 2.1).
const NEXT_HEADER_OFFSET: u32 = 14 + 6;
const ICMP6_TYPE_OFFSET: u32 = 14 + 40;
const ICMP6: u32 = 58;
/// Neighbour solicitation and advertisement (RFC 4861 section 4).
const SOLICITATION: u32 = 135;
const ADVERTISEMENT: u32 = 136;

/// Of what a packet socket sees, only these frames are queued.
pub(crate) fn admit_neighbours(socket: &impl AsFd, frames: Frames) -> Result<(), SockoptError> {
    attach(socket, neighbour_program(frames))
}

fn neighbour_program(frames: Frames) -> Vec<libc::sock_filter> {
    let admit = step(libc::BPF_RET | libc::BPF_K, u32::MAX);
    let drop = step(libc::BPF_RET | libc::BPF_K, 0);
    let byte = |offset| step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, offset);
    match frames {
        // The socket is bound to the protocol.
        Frames::Arp => vec![admit],
        Frames::NeighbourDiscovery => vec![
            byte(NEXT_HEADER_OFFSET),
            unless(ICMP6, 5),
            byte(ICMP6_TYPE_OFFSET),
            unless(SOLICITATION, 1),
            admit,
            unless(ADVERTISEMENT, 1),
            admit,
            drop,
        ],
    }
}

fn attach(socket: &impl AsFd, mut steps: Vec<libc::sock_filter>) -> Result<(), SockoptError> {
    // The kernel copies the program during the call, in which `steps` lives.
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    let name = libc::SO_ATTACH_FILTER;
    set(socket, libc::SOL_SOCKET, name, "SO_ATTACH_FILTER", &program)
}

/// A load beyond the end of the datagram ends the program, and drops.
fn bfd_program(which: BfdAdmission<'_>) -> Vec<libc::sock_filter> {
    let admit = step(libc::BPF_RET | libc::BPF_K, u32::MAX);
    let drop = step(libc::BPF_RET | libc::BPF_K, 0);
    let load = libc::BPF_LD | libc::BPF_ABS;
    let mut steps = Vec::new();
    if let Some(ttl) = which.ttl {
        let offset = match which.v6 {
            true => HOP_LIMIT_OFFSET_V6,
            false => TTL_OFFSET_V4,
        };
        // A negative offset counts from the network header; the data itself begins with the UDP header.
        let offset = (libc::SKF_NET_OFF + offset).cast_unsigned();
        steps.extend([step(load | libc::BPF_B, offset), unless(ttl.into(), 1)]);
        steps.extend([jump(1), drop]);
    }
    let random = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM).cast_unsigned();
    steps.extend([
        step(load | libc::BPF_W, YOUR_DISCRIMINATOR_OFFSET),
        unless(0, 5),
        step(load | libc::BPF_W, random),
        step(
            libc::BPF_ALU | libc::BPF_AND | libc::BPF_K,
            NAMELESS_ONE_IN - 1,
        ),
        unless(0, 1),
        admit,
        drop,
    ]);
    if which.discriminators.len() > DISCRIMINATORS_MAX {
        steps.push(admit);
    }
    let known = which.discriminators.iter().take(DISCRIMINATORS_MAX);
    steps.extend(known.flat_map(|discriminator| [unless(*discriminator, 1), admit]));
    steps.push(drop);
    steps
}

fn step(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Skips so many steps unless what was loaded is `value`.
fn unless(value: u32, skipped: u8) -> libc::sock_filter {
    libc::sock_filter {
        jf: skipped,
        ..step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value)
    }
}

/// Skips so many steps.
fn jump(skipped: u32) -> libc::sock_filter {
    step(libc::BPF_JMP | libc::BPF_JA, skipped)
}

/// Takes the filter away; nothing when there is none.
///
/// # Errors
///
/// The kernel refused.
pub fn remove(socket: &impl AsFd) -> Result<(), SockoptError> {
    let name = libc::SO_DETACH_FILTER;
    let nothing: libc::c_int = 0;
    match set(socket, libc::SOL_SOCKET, name, "SO_DETACH_FILTER", &nothing) {
        Err(SockoptError::Refused { source, .. })
            if source.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// How many datagrams the kernel did not queue: no room, a filter, or a wrong checksum. It wraps.
///
/// # Errors
///
/// The kernel refused.
pub fn dropped(socket: &impl AsFd) -> Result<u32, SockoptError> {
    let mut numbers = [0_u32; SK_MEMINFO_VARS];
    let mut len = size_of::<[u32; SK_MEMINFO_VARS]>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed and so stays open during the call; the kernel writes at most `len` octets
    // into `numbers`, whose size that is, and any bits are valid numbers.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            numbers.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        return Ok(numbers[SK_MEMINFO_DROPS]);
    }
    Err(refused("SO_MEMINFO")(io::Error::last_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockopt::set_ttl;
    use std::net::{IpAddr, SocketAddr, UdpSocket};
    use std::time::Duration;

    /// As long as a BFD packet, and it says nothing but whose it is.
    fn datagram(discriminator: u32, mark: u8) -> [u8; 24] {
        let mut datagram = [mark; 24];
        datagram[8..12].copy_from_slice(&discriminator.to_be_bytes());
        datagram
    }

    struct Ends {
        receiver: UdpSocket,
        sender: UdpSocket,
        to: SocketAddr,
    }

    impl Ends {
        fn new(address: IpAddr) -> Self {
            let receiver = UdpSocket::bind((address, 0)).unwrap();
            let patience = Some(Duration::from_secs(5));
            receiver.set_read_timeout(patience).unwrap();
            let to = receiver.local_addr().unwrap();
            let sender = UdpSocket::bind((address, 0)).unwrap();
            Self {
                receiver,
                sender,
                to,
            }
        }

        fn send(&self, ttl: u8, datagram: &[u8]) {
            set_ttl(&self.sender, self.to.ip(), ttl).unwrap();
            self.sender.send_to(datagram, self.to).unwrap();
        }

        fn receive(&self) -> u8 {
            let mut buffer = [0; 64];
            self.receiver.recv(&mut buffer).unwrap();
            buffer[0]
        }
    }

    const FAMILIES: [&str; 2] = ["127.0.0.1", "::1"];

    #[test]
    fn only_what_is_meant_for_a_session_and_comes_from_the_link_is_admitted() {
        for address in FAMILIES.map(|a| a.parse::<IpAddr>().unwrap()) {
            let ends = Ends::new(address);
            let which = BfdAdmission {
                v6: address.is_ipv6(),
                ttl: Some(255),
                discriminators: &[7, u32::MAX],
            };
            admit_bfd(&ends.receiver, which).unwrap();
            ends.send(254, &datagram(7, 1));
            ends.send(255, &datagram(8, 2));
            ends.send(255, &[3; 11]);
            ends.send(255, &datagram(7, 4));
            ends.send(255, &datagram(u32::MAX, 5));
            assert_eq!((ends.receive(), ends.receive()), (4, 5), "{address}");
            assert_eq!(dropped(&ends.receiver).unwrap(), 3, "{address}");
            remove(&ends.receiver).unwrap();
            remove(&ends.receiver).unwrap();
            ends.send(254, &datagram(8, 6));
            assert_eq!(ends.receive(), 6, "{address}");
        }
    }

    #[test]
    fn over_several_hops_every_ttl_is_admitted() {
        for address in FAMILIES.map(|a| a.parse::<IpAddr>().unwrap()) {
            let ends = Ends::new(address);
            let which = BfdAdmission {
                v6: address.is_ipv6(),
                ttl: None,
                discriminators: &[7],
            };
            admit_bfd(&ends.receiver, which).unwrap();
            ends.send(3, &datagram(9, 1));
            ends.send(3, &datagram(7, 2));
            assert_eq!(ends.receive(), 2, "{address}");
        }
    }

    /// A router that starts a session knows no discriminator yet.
    #[test]
    fn of_packets_that_name_no_session_some_are_admitted() {
        let ends = Ends::new([127, 0, 0, 1].into());
        let which = BfdAdmission {
            v6: false,
            ttl: None,
            discriminators: &[],
        };
        admit_bfd(&ends.receiver, which).unwrap();
        let count = 20 * NAMELESS_ONE_IN;
        for _ in 0..count {
            ends.send(255, &datagram(0, 1));
        }
        let passed = count - dropped(&ends.receiver).unwrap();
        assert!((1..=4 * 20).contains(&passed), "{passed}");
    }

    #[test]
    fn as_many_sessions_as_fit_and_more_make_a_program_that_the_kernel_takes() {
        for count in [0, 2000, 2001, 5000] {
            let ends = Ends::new([127, 0, 0, 1].into());
            let discriminators: Vec<u32> = (1..=count).collect();
            let which = BfdAdmission {
                v6: false,
                ttl: Some(255),
                discriminators: &discriminators,
            };
            admit_bfd(&ends.receiver, which).unwrap();
            if count > 0 {
                ends.send(255, &datagram(count, 1));
                assert_eq!(ends.receive(), 1);
            }
        }
    }

    /// What the program makes of a packet, on a pair of sockets that pass any bytes.
    #[test]
    fn segments_between_two_ports_are_admitted_and_no_others() {
        let ports = |from: u16, to: u16| [from.to_be_bytes(), to.to_be_bytes()].concat();
        let (other, wanted) = (ports(443, 40000), ports(80, 40000));
        for (v6, header_len) in [(true, 0), (false, 20), (false, 60)] {
            let (sender, receiver) = std::os::unix::net::UnixDatagram::pair().unwrap();
            receiver.set_nonblocking(true).unwrap();
            admit_segments(&receiver, v6, [80, 40000]).unwrap();
            let mut header = vec![0; header_len];
            if let Some(first) = header.first_mut() {
                *first = 0x40 | (header_len / 4) as u8;
            }
            for bytes in [&other, &ports(40000, 80), &wanted[..3].to_vec()] {
                let packet = [header.as_slice(), bytes].concat();
                sender.send(&packet).ok();
                let none = receiver.recv(&mut [0; 100]).unwrap_err();
                assert_eq!(none.kind(), io::ErrorKind::WouldBlock, "{v6} {header_len}");
            }
            let packet = [header.as_slice(), &wanted].concat();
            sender.send(&packet).unwrap();
            assert_eq!(receiver.recv(&mut [0; 100]).unwrap(), packet.len());
        }
    }
}

//! Filters that the kernel runs on a UDP socket before it queues a datagram.

#![allow(unsafe_code)] // the program is passed by pointer, and SO_MEMINFO has no safe wrapper

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

use crate::sockopt::{SockoptError, refused, set};

/// Where TTL or hop limit is, from the start of the network header.
const TTL_OFFSET_V4: i32 = 8;
const HOP_LIMIT_OFFSET_V6: i32 = 7;

/// Index of the drops in what SO_MEMINFO returns, and the length of that (`linux/sock_diag.h`).
const SK_MEMINFO_DROPS: usize = 8;
const SK_MEMINFO_VARS: usize = 9;

/// Drops datagrams whose TTL (hop limit) is another one, before they are queued or counted by the receiver.
///
/// # Errors
///
/// The kernel refused.
pub fn drop_other_ttl(socket: &impl AsFd, v6: bool, ttl: u8) -> Result<(), SockoptError> {
    let offset = if v6 {
        HOP_LIMIT_OFFSET_V6
    } else {
        TTL_OFFSET_V4
    };
    let step = |code: u32, yes: u8, no: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt: yes,
        jf: no,
        k,
    };
    let mut steps = [
        // A negative offset counts from the network header; the data itself begins with the UDP header.
        step(
            libc::BPF_LD | libc::BPF_B | libc::BPF_ABS,
            0,
            0,
            (libc::SKF_NET_OFF + offset).cast_unsigned(),
        ),
        step(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            ttl.into(),
        ),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    // The kernel copies the program during the call, in which `steps` lives.
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    let name = libc::SO_ATTACH_FILTER;
    set(socket, libc::SOL_SOCKET, name, "SO_ATTACH_FILTER", &program)
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
    use std::net::{IpAddr, UdpSocket};
    use std::time::Duration;

    #[test]
    fn only_the_wanted_ttl_passes_in_both_families() {
        for address in ["127.0.0.1", "::1"] {
            let address: IpAddr = address.parse().unwrap();
            let receiver = UdpSocket::bind((address, 0)).unwrap();
            let patience = Some(Duration::from_secs(5));
            receiver.set_read_timeout(patience).unwrap();
            let to = receiver.local_addr().unwrap();
            let sender = UdpSocket::bind((address, 0)).unwrap();
            let send = |ttl: u8| {
                set_ttl(&sender, address, ttl).unwrap();
                sender.send_to(&[ttl], to).unwrap();
            };
            let receive = || {
                let mut buffer = [0; 8];
                receiver.recv(&mut buffer).unwrap();
                buffer[0]
            };
            drop_other_ttl(&receiver, address.is_ipv6(), 255).unwrap();
            for ttl in [254, 1, 255] {
                send(ttl);
            }
            assert_eq!(receive(), 255, "{address}");
            assert_eq!(dropped(&receiver).unwrap(), 2, "{address}");
            remove(&receiver).unwrap();
            remove(&receiver).unwrap();
            send(254);
            assert_eq!(receive(), 254, "{address}");
        }
    }
}

//! Socket options of routing protocols and of proxying: TCP MD5 signatures, TTL and its minimum, traffic class, buffers.

#![allow(unsafe_code)] // setsockopt with structures that no safe crate wraps

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::sockopt::RcvBufForce;
use socket2::{SockAddr, SockAddrStorage, SockRef};

/// Longest TCP MD5 key that Linux takes (TCP_MD5SIG_MAXKEYLEN), in bytes.
pub const MD5_KEY_LEN_MAX: usize = 80;

/// DSCP CS6 (network control) as a TOS or traffic class byte; what routers use for routing protocols.
pub const TOS_CS6: u8 = 0xC0;

/// Which buffers the kernel leaves as they were set (`asm-generic/socket.h`).
const SO_BUF_LOCK: libc::c_int = 72;

/// What went wrong with a socket option.
#[derive(Debug, thiserror::Error)]
pub enum SockoptError {
    /// See [`MD5_KEY_LEN_MAX`].
    #[error("a TCP MD5 key of {len} bytes; Linux takes 1 to 80")]
    Md5KeyLength {
        /// The length asked for.
        len: usize,
    },
    /// The kernel refused.
    #[error("set socket option {option}")]
    Refused {
        /// Name of the option in the kernel's headers.
        option: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The kernel does not tell.
    #[error("read socket option {option}")]
    Unreadable {
        /// Name of the option in the kernel's headers.
        option: &'static str,
        /// The cause.
        source: io::Error,
    },
}

/// `struct tcp_md5sig` of `linux/tcp.h`.
#[repr(C)]
struct TcpMd5Sig {
    address: SockAddrStorage,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    interface_index: libc::c_int,
    key: [u8; MD5_KEY_LEN_MAX],
}

const _: () = assert!(
    size_of::<TcpMd5Sig>() == 216,
    "layout of the kernel's tcp_md5sig"
);

/// Signs the segments to `peer` with this key and drops unsigned ones from it (RFC 2385). To be set
/// before connect; Linux does not re-key a connection.
///
/// # Errors
///
/// A key that is empty or too long, or a kernel without TCP MD5.
pub fn set_tcp_md5_key(socket: &impl AsFd, peer: IpAddr, key: &[u8]) -> Result<(), SockoptError> {
    if key.is_empty() || key.len() > MD5_KEY_LEN_MAX {
        return Err(SockoptError::Md5KeyLength { len: key.len() });
    }
    set_md5(socket, peer, key)
}

/// Takes the key of this peer away again; nothing when it has none.
///
/// # Errors
///
/// A kernel without TCP MD5.
pub fn remove_tcp_md5_key(socket: &impl AsFd, peer: IpAddr) -> Result<(), SockoptError> {
    match set_md5(socket, peer, &[]) {
        Err(SockoptError::Refused { source, .. })
            if source.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// A key of length 0 removes.
fn set_md5(socket: &impl AsFd, peer: IpAddr, key: &[u8]) -> Result<(), SockoptError> {
    let mut option = TcpMd5Sig {
        address: SockAddr::from(SocketAddr::new(peer, 0)).as_storage(),
        flags: 0,
        prefix_len: 0,
        key_len: key.len() as u16,
        interface_index: 0,
        key: [0; MD5_KEY_LEN_MAX],
    };
    option.key[..key.len()].copy_from_slice(key);
    set(
        socket,
        libc::IPPROTO_TCP,
        libc::TCP_MD5SIG,
        "TCP_MD5SIG",
        &option,
    )
}

/// Sets the TTL (hop limit) of what is sent.
///
/// # Errors
///
/// The kernel refused.
pub fn set_ttl(socket: &impl AsFd, peer: IpAddr, ttl: u8) -> Result<(), SockoptError> {
    let socket = SockRef::from(socket);
    match peer {
        IpAddr::V4(_) => socket.set_ttl_v4(ttl.into()).map_err(refused("IP_TTL")),
        IpAddr::V6(_) => socket
            .set_unicast_hops_v6(ttl.into())
            .map_err(refused("IPV6_UNICAST_HOPS")),
    }
}

/// Drops what arrives with a smaller TTL (GTSM, RFC 5082).
///
/// # Errors
///
/// The kernel refused.
pub fn set_min_ttl(socket: &impl AsFd, peer: IpAddr, ttl: u8) -> Result<(), SockoptError> {
    let value = libc::c_int::from(ttl);
    match peer {
        IpAddr::V4(_) => set(
            socket,
            libc::IPPROTO_IP,
            libc::IP_MINTTL,
            "IP_MINTTL",
            &value,
        ),
        IpAddr::V6(_) => set(
            socket,
            libc::IPPROTO_IPV6,
            libc::IPV6_MINHOPCOUNT,
            "IPV6_MINHOPCOUNT",
            &value,
        ),
    }
}

/// Keeps the SYN of every connection that is accepted, for [`saved_syn_ttl`].
///
/// # Errors
///
/// The kernel refused.
pub fn set_save_syn(listener: &impl AsFd) -> Result<(), SockoptError> {
    let on: libc::c_int = 1;
    set(
        listener,
        libc::IPPROTO_TCP,
        libc::TCP_SAVE_SYN,
        "TCP_SAVE_SYN",
        &on,
    )
}

/// The TTL or hop limit with which the peer's SYN has arrived; to be asked for once. `None` when the listener kept
/// no SYN.
#[must_use]
pub fn saved_syn_ttl(accepted: &impl AsFd) -> Option<u8> {
    let mut headers = [0_u8; 256];
    let mut len = headers.len() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed and so stays open during the call; the kernel writes at most `len` bytes
    // into the array, whose size that is, and says how many in `len`.
    let result = unsafe {
        libc::getsockopt(
            accepted.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_SAVED_SYN,
            headers.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    let headers = headers.get(..len as usize).filter(|_| result == 0)?;
    // RFC 791 section 3.1, RFC 8200 section 3.
    match headers.first()? >> 4 {
        4 => headers.get(8).copied(),
        6 => headers.get(7).copied(),
        _ => None,
    }
}

/// Sets the TOS or traffic class byte of what is sent.
///
/// # Errors
///
/// The kernel refused.
pub fn set_tos(socket: &impl AsFd, peer: IpAddr, tos: u8) -> Result<(), SockoptError> {
    let socket = SockRef::from(socket);
    match peer {
        IpAddr::V4(_) => socket.set_tos_v4(tos.into()).map_err(refused("IP_TOS")),
        IpAddr::V6(_) => socket
            .set_tclass_v6(tos.into())
            .map_err(refused("IPV6_TCLASS")),
    }
}

/// Sets how many bytes wait to be read at most: also more than `net.core.rmem_max` with CAP_NET_ADMIN. The kernel takes it
/// twice, for what it needs itself.
///
/// # Errors
///
/// The kernel refused.
pub fn set_receive_buffer(socket: &impl AsFd, bytes: usize) -> Result<(), SockoptError> {
    if nix::sys::socket::setsockopt(socket, RcvBufForce, &bytes).is_ok() {
        return Ok(());
    }
    let socket = SockRef::from(socket);
    let set = socket.set_recv_buffer_size(bytes);
    set.map_err(refused("SO_RCVBUF"))
}

/// The kernel grows both buffers by itself again, from what they are (Linux 5.14).
///
/// # Errors
///
/// The kernel refused.
pub fn let_buffers_grow(socket: &impl AsFd) -> Result<(), SockoptError> {
    let none: libc::c_int = 0;
    set(socket, libc::SOL_SOCKET, SO_BUF_LOCK, "SO_BUF_LOCK", &none)
}

/// A socket that is bound to an address and port 0 gets its port when it connects: for each server the ports are there anew
/// (`linux/in.h`).
///
/// # Errors
///
/// The kernel refused.
pub fn set_port_at_connect(socket: &impl AsFd) -> Result<(), SockoptError> {
    let (on, name): (libc::c_int, _) = (1, libc::IP_BIND_ADDRESS_NO_PORT);
    set(
        socket,
        libc::IPPROTO_IP,
        name,
        "IP_BIND_ADDRESS_NO_PORT",
        &on,
    )
}

/// Sends UDP without a checksum (RFC 768; RFC 6935 for IPv6), so that nothing is left for a device to write into datagrams
/// that a program on the way turns into other ones.
///
/// # Errors
///
/// The kernel refused.
pub fn set_no_checksum(socket: &impl AsFd, local: IpAddr) -> Result<(), SockoptError> {
    /// `linux/udp.h`
    const UDP_NO_CHECK6_TX: libc::c_int = 101;
    let on: libc::c_int = 1;
    match local {
        IpAddr::V4(_) => set(
            socket,
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            "SO_NO_CHECK",
            &on,
        ),
        IpAddr::V6(_) => set(
            socket,
            libc::IPPROTO_UDP,
            UDP_NO_CHECK6_TX,
            "UDP_NO_CHECK6_TX",
            &on,
        ),
    }
}

pub(crate) fn refused(option: &'static str) -> impl FnOnce(io::Error) -> SockoptError {
    move |source| SockoptError::Refused { option, source }
}

pub(crate) fn set<T>(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    option: &'static str,
    value: &T,
) -> Result<(), SockoptError> {
    // SAFETY: the descriptor is borrowed and so stays open during the call; `value` is a live
    // reference to a plain C value and its exact size is passed; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(refused(option)(io::Error::last_os_error()))
}

/// Reads an option over `value`; a kernel that knows less of it leaves the rest as it is.
pub(crate) fn get<T: Copy>(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    option: &'static str,
    mut value: T,
) -> Result<T, SockoptError> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed and so stays open during the call; the kernel writes at most `len` bytes, the
    // size of `value`, which is a plain C value at each of the calls in this crate, so that any bytes are one.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_mut(&mut value).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        return Ok(value);
    }
    let source = io::Error::last_os_error();
    Err(SockoptError::Unreadable { option, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};

    fn sockets() -> [(Socket, IpAddr); 2] {
        [(Domain::IPV4, "127.0.0.1"), (Domain::IPV6, "::1")].map(|(domain, peer)| {
            (
                Socket::new(domain, Type::STREAM, None).unwrap(),
                peer.parse().unwrap(),
            )
        })
    }

    #[test]
    fn the_kernel_takes_every_option_in_both_families() {
        for (socket, peer) in sockets() {
            set_ttl(&socket, peer, 1).unwrap();
            set_min_ttl(&socket, peer, 255).unwrap();
            set_tos(&socket, peer, TOS_CS6).unwrap();
            set_tcp_md5_key(&socket, peer, &[b'k'; MD5_KEY_LEN_MAX]).unwrap();
        }
    }

    #[test]
    fn a_receive_buffer_is_set_and_left_to_the_kernel_again() {
        // SOCK_RCVBUF_LOCK of `linux/socket.h`.
        const RECEIVE: libc::c_int = 2;
        for (socket, _) in sockets() {
            let locked = || get(&socket, libc::SOL_SOCKET, SO_BUF_LOCK, "SO_BUF_LOCK", -1);
            assert_eq!(locked().unwrap(), 0);
            set_receive_buffer(&socket, 65_536).unwrap();
            assert_eq!(socket.recv_buffer_size().unwrap(), 131_072);
            assert_eq!(locked().unwrap(), RECEIVE);
            let_buffers_grow(&socket).unwrap();
            assert_eq!(locked().unwrap(), 0);
        }
    }

    #[test]
    fn datagrams_go_without_a_checksum_in_both_families() {
        for (domain, local) in [(Domain::IPV4, "127.0.0.1"), (Domain::IPV6, "::1")] {
            let socket = Socket::new(domain, Type::DGRAM, None).unwrap();
            set_no_checksum(&socket, local.parse().unwrap()).unwrap();
        }
    }

    #[test]
    fn the_ttl_of_an_accepted_connections_syn_is_known_in_both_families() {
        for (connecting, peer) in sockets() {
            let listener = std::net::TcpListener::bind((peer, 0)).unwrap();
            set_save_syn(&listener).unwrap();
            set_ttl(&connecting, peer, 77).unwrap();
            connecting
                .connect(&listener.local_addr().unwrap().into())
                .unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!(saved_syn_ttl(&accepted), Some(77));
        }
    }

    #[test]
    fn md5_keys_of_impossible_length_are_refused() {
        let [(socket, peer), _] = sockets();
        for len in [0, MD5_KEY_LEN_MAX + 1] {
            let error = set_tcp_md5_key(&socket, peer, &vec![b'k'; len]).unwrap_err();
            assert!(matches!(error, SockoptError::Md5KeyLength { len: l } if l == len));
        }
    }
}

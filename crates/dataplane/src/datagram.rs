//! Reading datagrams in batches: one system call for many, each with its sender (`recvmmsg`).

#![allow(unsafe_code)] // the safe wrappers do not let one batch serve sockets of both address families

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

/// Datagrams that one call reads at most.
pub const BATCH_LEN: usize = 16;

/// Longer datagrams do not exist, so that none is cut short.
const DATAGRAM_LEN_MAX: usize = 65_535;

/// Room for datagrams, used again and again. Of its megabyte only what datagrams have filled is ever in memory.
pub struct Batch {
    room: Box<[u8]>,
    /// Length and sender of what was read last.
    read: Vec<(usize, SocketAddr)>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            room: vec![0; BATCH_LEN * DATAGRAM_LEN_MAX].into_boxed_slice(),
            read: Vec::with_capacity(BATCH_LEN),
        }
    }
}

impl Batch {
    /// Reads what is there, up to [`BATCH_LEN`] datagrams, over what was read before, and says how many. It never waits.
    ///
    /// # Errors
    /// Nothing is there (`WouldBlock`), or what has become of an earlier datagram (`ConnectionRefused` of a connected
    /// socket).
    pub fn receive(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        self.read.clear();
        // SAFETY: all of them are plain C values, for which zeros are valid: null pointers and lengths of 0.
        let (mut senders, mut vectors, mut headers): (
            [libc::sockaddr_storage; BATCH_LEN],
            [libc::iovec; BATCH_LEN],
            [libc::mmsghdr; BATCH_LEN],
        ) = unsafe { std::mem::zeroed() };
        let rooms = self.room.chunks_exact_mut(DATAGRAM_LEN_MAX);
        for (i, room) in rooms.enumerate() {
            vectors[i].iov_base = room.as_mut_ptr().cast();
            vectors[i].iov_len = room.len();
            let header = &mut headers[i].msg_hdr;
            header.msg_name = (&raw mut senders[i]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
        }
        // SAFETY: the descriptor is borrowed and so stays open during the call. Each header points to its own vector, sender
        // and room, which stay where they are until the call has returned, and has their exact sizes.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH_LEN as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (header, sender) in headers.iter().zip(&senders).take(count) {
            let sender = address(sender).ok_or(io::ErrorKind::Unsupported)?;
            self.read.push((header.msg_len as usize, sender));
        }
        Ok(count)
    }

    /// Sender and contents of what was read last.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let rooms = self.room.chunks_exact(DATAGRAM_LEN_MAX);
        let each = self.read.iter().zip(rooms);
        each.map(|((len, sender), room)| (*sender, &room[..*len]))
    }
}

fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let from = std::ptr::from_ref(storage);
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the storage is larger than any address and aligned for all of them, and the family says which it holds.
            let v4 = unsafe { &*from.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*from.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn is_empty(batch: &mut Batch, socket: &UdpSocket) -> bool {
        let read = batch.receive(socket);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    #[test]
    fn one_call_reads_what_several_have_sent_in_both_families() {
        let mut batch = Batch::default();
        for ip in ["127.0.0.1", "::1"] {
            let bind = || UdpSocket::bind((ip, 0)).unwrap();
            let (socket, a, b) = (bind(), bind(), bind());
            let to = socket.local_addr().unwrap();
            assert!(is_empty(&mut batch, &socket));
            a.send_to(b"one", to).unwrap();
            b.send_to(b"", to).unwrap();
            a.send_to(&[7; 40_000], to).unwrap();
            assert_eq!(batch.receive(&socket).unwrap(), 3);
            let (a, b) = (a.local_addr().unwrap(), b.local_addr().unwrap());
            let seen: Vec<_> = batch.iter().collect();
            assert_eq!(seen, [(a, &b"one"[..]), (b, b""), (a, &[7; 40_000])]);
            assert!(is_empty(&mut batch, &socket));
            assert_eq!(batch.iter().count(), 0);
        }
    }

    #[test]
    fn more_than_a_batch_is_read_in_several_calls() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for n in 0..=BATCH_LEN {
            let to = socket.local_addr().unwrap();
            client.send_to(&[n as u8], to).unwrap();
        }
        let mut batch = Batch::default();
        assert_eq!(batch.receive(&socket).unwrap(), BATCH_LEN);
        assert_eq!(batch.receive(&socket).unwrap(), 1);
        assert_eq!(batch.iter().next().unwrap().1, [BATCH_LEN as u8]);
    }

    #[test]
    fn a_port_that_nobody_has_is_an_error_of_the_next_call() {
        let gone = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(gone).unwrap();
        socket.send(b"x").unwrap();
        let error = Batch::default().receive(&socket).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}

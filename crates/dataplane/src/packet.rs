//! Packet sockets: whole Ethernet frames of one protocol at one interface (packet(7)).

#![allow(unsafe_code)] // an address of the family is made by hand, and a descriptor is lent to the runtime

use crate::filter;
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};
use std::io::{self, Read};
use std::time::Instant;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What is received; all of it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frames {
    /// ARP (RFC 826).
    Arp,
    /// Neighbour solicitations and advertisements (RFC 4861).
    NeighbourDiscovery,
}

impl Frames {
    fn ethertype(self) -> u16 {
        match self {
            Self::Arp => libc::ETH_P_ARP as u16,
            Self::NeighbourDiscovery => libc::ETH_P_IPV6 as u16,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct PacketSocket(AsyncFd<Socket>);

impl PacketSocket {
    /// At the interface with this index, within a runtime of tokio.
    ///
    /// # Errors
    /// The kernel refused: this needs CAP_NET_RAW.
    pub fn open(ifindex: u32, frames: Frames) -> io::Result<Self> {
        // Without a protocol nothing is received before the filter stands and the interface is chosen.
        let kind = Type::RAW.nonblocking().cloexec();
        let socket = Socket::new(Domain::PACKET, kind, None)?;
        filter::admit_neighbours(&socket, frames).map_err(io::Error::other)?;
        socket.bind(&address(ifindex, frames)?)?;
        // SAFETY: the socket owns its descriptor, and nobody replaces or closes it while it is in here.
        Ok(Self(unsafe { AsyncFd::register(socket) }?))
    }

    /// Waits for a frame, and gives its length and the time just before it was taken; longer ones are cut to the buffer. Cancel-safe.
    ///
    /// # Errors
    /// The interface went down, or is gone.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Instant)> {
        let mut read = |socket: &Socket| take(socket, buffer);
        self.0.async_io(Interest::READABLE, |s| read(s)).await
    }

    /// The same of a frame that has come already.
    ///
    /// # Errors
    /// `WouldBlock`: none has; and as above.
    pub fn received(&self, buffer: &mut [u8]) -> io::Result<(usize, Instant)> {
        take(self.0.get_ref(), buffer)
    }

    /// A frame, from its Ethernet header on.
    ///
    /// # Errors
    /// The interface is down or gone, or its queue is full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.get_ref().send(frame).map(drop)
    }
}

fn take(mut socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, Instant)> {
    let at = Instant::now();
    Ok((socket.read(buffer)?, at))
}

fn address(ifindex: u32, frames: Frames) -> io::Result<SockAddr> {
    let index = i32::try_from(ifindex).map_err(io::Error::other)?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is large enough for any address and aligned for it, and all of it is zero, which is a
    // valid sockaddr_ll.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_protocol = frames.ethertype().to_be();
    link.sll_ifindex = index;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `length` bytes of the storage are a sockaddr_ll.
    Ok(unsafe { SockAddr::new(storage, length) })
}

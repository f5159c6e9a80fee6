//! UDP with what BFD needs of it: TTL 255 out and seen on the way in, the interface and address a packet came to.
//!
//! Of received datagrams only the decoded packet goes on; a datagram that is none says why.

use std::collections::BTreeSet;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use ::bfd::{Discard, Packet};
use dataplane::{filter, sockopt};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt as option,
};
use socket2::{Domain, Protocol, Socket, Type};

/// Single hop (RFC 5881 section 4).
pub(super) const SINGLE_HOP_PORT: u16 = 3784;
/// Several hops (RFC 5883 section 5).
pub(super) const MULTIHOP_PORT: u16 = 4784;

/// RFC 5881 section 4: "The source port MUST be in the range 49152 through 65535".
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// GTSM for BFD (RFC 5881 section 5).
const TTL: u8 = 255;

/// Longer than any BFD packet, whose length field is one octet; the rest of a datagram does not matter.
const RECEIVE_LEN: usize = 256;

/// Some thousand datagrams: what comes while the thread pauses or others flood waits here.
const RECEIVE_QUEUE: usize = 4 << 20;

/// A received datagram, as far as it is known.
pub(super) struct Datagram {
    pub(super) packet: Result<Packet, Discard>,
    pub(super) multihop: bool,
    pub(super) peer: IpAddr,
    pub(super) local: IpAddr,
    pub(super) interface: u32,
    pub(super) ttl: u8,
}

/// Listens on one of the two ports, in one family.
pub(super) struct Receiver {
    socket: Socket,
    pub(super) multihop: bool,
    v6: bool,
    /// The discriminators that its filter admits, while it has one.
    shield: Option<Vec<u32>>,
    control: Vec<u8>,
    buffer: [u8; RECEIVE_LEN],
}

impl Receiver {
    pub(super) fn open(multihop: bool, v6: bool) -> io::Result<Self> {
        let any: IpAddr = if v6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let port = if multihop {
            MULTIHOP_PORT
        } else {
            SINGLE_HOP_PORT
        };
        let socket = udp(any)?;
        if v6 {
            socket.set_only_v6(true)?;
            setsockopt(&socket, option::Ipv6RecvPacketInfo, &true)?;
            setsockopt(&socket, option::Ipv6RecvHopLimit, &true)?;
        } else {
            setsockopt(&socket, option::Ipv4PacketInfo, &true)?;
            setsockopt(&socket, option::Ipv4RecvTtl, &true)?;
        }
        if setsockopt(&socket, option::RcvBufForce, &RECEIVE_QUEUE).is_err() {
            // Without CAP_NET_ADMIN as much as the machine's limit allows.
            socket.set_recv_buffer_size(RECEIVE_QUEUE)?;
        }
        socket.bind(&SocketAddr::new(any, port).into())?;
        Ok(Self {
            socket,
            multihop,
            v6,
            shield: None,
            control: nix::cmsg_space!(nix::libc::in6_pktinfo, nix::libc::in_pktinfo, i32),
            buffer: [0; RECEIVE_LEN],
        })
    }

    /// Lets the kernel drop what is for none of the sessions with these discriminators, and on a single-hop port what
    /// comes from afar: cheaper than reading it, but it is not counted by reason. Over several hops each session has a
    /// limit of its own.
    pub(super) fn shield(&mut self, discriminators: Option<&[u32]>) {
        if self.shield.as_deref() == discriminators {
            return;
        }
        let done = match discriminators {
            Some(discriminators) => {
                let ttl = (!self.multihop).then_some(TTL);
                let v6 = self.v6;
                let which = filter::BfdAdmission {
                    v6,
                    ttl,
                    discriminators,
                };
                filter::admit_bfd(&self.socket, which)
            }
            None => filter::remove(&self.socket),
        };
        // A kernel that has no filters leaves it to us.
        if done.is_ok() {
            self.shield = discriminators.map(<[u32]>::to_vec);
        }
    }

    /// What the kernel has dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        filter::dropped(&self.socket).unwrap_or(0).into()
    }

    /// The next datagram. `None` when there is none.
    pub(super) fn receive(&mut self) -> Option<Datagram> {
        loop {
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            let message = recvmsg::<SockaddrStorage>(
                self.socket.as_raw_fd(),
                &mut parts,
                Some(&mut self.control),
                MsgFlags::MSG_DONTWAIT,
            );
            let message = match message {
                Ok(message) => message,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => return None,
            };
            let mut datagram = Datagram {
                packet: Err(Discard::Length),
                multihop: self.multihop,
                peer: address(message.address)?,
                local: Ipv4Addr::UNSPECIFIED.into(),
                interface: 0,
                ttl: 0,
            };
            for control in message.cmsgs().into_iter().flatten() {
                datagram.learn(&control);
            }
            let len = message.bytes.min(RECEIVE_LEN);
            datagram.packet = Packet::decode(&self.buffer[..len]);
            return Some(datagram);
        }
    }
}

impl Datagram {
    fn learn(&mut self, control: &ControlMessageOwned) {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                self.local = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into();
                self.interface = u32::try_from(info.ipi_ifindex).unwrap_or(0);
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                self.local = Ipv6Addr::from(info.ipi6_addr.s6_addr).into();
                self.interface = info.ipi6_ifindex;
            }
            ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => {
                self.ttl = u8::try_from(*ttl).unwrap_or(0);
            }
            _ => {}
        }
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn address(from: Option<SockaddrStorage>) -> Option<IpAddr> {
    let from = from?;
    let v4 = from.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| from.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

/// Sends the packets of one session, always from the same port.
pub(super) struct Sender {
    socket: UdpSocket,
    to: SocketAddr,
    pub(super) port: u16,
}

impl Sender {
    /// `first_port` is drawn at random; the first free one from there on is taken.
    pub(super) fn open(
        local: IpAddr,
        peer: IpAddr,
        interface: Option<(&str, u32)>,
        first_port: u16,
        used: &BTreeSet<u16>,
    ) -> io::Result<Self> {
        let socket = udp(local)?;
        // Nobody reads here; the kernel makes it its minimum.
        socket.set_recv_buffer_size(1)?;
        if let Some((name, _)) = interface {
            socket.bind_device(Some(name.as_bytes()))?;
        }
        let scope = interface.map_or(0, |(_, index)| index);
        let (low, high) = (*SOURCE_PORTS.start(), *SOURCE_PORTS.end());
        let start = low | first_port;
        let candidates = (start..=high).chain(low..start);
        for port in candidates.filter(|port| !used.contains(port)) {
            match socket.bind(&socket_address(local, port, scope).into()) {
                Ok(()) => {
                    let single = interface.is_some();
                    let to = if single {
                        SINGLE_HOP_PORT
                    } else {
                        MULTIHOP_PORT
                    };
                    return Ok(Self {
                        socket: socket.into(),
                        to: socket_address(peer, to, scope),
                        port,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// Whether the kernel took it; what it did not take is as good as lost on the link.
    pub(super) fn send(&self, packet: &[u8]) -> bool {
        self.socket.send_to(packet, self.to).is_ok()
    }
}

/// The scope matters for link-local addresses only.
fn socket_address(address: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match address {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), port),
        IpAddr::V6(v6) => {
            let scope = if v6.is_unicast_link_local() { scope } else { 0 };
            SocketAddrV6::new(v6, port, 0, scope).into()
        }
    }
}

fn udp(family: IpAddr) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let domain = Domain::for_address(SocketAddr::new(family, 0));
    let socket = Socket::new(domain, kind, Some(Protocol::UDP))?;
    sockopt::set_ttl(&socket, family, TTL).map_err(io::Error::other)?;
    sockopt::set_tos(&socket, family, sockopt::TOS_CS6).map_err(io::Error::other)?;
    Ok(socket)
}

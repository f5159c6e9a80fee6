//! Frames, byte by byte.

use std::net::{IpAddr, SocketAddr};

pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// What an IP packet carries.
#[derive(Debug, Clone)]
pub struct Ip {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// IPv4 identification, or the upper 16 bits of the flow label.
    pub word: u16,
    /// In units of 8 bytes, and whether more follow; IPv4 only.
    pub fragment: (u16, bool),
    pub payload: Vec<u8>,
}

impl Ip {
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            source,
            destination,
            protocol,
            word: 0,
            fragment: (0, false),
            payload,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let len = u16::try_from(20 + self.payload.len()).unwrap();
                let (offset, more) = self.fragment;
                let fragment = offset | if more { 0x2000 } else { 0 };
                let mut ip = vec![0x45, 0];
                ip.extend(len.to_be_bytes());
                ip.extend(self.word.to_be_bytes());
                ip.extend(fragment.to_be_bytes());
                ip.extend([64, self.protocol, 0, 0]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                ip.extend(&self.payload);
                ip
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let len = u16::try_from(self.payload.len()).unwrap();
                let label = 6 << 28 | u32::from(self.word) << 4;
                let mut ip = label.to_be_bytes().to_vec();
                ip.extend(len.to_be_bytes());
                ip.extend([self.protocol, 64]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                ip.extend(&self.payload);
                ip
            }
            mixed => panic!("two families: {mixed:?}"),
        }
    }

    pub fn frame(&self) -> Vec<u8> {
        let kind: [u8; 2] = if self.source.is_ipv4() {
            [8, 0]
        } else {
            [0x86, 0xdd]
        };
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        frame.extend(kind);
        frame.extend(self.bytes());
        frame
    }

    /// In a tunnel from one engine to another.
    pub fn within(&self, source: IpAddr, destination: IpAddr, word: u16) -> Self {
        let protocol = if source.is_ipv4() { 4 } else { 41 };
        Self {
            word,
            ..Self::new(source, destination, protocol, self.bytes())
        }
    }
}

/// A TCP segment from a client.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub tsecr: u32,
}

impl Segment {
    pub fn ip(self) -> Ip {
        let mut tcp = self.client.port().to_be_bytes().to_vec();
        tcp.extend(self.vip.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([0x80, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend([1, 1, 8, 10, 0, 0, 0, 1]);
        tcp.extend(self.tsecr.to_be_bytes());
        Ip::new(self.client.ip(), self.vip.ip(), 6, tcp)
    }
}

/// "Time exceeded" of a router about what a VIP has sent to the client.
pub fn error(router: IpAddr, about: Segment) -> Ip {
    let mut ports = about.vip.port().to_be_bytes().to_vec();
    ports.extend(about.client.port().to_be_bytes());
    ports.extend([0; 4]);
    let quoted = Ip::new(about.vip.ip(), about.client.ip(), 6, ports).bytes();
    let (protocol, kind) = if router.is_ipv4() { (1, 11) } else { (58, 3) };
    let mut icmp = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend(quoted);
    Ip::new(router, about.vip.ip(), protocol, icmp)
}

/// Source, destination, protocol and the word of an outer header, and what is inside.
pub fn outer(frame: &[u8]) -> (IpAddr, IpAddr, u8, u16, &[u8]) {
    let ip = &frame[14..];
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).unwrap());
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
    if ip[0] >> 4 == 4 {
        let word = u16::from_be_bytes([ip[4], ip[5]]);
        return (v4(12), v4(16), ip[9], word, &ip[20..]);
    }
    let label = u32::from_be_bytes([ip[0], ip[1], ip[2], ip[3]]);
    (
        v6(8),
        v6(24),
        ip[6],
        (label >> 4 & 0xffff) as u16,
        &ip[40..],
    )
}

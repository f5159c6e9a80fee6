//! The TCP streams of BGP as they are on the engine's links.

use std::io::Read as _;
use std::net::Ipv4Addr;

use socket2::{Domain, Protocol, Socket, Type};

const BGP: u16 = 179;

/// Every link of the namespace in which it is started.
pub struct Capture(Socket);

/// A segment of BGP with data.
#[derive(Debug, PartialEq, Eq)]
pub struct Segment {
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub len: usize,
}

impl Capture {
    pub fn start() -> Self {
        const ETH_P_ALL: u16 = 3;
        let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(protocol));
        let socket = socket.expect("a packet socket");
        socket
            .set_recv_buffer_size(8 << 20)
            .expect("a large buffer");
        Self(socket)
    }

    /// What has been seen since the last call, with or from this router.
    pub fn segments_of(&self, router: &str) -> Vec<Segment> {
        let router: Ipv4Addr = router.parse().expect("an address");
        let mut frame = vec![0; 65_536];
        let mut segments = Vec::new();
        while let Ok(len) = (&self.0).read(&mut frame) {
            segments.extend(bgp_data(&frame[..len]));
        }
        segments.retain(|s| s.from == router || s.to == router);
        segments
    }
}

fn bgp_data(frame: &[u8]) -> Option<Segment> {
    let ip = frame.get(14..).filter(|_| frame[12..14] == [8, 0])?;
    let address = |at: usize| {
        Some(Ipv4Addr::from(
            <[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?,
        ))
    };
    let word =
        |bytes: &[u8], at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let tcp = ip
        .get(usize::from(ip[0] & 15) * 4..)
        .filter(|_| ip[9] == 6)?;
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    let len = usize::from(word(ip, 2)?) - (ip.len() - tcp.len()) - header;
    let bgp = word(tcp, 0)? == BGP || word(tcp, 2)? == BGP;
    (bgp && len > 0).then_some(Segment {
        from: address(12)?,
        to: address(16)?,
        len,
    })
}

//! What a frame is, read a second time: by the words of docs/dev/steering.md and of the RFCs, and not as the program does it.

use flow::Flow;
use flow::decide::Outer;
use flow::key::Protocol;
use flow::packet::{Content, Flags, Fragment, Packet, Segment};
use flow::wire::{MESSAGE_LEN, MESSAGE_PORT, Word};
use std::net::{IpAddr, SocketAddr};

/// Where the first header begins.
pub const ETHERNET: usize = 14;
/// IPv6 extension headers that are walked.
const EXTENSIONS: usize = 6;
/// Where an extension header, or what an ICMP error quotes, may begin; and the transport header.
const EXTENSION_LAST: usize = 300;
const TRANSPORT_LAST: usize = 400;
/// An outer header with more in it is not one that a member makes.
const INSIDE_LAST: usize = 100;

/// Whom a frame concerns.
#[derive(Debug)]
pub enum Seen {
    /// Not IP, cut off, or nothing that is steered.
    Nothing,
    Outside(Packet),
    Tunnelled(Tunnelled),
    /// From this address.
    Message(IpAddr, Vec<u8>),
}

/// Of a tunnel packet.
#[derive(Debug)]
pub struct Tunnelled {
    pub outer: Outer,
    pub packet: Packet,
    /// Where the inner packet begins.
    pub at: usize,
    /// The outer header is not a bare one.
    pub dressed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    First,
    Later,
}

/// Of one packet, up to its transport.
#[derive(Debug)]
struct Headers {
    v6: bool,
    source: IpAddr,
    destination: IpAddr,
    part: Part,
    id: u32,
    word: u16,
    protocol: u8,
    /// None: there are too many headers before it.
    transport: Option<usize>,
}

pub fn read(frame: &[u8]) -> Seen {
    let v6 = match frame.get(12..ETHERNET) {
        Some([0x08, 0x00]) => false,
        Some([0x86, 0xdd]) => true,
        _ => return Seen::Nothing,
    };
    let Some(headers) = headers(frame, ETHERNET, v6) else {
        return Seen::Nothing;
    };
    let seen = tunnelled(frame, &headers).or_else(|| message(frame, &headers));
    seen.unwrap_or_else(|| packet(frame, &headers).map_or(Seen::Nothing, Seen::Outside))
}

fn tunnelled(frame: &[u8], headers: &Headers) -> Option<Seen> {
    let protocol = if headers.v6 { 41 } else { 4 };
    if headers.protocol != protocol || headers.part == Part::Later {
        return None;
    }
    let inside = || {
        let at = headers.transport.filter(|at| *at <= INSIDE_LAST)?;
        let inner = fixed(frame, at, headers.v6)?;
        let whole = self::headers(frame, at, headers.v6);
        let outer = Outer {
            source: headers.source,
            destination: headers.destination,
            word: Word::decode(headers.word),
        };
        let bare = if headers.v6 { 40 } else { 20 };
        Some(Seen::Tunnelled(Tunnelled {
            outer,
            packet: (whole.and_then(|h| packet(frame, &h))).unwrap_or(unknown(&inner)),
            at,
            dressed: at != ETHERNET + bare,
        }))
    };
    // Too many headers before the tunnel are too many all the same.
    headers.transport?;
    Some(inside().unwrap_or(Seen::Nothing))
}

fn message(frame: &[u8], headers: &Headers) -> Option<Seen> {
    let at = headers.transport.filter(|at| *at <= TRANSPORT_LAST)?;
    if headers.protocol != 17 || headers.part == Part::Later {
        return None;
    }
    let udp = frame.get(at..at + 8)?;
    if word(udp, 2) != MESSAGE_PORT {
        return None;
    }
    let declared = usize::from(word(udp, 4)).saturating_sub(8);
    let there = &frame[at + 8..];
    if declared.min(there.len()) < MESSAGE_LEN {
        return Some(Seen::Nothing);
    }
    let mut bytes = there.to_vec();
    bytes.resize(declared, 0);
    Some(Seen::Message(headers.source, bytes))
}

fn headers(frame: &[u8], at: usize, v6: bool) -> Option<Headers> {
    if v6 {
        v6_headers(frame, at)
    } else {
        v4_header(frame, at)
    }
}

/// Without the extension headers of IPv6.
fn fixed(frame: &[u8], at: usize, v6: bool) -> Option<Headers> {
    if v6 {
        v6_header(frame, at)
    } else {
        v4_header(frame, at)
    }
}

fn v4_header(frame: &[u8], at: usize) -> Option<Headers> {
    let ip = frame.get(at..at + 20)?;
    let (version, words) = (ip[0] >> 4, usize::from(ip[0] & 15));
    if version != 4 || words < 5 {
        return None;
    }
    let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).unwrap());
    let part = match word(ip, 6) {
        flags if flags & 0x1fff != 0 => Part::Later,
        flags if flags & 0x2000 != 0 => Part::First,
        _ => Part::Whole,
    };
    Some(Headers {
        v6: false,
        source: address(12),
        destination: address(16),
        part,
        id: word(ip, 4).into(),
        word: word(ip, 4),
        protocol: ip[9],
        transport: Some(at + words * 4),
    })
}

fn v6_header(frame: &[u8], at: usize) -> Option<Headers> {
    let ip = frame.get(at..at + 40)?;
    if ip[0] >> 4 != 6 {
        return None;
    }
    let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
    Some(Headers {
        v6: true,
        source: address(8),
        destination: address(24),
        part: Part::Whole,
        id: 0,
        word: word(ip, 1) << 4 | u16::from(ip[3] >> 4),
        protocol: ip[6],
        transport: Some(at + 40),
    })
}

fn v6_headers(frame: &[u8], at: usize) -> Option<Headers> {
    let mut headers = v6_header(frame, at)?;
    let mut here = at + 40;
    for _ in 0..EXTENSIONS {
        if !is_extension(&headers) {
            return Some(headers);
        }
        let header = frame
            .get(here..here + 8)
            .filter(|_| here <= EXTENSION_LAST)?;
        here += extend(&mut headers, header);
        headers.transport = Some(here);
    }
    if is_extension(&headers) {
        headers.transport = None;
    }
    Some(headers)
}

/// Behind the header of a later fragment comes data, whatever it calls itself.
fn is_extension(headers: &Headers) -> bool {
    headers.part != Part::Later && [0, 43, 44, 60].contains(&headers.protocol)
}

/// Walks one, and says how long it is.
fn extend(headers: &mut Headers, header: &[u8]) -> usize {
    let is_fragment = headers.protocol == 44;
    headers.protocol = header[0];
    if !is_fragment {
        return (usize::from(header[1]) + 1) * 8;
    }
    headers.part = match word(header, 2) {
        flags if flags & 0xfff8 != 0 => Part::Later,
        flags if flags & 1 != 0 => Part::First,
        _ => Part::Whole,
    };
    headers.id = u32::from(word(header, 4)) << 16 | u32::from(word(header, 6));
    8
}

/// None: cut off, or of a protocol that is not steered.
fn packet(frame: &[u8], headers: &Headers) -> Option<Packet> {
    // RFC 8200 section 4.5: of IPv6 the next header does not name the datagram.
    let protocol = if headers.v6 { 0 } else { headers.protocol };
    let fragment = Fragment {
        id: headers.id,
        protocol,
    };
    Some(Packet {
        source: headers.source,
        destination: headers.destination,
        fragment: (headers.part != Part::Whole).then_some(fragment),
        content: content(frame, headers)?,
    })
}

/// Cut off, or of a protocol that is not steered: what it comes from is known all the same.
fn unknown(headers: &Headers) -> Packet {
    Packet {
        source: headers.source,
        destination: headers.destination,
        fragment: None,
        content: Content::Other,
    }
}

fn content(frame: &[u8], headers: &Headers) -> Option<Content> {
    if headers.part == Part::Later {
        return Some(Content::LaterFragment);
    }
    let Some(at) = headers.transport else {
        return Some(Content::TooManyHeaders);
    };
    let rest = frame.get(at..).unwrap_or_default();
    if at > TRANSPORT_LAST {
        return None;
    }
    match (headers.protocol, headers.v6) {
        (6, _) => tcp(rest, headers),
        (17, _) => {
            let udp = rest.get(..8)?;
            Some(Content::Udp(flow(headers, Protocol::Udp, udp)))
        }
        (1, false) | (58, true) => {
            let quoted = quoted(rest, headers.v6).filter(|_| at <= EXTENSION_LAST);
            Some(quoted.map_or(Content::Other, Content::Error))
        }
        _ => None,
    }
}

fn flow(headers: &Headers, protocol: Protocol, ports: &[u8]) -> Flow {
    Flow {
        protocol,
        client: SocketAddr::new(headers.source, word(ports, 0)),
        service: SocketAddr::new(headers.destination, word(ports, 2)),
    }
}

fn tcp(rest: &[u8], headers: &Headers) -> Option<Content> {
    let header = rest.get(..20)?;
    let has = |bit: u8| header[13] & bit != 0;
    let flags = Flags {
        syn: has(2),
        ack: has(16),
        rst: has(4),
        fin: has(1),
    };
    let len = usize::from(header[12] >> 4) * 4;
    let segment = Segment {
        flags,
        seq: long(header, 4),
        ack: long(header, 8),
        ts_ecr: if flags.opens() {
            None
        } else {
            ts_ecr(rest, len)
        },
        payload: 0,
    };
    Some(Content::Tcp(flow(headers, Protocol::Tcp, header), segment))
}

/// RFC 7323 section 3.2, RFC 9293 section 3.1. Of a header that is cut off only what stands in the usual place is read.
fn ts_ecr(rest: &[u8], len: usize) -> Option<u32> {
    let usual = rest.get(20..32).filter(|_| len >= 32);
    if let Some([1, 1, 8, 10, ..]) = usual {
        return Some(long(rest, 28));
    }
    let mut options = rest.get(20..len)?;
    loop {
        match options {
            [8, 10, value @ ..] if value.len() >= 8 => return Some(long(value, 4)),
            [] | [0, ..] => return None,
            [1, more @ ..] => options = more,
            [_, len, ..] if *len >= 2 => options = options.get(usize::from(*len)..)?,
            _ => return None,
        }
    }
}

/// The flow of the packet that an ICMP error quotes, as the client would send it.
fn quoted(icmp: &[u8], v6: bool) -> Option<Flow> {
    let is_error = matches!((icmp.first()?, v6), (3 | 11 | 12, false) | (1..=4, true));
    let quote = icmp.get(8..).filter(|_| is_error)?;
    // Without a frame around it, so that limits of place do not count.
    let (headers, at) = if v6 {
        let ip = quote.get(..40)?;
        let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
        let is_v6 = ip[0] >> 4 == 6;
        ((address(8), address(24), ip[6], is_v6), 40)
    } else {
        let headers = v4_header(quote, 0).filter(|h| h.part != Part::Later)?;
        let at = headers.transport?;
        (
            (headers.source, headers.destination, headers.protocol, true),
            at,
        )
    };
    let (vip, client, protocol, valid) = headers;
    let protocol = match protocol {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return None,
    };
    let ports = quote.get(at..at + 4).filter(|_| valid)?;
    Some(Flow {
        protocol,
        client: SocketAddr::new(client, word(ports, 2)),
        service: SocketAddr::new(vip, word(ports, 0)),
    })
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) << 16 | u32::from(word(bytes, at + 2))
}

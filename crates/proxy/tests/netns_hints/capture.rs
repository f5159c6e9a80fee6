//! The segments between the VIP's port and clients, as they are on the engine's link.

use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// Room for all that a test sends while the reader waits for a core.
const RECEIVE_BUFFER_LEN: usize = 512 << 20;
/// Ethernet, IPv6, the longest TCP header.
const SNAP_LEN: u32 = 14 + 40 + 60;

/// A segment of TCP.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    pub from_client: bool,
    pub client: SocketAddr,
    pub seq: u32,
    pub ack: u32,
    pub len: u32,
    pub syn: bool,
    pub reset: bool,
    /// TSval and TSecr.
    pub timestamps: Option<(u32, u32)>,
}

/// What is being captured.
pub struct Capture {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Vec<Segment>>,
}

impl Capture {
    /// From now on, all links of the namespace that the calling thread is in.
    pub fn start(service: SocketAddr) -> Self {
        const ETH_P_ALL: u16 = 3;
        let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
        let socket =
            Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).expect("a packet socket");
        const RETURN: u16 = 0x06;
        let all_shortened = [SockFilter::new(RETURN, 0, 0, SNAP_LEN)];
        socket.attach_filter(&all_shortened).expect("a filter");
        setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER_LEN).expect("a large buffer");
        let patience = Duration::from_millis(50);
        socket
            .set_read_timeout(Some(patience))
            .expect("a time limit");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let reader = std::thread::spawn(move || read(&socket, service, &stopped));
        Self { stop, reader }
    }

    /// All that has been seen. A segment is in the socket's queue before it is delivered, so that nothing is missed that
    /// somebody has received.
    pub fn stop(self) -> Vec<Segment> {
        self.stop.store(true, Relaxed);
        self.reader.join().expect("it reads")
    }
}

fn read(mut socket: &Socket, service: SocketAddr, stop: &AtomicBool) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut frame = [0; SNAP_LEN as usize];
    loop {
        // Asked before the read: only a queue that is empty after the stop is all.
        let stopping = stop.load(Relaxed);
        match socket.read(&mut frame) {
            Ok(len) => segments.extend(parse(&frame[..len], service)),
            Err(_) if stopping => return segments,
            Err(_) => {}
        }
    }
}

fn parse(frame: &[u8], service: SocketAddr) -> Option<Segment> {
    let ip = frame.get(14..)?;
    let (from, to, header, total) = match u16_at(frame, 12)? {
        0x0800 if ip[9] == 6 => (
            v4(ip, 12)?,
            v4(ip, 16)?,
            usize::from(ip[0] & 15) * 4,
            u16_at(ip, 2)?.into(),
        ),
        0x86dd if ip[6] == 6 => (v6(ip, 8)?, v6(ip, 24)?, 40, u32::from(u16_at(ip, 4)?) + 40),
        _ => return None,
    };
    let tcp = ip.get(header..)?;
    let from = SocketAddr::new(from, u16_at(tcp, 0)?);
    let to = SocketAddr::new(to, u16_at(tcp, 2)?);
    let tcp_header = usize::from(*tcp.get(12)? >> 4) * 4;
    let flags = *tcp.get(13)?;
    (from == service || to == service).then_some(Segment {
        from_client: to == service,
        client: if to == service { from } else { to },
        seq: u32_at(tcp, 4)?,
        ack: u32_at(tcp, 8)?,
        len: total - (header + tcp_header) as u32,
        syn: flags & 0x02 != 0,
        reset: flags & 0x04 != 0,
        timestamps: timestamps(tcp.get(20..tcp_header)?),
    })
}

/// TSval and TSecr among the options (RFC 7323, section 3.2).
fn timestamps(mut options: &[u8]) -> Option<(u32, u32)> {
    loop {
        match *options.first()? {
            0 => return None,
            1 => options = &options[1..],
            8 => return Some((u32_at(options, 2)?, u32_at(options, 6)?)),
            _ => options = options.get(usize::from(*options.get(1)?)..)?,
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn v4(ip: &[u8], at: usize) -> Option<std::net::IpAddr> {
    Some(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?.into())
}

fn v6(ip: &[u8], at: usize) -> Option<std::net::IpAddr> {
    Some(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?.into())
}

/// The segments of each client, in order, without those of the handshake.
pub fn by_client(segments: &[Segment]) -> BTreeMap<SocketAddr, Flow> {
    let mut flows: BTreeMap<SocketAddr, Flow> = BTreeMap::new();
    for segment in segments {
        let flow = flows.entry(segment.client).or_default();
        if segment.syn && !segment.from_client {
            flow.first_byte = segment.seq.wrapping_add(1);
        } else if !segment.syn && !segment.reset {
            flow.segments.push(*segment);
        }
    }
    flows
}

/// One connection.
#[derive(Debug, Default)]
pub struct Flow {
    /// Sequence number of the first byte from the engine.
    first_byte: u32,
    segments: Vec<Segment>,
}

/// A segment with data from the engine: bytes of the stream from and to, and its TSval.
type Sent = (u32, u32, u32);

impl Flow {
    fn place(&self, sequence: u32) -> u32 {
        sequence.wrapping_sub(self.first_byte)
    }

    /// Segments with data from the engine.
    pub fn sent(&self) -> impl Iterator<Item = Sent> {
        let data = self.segments.iter().filter(|s| !s.from_client && s.len > 0);
        data.map(|s| {
            let start = self.place(s.seq);
            (start, start + s.len, s.timestamps.expect("timestamps").0)
        })
    }

    /// Of each segment of the client that acknowledges data: how many bytes of the stream, its TSecr.
    pub fn echoes(&self) -> impl Iterator<Item = (u32, u32)> {
        let echoes = self
            .segments
            .iter()
            .filter(|s| s.from_client && self.place(s.ack) > 0);
        echoes.map(|s| (self.place(s.ack), s.timestamps.expect("timestamps").1))
    }

    /// Whether any segment has timestamps.
    pub fn has_timestamps(&self) -> bool {
        self.segments.iter().any(|s| s.timestamps.is_some())
    }
}

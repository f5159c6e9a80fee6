//! `lab member capture`: which next hop the router really chose for each flow to a VIP.
//!
//! A packet socket sees frames as they leave the router; a filter in the kernel keeps those to the VIP that go
//! out by the named interfaces. The destination MAC address is the next hop: what the FIB did, not what
//! `ip route get` would predict. A SYN begins a flow anew. One thread reads packets, the main thread orders.

use super::{Order, mac_text, now_us, orders, say};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Room for bursts while the reader waits for a core.
const RECEIVE_BUFFER_LEN: usize = 8 << 20;
/// Ethernet, the longest IPv4 header (IPv6: without extension headers) and TCP flags.
pub(super) const SNAP_LEN: u32 = 14 + 60 + 20;
/// A flow silent for so long is forgotten at the next mark; long-lived ones speak ten times a second.
const FORGET_AFTER: Duration = Duration::from_secs(5);
/// Protocol numbers of IP.
const TCP: u8 = 6;
const UDP: u8 = 17;
/// ETH_P_ALL in network byte order, as AF_PACKET wants its protocol.
const ALL_PROTOCOLS: i32 = 0x0300;

/// Arguments of `lab member capture`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The VIP.
    #[arg(long)]
    vip: IpAddr,
    /// Interfaces towards the next hops.
    #[arg(long, required = true, value_delimiter = ',')]
    interface: Vec<String>,
}

/// What is known of a flow since the last mark.
#[derive(Debug, Clone, Serialize)]
pub struct Flow {
    /// Next hop when the mark was set, or when the flow began after it.
    pub from: String,
    /// Next hop of the last packet.
    pub to: String,
    /// How often the next hop changed.
    pub moves: u32,
    /// The first packet that went to another one.
    pub first_move: Option<Move>,
    #[serde(skip)]
    last_seen: Instant,
}

/// A packet that went to another next hop than the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// When it was read, wall clock in microseconds; it was sent before that.
    pub t_us: u64,
    /// It carries data: it is no mere acknowledgment.
    pub data: bool,
}

type Flows = BTreeMap<SocketAddr, Flow>;

/// Watches until standard input ends.
pub(super) fn run(args: &Args) -> Result<()> {
    let socket =
        open(End::To(args.vip), &args.interface).context("open a packet socket (needs root)")?;
    let flows = Arc::new(Mutex::new(Flows::new()));
    let seen = Arc::clone(&flows);
    // Ends with the process: a read from a packet socket has no other end.
    std::thread::spawn(move || watch(&socket, &seen));
    say(&json!({ "ready": true }))?;
    for order in orders() {
        obey(&order, &flows)?;
    }
    Ok(())
}

/// Which packets are kept.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// What goes out to this VIP.
    To(IpAddr),
    /// What comes in from it.
    From(IpAddr),
}

/// Sees what passes the named interfaces from now on.
pub(super) fn open(end: End, interfaces: &[String]) -> Result<Socket> {
    let socket = Socket::new(
        Domain::PACKET,
        Type::RAW,
        Some(Protocol::from(ALL_PROTOCOLS)),
    )?;
    let mut indexes = Vec::new();
    for name in interfaces {
        let index = nix::net::if_::if_nametoindex(name.as_str())
            .with_context(|| format!("interface {name}"))?;
        indexes.push(index);
    }
    let program = filter(end, &indexes);
    let program = program.iter().map(|i| SockFilter::new(i.0, i.1, i.2, i.3));
    socket.attach_filter(&program.collect::<Vec<_>>())?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN).ok();
    drain(&socket)?;
    Ok(socket)
}

/// Throws away what came in before the filter stood.
fn drain(mut socket: &Socket) -> Result<()> {
    socket.set_nonblocking(true)?;
    while socket.read(&mut [0; 1]).is_ok() {}
    socket.set_nonblocking(false)?;
    Ok(())
}

/// Code, jumps (true, false) and operand.
type Instruction = (u16, u8, u8, u32);

/// Classic BPF: in this direction, by one of the interfaces, of the VIP's family, TCP or UDP, to the VIP or from it.
fn filter(end: End, interfaces: &[u32]) -> Vec<Instruction> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const PACKET_TYPE: u32 = 0xffff_f004; // SKF_AD_OFF + SKF_AD_PKTTYPE
    const INTERFACE: u32 = 0xffff_f008; // SKF_AD_OFF + SKF_AD_IFINDEX
    const TO_US: u32 = 0; // PACKET_HOST
    const OUTGOING: u32 = 4; // PACKET_OUTGOING
    let (vip, direction, [at_v4, at_v6]) = match end {
        End::To(vip) => (vip, OUTGOING, [30, 38]),
        End::From(vip) => (vip, TO_US, [26, 22]),
    };
    let protocols = [TCP, UDP].map(u32::from).to_vec();
    let mut checks = vec![
        (LOAD_WORD, INTERFACE, interfaces.to_vec()),
        (LOAD_WORD, PACKET_TYPE, vec![direction]),
    ];
    match vip {
        IpAddr::V4(vip) => checks.extend([
            (LOAD_HALF, 12, vec![0x0800]),
            (LOAD_BYTE, 23, protocols),
            (LOAD_WORD, at_v4, vec![vip.to_bits()]),
        ]),
        IpAddr::V6(vip) => {
            checks.extend([(LOAD_HALF, 12, vec![0x86dd]), (LOAD_BYTE, 20, protocols)]);
            let words = [96, 64, 32, 0].map(|shift| (vip.to_bits() >> shift) as u32);
            let loads = (at_v6..).step_by(4).zip(words);
            checks.extend(loads.map(|(at, word)| (LOAD_WORD, at, vec![word])));
        }
    }
    let mut program = Vec::new();
    for (load, offset, wanted) in checks {
        program.push((load, 0, 0, offset));
        let count = u8::try_from(wanted.len()).unwrap_or(u8::MAX);
        for (done, value) in (0..count).zip(wanted) {
            // A hit jumps over the other comparisons and over the "none of them" that follows the last.
            program.push((JUMP_EQUAL, count - done, 0, value));
        }
        program.push((RETURN, 0, 0, 0));
    }
    program.push((RETURN, 0, 0, SNAP_LEN));
    program
}

fn watch(mut socket: &Socket, flows: &Mutex<Flows>) {
    let mut buffer = [0; SNAP_LEN as usize];
    while let Ok(length) = socket.read(&mut buffer) {
        if let Some(packet) = Packet::parse(&buffer[..length]) {
            packet.record(&mut lock(flows));
        }
    }
}

fn lock(flows: &Mutex<Flows>) -> MutexGuard<'_, Flows> {
    flows.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, PartialEq, Eq)]
struct Packet {
    next_hop: [u8; 6],
    source: SocketAddr,
    is_syn: bool,
    has_data: bool,
}

impl Packet {
    fn parse(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(14..)?;
        let (protocol, header_len, ip_len, address) = if ip.first()? >> 4 == 4 {
            let address: [u8; 4] = ip.get(12..16)?.try_into().ok()?;
            let header_len = usize::from(ip[0] & 0x0f) * 4;
            (ip[9], header_len, length(ip, 2)?, IpAddr::from(address))
        } else {
            let address: [u8; 16] = ip.get(8..24)?.try_into().ok()?;
            let ip_len = 40 + length(ip, 4)?;
            (ip[6], 40, ip_len, Ipv6Addr::from(address).into())
        };
        let transport = ip.get(header_len..)?;
        let port = u16::from_be_bytes(transport.get(..2)?.try_into().ok()?);
        Some(Self {
            next_hop: frame.get(..6)?.try_into().ok()?,
            source: SocketAddr::new(address, port),
            is_syn: protocol == TCP && transport.get(13)? & 0x12 == 0x02,
            has_data: protocol == UDP
                || ip_len > header_len + usize::from(transport.get(12)? >> 4) * 4,
        })
    }

    fn record(&self, flows: &mut Flows) {
        let next_hop = mac_text(self.next_hop);
        let begun = Flow {
            from: next_hop.clone(),
            to: next_hop.clone(),
            moves: 0,
            first_move: None,
            last_seen: Instant::now(),
        };
        let flow = flows.entry(self.source).or_insert_with(|| begun.clone());
        if self.is_syn {
            *flow = begun;
            return;
        }
        flow.last_seen = begun.last_seen;
        if flow.to != next_hop {
            flow.to = next_hop;
            flow.moves += 1;
            flow.first_move.get_or_insert_with(|| Move {
                t_us: now_us(),
                data: self.has_data,
            });
        }
    }
}

/// A length of 16 bits.
fn length(header: &[u8], at: usize) -> Option<usize> {
    let bytes = header.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_be_bytes(bytes).into())
}

fn obey(order: &Order, flows: &Mutex<Flows>) -> Result<()> {
    match order.verb.as_str() {
        "mark" => {
            mark(&mut lock(flows));
            say(&json!({ "reply": order.id }))
        }
        "snapshot" => {
            let snapshot = lock(flows).clone();
            let flows: BTreeMap<_, _> = snapshot
                .iter()
                .map(|(source, flow)| (source.to_string(), flow))
                .collect();
            say(&json!({ "reply": order.id, "flows": flows }))
        }
        other => say(&json!({ "reply": order.id, "error": format!("unknown order {other}") })),
    }
}

/// From here on moves are counted anew, and old flows are forgotten.
fn mark(flows: &mut Flows) {
    flows.retain(|_, flow| flow.last_seen.elapsed() < FORGET_AFTER);
    for flow in flows.values_mut() {
        flow.from.clone_from(&flow.to);
        flow.moves = 0;
        flow.first_move = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::Ipv4Addr;

    const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 40_000);

    fn frame(mac_end: u8, flags: u8) -> Vec<u8> {
        let mut frame = vec![0; 54];
        frame[5] = mac_end;
        (frame[14], frame[23]) = (0x45, TCP);
        frame[26..30].copy_from_slice(&[10, 0, 0, 2]);
        frame[34..36].copy_from_slice(&CLIENT.port().to_be_bytes());
        frame[47] = flags;
        frame
    }

    fn see(flows: &mut Flows, mac_end: u8, flags: u8) {
        Packet::parse(&frame(mac_end, flags)).unwrap().record(flows);
    }

    #[test]
    fn another_next_hop_is_a_move_and_a_syn_begins_anew() {
        let mut flows = Flows::new();
        see(&mut flows, 1, 0x02);
        see(&mut flows, 1, 0x10);
        see(&mut flows, 2, 0x10);
        assert_eq!(
            (flows[&CLIENT].moves, flows[&CLIENT].to.as_str()),
            (1, "00:00:00:00:00:02")
        );
        see(&mut flows, 3, 0x02);
        assert_eq!(
            (flows[&CLIENT].moves, flows[&CLIENT].from.as_str()),
            (0, "00:00:00:00:00:03")
        );
    }

    #[test]
    fn the_first_packet_that_moved_is_known_by_its_data() {
        let mut flows = Flows::new();
        see(&mut flows, 1, 0x10);
        let mut message = frame(2, 0x18);
        message[17] = 20 + 20 + 5; // IP's length
        message[46] = 5 << 4; // TCP's header
        Packet::parse(&message).unwrap().record(&mut flows);
        see(&mut flows, 3, 0x10);
        let first = flows[&CLIENT].first_move.unwrap();
        assert!(first.data && first.t_us <= now_us());
        mark(&mut flows);
        message[17] = 20 + 20;
        Packet::parse(&message).unwrap().record(&mut flows);
        assert!(!flows[&CLIENT].first_move.unwrap().data);
    }

    #[test]
    fn a_mark_counts_anew_from_where_the_flow_is() {
        let mut flows = Flows::new();
        see(&mut flows, 1, 0x10);
        see(&mut flows, 2, 0x10);
        mark(&mut flows);
        assert_eq!(
            (flows[&CLIENT].moves, flows[&CLIENT].from.as_str()),
            (0, "00:00:00:00:00:02")
        );
    }

    #[test]
    fn a_short_frame_is_no_packet() {
        assert_eq!(Packet::parse(&frame(1, 2)[..40]), None);
        assert_eq!(Packet::parse(&frame6()[..60]), None);
        assert_eq!(Packet::parse(&[]), None);
    }

    /// A SYN of fd00::2, port 40,000, to fd00:100::1.
    fn frame6() -> Vec<u8> {
        let mut frame = vec![0; 74];
        frame[5] = 1;
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        (frame[14], frame[20]) = (0x60, 6);
        let address = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        frame[22..38].copy_from_slice(&address("fd00::2"));
        frame[38..54].copy_from_slice(&address("fd00:100::1"));
        frame[54..56].copy_from_slice(&40_000_u16.to_be_bytes());
        frame[67] = 0x02;
        frame
    }

    #[test]
    fn an_ipv6_frame_is_read_too() {
        let packet = Packet::parse(&frame6()).unwrap();
        assert_eq!(packet.source, "[fd00::2]:40000".parse().unwrap());
        assert!(packet.is_syn);
    }

    #[test]
    fn a_datagram_begins_no_flow_anew() {
        let mut datagram = frame(2, 0x02);
        datagram[23] = UDP;
        assert!(!Packet::parse(&datagram).unwrap().is_syn);
        assert!(
            Packet::parse(&datagram[..42]).is_some(),
            "shorter than a TCP header"
        );
    }

    /// What the kernel does with the filter's loads and comparisons of the packet itself.
    fn passes(program: &[Instruction], frame: &[u8]) -> bool {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let (code, if_true, if_false, k) = program[at];
            let from = k as usize;
            let word = |length: usize| {
                let bytes = frame.get(from..from + length).unwrap_or_default();
                bytes
                    .iter()
                    .fold(0, |sum, byte| sum << 8 | u32::from(*byte))
            };
            at += 1;
            match code {
                0x20 if k >= 0xffff_f000 => loaded = 4, // outgoing, by interface 4
                0x20 => loaded = word(4),
                0x28 => loaded = word(2),
                0x30 => loaded = word(1),
                0x15 if loaded == k => at += usize::from(if_true),
                0x15 => at += usize::from(if_false),
                _ => return k > 0,
            }
        }
    }

    #[test]
    fn the_filter_passes_the_vip_of_its_family_by_its_interfaces() {
        let mut frame4 = frame(1, 2);
        frame4[12..14].copy_from_slice(&[0x08, 0x00]);
        frame4[30..34].copy_from_slice(&[10, 100, 0, 1]);
        let (mut udp, mut icmp) = (frame4.clone(), frame4.clone());
        (udp[23], icmp[23]) = (UDP, 1);
        let (vip4, vip6) = ("10.100.0.1", "fd00:100::1");
        for (vip, frame, interfaces, wanted) in [
            (vip4, &frame4, vec![4], true),
            (vip4, &frame4, vec![3, 4], true),
            (vip4, &frame4, vec![3], false),
            ("10.100.0.2", &frame4, vec![4], false),
            (vip6, &frame6(), vec![4], true),
            ("fd00:100::2", &frame6(), vec![4], false),
            (vip6, &frame4, vec![4], false),
            (vip4, &udp, vec![4], true),
            (vip4, &icmp, vec![4], false),
        ] {
            let program = filter(End::To(vip.parse().unwrap()), &interfaces);
            assert_eq!(passes(&program, frame), wanted, "{vip} {interfaces:?}");
        }
    }
}

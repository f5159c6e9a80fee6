//! `lab member capture`: which next hop the router really chose for each flow to a VIP.
//!
//! A packet socket sees frames as they leave the router; a filter in the kernel keeps those to the VIP that go
//! out by the named interfaces. The destination MAC address is the next hop: what the FIB did, not what
//! `ip route get` would predict. A SYN begins a flow anew. One thread reads packets, the main thread orders.

use super::{Order, orders, say};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Room for bursts while the reader waits for a core.
const RECEIVE_BUFFER_LEN: usize = 8 << 20;
/// Ethernet, the longest IPv4 header and TCP flags.
const SNAP_LEN: u32 = 14 + 60 + 20;
/// A flow silent for so long is forgotten at the next mark; long-lived ones speak ten times a second.
const FORGET_AFTER: Duration = Duration::from_secs(5);
/// ETH_P_ALL in network byte order, as AF_PACKET wants its protocol.
const ALL_PROTOCOLS: i32 = 0x0300;

/// Arguments of `lab member capture`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The VIP.
    #[arg(long)]
    vip: Ipv4Addr,
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
    #[serde(skip)]
    last_seen: Instant,
}

type Flows = BTreeMap<SocketAddrV4, Flow>;

/// Watches until standard input ends.
pub(super) fn run(args: &Args) -> Result<()> {
    let socket = open(args).context("open a packet socket (needs root)")?;
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

fn open(args: &Args) -> Result<Socket> {
    let socket = Socket::new(
        Domain::PACKET,
        Type::RAW,
        Some(Protocol::from(ALL_PROTOCOLS)),
    )?;
    let mut indexes = Vec::new();
    for name in &args.interface {
        let index = nix::net::if_::if_nametoindex(name.as_str())
            .with_context(|| format!("interface {name}"))?;
        indexes.push(index);
    }
    socket.attach_filter(&filter(args.vip, &indexes))?;
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

/// Classic BPF: outgoing, by one of the interfaces, IPv4, TCP, to the VIP.
fn filter(vip: Ipv4Addr, interfaces: &[u32]) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const PACKET_TYPE: u32 = 0xffff_f004; // SKF_AD_OFF + SKF_AD_PKTTYPE
    const INTERFACE: u32 = 0xffff_f008; // SKF_AD_OFF + SKF_AD_IFINDEX
    let checks = [
        (LOAD_WORD, PACKET_TYPE, 4), // PACKET_OUTGOING
        (LOAD_HALF, 12, 0x0800),
        (LOAD_BYTE, 23, 6),
        (LOAD_WORD, 30, u32::from(vip)),
    ];
    let count = u8::try_from(interfaces.len()).unwrap_or(u8::MAX);
    let mut program = vec![SockFilter::new(LOAD_WORD, 0, 0, INTERFACE)];
    for (done, index) in (0..count).zip(interfaces) {
        // A hit jumps over the other comparisons and over the "none of them" that follows the last.
        program.push(SockFilter::new(JUMP_EQUAL, count - done, 0, *index));
    }
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    for (load, offset, wanted) in checks {
        program.push(SockFilter::new(load, 0, 0, offset));
        program.push(SockFilter::new(JUMP_EQUAL, 1, 0, wanted));
        program.push(SockFilter::new(RETURN, 0, 0, 0));
    }
    program.push(SockFilter::new(RETURN, 0, 0, SNAP_LEN));
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
    source: SocketAddrV4,
    is_syn: bool,
}

impl Packet {
    fn parse(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(14..)?;
        let header_len = usize::from(ip.first()? & 0x0f) * 4;
        let address: [u8; 4] = ip.get(12..16)?.try_into().ok()?;
        let tcp = ip.get(header_len..)?;
        let port = u16::from_be_bytes(tcp.get(..2)?.try_into().ok()?);
        Some(Self {
            next_hop: frame.get(..6)?.try_into().ok()?,
            source: SocketAddrV4::new(address.into(), port),
            is_syn: tcp.get(13)? & 0x12 == 0x02,
        })
    }

    fn record(&self, flows: &mut Flows) {
        let next_hop = mac_text(self.next_hop);
        let begun = Flow {
            from: next_hop.clone(),
            to: next_hop.clone(),
            moves: 0,
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
        }
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 40_000);

    fn frame(mac_end: u8, flags: u8) -> Vec<u8> {
        let mut frame = vec![0; 54];
        frame[5] = mac_end;
        frame[14] = 0x45;
        frame[26..30].copy_from_slice(&CLIENT.ip().octets());
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
        assert_eq!(Packet::parse(&[]), None);
    }
}

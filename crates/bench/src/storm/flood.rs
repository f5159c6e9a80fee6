//! Forged packets: ACKs with random numbers from random addresses, at a steady rate. A process of its own.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Whoever sends has written the IP header (IPPROTO_RAW).
const RAW: i32 = 255;

/// Clients that do not exist: 198.18.0.0/15 is for measurements (RFC 2544).
const CLIENTS: u32 = 0xC612_0000;
const CLIENTS_MASK: u32 = 0x0001_FFFF;

/// Between two bursts.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    pub(crate) vip: SocketAddrV4,
    pub(crate) per_second: u32,
    pub(crate) seconds: u32,
}

/// What went out.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub(crate) packets: u64,
    pub(crate) seconds: f64,
}

/// The parent's side.
pub(crate) struct Flood(Child);

impl Flood {
    pub(crate) fn start(namespace: &str, args: &Args) -> Result<Self> {
        let child = Command::new("ip")
            .args(["netns", "exec", namespace])
            .arg(std::env::current_exe()?)
            .args(["storm-flood", &args.vip.to_string()])
            .args([args.per_second, args.seconds].map(|n| n.to_string()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the flood")?;
        Ok(Self(child))
    }

    /// Once it is over.
    pub(crate) fn sent(mut self) -> Result<Sent> {
        let output = self.0.stdout.take().context("stdout is piped")?;
        let said = std::io::read_to_string(output)?;
        serde_json::from_str(&said).context("what the flood has sent")
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause between bursts of a steady rate"
)]
pub(crate) fn run(args: &Args) -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))?;
    let to = SockAddr::from(SocketAddrV4::new(*args.vip.ip(), 0));
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let (start, mut packets) = (Instant::now(), 0);
    let time = Duration::from_secs(args.seconds.into());
    while start.elapsed() < time {
        let due = (start.elapsed().as_secs_f64() * f64::from(args.per_second)) as u64;
        while packets < due && start.elapsed() < time {
            socket.send_to(&forged(args.vip, &mut random), &to)?;
            packets += 1;
        }
        std::thread::sleep(PAUSE);
    }
    let seconds = start.elapsed().as_secs_f64();
    cli::out!("{}", serde_json::to_string(&Sent { packets, seconds })?);
    Ok(())
}

/// Xorshift: good enough to look like nobody's flow.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

const PACKET_LEN: usize = 40;

/// An ACK without data; the kernel fills in the checksum of the IP header.
fn forged(vip: SocketAddrV4, random: &mut Random) -> [u8; PACKET_LEN] {
    let client = Ipv4Addr::from_bits(CLIENTS | (random.next() as u32 & CLIENTS_MASK));
    let mut packet = [0; PACKET_LEN];
    packet[0] = 0x45;
    packet[3] = PACKET_LEN as u8;
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&client.octets());
    packet[16..20].copy_from_slice(&vip.ip().octets());
    let port = 1024 + (random.next() % 64_000) as u16;
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet[22..24].copy_from_slice(&vip.port().to_be_bytes());
    packet[24..32].copy_from_slice(&random.next().to_be_bytes());
    packet[32] = 5 << 4;
    packet[33] = 0x10;
    packet[34..36].copy_from_slice(&0xFAF0_u16.to_be_bytes());
    let sum = checksum(&packet);
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Of TCP, with its pseudo header (RFC 9293 section 3.1).
fn checksum(packet: &[u8; PACKET_LEN]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair[1]);
    let sum: u32 = packet[12..].chunks(2).map(word).sum();
    let mut sum = sum + 6 + 20;
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_packet_is_a_valid_one_of_nobody() {
        let vip = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 1), 80);
        let mut random = Random(1);
        let [one, other] = [forged(vip, &mut random), forged(vip, &mut random)];
        assert_ne!(one[24..32], other[24..32], "numbers of their own");
        assert_ne!(one[12..16], other[12..16], "and clients");
        assert_eq!((one[12], one[13] & 0xFE), (198, 18));
        // Over a segment with its checksum in place the sum is all ones, so its complement 0.
        assert_eq!((checksum(&one), checksum(&other)), (0, 0));
    }
}

//! `lab member senders`: who sends from a VIP on a link, by MAC address.

use super::capture::{self, End};
use super::{mac_text, orders, say};
use anyhow::{Context, Result};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Arguments of `lab member senders`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The VIP.
    #[arg(long)]
    vip: IpAddr,
    /// Interface on the link.
    #[arg(long)]
    interface: String,
}

/// By MAC address, how many packets since the last mark.
pub type Packets = BTreeMap<String, u64>;

/// Watches until standard input ends.
pub(super) fn run(args: &Args) -> Result<()> {
    let interface = std::slice::from_ref(&args.interface);
    let mut socket = capture::open(End::From(args.vip), interface)
        .context("open a packet socket (needs root)")?;
    let packets = Arc::new(Mutex::new(Packets::new()));
    let seen = Arc::clone(&packets);
    // Ends with the process: a read from a packet socket has no other end.
    std::thread::spawn(move || {
        let mut buffer = [0; capture::SNAP_LEN as usize];
        while let Ok(length) = socket.read(&mut buffer) {
            if let Some(mac) = sender(&buffer[..length]) {
                *lock(&seen).entry(mac).or_default() += 1;
            }
        }
    });
    say(&json!({ "ready": true }))?;
    for order in orders() {
        let reply = match order.verb.as_str() {
            "mark" => {
                lock(&packets).clear();
                json!({ "reply": order.id })
            }
            "report" => json!({ "reply": order.id, "packets": *lock(&packets) }),
            other => json!({ "reply": order.id, "error": format!("no order {other}") }),
        };
        say(&reply)?;
    }
    Ok(())
}

fn lock(packets: &Mutex<Packets>) -> MutexGuard<'_, Packets> {
    packets.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sender(frame: &[u8]) -> Option<String> {
    Some(mac_text(frame.get(6..12)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sender_of_a_frame_is_its_second_address() {
        let frame = [1, 1, 1, 1, 1, 1, 2, 0, 0, 0, 0, 0xab, 8, 0];
        assert_eq!(sender(&frame).as_deref(), Some("02:00:00:00:00:ab"));
        assert_eq!(sender(&frame[..11]), None);
    }
}

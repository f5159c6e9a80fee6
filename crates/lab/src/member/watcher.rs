//! `lab member watcher`: who answers for a VIP on its link, and whether that is ever nobody, or two at a time.
//!
//! It asks as a neighbour would (ARP, or neighbour discovery), from a node that has no other business with the VIP: what it
//! learns is no other node's.

use super::{mac_text, orders, say};
use anyhow::{Context, Result};
use dataplane::packet::{Frames, PacketSocket};
use flow::neighbour::{self, Mac, Said};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two questions.
const EVERY: Duration = Duration::from_millis(50);
/// Longer than any frame that is read.
const FRAME_MAX: usize = 256;

/// Arguments of `lab member watcher`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The VIP.
    #[arg(long)]
    vip: IpAddr,
    /// Interface on the VIP's link.
    #[arg(long)]
    interface: String,
    /// Our own address there, of the VIP's family.
    #[arg(long)]
    own: IpAddr,
}

/// What was seen since the last mark.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Questions.
    pub asked: u64,
    /// Those that more than one MAC address answered.
    pub answered_twice: u64,
    /// Longest time between two answers, or until now.
    pub longest_silence_ms: u64,
    /// By MAC address, how many answers.
    pub answers: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Watched {
    seen: Seen,
    /// Who has answered the last question.
    last: BTreeSet<Mac>,
    answered: Instant,
}

impl Watched {
    fn new(now: Instant) -> Self {
        Self {
            seen: Seen::default(),
            last: BTreeSet::new(),
            answered: now,
        }
    }

    fn asked(&mut self) {
        self.seen.answered_twice += u64::from(self.last.len() > 1);
        self.last.clear();
        self.seen.asked += 1;
    }

    fn answered(&mut self, mac: Mac, now: Instant) {
        self.silence(now);
        self.answered = now;
        self.last.insert(mac);
        *self.seen.answers.entry(mac_text(mac)).or_default() += 1;
    }

    fn silence(&mut self, now: Instant) {
        let ms = now.saturating_duration_since(self.answered).as_millis();
        let longest = &mut self.seen.longest_silence_ms;
        *longest = (*longest).max(u64::try_from(ms).unwrap_or(u64::MAX));
    }

    fn mark(&mut self, now: Instant) {
        // A silence that goes on is this step's from its beginning.
        self.seen = Seen::default();
        self.answered = self.answered.max(now - EVERY);
    }
}

type Shared = Arc<Mutex<Watched>>;

/// Watches until standard input ends.
pub(super) fn run(args: Args) -> Result<()> {
    let shared = Arc::new(Mutex::new(Watched::new(Instant::now())));
    let asking = Arc::clone(&shared);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let socket = {
        let _entered = runtime.enter();
        open(&args).context("open a packet socket (needs root)")?
    };
    let mac = own_mac(&args.interface)?;
    // Ends with the process.
    std::thread::spawn(move || runtime.block_on(watch(&args, mac, &socket, &asking)));
    say(&json!({ "ready": true }))?;
    for order in orders() {
        let mut watched = lock(&shared);
        let reply = match order.verb.as_str() {
            "mark" => {
                watched.mark(Instant::now());
                json!({ "reply": order.id })
            }
            "report" => {
                watched.silence(Instant::now());
                json!({ "reply": order.id, "seen": watched.seen })
            }
            other => json!({ "reply": order.id, "error": format!("no order {other}") }),
        };
        drop(watched);
        say(&reply)?;
    }
    Ok(())
}

fn lock(shared: &Shared) -> MutexGuard<'_, Watched> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(args: &Args) -> Result<PacketSocket> {
    let frames = match args.vip {
        IpAddr::V4(_) => Frames::Arp,
        IpAddr::V6(_) => Frames::NeighbourDiscovery,
    };
    let index = nix::net::if_::if_nametoindex(args.interface.as_str())
        .with_context(|| format!("interface {}", args.interface))?;
    Ok(PacketSocket::open(index, frames)?)
}

fn own_mac(interface: &str) -> Result<Mac> {
    let mut addresses = nix::ifaddrs::getifaddrs()?.filter(|a| a.interface_name == interface);
    let mac = addresses.find_map(|a| a.address?.as_link_addr()?.addr());
    mac.with_context(|| format!("interface {interface} has no MAC address"))
}

async fn watch(args: &Args, mac: Mac, socket: &PacketSocket, shared: &Shared) {
    let question = neighbour::question(args.vip, mac, args.own);
    let mut tick = tokio::time::interval(EVERY);
    let mut buffer = [0; FRAME_MAX];
    loop {
        tokio::select! {
            _ = tick.tick() => {
                lock(shared).asked();
                // What cannot be sent is not answered.
                let _ = socket.send(&question);
            }
            read = socket.receive(&mut buffer) => {
                let Ok((len, _)) = read else { continue };
                for said in answers(&buffer[..len], mac) {
                    if let Said::Has { address, mac } = said && address == args.vip {
                        lock(shared).answered(mac, Instant::now());
                    }
                }
            }
        }
    }
}

/// What is said to us; what is announced to all is no answer.
fn answers(frame: &[u8], us: Mac) -> Vec<Said> {
    match frame.starts_with(&us) {
        true => neighbour::read(frame),
        false => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_no_answer() {
        let (us, them) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        for (vip, own) in [("10.0.0.9", "10.0.0.1"), ("fd00::9", "fd00::1")] {
            let (vip, own): (IpAddr, IpAddr) = (vip.parse().unwrap(), own.parse().unwrap());
            assert_eq!(answers(&neighbour::answer(vip, them, us, own), us).len(), 1);
            for announced in neighbour::announcements(vip, them) {
                assert_eq!(answers(&announced, us), []);
            }
        }
    }

    #[test]
    fn silence_and_two_answers_to_one_question_are_seen() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (a, b) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut watched = Watched::new(start);
        watched.asked();
        watched.answered(a, at(1));
        watched.asked();
        watched.answered(a, at(51));
        watched.answered(b, at(52));
        watched.asked();
        watched.silence(at(400));
        let Seen {
            asked,
            answered_twice,
            longest_silence_ms,
            answers,
        } = watched.seen;
        assert_eq!((asked, answered_twice, longest_silence_ms), (3, 1, 348));
        assert_eq!(answers.len(), 2);
    }
}

//! Flow resiliency: which engine owns a flow, and how the one that meets a stranger's packet finds out.
//!
//! The rules are in `docs/dev/steering.md`; the programs in `bpf/` follow the same. Nothing here opens a socket,
//! reads a clock or draws a random number.
//!
//! ```text
//!   packet, our socket for it ──▶ decide::Steering::on_packet ────┐
//!   tunnel packet, the same ────▶ decide::Steering::on_tunnelled ─┼─▶ Decision: verdict, fate, reply
//!   datagram of a member ───────▶ decide::Steering::on_message ───┘
//!   counters, once a tick ──────▶ pace::Pace::tick ──▶ budget::Rate ──▶ Steering::set_rate
//!   answers of members, ticks ──▶ hello::Hellos ──▶ Liveness ──▶ hello::judge: who is alive, by which way
//!   whose processes are there ──▶ primary::Role ──▶ who answers ARP for a VIP that is scaled natively
//! ```

pub mod budget;
pub mod config;
pub mod decide;
pub mod fit;
pub mod hello;
pub mod key;
mod lru;
pub mod mark;
pub mod neighbour;
pub mod pace;
pub mod packet;
pub mod primary;
pub mod siphash;
pub mod spread;
pub mod stamp;
pub mod verdict;
pub mod wire;

pub use config::{Config, Group, Link, Member, Peer, Service, Settings};
pub use decide::{Decision, Fate, Steering};
pub use key::Flow;
pub use packet::{Packet, Socket};
pub use verdict::Verdict;

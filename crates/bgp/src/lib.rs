//! BGP speaker core: messages, session machine and adj-RIB-out, without I/O.
//!
//! The speaker is announce-first: it injects host routes for virtual IP addresses and does no
//! transit (RFC 4271 with the parts a route injector needs). Nothing here opens a socket, starts a
//! task, reads a clock or draws a random number: `now` and inputs come in, [`session::Output`]s and
//! the next deadline go out. The engine's shell (`engine::bgp`) does the rest.
//!
//! ```text
//!   bytes from TCP ──▶ wire::FrameBuffer ──▶ session::Session ──▶ Output::Send(bytes)
//!   desired routes ──▶ rib::AdjRibOut ───────────▲    │
//!   now ─────────────────────────────────────────┘    └──▶ next_deadline()
//! ```
//!
//! * [`types`]: values that cannot be wrong (AS number, hold time, family, community).
//! * [`wire`]: framing, decoding and encoding; the codec crate is hidden behind it.
//! * [`rib`]: what one peer should hold against what it was sent, and when the difference is due.
//! * [`rib_in`]: the few routes of a peer that the operator asked to learn.
//! * [`session`]: the state machine of RFC 4271 section 8.

pub mod rib;
pub mod rib_in;
pub mod session;
pub mod types;
pub mod wire;

pub use rib::{RouteAttributes, RouteTable};
pub use session::{Connection, Output, Session, SessionConfig, StateName};
pub use types::{Asn, Community, Family, HoldTime, LargeCommunity};
pub use wire::Notification;

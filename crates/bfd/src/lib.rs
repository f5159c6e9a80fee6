//! BFD core: control packets, session machine and demultiplexing, without I/O (RFC 5880, 5881, 5883).
//!
//! Asynchronous mode, active role. Echo is not offered, demand mode is honoured when the peer asks for it,
//! authentication is off. Nothing here opens a socket, reads a clock or draws a random number, and nothing on the
//! path of a packet allocates: `now` and packets come in, at most one packet and one change of state go out.
//!
//! ```text
//!   datagram ──▶ packet::Packet::decode ──▶ demux::Demux::find ──▶ session::Session::on_packet ──▶ Outcome
//!   now ───────────────────────────────────────────────────────▶ session::Session::on_deadline ──▶ Outcome
//! ```

pub mod demux;
pub mod packet;
pub mod session;

pub use packet::{Diagnostic, Discard, Discards, Packet, State};
pub use session::{Change, Config, Outcome, Session};

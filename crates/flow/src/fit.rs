//! Whether a segment belongs to a socket: the sequence numbers decide, not the 4-tuple alone
//! (`docs/dev/steering.md`, section 1, step 3).
//!
//! A 4-tuple can have two sockets at two engines: one of them is a ghost, left behind when its flow broke or its SYN
//! was answered twice. And a forged segment, of which only the 4-tuple is right, fits nothing.

use crate::packet::{Segment, Socket};

/// How far behind `rcv_nxt` a segment may begin: the largest receive window that is configured anywhere.
///
/// A client whose acknowledgments were lost, which is what happens when a path fails and the router rehashes,
/// repeats its whole window from the beginning.
pub const SEQ_MARGIN: u32 = 1 << 26;

/// How far behind `snd_una` an acknowledgment may be: what reordering leaves behind (RFC 5961 section 5 takes
/// the largest window here).
pub const ACK_MARGIN: u32 = 1 << 20;

/// How far ahead of the window's beginning a segment may be even where less is offered.
pub const WINDOW_LEAST: u32 = 65535;

/// The segment is one that this socket's peer may have sent.
#[must_use]
pub fn fits(segment: &Segment, socket: Socket) -> bool {
    match socket {
        Socket::None | Socket::Listener { .. } | Socket::Connected => false,
        Socket::NewSynRecv { rcv_isn, snt_isn } => fits_request(segment, rcv_isn, snt_isn),
        Socket::Established {
            rcv_nxt,
            rcv_wnd,
            snd_una,
            snd_nxt,
            ..
        } => {
            let ahead = rcv_wnd.max(WINDOW_LEAST);
            is_near(segment.seq, rcv_nxt, ahead) && acknowledges(segment, snd_una, snd_nxt)
        }
        Socket::TimeWait { rcv_nxt, snd_nxt } => {
            is_near(segment.seq, rcv_nxt, WINDOW_LEAST) && acknowledges(segment, snd_nxt, snd_nxt)
        }
    }
}

/// The flow is over once its socket has got this segment, which fits it: RST, the client's FIN after ours, the
/// acknowledgment of ours after the client's, and whatever comes in TIME_WAIT.
#[must_use]
pub fn ends(segment: &Segment, socket: Socket) -> bool {
    let last = match socket {
        Socket::Established {
            fin_sent: true,
            fin_received: true,
            snd_nxt,
            ..
        } => segment.flags.ack && segment.ack == snd_nxt,
        Socket::Established { fin_sent, .. } => fin_sent && segment.flags.fin,
        Socket::TimeWait { .. } => true,
        Socket::NewSynRecv { .. } | Socket::None | Socket::Listener { .. } | Socket::Connected => {
            false
        }
    };
    fits(segment, socket) && (last || segment.flags.rst)
}

/// What follows the SYN: the window in a SYN-ACK is never scaled (RFC 7323 section 2.2).
fn fits_request(segment: &Segment, rcv_isn: u32, snt_isn: u32) -> bool {
    let offset = segment.seq.wrapping_sub(rcv_isn.wrapping_add(1));
    offset <= WINDOW_LEAST && (!segment.flags.ack || segment.ack == snt_isn.wrapping_add(1))
}

/// `-SEQ_MARGIN <= seq - rcv_nxt <= ahead`, with the signed difference of sequence numbers.
fn is_near(seq: u32, rcv_nxt: u32, ahead: u32) -> bool {
    let offset = i64::from(seq.wrapping_sub(rcv_nxt) as i32);
    (-i64::from(SEQ_MARGIN)..=i64::from(ahead)).contains(&offset)
}

/// Where ACK is set: within `[snd_una - ACK_MARGIN, snd_nxt]`, around the circle.
fn acknowledges(segment: &Segment, snd_una: u32, snd_nxt: u32) -> bool {
    let oldest = snd_una.wrapping_sub(ACK_MARGIN);
    !segment.flags.ack || segment.ack.wrapping_sub(oldest) <= snd_nxt.wrapping_sub(oldest)
}

#[cfg(test)]
mod tests;

//! The timestamp clock of a TCP connection: what it says, and how it is moved (tcp(7); `net/ipv4/tcp.c`).
//!
//! Each connection has an offset between the machine's clock and what it writes into TSval. TCP_TIMESTAMP reads and
//! sets it, in repair mode only, which takes CAP_NET_ADMIN over the socket's network namespace. While a connection is
//! in repair mode the kernel goes on receiving and acknowledging for it, but a close would be silent: it must be left
//! again whatever happens.

#![allow(unsafe_code)] // a zeroed structure for TCP_INFO

use std::os::fd::AsFd;

use socket2::SockRef;

use crate::sockopt::{SockoptError, get, refused, set};

/// Values of TCP_REPAIR (`linux/tcp.h`).
const REPAIR_ON: libc::c_int = 1;
/// Leaves repair mode and sends a window probe, which moving the clock does not need.
const REPAIR_OFF: libc::c_int = 0;
/// Leaves it and sends nothing.
const REPAIR_OFF_NO_PROBE: libc::c_int = -1;

/// Bits of `tcpi_options` (`linux/tcp.h`).
const OPTION_TIMESTAMPS: u8 = 1;
/// The route of the connection has the feature `tcp_usec_ts` (Linux 6.7).
const OPTION_MICROSECONDS: u8 = 64;

/// Bit 0 of TCP_TIMESTAMP is no time: set, it switches the connection to microseconds (Linux 6.7).
const MICROSECONDS: u32 = 1;

/// Values of `tcpi_state` (`net/tcp_states.h`).
const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;

/// Why a clock was not moved.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// Repair mode is for CAP_NET_ADMIN.
    #[error("CAP_NET_ADMIN is missing, which moving a connection's timestamp clock takes")]
    NotPermitted,
    /// The kernel refused a step.
    #[error(transparent)]
    Socket(#[from] SockoptError),
}

/// What unit a connection's timestamps count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timestamps {
    /// The client did not offer them.
    None,
    /// The common case.
    Milliseconds,
    /// The route asks for it; the upper bits change within seconds.
    Microseconds,
}

/// What a connection has sent, and how (TCP_INFO).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sending {
    /// Negotiated with the client.
    pub timestamps: Timestamps,
    /// It can still send: ESTABLISHED or CLOSE_WAIT.
    pub open: bool,
    /// Segments sent and not acknowledged, FIN among them.
    pub segments_unacked: u32,
    /// Bytes that wait to be sent.
    pub bytes_unsent: u32,
    /// Bytes acknowledged since the connection began (RFC 4898, tcpEStatsAppHCThruOctetsAcked).
    pub bytes_acked: u64,
}

/// What a connection has sent so far. One system call.
///
/// # Errors
///
/// The kernel refused, or it is older than Linux 4.6.
pub fn sending(connection: &impl AsFd) -> Result<Sending, SockoptError> {
    // SAFETY: the structure consists of integers, for all of which zero is a value.
    let zeroed: libc::tcp_info = unsafe { std::mem::zeroed() };
    let info = get(
        connection,
        libc::IPPROTO_TCP,
        libc::TCP_INFO,
        "TCP_INFO",
        zeroed,
    )?;
    let has = |option: u8| info.tcpi_options & option != 0;
    Ok(Sending {
        timestamps: match (has(OPTION_TIMESTAMPS), has(OPTION_MICROSECONDS)) {
            (false, _) => Timestamps::None,
            (true, false) => Timestamps::Milliseconds,
            (true, true) => Timestamps::Microseconds,
        },
        open: matches!(info.tcpi_state, ESTABLISHED | CLOSE_WAIT),
        segments_unacked: info.tcpi_unacked,
        bytes_unsent: info.tcpi_notsent_bytes,
        bytes_acked: info.tcpi_bytes_acked,
    })
}

/// Moves the timestamp clock of a connection from what it reads to what `next` makes of that, in ms; bit 0 of it is
/// cleared. Returns the new value. Five system calls; must not be interleaved with writes to the connection.
///
/// SO_REUSEADDR is set afterwards: entering and leaving repair mode clears it, and a listener without SO_REUSEPORT could
/// not be bound again while the connection lives.
///
/// # Errors
///
/// No CAP_NET_ADMIN, or the kernel refused a step. The connection is out of repair mode in any case.
pub fn move_clock(
    connection: &impl AsFd,
    next: impl FnOnce(u32) -> u32,
) -> Result<u32, ClockError> {
    let repair = Repair::enter(connection)?;
    let read = get(
        connection,
        libc::IPPROTO_TCP,
        libc::TCP_TIMESTAMP,
        "TCP_TIMESTAMP",
        0_u32,
    )?;
    let value = next(read) & !MICROSECONDS;
    set(
        connection,
        libc::IPPROTO_TCP,
        libc::TCP_TIMESTAMP,
        "TCP_TIMESTAMP",
        &value,
    )?;
    repair.leave()?;
    Ok(value)
}

/// A connection in repair mode; it leaves when this is dropped.
struct Repair<'a, S: AsFd> {
    connection: &'a S,
    inside: bool,
}

impl<'a, S: AsFd> Repair<'a, S> {
    fn enter(connection: &'a S) -> Result<Self, ClockError> {
        set_repair(connection, REPAIR_ON).map_err(|error| match error {
            SockoptError::Refused { source, .. } if source.raw_os_error() == Some(libc::EPERM) => {
                ClockError::NotPermitted
            }
            other => other.into(),
        })?;
        Ok(Self {
            connection,
            inside: true,
        })
    }

    fn leave(mut self) -> Result<(), SockoptError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), SockoptError> {
        // A kernel that does not know the one knows the other.
        set_repair(self.connection, REPAIR_OFF_NO_PROBE)
            .or_else(|_| set_repair(self.connection, REPAIR_OFF))?;
        self.inside = false;
        SockRef::from(self.connection)
            .set_reuse_address(true)
            .map_err(refused("SO_REUSEADDR"))
    }
}

impl<S: AsFd> Drop for Repair<'_, S> {
    fn drop(&mut self) {
        if self.inside {
            // Whoever comes here has an error, or a panic, to tell already.
            self.end().ok();
        }
    }
}

fn set_repair(connection: &impl AsFd, mode: libc::c_int) -> Result<(), SockoptError> {
    set(
        connection,
        libc::IPPROTO_TCP,
        libc::TCP_REPAIR,
        "TCP_REPAIR",
        &mode,
    )
}

#[cfg(test)]
mod tests;

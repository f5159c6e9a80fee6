//! Which session a packet belongs to (RFC 5880 section 6.3, RFC 5881 section 3, RFC 5883 section 3).
//!
//! By the discriminator that the peer has learned from us; before that, by the path.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::packet::{Discard, Packet};

/// The ends of a session.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path {
    /// Ours.
    pub local: IpAddr,
    /// The peer's.
    pub peer: IpAddr,
    /// The interface of a single-hop session; none over several hops.
    pub interface: Option<u32>,
}

/// From discriminators and paths to sessions, which are numbers that the owner gives.
#[derive(Debug, Default)]
pub struct Demux {
    by_discriminator: HashMap<u32, usize>,
    by_path: HashMap<Path, usize>,
}

impl Demux {
    /// Registers a session under the first of the candidates that is neither 0 nor in use. "MUST be unique across
    /// all sessions on this system, and nonzero"; RFC 5880 section 6.8.1 recommends random values, so that the
    /// owner draws the candidates.
    pub fn add(
        &mut self,
        session: usize,
        path: Path,
        candidates: impl IntoIterator<Item = u32>,
    ) -> Option<u32> {
        let free = |d: &u32| *d != 0 && !self.by_discriminator.contains_key(d);
        let discriminator = candidates.into_iter().find(free)?;
        self.by_discriminator.insert(discriminator, session);
        self.by_path.insert(path, session);
        Some(discriminator)
    }

    /// Forgets a session.
    pub fn remove(&mut self, discriminator: u32, path: &Path) {
        let session = self.by_discriminator.remove(&discriminator);
        if session.is_some() && self.by_path.get(path).copied() == session {
            self.by_path.remove(path);
        }
    }

    /// The session of a received packet. Without discriminator the path decides.
    ///
    /// # Errors
    ///
    /// "If the Your Discriminator field is nonzero [...] If no session is found, the packet MUST be discarded."
    pub fn find(&self, packet: &Packet, path: &Path) -> Result<usize, Discard> {
        let found = match packet.your_discriminator {
            0 => self.by_path.get(path),
            discriminator => self.by_discriminator.get(&discriminator),
        };
        found.copied().ok_or(Discard::NoSession)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Diagnostic, State};

    fn path(peer: u8, interface: Option<u32>) -> Path {
        Path {
            local: [10, 0, 0, 1].into(),
            peer: [10, 0, 0, peer].into(),
            interface,
        }
    }

    fn packet(your_discriminator: u32) -> Packet {
        Packet {
            diagnostic: Diagnostic::NONE,
            state: State::Down,
            poll: false,
            final_bit: false,
            control_plane_independent: false,
            demand: false,
            multiplier: 3,
            my_discriminator: 9,
            your_discriminator,
            desired_min_tx_us: 1,
            required_min_rx_us: 1,
            required_min_echo_rx_us: 0,
        }
    }

    #[test]
    fn a_discriminator_is_never_zero_nor_used_twice() {
        let mut demux = Demux::default();
        assert_eq!(demux.add(0, path(2, Some(1)), [0, 7]), Some(7));
        assert_eq!(demux.add(1, path(3, Some(1)), [7, 0, 8]), Some(8));
        assert_eq!(demux.add(2, path(4, Some(1)), [7, 8]), None);
    }

    #[test]
    fn the_discriminator_decides_and_the_path_only_without_it() {
        let mut demux = Demux::default();
        demux.add(0, path(2, Some(1)), [7]);
        demux.add(1, path(2, Some(2)), [8]);
        demux.add(2, path(2, None), [9]);
        assert_eq!(demux.find(&packet(8), &path(99, None)), Ok(1));
        assert_eq!(demux.find(&packet(0), &path(2, Some(1))), Ok(0));
        assert_eq!(demux.find(&packet(0), &path(2, None)), Ok(2));
        let unknown = Err(Discard::NoSession);
        assert_eq!(demux.find(&packet(99), &path(2, Some(1))), unknown);
        assert_eq!(demux.find(&packet(0), &path(2, Some(3))), unknown);
    }

    #[test]
    fn a_session_that_was_replaced_on_its_path_takes_nothing_with_it() {
        let mut demux = Demux::default();
        demux.add(0, path(2, Some(1)), [7]);
        demux.add(1, path(2, Some(1)), [8]);
        demux.remove(7, &path(2, Some(1)));
        assert_eq!(demux.find(&packet(0), &path(2, Some(1))), Ok(1));
        assert_eq!(
            demux.find(&packet(7), &path(2, Some(1))),
            Err(Discard::NoSession)
        );
    }
}

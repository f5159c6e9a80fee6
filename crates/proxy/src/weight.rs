//! Turns: what a connection passes on before it lets others have theirs, so that the connections of an engine that is busy
//! share its processor time. One of a virtual service with more weight passes on more each time (avi-api `weight`), as in
//! deficit round robin. A connection of bare bytes that waits has the others' turns
//! behind it, and begins anew; above TLS a turn goes on. Between turns the worker also looks at
//! what is new (`tokio::task::yield_now`): sockets, timers, commands.

use model::weight::Weight;

/// Bytes of a turn of weight 1, in one direction: some reads and writes, some 30 microseconds.
const QUANTUM: u64 = 64 * 1024;

/// What is left of a turn in one direction.
#[derive(Debug)]
pub(crate) struct Turn {
    left: u64,
}

impl Turn {
    /// A new one.
    pub(crate) fn begin(weight: Weight) -> Self {
        Self {
            left: QUANTUM * u64::from(weight.get()),
        }
    }

    /// Bytes have passed.
    pub(crate) fn pass(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// It is the others' turn.
    pub(crate) fn is_over(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that pass in reads of this size until the turn is over.
    fn passed(weight: u32, read: u64) -> u64 {
        let (mut turn, mut bytes) = (Turn::begin(Weight::nearest(weight)), 0);
        while !turn.is_over() {
            turn.pass(read);
            bytes += read;
        }
        bytes
    }

    #[test]
    fn a_turn_is_as_long_as_the_weight_says() {
        assert_eq!(passed(1, 16 * 1024), QUANTUM);
        assert_eq!(passed(5, 16 * 1024), 5 * QUANTUM);
        assert_eq!(passed(128, 1), 128 * QUANTUM);
    }

    #[test]
    fn the_last_read_of_a_turn_may_go_beyond_it() {
        assert_eq!(passed(1, QUANTUM - 1), 2 * (QUANTUM - 1));
        assert_eq!(passed(1, 9 * QUANTUM), 9 * QUANTUM);
    }
}

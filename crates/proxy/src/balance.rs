//! Which server takes the next connection. Pure: counts come in, an index goes out.

/// How a server is chosen (avi-api `lb_algorithm`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// One after the other, each as often as its ratio says.
    RoundRobin,
    /// The one with the fewest open connections, the first of equals after the one chosen last.
    LeastConnections,
}

/// A server as the choice sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// It may take a connection.
    pub usable: bool,
    /// Open connections.
    pub open: u64,
    /// Share in round robin.
    pub ratio: u32,
}

/// The index of the next server; `turn` is a counter that grows with each choice.
pub(crate) fn choose(algorithm: Algorithm, candidates: &[Candidate], turn: u64) -> Option<usize> {
    match algorithm {
        Algorithm::RoundRobin => round_robin(candidates, turn),
        Algorithm::LeastConnections => least_connections(candidates, turn),
    }
}

fn round_robin(candidates: &[Candidate], turn: u64) -> Option<usize> {
    let weight = |c: &Candidate| {
        if c.usable {
            u64::from(c.ratio.max(1))
        } else {
            0
        }
    };
    let total: u64 = candidates.iter().map(weight).sum();
    let mut left = turn.checked_rem(total)?;
    candidates
        .iter()
        .position(|c| match left.checked_sub(weight(c)) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        })
}

fn least_connections(candidates: &[Candidate], turn: u64) -> Option<usize> {
    let count = candidates.len() as u64;
    let start = turn.checked_rem(count)?;
    let distance = |i: usize| (i as u64 + count - start) % count;
    let usable = candidates.iter().enumerate().filter(|(_, c)| c.usable);
    usable
        .min_by_key(|(i, c)| (c.open, distance(*i)))
        .map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(open: u64, ratio: u32) -> Candidate {
        Candidate {
            usable: true,
            open,
            ratio,
        }
    }

    #[test]
    fn round_robin_takes_turns_by_ratio_and_passes_over_what_is_down() {
        let mut servers = [candidate(0, 1), candidate(0, 2), candidate(0, 1)];
        servers[2].usable = false;
        let turns: Vec<_> = (0..6)
            .filter_map(|t| choose(Algorithm::RoundRobin, &servers, t))
            .collect();
        assert_eq!(turns, [0, 1, 1, 0, 1, 1]);
    }

    #[test]
    fn least_connections_takes_the_emptiest_and_turns_among_equals() {
        let servers = [candidate(2, 1), candidate(1, 1), candidate(1, 1)];
        let turns: Vec<_> = (0..3)
            .filter_map(|t| choose(Algorithm::LeastConnections, &servers, t))
            .collect();
        assert_eq!(turns, [1, 1, 2]);
    }

    #[test]
    fn nothing_usable_means_no_choice() {
        let down = Candidate {
            usable: false,
            open: 0,
            ratio: 1,
        };
        for algorithm in [Algorithm::RoundRobin, Algorithm::LeastConnections] {
            assert_eq!(choose(algorithm, &[down], 7), None);
            assert_eq!(choose(algorithm, &[], 7), None);
        }
    }
}

//! Which members are there (`docs/dev/steering.md`, section 9): hellos on every way in a [`Rhythm`], answered by the other
//! engine's program. A process that hangs there keeps nobody from answering, and one that hangs here sends none and
//! judges nobody: what counts is hellos without an answer, not time.

use crate::config::{Config, Link, Peer};
use crate::wire::VALUE_MASK;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// Hellos without an answer for so long, on every way, while somebody else answers: the member is dead, and its flows are reset. A reset cannot be
/// taken back, and until then a packet for a flow of that member is in nobody's way: so this is longer than networks take to heal.
pub const DEAD_AFTER: Duration = Duration::from_secs(5);

/// How often hellos are said, and how many without an answer mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// Between two hellos on a way.
    pub interval: Duration,
    /// So many hellos without an answer: another way is better.
    pub down_after: u32,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(100),
            down_after: 3,
        }
    }
}

impl Rhythm {
    /// So many hellos without an answer are [`DEAD_AFTER`], and in any case more than mean that a way is down.
    #[must_use]
    pub fn dead_after(self) -> u32 {
        let hellos = DEAD_AFTER.as_millis() / self.interval.as_millis().max(1);
        let hellos = u32::try_from(hellos).unwrap_or(u32::MAX);
        hellos.max(self.down_after.saturating_add(1))
    }

    fn state(self, missed: u32) -> State {
        if missed <= self.down_after {
            State::Up
        } else if missed <= self.dead_after() {
            State::Down
        } else {
            State::Dead
        }
    }
}

/// From one of our tunnel addresses to one of a peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    /// Ours.
    pub local: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
}

impl From<&Link> for Way {
    fn from(link: &Link) -> Self {
        Self {
            local: link.local,
            remote: link.remote,
        }
    }
}

/// What is known of a way on which an answer has ever come; better ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It answers.
    Up,
    /// It has missed more than [`Rhythm::down_after`] hellos.
    Down,
    /// It has missed more than [`Rhythm::dead_after`].
    Dead,
}

/// Of all ways on which an answer has ever come.
pub type Liveness = BTreeMap<Way, State>;

/// Hellos that were sent since the last answer; none while there was no answer ever.
type Missed = Option<u32>;

/// The hellos of one engine.
#[derive(Debug, Clone, Default)]
pub struct Hellos {
    ways: BTreeMap<Way, Missed>,
    /// Of the last hellos; 14 bits, not 0 once there were any.
    number: u16,
    rhythm: Rhythm,
}

impl Hellos {
    /// From now on these ways, in this rhythm; what is known of those that stay is kept.
    pub fn follow(&mut self, ways: &BTreeSet<Way>, rhythm: Rhythm) {
        let before = std::mem::replace(&mut self.rhythm, rhythm);
        // Hellos that were missed in another rhythm are another time: a change of it lets nobody die.
        for missed in self.ways.values_mut().flatten() {
            if before.state(*missed) != State::Dead {
                *missed = (*missed).min(rhythm.dead_after());
            }
        }
        self.ways.retain(|way, _| ways.contains(way));
        for way in ways {
            self.ways.entry(*way).or_default();
        }
    }

    /// A tick: the number of the hello to be sent on each of these ways now. Where nobody answers, it is we who are cut
    /// off: nobody gets any deader, and when we are back nobody's flows are reset.
    pub fn tick(&mut self) -> (u16, Vec<Way>) {
        self.number = self.number % VALUE_MASK + 1;
        let rhythm = self.rhythm;
        let known = self.ways.values().flatten();
        let mut states = known.map(|missed| rhythm.state(*missed));
        let is_cut_off = !states.any(|state| state == State::Up);
        for missed in self.ways.values_mut().flatten() {
            if rhythm.state(*missed) == State::Up || !is_cut_off {
                *missed = missed.saturating_add(1);
            }
        }
        (self.number, self.ways.keys().copied().collect())
    }

    /// An answer came on this way. One that is late keeps nobody up, but who answers is not dead; one to a hello of long ago
    /// says nothing, and neither does a late one on a way on which none ever came.
    pub fn heard(&mut self, way: Way, number: u16) {
        let age = (self.number + VALUE_MASK - number % VALUE_MASK) % VALUE_MASK;
        let (age, rhythm) = (u32::from(age), self.rhythm);
        match self.ways.get_mut(&way) {
            Some(missed) if age < rhythm.down_after => *missed = Some(age),
            Some(Some(missed)) if age <= rhythm.dead_after() => {
                *missed = age.max(rhythm.down_after + 1).min(*missed);
            }
            _ => {}
        }
    }

    /// What is known now.
    #[must_use]
    pub fn liveness(&self) -> Liveness {
        let known = self.ways.iter();
        known
            .filter_map(|(way, missed)| Some((*way, self.rhythm.state((*missed)?))))
            .collect()
    }
}

/// Puts the ways that answer first, and says who is alive: whoever answered within [`DEAD_AFTER`] hellos, unless the
/// controller holds it for dead and nothing answers. Of a peer that was never heard, the controller's word stands. New
/// flows are sent to nobody who does not answer now.
pub fn judge(config: &mut Config, liveness: &Liveness) {
    let best = |peer: &Peer| {
        let states = peer.links.iter().map(|link| known(liveness, link));
        states.flatten().min()
    };
    for group in &mut config.groups {
        for member in &mut group.members {
            let answers = best(&config.peers[member.peer]).is_none_or(|s| s == State::Up);
            member.takes_new &= answers;
        }
    }
    for peer in &mut config.peers {
        peer.alive = match best(peer) {
            None | Some(State::Down) => peer.alive,
            Some(State::Up) => true,
            Some(State::Dead) => false,
        };
        peer.links.sort_by_key(|link| rank(known(liveness, link)));
    }
}

fn known(liveness: &Liveness, link: &Link) -> Option<State> {
    liveness.get(&link.into()).copied()
}

/// A way that was never heard may be good; one that is down is not.
fn rank(state: Option<State>) -> u8 {
    match state {
        Some(State::Up) => 0,
        None => 1,
        Some(State::Down) => 2,
        Some(State::Dead) => 3,
    }
}

#[cfg(test)]
mod tests;

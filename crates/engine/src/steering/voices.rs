//! Whose process speaks. The program answers for a process that hangs, and rightly so: its flows live. But routers miss it
//! (BFD) and move the flows of all. So the programs count the hellos that come, and a process that says none, or says some again, is an
//! event.

use std::collections::BTreeMap;

/// Ticks of [`flow::pace::TICK`] without a hello; as many are said as there are ticks.
const SILENT_AFTER: u32 = 2;

/// By uuid of the peer: how often its process has fallen silent, or begun to speak.
pub(super) type Turns = BTreeMap<String, u64>;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Voices(BTreeMap<String, Voice>);

#[derive(Debug, Clone, Copy)]
struct Voice {
    hellos: u64,
    missed: u32,
    turns: u64,
}

impl Voices {
    /// A tick: what was counted so far, by uuid of the peer.
    pub(super) fn tick(&mut self, hellos: &BTreeMap<String, u64>) {
        self.0.retain(|uuid, _| hellos.contains_key(uuid));
        for (uuid, hellos) in hellos {
            let unknown = Voice {
                hellos: *hellos,
                missed: SILENT_AFTER,
                turns: 0,
            };
            self.0.entry(uuid.clone()).or_insert(unknown).tick(*hellos);
        }
    }

    pub(super) fn turns(&self) -> Turns {
        let turns = self.0.iter().map(|(uuid, v)| (uuid.clone(), v.turns));
        turns.filter(|(_, turns)| *turns > 0).collect()
    }
}

impl Voice {
    fn tick(&mut self, hellos: u64) {
        let was_silent = self.missed >= SILENT_AFTER;
        self.missed = match hellos == self.hellos {
            true => self.missed.saturating_add(1),
            false => 0,
        };
        self.hellos = hellos;
        let is_silent = self.missed >= SILENT_AFTER;
        self.turns += u64::from(is_silent != was_silent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn falling_silent_and_speaking_again_are_turns_and_one_late_hello_is_none() {
        let mut voices = Voices::default();
        let mut turns = |hellos: u64| {
            voices.tick(&BTreeMap::from([("se-2".into(), hellos)]));
            voices.turns().get("se-2").copied().unwrap_or(0)
        };
        let counted = [7, 7, 8, 9, 9, 10, 10, 10, 10, 11, 12];
        let seen: Vec<u64> = counted.into_iter().map(&mut turns).collect();
        assert_eq!(seen, [0, 0, 1, 1, 1, 1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn a_peer_that_is_gone_is_forgotten() {
        let mut voices = Voices::default();
        for hellos in 0..2 {
            voices.tick(&BTreeMap::from([("se-2".into(), hellos)]));
        }
        assert_eq!(voices.turns().len(), 1);
        voices.tick(&BTreeMap::new());
        assert_eq!(voices.turns(), Turns::new());
    }
}

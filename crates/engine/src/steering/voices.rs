//! Whose process speaks. The program answers for a process that hangs, and rightly so: its flows live. But routers miss it
//! (BFD) and move the flows of all. So the programs count the hellos that come, and a process that says none, or says some again, is an
//! event.

use std::collections::BTreeMap;
use std::time::Duration;

/// Hellos that are missing; engines of a group say them in the same rhythm.
const SILENT_AFTER: u32 = 2;

/// The same in ticks of [`flow::pace::TICK`].
fn silent_after(interval: Duration) -> u32 {
    let ticks = (interval * SILENT_AFTER).div_duration_f32(flow::pace::TICK);
    (ticks.ceil() as u32).max(SILENT_AFTER)
}

/// By uuid of the peer: how often its process has fallen silent, or begun to speak.
pub(super) type Turns = BTreeMap<String, u64>;

/// Whoever has begun once more than fallen silent.
pub(super) fn speaks(turns: &Turns, uuid: &str) -> bool {
    turns.get(uuid).is_some_and(|turns| turns % 2 == 1)
}

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
    /// A tick: what was counted so far, by uuid of the peer, where a hello is due each `interval`.
    pub(super) fn tick(&mut self, hellos: &BTreeMap<String, u64>, interval: Duration) {
        let silent_after = silent_after(interval);
        self.0.retain(|uuid, _| hellos.contains_key(uuid));
        for (uuid, hellos) in hellos {
            let unknown = Voice {
                hellos: *hellos,
                missed: u32::MAX,
                turns: 0,
            };
            let voice = self.0.entry(uuid.clone()).or_insert(unknown);
            voice.tick(*hellos, silent_after);
        }
    }

    pub(super) fn turns(&self) -> Turns {
        let turns = self.0.iter().map(|(uuid, v)| (uuid.clone(), v.turns));
        turns.filter(|(_, turns)| *turns > 0).collect()
    }
}

impl Voice {
    fn tick(&mut self, hellos: u64, silent_after: u32) {
        let was_silent = self.missed >= silent_after;
        self.missed = match hellos == self.hellos {
            true => self.missed.saturating_add(1),
            false => 0,
        };
        self.hellos = hellos;
        let is_silent = self.missed >= silent_after;
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
            voices.tick(&BTreeMap::from([("se-2".into(), hellos)]), flow::pace::TICK);
            voices.turns().get("se-2").copied().unwrap_or(0)
        };
        let counted = [7, 7, 8, 9, 9, 10, 10, 10, 10, 11, 12];
        let seen: Vec<u64> = counted.into_iter().map(&mut turns).collect();
        assert_eq!(seen, [0, 0, 1, 1, 1, 1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn who_speaks_seldom_is_silent_later() {
        let ms = Duration::from_millis;
        let ticks = [ms(50), ms(100), ms(250), ms(1000)].map(silent_after);
        assert_eq!(ticks, [2, 2, 5, 20]);
    }

    #[test]
    fn a_peer_that_is_gone_is_forgotten() {
        let mut voices = Voices::default();
        for hellos in 0..2 {
            voices.tick(&BTreeMap::from([("se-2".into(), hellos)]), flow::pace::TICK);
        }
        assert_eq!(voices.turns().len(), 1);
        voices.tick(&BTreeMap::new(), flow::pace::TICK);
        assert_eq!(voices.turns(), Turns::new());
    }
}

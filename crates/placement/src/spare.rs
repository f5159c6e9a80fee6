//! N+M: whether the VIPs of engines that are lost have room on the others.

use crate::{Enabled, Engine, Presence};

/// See the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spare {
    /// Engines that may be lost at once (`buffer_se`).
    pub wanted: u32,
    /// Of these, so many may be lost indeed, the fullest first.
    pub survives: u32,
}

impl Spare {
    /// There is less room than is wanted.
    pub fn is_short(self) -> bool {
        self.survives < self.wanted
    }
}

/// For the engines of one SE group. Counted is room alone: an engine that has a VIP already cannot take it again.
pub fn spare(engines: &[Engine], max_per_engine: u32, wanted: u32) -> Spare {
    let serves = |e: &&Engine| e.enabled == Enabled::Yes && e.presence != Presence::Lost;
    let mut placed: Vec<u64> = engines
        .iter()
        .filter(serves)
        .map(|e| e.placed.into())
        .collect();
    placed.sort_unstable_by(|a, b| b.cmp(a));
    let has_room = |lost: usize| {
        let (gone, left) = placed.split_at(lost);
        let free = left
            .iter()
            .map(|p| u64::from(max_per_engine).saturating_sub(*p));
        !left.is_empty() && free.sum::<u64>() >= gone.iter().sum()
    };
    let most = placed.len().min(wanted as usize);
    let survives = (1..=most).take_while(|lost| has_room(*lost)).count();
    Spare {
        wanted,
        survives: u32::try_from(survives).unwrap_or(wanted),
    }
}

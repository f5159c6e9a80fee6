//! What the programs remember of single flows, read without the process's own handle of the programs: a table of a
//! hundred thousand flows takes a while, and nobody is to wait for it.

use super::load::{self, Error};
use super::raw;
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray};
use flow::{Flow, Verdict};
use nix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// A flow of another member, as the cache has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteFlow {
    /// Which.
    pub flow: Flow,
    /// Id of its owner in the VIP's group.
    pub member: u8,
}

/// What is being asked about a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Its number, in probes and answers.
    pub number: u16,
    /// Probes sent.
    pub probes: u8,
    /// Bits of the members that have denied.
    pub denied: u64,
    /// Since the last probe.
    pub age: Duration,
}

/// Some of the flows of a table, and how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteFlows {
    /// As many as were wanted.
    pub flows: Vec<RemoteFlow>,
    /// Those that fit what was asked for.
    pub matched: u64,
}

/// The tables of flows; see the head of the module.
pub struct FlowTables {
    cache: HashMap<MapData, raw::FlowKey, raw::Cached>,
    questions: HashMap<MapData, raw::FlowKey, raw::Question>,
    verdicts: PerCpuArray<MapData, u64>,
}

/// Entries move while they are read; after so many the rest is left out, so that reading ends.
const READ_MAX: usize = 4 * 131_072;

impl FlowTables {
    /// Of the engine that pins in this folder.
    ///
    /// # Errors
    /// Nothing is pinned there.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let dir = load::layout(dir);
        Ok(Self {
            cache: pinned(&dir, "cache")?,
            questions: pinned(&dir, "questions")?,
            verdicts: pinned(&dir, "verdicts")?,
        })
    }

    /// Packets by verdict since the maps were made.
    ///
    /// # Errors
    /// The kernel refuses to read them.
    pub fn verdicts(&self) -> Result<BTreeMap<&'static str, u64>, Error> {
        let failed = |source| Error::Map {
            name: "verdicts",
            source,
        };
        let packets = |(index, verdict): (u32, &Verdict)| {
            let all = self.verdicts.get(&index, 0).map_err(failed)?;
            Ok((verdict.code(), all.iter().sum()))
        };
        (0..).zip(Verdict::ALL).map(packets).collect()
    }

    /// Flows of other members that have gone there from here, those that are wanted, `most` at most.
    #[must_use]
    pub fn remote(&self, wanted: &dyn Fn(&Flow) -> bool, most: usize) -> RemoteFlows {
        let mut found = RemoteFlows::default();
        for (key, cached) in self.cache.iter().take(READ_MAX).flatten() {
            let Some(flow) = key.flow().filter(wanted) else {
                continue;
            };
            found.matched += 1;
            if found.flows.len() < most {
                let member = cached.id;
                found.flows.push(RemoteFlow { flow, member });
            }
        }
        found
    }

    /// The member that this flow goes to, by the cache.
    #[must_use]
    pub fn owner(&self, flow: &Flow) -> Option<u8> {
        Some(self.cache.get(&flow.into(), 0).ok()?.id)
    }

    /// What is, or was, asked about this flow.
    #[must_use]
    pub fn question(&self, flow: &Flow) -> Option<Question> {
        let question = self.questions.get(&flow.into(), 0).ok()?;
        let last = Duration::from_nanos(question.last_ns);
        Some(Question {
            number: question.number,
            probes: question.probes,
            denied: question.denied,
            age: monotonic().saturating_sub(last),
        })
    }
}

/// The programs' clock.
pub(super) fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

fn pinned<M>(dir: &Path, name: &'static str) -> Result<M, Error>
where
    M: TryFrom<Map, Error = MapError>,
{
    let failed = |source: MapError| Error::Map { name, source };
    let data = MapData::from_pin(dir.join(name)).map_err(failed)?;
    let map = Map::from_map_data(data).map_err(failed)?;
    map.try_into().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_without_maps_is_named_by_the_map() {
        let error = FlowTables::open(Path::new("/nonexistent")).err();
        let text = error.expect("there is none").to_string();
        assert_eq!(text, "cannot use map cache");
    }
}

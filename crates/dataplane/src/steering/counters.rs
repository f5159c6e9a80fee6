//! What the programs count.

use super::fill::Places;
use super::load::Error;
use super::raw;
use aya::Ebpf;
use aya::maps::{Map, MapData, MapError, PerCpuArray};
use flow::verdict::Verdict;
use std::collections::BTreeMap;

/// Since the maps were made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets by verdict.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// What was tunnelled, by uuid of the peer.
    pub tunnelled: BTreeMap<String, Tunnelled>,
    /// HELLOs that each peer's process has said, by uuid of the peer.
    pub hellos: BTreeMap<String, u64>,
}

/// To one peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tunnelled {
    /// Packets.
    pub packets: u64,
    /// Bytes of them, without the outer header.
    pub bytes: u64,
    /// Flows that were found there by a question, or sent there because we drain. Hints leave no trace of theirs.
    pub flows: u64,
}

impl Counters {
    /// Packets of this verdict.
    #[must_use]
    pub fn of(&self, verdict: Verdict) -> u64 {
        self.verdicts.get(verdict.code()).copied().unwrap_or(0)
    }
}

pub(super) fn read(ebpf: &Ebpf, places: &Places) -> Result<Counters, Error> {
    let by_verdict: PerCpuArray<&MapData, u64> = array(ebpf, "verdicts")?;
    let by_peer: PerCpuArray<&MapData, raw::PeerCounters> = array(ebpf, "tunnelled")?;
    let mut counters = Counters::default();
    for (index, verdict) in (0..).zip(Verdict::ALL) {
        let all = by_verdict.get(&index, 0).map_err(failed("verdicts"))?;
        counters.verdicts.insert(verdict.code(), all.iter().sum());
    }
    for (uuid, index) in places.peers() {
        let index = u32::try_from(*index).unwrap_or(u32::MAX);
        let all = by_peer.get(&index, 0).map_err(failed("tunnelled"))?;
        let sum = |of: fn(&raw::PeerCounters) -> u64| all.iter().map(of).sum();
        let tunnelled = Tunnelled {
            packets: sum(|c| c.packets),
            bytes: sum(|c| c.bytes),
            flows: sum(|c| c.flows),
        };
        counters.tunnelled.insert(uuid.clone(), tunnelled);
        counters.hellos.insert(uuid.clone(), sum(|c| c.hellos));
    }
    Ok(counters)
}

fn array<'a, V: aya::Pod>(
    ebpf: &'a Ebpf,
    name: &'static str,
) -> Result<PerCpuArray<&'a MapData, V>, Error> {
    let map: &Map = ebpf.map(name).ok_or(Error::Missing(name))?;
    map.try_into().map_err(failed(name))
}

fn failed(name: &'static str) -> impl FnOnce(MapError) -> Error {
    move |source| Error::Map { name, source }
}

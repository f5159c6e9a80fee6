//! What the programs count.

use super::fill::Places;
use super::load::Error;
use super::raw;
use aya::Ebpf;
use aya::maps::{Array, Map, MapData, MapError, PerCpuArray};
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
    /// The loads in them, in percent, added up.
    pub loads: BTreeMap<String, u64>,
}

/// To one peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tunnelled {
    /// Packets.
    pub packets: u64,
    /// Bytes of them, without the outer header.
    pub bytes: u64,
    /// Flows that were found there by a question, or sent there because we drain.
    pub flows: u64,
}

impl Counters {
    /// Packets of this verdict.
    #[must_use]
    pub fn of(&self, verdict: Verdict) -> u64 {
        self.verdicts.get(verdict.code()).copied().unwrap_or(0)
    }
}

/// Flows that were tunnelled to each peer since this was called last, by its uuid.
pub(super) fn take_flows(ebpf: &mut Ebpf, places: &Places) -> Result<BTreeMap<String, u64>, Error> {
    const NAME: &str = "checks";
    let map: &mut Map = ebpf.map_mut(NAME).ok_or(Error::Missing(NAME))?;
    let mut seen: Array<&mut MapData, raw::SeenChecks> = map.try_into().map_err(failed(NAME))?;
    let mut all = BTreeMap::new();
    for (uuid, index) in places.peers() {
        let index = u32::try_from(*index).unwrap_or(u32::MAX);
        let checks = seen.get(&index, 0).map_err(failed(NAME))?;
        let flows = distinct(&checks.words);
        if flows > 0 {
            let none = raw::SeenChecks { words: [0; 256] };
            seen.set(index, none, 0).map_err(failed(NAME))?;
        }
        all.insert(uuid.clone(), flows);
    }
    Ok(all)
}

/// How many have probably set these bits, one each at random (linear counting, Whang et al. 1990): within 1 % up to some
/// 20,000, and never more than 159,000.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)]
fn distinct(words: &[u64]) -> u64 {
    let zeros: u32 = words.iter().map(|word| word.count_zeros()).sum();
    let all = (words.len() * 64) as f64;
    (all * (all / f64::from(zeros.max(1))).ln()).round() as u64
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
        counters.loads.insert(uuid.clone(), sum(|c| c.loads));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_counted_by_the_bits_that_they_set() {
        let mut words = [0; 256];
        assert_eq!(distinct(&words), 0);
        let mut random = 1_u64;
        for flows in 1..=20_000_u64 {
            // Knuth's MMIX generator.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let check = (random >> 50) as usize;
            words[check / 64] |= 1_u64 << (check % 64);
            if [1, 10, 100, 1000, 10_000, 20_000].contains(&flows) {
                let off = distinct(&words).abs_diff(flows);
                assert!(off * 50 <= flows, "{off} off of {flows}");
            }
        }
        assert_eq!(distinct(&[u64::MAX; 256]), 158_991, "full");
    }
}

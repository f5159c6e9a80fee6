//! How the SEs found the owners of flows: what their programs have counted and remember.
//!
//! It is read from the pinned maps of each SE and not from its reports: exact at this moment, and there also when the
//! process is not.

use crate::record::Record;
use crate::scenario::judge::Known;
use anyhow::{Context, Result};
use dataplane::steering::FlowTables;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What the programs of all SEs say at a moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Ways {
    /// Packets by SE and verdict.
    packets: BTreeMap<(String, &'static str), u64>,
    /// Owners that were found by asking.
    pub(super) known: Known,
}

impl Ways {
    /// Asks the programs of these SEs about the flows of a VIP.
    pub(super) fn look<'a>(
        record: &Record,
        engines: impl IntoIterator<Item = &'a String>,
        vip: IpAddr,
    ) -> Result<Self> {
        let mut ways = Self::default();
        for name in engines {
            let tables = FlowTables::open(&record.bpf_dir().join(name));
            let tables = tables.with_context(|| format!("tables of {name}"))?;
            for (verdict, count) in tables.verdicts()? {
                ways.packets.insert((name.clone(), verdict), count);
            }
            let found = tables.remote(&|flow| flow.service.ip() == vip, usize::MAX);
            let ports = found.flows.iter().map(|f| f.flow.client.port()).collect();
            ways.known.insert(name.clone(), ports);
        }
        Ok(ways)
    }

    /// Packets by verdict since an earlier look, of all SEs.
    pub(super) fn packets_since(&self, before: &Self) -> BTreeMap<String, u64> {
        let mut since: BTreeMap<String, u64> = BTreeMap::new();
        for (counter, count) in &self.packets {
            let before = before.packets.get(counter).copied().unwrap_or_default();
            // A host that came back counts from zero.
            let more = if *count < before {
                *count
            } else {
                *count - before
            };
            *since.entry(counter.1.to_owned()).or_default() += more;
        }
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(probes: u64) -> Ways {
        let of = |name: &str, count| ((name.to_owned(), "probe"), count);
        Ways {
            packets: BTreeMap::from([of("se-1", probes), of("se-2", 2)]),
            ..Ways::default()
        }
    }

    #[test]
    fn packets_of_a_step_are_the_difference() {
        assert_eq!(ways(7).packets_since(&ways(3))["probe"], 4);
        assert_eq!(ways(7).packets_since(&Ways::default())["probe"], 9);
        assert_eq!(ways(1).packets_since(&ways(7))["probe"], 1, "it came back");
    }
}

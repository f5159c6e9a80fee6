//! Events: probes and what is answered, and every packet of the flows that somebody traces.

use super::flows::monotonic;
use super::load::Error;
use super::raw;
use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError, RingBuf};
use flow::{Flow, Verdict};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

/// Flows that can be traced at a time.
pub const WATCHED_MAX: usize = raw::WATCHED_MAX;

/// Something that the programs did with a packet or message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// When, by the host's clock.
    pub at: SystemTime,
    /// Of which flow.
    pub flow: Flow,
    /// What.
    pub verdict: Verdict,
    /// The member concerned, by its id: the one it went to, came from, or that answered. Of `probe`: probes sent before.
    pub member: u8,
    /// Of the question; 0 where there is none.
    pub number: u16,
}

/// The ring that events come in.
pub(super) struct Events(RingBuf<MapData>);

impl Events {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let map = ebpf.take_map("events").ok_or(Error::Missing("events"))?;
        Ok(Self(map.try_into().map_err(failed("events"))?))
    }

    /// Those that have come since the last call, `most` at most.
    pub(super) fn next(&mut self, most: usize) -> Vec<Event> {
        let offset = Offset::now();
        let mut events = Vec::new();
        while events.len() < most {
            let Some(item) = self.0.next() else { break };
            events.extend(event(&item, offset));
        }
        events
    }
}

/// Between the programs' clock and the host's.
#[derive(Clone, Copy)]
struct Offset {
    programs: Duration,
    host: SystemTime,
}

impl Offset {
    fn now() -> Self {
        Self {
            programs: monotonic(),
            host: SystemTime::now(),
        }
    }

    fn host_time(self, at_ns: u64) -> SystemTime {
        let ago = self.programs.saturating_sub(Duration::from_nanos(at_ns));
        self.host.checked_sub(ago).unwrap_or(self.host)
    }
}

fn event(bytes: &[u8], offset: Offset) -> Option<Event> {
    let raw = raw::Event::read(bytes)?;
    Some(Event {
        at: offset.host_time(raw.at_ns),
        flow: raw.flow.flow()?,
        verdict: *Verdict::ALL.get(usize::from(raw.verdict))?,
        member: raw.member,
        number: raw.number,
    })
}

/// Has exactly these flows traced, each until its time, [`WATCHED_MAX`] at most.
pub(super) fn watch(ebpf: &mut Ebpf, flows: &BTreeMap<Flow, Instant>) -> Result<(), Error> {
    let map: &mut Map = ebpf.map_mut("watched").ok_or(Error::Missing("watched"))?;
    let map: Result<HashMap<&mut MapData, raw::FlowKey, u64>, _> = map.try_into();
    let mut map = map.map_err(failed("watched"))?;
    let (now, programs) = (Instant::now(), monotonic());
    let old: Vec<raw::FlowKey> = map.keys().flatten().collect();
    let is_gone = |key: &&raw::FlowKey| !key.flow().is_some_and(|f| flows.contains_key(&f));
    for gone in old.iter().filter(is_gone) {
        // The program never removes one: it is there.
        map.remove(gone).map_err(failed("watched"))?;
    }
    for (flow, until) in flows.iter().take(WATCHED_MAX) {
        let until = programs + until.saturating_duration_since(now);
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        map.insert(raw::FlowKey::from(flow), until, 0)
            .map_err(failed("watched"))?;
    }
    Ok(())
}

fn failed(name: &'static str) -> impl FnOnce(MapError) -> Error {
    move |source| Error::Map { name, source }
}

//! What the pinned maps of an engine say, read by somebody else: they are there also when the engine's process is not.
//! The lab judges by them.

use super::load::{Error, LAYOUT};
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray};
use flow::key::Protocol;
use flow::{Flow, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// `struct flow_key` of `bpf/structs.h`, as bytes.
type RawFlow = [u8; 40];
/// `struct cached`.
type RawCached = [u8; 4];

/// Packets by verdict since the maps were made, of the engine whose pins are below this folder.
///
/// # Errors
/// There are no maps, or the kernel refuses to read them.
pub fn verdicts(dir: &Path) -> Result<BTreeMap<&'static str, u64>, Error> {
    let counters: PerCpuArray<MapData, u64> = open(dir, "verdicts")?;
    let mut packets = BTreeMap::new();
    for (index, verdict) in (0..).zip(Verdict::ALL) {
        let all = counters.get(&index, 0).map_err(failed("verdicts"))?;
        packets.insert(verdict.code(), all.iter().sum());
    }
    Ok(packets)
}

/// The flows whose owner that engine has found by asking, as far as it still remembers them.
///
/// # Errors
/// There are no maps, or the kernel refuses to read them.
pub fn found(dir: &Path) -> Result<BTreeSet<Flow>, Error> {
    let cache: HashMap<MapData, RawFlow, RawCached> = open(dir, "cache")?;
    let mut flows = BTreeSet::new();
    for key in cache.keys() {
        flows.extend(flow_of(&key.map_err(failed("cache"))?));
    }
    Ok(flows)
}

fn open<M>(dir: &Path, name: &'static str) -> Result<M, Error>
where
    M: TryFrom<Map, Error = MapError>,
{
    let data = MapData::from_pin(dir.join(LAYOUT).join(name)).map_err(failed(name))?;
    let map = Map::from_map_data(data).map_err(failed(name))?;
    map.try_into().map_err(failed(name))
}

fn failed(name: &'static str) -> impl FnOnce(MapError) -> Error {
    move |source| Error::Map { name, source }
}

/// A key that is none of ours gives nothing.
fn flow_of(raw: &RawFlow) -> Option<Flow> {
    let protocol = [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .find(|p| p.number() == raw[36])?;
    let end = |address: usize, port: usize| {
        let bytes: [u8; 16] = raw[address..address + 16].try_into().ok()?;
        let ip = IpAddr::from(Ipv6Addr::from(bytes)).to_canonical();
        let port = u16::from_be_bytes(raw[port..port + 2].try_into().ok()?);
        Some(SocketAddr::new(ip, port))
    };
    Some(Flow {
        protocol,
        client: end(0, 32)?,
        service: end(16, 34)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(flow: &Flow) -> RawFlow {
        let mut raw = [0; 40];
        raw[..16].copy_from_slice(&flow::key::bytes16(flow.client.ip()));
        raw[16..32].copy_from_slice(&flow::key::bytes16(flow.service.ip()));
        raw[32..34].copy_from_slice(&flow.client.port().to_be_bytes());
        raw[34..36].copy_from_slice(&flow.service.port().to_be_bytes());
        raw[36] = flow.protocol.number();
        raw
    }

    #[test]
    fn a_flow_is_read_from_its_key_in_both_families() {
        for (client, service) in [
            ("10.0.0.2:40000", "10.100.0.1:80"),
            ("[fd00::2]:40000", "[fd00:100::1]:80"),
        ] {
            let flow = Flow {
                protocol: Protocol::Tcp,
                client: client.parse().unwrap(),
                service: service.parse().unwrap(),
            };
            assert_eq!(flow_of(&raw(&flow)), Some(flow));
        }
    }

    #[test]
    fn a_key_of_another_protocol_is_no_flow() {
        assert_eq!(flow_of(&[0; 40]), None);
    }

    #[test]
    fn an_engine_without_maps_is_named_by_the_map() {
        let error = verdicts(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(error.to_string(), "cannot use map verdicts");
    }
}

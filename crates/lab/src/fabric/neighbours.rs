//! Room in the kernel's tables of neighbours (ARP, ND), which all namespaces share: with the usual 1024 entries, nodes of a
//! large topology cannot find each other ("neighbor table overflow", "No route to host").

use crate::topology::Topology;
use anyhow::{Context, Result};
use cli::note;
use std::fs;

/// A table is full for twice as many neighbours as a lab may have, since other labs have some too.
const SPARE: usize = 2;

/// Raises what the tables of this host take, where it may be too little; `down` leaves it, for other labs may need it.
pub(super) fn make_room(topology: &Topology) -> Result<()> {
    let needed = needed(topology);
    let families: &[&str] = if topology.ipv6 {
        &["ipv4", "ipv6"]
    } else {
        &["ipv4"]
    };
    families.iter().try_for_each(|family| raise(family, needed))
}

/// Every node of a segment may know every other one.
fn needed(topology: &Topology) -> usize {
    let segments = topology.segments.iter();
    let nodes = segments.map(|s| topology.ends(&s.name).len());
    nodes.map(|n| n * n.saturating_sub(1)).sum()
}

fn raise(family: &str, needed: usize) -> Result<()> {
    // Between the second and the third the kernel throws entries away that are not in use.
    let limit = |number: u8| format!("net.{family}.neigh.default.gc_thresh{number}");
    let room = limit(3);
    let Some(now) = read(&room).filter(|now| *now < needed * SPARE) else {
        return Ok(());
    };
    for (name, value) in [(room, needed * SPARE), (limit(2), needed)] {
        note!("this host: {name} = {value} (of all namespaces together; it was {now} at most)");
        write(&name, value)?;
    }
    Ok(())
}

/// None where this is no namespace that has the setting: only the host's first one does.
fn read(name: &str) -> Option<usize> {
    fs::read_to_string(path(name)).ok()?.trim().parse().ok()
}

fn write(name: &str, value: usize) -> Result<()> {
    fs::write(path(name), value.to_string()).with_context(|| {
        format!("make room for {value} neighbours; on the host: sysctl -w {name}={value}")
    })
}

fn path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Folder, Params};

    #[test]
    fn the_usual_room_is_enough_for_eight_engines_and_not_for_sixty_four() {
        let usual = 1024;
        let needs = |name: &str| {
            let topology = Folder::find(name).unwrap().load(&Params::new());
            needed(&topology.unwrap()) * SPARE
        };
        assert!(needs("ecmp-8se") < usual, "{}", needs("ecmp-8se"));
        assert!(needs("ecmp-64se") > 4 * usual, "{}", needs("ecmp-64se"));
    }
}

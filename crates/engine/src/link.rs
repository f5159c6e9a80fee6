//! What is behind an interface, for who looks at the engine: carrier, VLAN, driver, PCI address, the members of a bundle.

use crate::net;
use proto::v1::{Interface, LinkDetail};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkInfo, LinkMessage,
};
use std::path::{Path, PathBuf};

/// The interface of this link, with what is behind it; `all` are the host's links.
pub(crate) fn described(link: &LinkMessage, all: &[LinkMessage]) -> Interface {
    Interface {
        link: Some(detail(link, all, Path::new("/sys"))),
        ..net::interface(link)
    }
}

fn detail(link: &LinkMessage, all: &[LinkMessage], sys: &Path) -> LinkDetail {
    let card = card(link, sys);
    let kind = kind(link);
    let members = match kind {
        Some(InfoKind::Bond | InfoKind::Team) => members(link.header.index, all),
        _ => Vec::new(),
    };
    let driver = || driver(card.as_deref()?);
    LinkDetail {
        carrier: link.attributes.contains(&LinkAttribute::Carrier(1)),
        vlan_id: vlan_id(link).map_or(0, u32::from),
        adapter: kind
            .map(ToString::to_string)
            .or_else(driver)
            .unwrap_or_default(),
        pci_id: card.as_deref().and_then(pci_id).unwrap_or_default(),
        members,
    }
}

fn infos(link: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    let infos = link.attributes.iter().filter_map(|a| match a {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten()
}

/// A card has none.
fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    infos(link).find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

pub(crate) fn vlan_id(link: &LinkMessage) -> Option<u16> {
    let vlans = infos(link).filter_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(vlan)) => Some(vlan),
        _ => None,
    });
    vlans.flatten().find_map(|info| match info {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })
}

/// Names of the links that this one is made of.
fn members(index: u32, all: &[LinkMessage]) -> Vec<String> {
    let ours = LinkAttribute::Controller(index);
    let members = all.iter().filter(|l| l.attributes.contains(&ours));
    members.map(|l| net::interface(l).name).collect()
}

/// The device that the link is on (Linux 5.14). By its bus, because the folder of a link is that of whichever network namespace
/// /sys was mounted in.
fn card(link: &LinkMessage, sys: &Path) -> Option<PathBuf> {
    let bus = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::ParentDevBusName(name) => Some(name),
        _ => None,
    })?;
    let device = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::ParentDevName(name) => Some(name),
        _ => None,
    })?;
    let path = sys.join("bus").join(bus).join("devices").join(device);
    path.canonicalize().ok()
}

fn driver(card: &Path) -> Option<String> {
    let driver = std::fs::read_link(card.join("driver")).ok()?;
    Some(driver.file_name()?.to_str()?.to_owned())
}

/// Of the device, or of the one that it is part of: a virtio device is on a PCI card.
fn pci_id(card: &Path) -> Option<String> {
    let names = card.ancestors().filter_map(|p| p.file_name()?.to_str());
    let mut names = names.filter(|name| is_pci_id(name));
    names.next().map(str::to_owned)
}

/// `0000:00:03.0`.
fn is_pci_id(name: &str) -> bool {
    let shape = "0000:00:00.0";
    let fits = |(c, like): (char, char)| match like {
        '0' => c.is_ascii_hexdigit(),
        _ => c == like,
    };
    name.len() == shape.len() && name.chars().zip(shape.chars()).all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn link(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = attributes;
        message
    }

    fn name(name: &str) -> LinkAttribute {
        LinkAttribute::IfName(name.into())
    }

    /// A folder like /sys with a virtio card at 0000:00:03.0.
    fn sys() -> tempfile::TempDir {
        let sys = tempfile::tempdir().expect("a folder");
        let card = sys.path().join("devices/pci0000:00/0000:00:03.0/virtio1");
        let bus = sys.path().join("bus/virtio");
        for folder in [&card, &bus.join("devices"), &bus.join("drivers/virtio_net")] {
            fs::create_dir_all(folder).expect("made");
        }
        symlink(&card, bus.join("devices/virtio1")).expect("linked");
        symlink(bus.join("drivers/virtio_net"), card.join("driver")).expect("linked");
        sys
    }

    #[test]
    fn a_card_has_its_driver_and_the_pci_address_that_it_is_at() {
        let on = |device: &str| {
            let attributes = vec![
                name("eth0"),
                LinkAttribute::Carrier(1),
                LinkAttribute::ParentDevBusName("virtio".into()),
                LinkAttribute::ParentDevName(device.into()),
            ];
            link(2, attributes)
        };
        let sys = sys();
        let seen = detail(&on("virtio1"), &[], sys.path());
        let expected = LinkDetail {
            carrier: true,
            adapter: "virtio_net".into(),
            pci_id: "0000:00:03.0".into(),
            ..LinkDetail::default()
        };
        assert_eq!(seen, expected);
        let gone = detail(&on("virtio9"), &[], sys.path());
        assert_eq!((gone.adapter.as_str(), gone.pci_id.as_str()), ("", ""));
    }

    #[test]
    fn a_bundle_names_its_members_and_a_vlan_its_number() {
        let bond = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bond)]);
        let vlan = LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(7)])),
        ]);
        let all = [
            link(2, vec![name("bond0"), bond]),
            link(3, vec![name("eth0"), LinkAttribute::Controller(2)]),
            link(4, vec![name("eth1"), LinkAttribute::Controller(9)]),
            link(5, vec![name("eth1.7"), vlan]),
        ];
        let sys = sys();
        let seen = |at: usize| detail(&all[at], &all, sys.path());
        let bond = seen(0);
        assert_eq!(
            (bond.adapter.as_str(), bond.members),
            ("bond", vec!["eth0".to_owned()])
        );
        let vlan = seen(3);
        assert_eq!((vlan.adapter.as_str(), vlan.vlan_id), ("vlan", 7));
        assert!(!vlan.carrier && vlan.members.is_empty());
    }

    #[test]
    fn a_pci_address_is_told_from_other_devices() {
        assert!(is_pci_id("0000:3b:00.1"));
        for other in ["pci0000:00", "virtio1", "0000:00:03", "0000:00:03.00", ""] {
            assert!(!is_pci_id(other), "{other}");
        }
    }
}

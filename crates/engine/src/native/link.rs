//! The interfaces that VIPs are on the link of, and their packet sockets.

use crate::Task;
use dataplane::packet::{Frames, PacketSocket};
use flow::neighbour::{self, Mac, Said, mac};
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use proto::v1::Interface;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Longer than any frame that is read: Ethernet, IPv6, and a solicitation with some options.
const FRAME_MAX: usize = 256;

/// A frame that came in.
#[derive(Debug)]
pub(super) struct Heard {
    pub ifindex: u32,
    pub said: Vec<Said>,
}

/// An interface in whose subnet a VIP is.
#[derive(Debug)]
pub(super) struct Link {
    name: String,
    pub ifindex: u32,
    pub mac: Mac,
    sockets: BTreeMap<bool, Open>,
}

/// By family: the socket, and the task that reads it.
#[derive(Debug)]
struct Open {
    socket: Arc<PacketSocket>,
    _reader: Task<()>,
    /// Has joined the groups where solicitations for the VIPs come.
    _member: Option<UdpSocket>,
}

impl Link {
    /// What cannot be sent is lost, as on a link that is down.
    pub fn send(&self, vip: IpAddr, frame: &[u8]) {
        let Some(open) = self.sockets.get(&vip.is_ipv4()) else {
            return;
        };
        if let Err(error) = open.socket.send(frame) {
            tracing::debug!(%vip, interface = self.name, "not sent: {error}");
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Links {
    heard: mpsc::Sender<Heard>,
    links: Vec<Link>,
    /// By VIP: the index of its link.
    places: BTreeMap<IpAddr, usize>,
    before: (Vec<Interface>, Vec<IpAddr>),
}

impl Links {
    pub fn new(heard: mpsc::Sender<Heard>) -> Self {
        Self {
            heard,
            links: Vec::new(),
            places: BTreeMap::new(),
            before: (Vec::new(), Vec::new()),
        }
    }

    /// The link that the VIP is on.
    pub fn of(&self, vip: IpAddr) -> Option<&Link> {
        self.links.get(*self.places.get(&vip)?)
    }

    /// From now on these; what is new is opened, what has gone is closed.
    pub fn follow(&mut self, interfaces: &[Interface], vips: &[IpAddr]) {
        if self.before.0 == interfaces && self.before.1 == vips {
            return;
        }
        self.before = (interfaces.to_vec(), vips.to_vec());
        let mut old = std::mem::take(&mut self.links);
        self.places.clear();
        for interface in interfaces {
            let here: Vec<IpAddr> = vips
                .iter()
                .copied()
                .filter(|v| is_on(interface, *v))
                .collect();
            let new: Vec<IpAddr> = here
                .into_iter()
                .filter(|v| !self.places.contains_key(v))
                .collect();
            if new.is_empty() {
                continue;
            }
            let index = self.links.len();
            let known = old.iter().position(|link| link.is(interface));
            let mut link = known
                .map(|at| old.swap_remove(at))
                .or_else(|| link(interface));
            if let Some(mut link) = link.take() {
                link.open(&new, &self.heard);
                self.links.push(link);
                self.places.extend(new.into_iter().map(|vip| (vip, index)));
            }
        }
    }
}

/// The VIP is in a subnet of the interface.
fn is_on(interface: &Interface, vip: IpAddr) -> bool {
    let nets = interface
        .addresses
        .iter()
        .filter_map(|a| a.parse::<IpNet>().ok());
    interface.up && nets.into_iter().any(|net| net.contains(&vip))
}

fn link(interface: &Interface) -> Option<Link> {
    Some(Link {
        name: interface.name.clone(),
        ifindex: if_nametoindex(interface.name.as_str()).ok()?,
        mac: mac(&interface.mac)?,
        sockets: BTreeMap::new(),
    })
}

impl Link {
    fn is(&self, interface: &Interface) -> bool {
        let index = if_nametoindex(interface.name.as_str());
        self.name == interface.name
            && index == Ok(self.ifindex)
            && mac(&interface.mac) == Some(self.mac)
    }

    /// A socket for each family of these VIPs.
    fn open(&mut self, vips: &[IpAddr], heard: &mpsc::Sender<Heard>) {
        let families: BTreeSet<bool> = vips.iter().map(IpAddr::is_ipv4).collect();
        self.sockets.retain(|family, _| families.contains(family));
        for family in families {
            let member = (!family).then(|| member(self.ifindex, vips)).flatten();
            if let Some(open) = self.sockets.get_mut(&family) {
                open._member = member;
                continue;
            }
            match open(self.ifindex, family, heard) {
                Ok((socket, reader)) => {
                    let open = Open {
                        socket,
                        _reader: reader,
                        _member: member,
                    };
                    self.sockets.insert(family, open);
                }
                Err(error) => tracing::error!(
                    interface = self.name,
                    "cannot answer for VIPs here: {error}; this needs CAP_NET_RAW"
                ),
            }
        }
    }
}

fn open(
    ifindex: u32,
    is_ipv4: bool,
    heard: &mpsc::Sender<Heard>,
) -> io::Result<(Arc<PacketSocket>, Task<()>)> {
    let frames = match is_ipv4 {
        true => Frames::Arp,
        false => Frames::NeighbourDiscovery,
    };
    let socket = Arc::new(PacketSocket::open(ifindex, frames)?);
    let reader = read(ifindex, Arc::clone(&socket), heard.clone());
    Ok((socket, Task(tokio::spawn(reader))))
}

/// Solicitations come to multicast groups, which switches bring only to whoever has joined. What cannot be joined is heard
/// where the link brings everything.
fn member(ifindex: u32, vips: &[IpAddr]) -> Option<UdpSocket> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).ok()?;
    for vip in vips {
        let IpAddr::V6(vip) = vip else { continue };
        let group = neighbour::solicited_node(*vip);
        if let Err(error) = socket.join_multicast_v6(&group, ifindex) {
            tracing::debug!(%group, "not joined: {error}");
        }
    }
    Some(socket)
}

/// After an interface went down, which may last.
const RETRY: Duration = Duration::from_millis(100);

/// Until nobody listens.
async fn read(ifindex: u32, socket: Arc<PacketSocket>, heard: mpsc::Sender<Heard>) {
    let mut buffer = [0; FRAME_MAX];
    loop {
        let Ok(len) = socket.receive(&mut buffer).await else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let said = neighbour::read(&buffer[..len]);
        if !said.is_empty() && heard.send(Heard { ifindex, said }).await.is_err() {
            return;
        }
    }
}

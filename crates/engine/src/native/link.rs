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
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Longer than any frame that is read: Ethernet, IPv6, and a solicitation with some options.
const FRAME_MAX: usize = 256;

/// After a socket could not be opened.
const AGAIN: Duration = Duration::from_secs(1);

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
    #[expect(dead_code, reason = "it ends with this")]
    reader: Task<()>,
    /// Has joined the groups where solicitations for the VIPs come.
    #[expect(dead_code, reason = "it leaves them with this")]
    groups: Option<UdpSocket>,
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
    /// A socket could not be opened: tried again then.
    retry: Option<Instant>,
}

impl Links {
    pub fn new(heard: mpsc::Sender<Heard>) -> Self {
        Self {
            heard,
            links: Vec::new(),
            places: BTreeMap::new(),
            before: (Vec::new(), Vec::new()),
            retry: None,
        }
    }

    /// The link that the VIP is on.
    pub fn of(&self, vip: IpAddr) -> Option<&Link> {
        self.links.get(*self.places.get(&vip)?)
    }

    /// There is a socket for it.
    pub fn speak(&self, vip: IpAddr) -> bool {
        let link = self.of(vip);
        link.is_some_and(|link| link.sockets.contains_key(&vip.is_ipv4()))
    }

    /// From now on these; what is new is opened, what has gone is closed.
    pub fn follow(&mut self, interfaces: &[Interface], vips: &[IpAddr]) {
        let same = self.before.0 == interfaces && self.before.1 == vips;
        if same && self.retry.is_none_or(|at| Instant::now() < at) {
            return;
        }
        let told = same;
        self.before = (interfaces.to_vec(), vips.to_vec());
        self.retry = None;
        let mut old = std::mem::take(&mut self.links);
        self.places.clear();
        for interface in interfaces {
            let here = vips.iter().filter(|v| is_on(interface, **v));
            let new = here.filter(|v| !self.places.contains_key(*v)).copied();
            let new: Vec<IpAddr> = new.collect();
            if !new.is_empty() {
                self.place(interface, &new, (&mut old, told));
            }
        }
    }

    /// These VIPs are on the link of this interface, which may be one of the old. `told`: what fails was said.
    fn place(
        &mut self,
        interface: &Interface,
        vips: &[IpAddr],
        (old, told): (&mut Vec<Link>, bool),
    ) {
        let known = old.iter().position(|link| link.is(interface));
        let link = known.map(|at| old.swap_remove(at));
        let Some(mut link) = link.or_else(|| Link::new(interface)) else {
            self.retry = Some(Instant::now() + AGAIN);
            return;
        };
        if let Err(error) = link.open(vips, &self.heard) {
            self.retry = Some(Instant::now() + AGAIN);
            if !told {
                let interface = &interface.name;
                tracing::error!(
                    interface,
                    "cannot answer for VIPs here: {error}; this needs CAP_NET_RAW"
                );
            }
        }
        self.places
            .extend(vips.iter().map(|vip| (*vip, self.links.len())));
        self.links.push(link);
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

impl Link {
    fn new(interface: &Interface) -> Option<Self> {
        Some(Self {
            name: interface.name.clone(),
            ifindex: if_nametoindex(interface.name.as_str()).ok()?,
            mac: mac(&interface.mac)?,
            sockets: BTreeMap::new(),
        })
    }

    fn is(&self, interface: &Interface) -> bool {
        let index = if_nametoindex(interface.name.as_str());
        self.name == interface.name
            && index == Ok(self.ifindex)
            && mac(&interface.mac) == Some(self.mac)
    }

    /// A socket for each family of these VIPs.
    fn open(&mut self, vips: &[IpAddr], heard: &mpsc::Sender<Heard>) -> io::Result<()> {
        let families: BTreeSet<bool> = vips.iter().map(IpAddr::is_ipv4).collect();
        self.sockets.retain(|family, _| families.contains(family));
        for family in families {
            let groups = (!family).then(|| joined(self.ifindex, vips)).flatten();
            let open = match self.sockets.remove(&family) {
                Some(open) => Open { groups, ..open },
                None => Open::new(self.ifindex, family, (heard, groups))?,
            };
            self.sockets.insert(family, open);
        }
        Ok(())
    }
}

impl Open {
    fn new(
        ifindex: u32,
        is_ipv4: bool,
        (heard, groups): (&mpsc::Sender<Heard>, Option<UdpSocket>),
    ) -> io::Result<Self> {
        let frames = match is_ipv4 {
            true => Frames::Arp,
            false => Frames::NeighbourDiscovery,
        };
        let socket = Arc::new(PacketSocket::open(ifindex, frames)?);
        let reader = read(ifindex, Arc::clone(&socket), heard.clone());
        Ok(Self {
            socket,
            reader: Task(tokio::spawn(reader)),
            groups,
        })
    }
}

/// Solicitations come to multicast groups, which switches bring only to whoever has joined. What cannot be joined is heard
/// where the link brings everything.
fn joined(ifindex: u32, vips: &[IpAddr]) -> Option<UdpSocket> {
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

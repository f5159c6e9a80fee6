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

/// Frames that are read at once at most.
const UNREAD_MAX: usize = 256;

/// After a socket could not be opened.
const AGAIN: Duration = Duration::from_secs(1);

/// A frame that came in.
#[derive(Debug)]
pub(super) struct Heard {
    pub ifindex: u32,
    /// When it was read.
    pub at: Instant,
    pub said: Vec<Said>,
}

/// A VIP that is to be answered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sought {
    pub vip: IpAddr,
    /// On each interface, instead of on the first one whose subnet it is in.
    pub everywhere: bool,
}

/// An interface where VIPs are answered for.
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

impl Link {
    /// What has come for VIPs of this family and was not read yet.
    fn unread(&self, is_ipv4: bool) -> Vec<Heard> {
        let Some(open) = self.sockets.get(&is_ipv4) else {
            return Vec::new();
        };
        let mut buffer = [0; FRAME_MAX];
        let next = || {
            let (len, at) = open.socket.received(&mut buffer).ok()?;
            let (ifindex, said) = (self.ifindex, neighbour::read(&buffer[..len]));
            Some(Heard { ifindex, at, said })
        };
        std::iter::from_fn(next).take(UNREAD_MAX).collect()
    }
}

/// By VIP: the indices of its links.
type Places = BTreeMap<IpAddr, Vec<usize>>;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Links {
    heard: mpsc::Sender<Heard>,
    links: Vec<Link>,
    places: Places,
    before: (Vec<Interface>, Vec<Sought>),
    /// A socket could not be opened: tried again then.
    retry: Option<Instant>,
}

impl Links {
    pub fn new(heard: mpsc::Sender<Heard>) -> Self {
        Self {
            heard,
            links: Vec::new(),
            places: Places::new(),
            before: (Vec::new(), Vec::new()),
            retry: None,
        }
    }

    /// The links that the VIP is on.
    pub fn of(&self, vip: IpAddr) -> impl Iterator<Item = &Link> {
        let places = self.places.get(&vip).into_iter().flatten();
        places.filter_map(move |at| self.links.get(*at))
    }

    /// The VIP's link where this was heard of it; none where we have said it ourselves, perhaps on another one of its links.
    pub fn of_stranger(&self, vip: IpAddr, (ifindex, mac): (u32, Mac)) -> Option<&Link> {
        let is_ours = self.of(vip).any(|link| link.mac == mac);
        let mut links = self.of(vip).filter(|_| !is_ours);
        links.find(|link| link.ifindex == ifindex)
    }

    /// What has come on the VIP's links and was not read yet.
    pub fn unread(&self, vip: IpAddr) -> Vec<Heard> {
        let links = self.of(vip);
        links.flat_map(|link| link.unread(vip.is_ipv4())).collect()
    }

    /// There is a socket for it.
    pub fn speak(&self, vip: IpAddr) -> bool {
        let mut links = self.of(vip);
        links.any(|link| link.sockets.contains_key(&vip.is_ipv4()))
    }

    /// From now on these; what is new is opened, what has gone is closed.
    pub fn follow(&mut self, interfaces: &[Interface], vips: &[Sought]) {
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
            let here = here(interface, vips, &self.places);
            if !here.is_empty() {
                self.place(interface, &here, (&mut old, told));
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
        for vip in vips {
            self.places.entry(*vip).or_default().push(self.links.len());
        }
        self.links.push(link);
    }
}

/// Those of the VIPs that are answered for at this interface, when these have their places already. One that is down, or has no
/// address, is no way to anybody.
fn here(interface: &Interface, vips: &[Sought], places: &Places) -> Vec<IpAddr> {
    let addresses = interface.addresses.iter().filter(|_| interface.up);
    let nets: Vec<IpNet> = addresses.filter_map(|a| a.parse().ok()).collect();
    let is_on = |sought: &&Sought| match sought.everywhere {
        true => !nets.is_empty() && mac(&interface.mac).is_some(),
        false => {
            let is_new = !places.contains_key(&sought.vip);
            is_new && nets.iter().any(|net| net.contains(&sought.vip))
        }
    };
    vips.iter().filter(is_on).map(|s| s.vip).collect()
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
        let Ok((len, at)) = socket.receive(&mut buffer).await else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let said = neighbour::read(&buffer[..len]);
        if !said.is_empty() && heard.send(Heard { ifindex, at, said }).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        Interface {
            name: name.into(),
            up: true,
            mac: "02:00:00:00:00:01".into(),
            addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
            ..Interface::default()
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("ip")
    }

    /// The first is in the subnet of two interfaces, the second in that of one, the third in none; by interface, those that are
    /// answered for there.
    fn places(interfaces: &[Interface], everywhere: bool) -> Vec<Vec<IpAddr>> {
        let vips = ["10.10.10.100", "10.9.9.100", "10.100.0.1"].map(|vip| Sought {
            vip: ip(vip),
            everywhere,
        });
        let mut places = Places::new();
        let each = interfaces.iter().enumerate().map(|(at, interface)| {
            let here = here(interface, &vips, &places);
            for vip in &here {
                places.entry(*vip).or_default().push(at);
            }
            here
        });
        each.collect()
    }

    fn interfaces() -> [Interface; 4] {
        let mut all = [
            interface("eth0", &["10.10.10.11/24", "fd00::11/64"]),
            interface("eth1", &["10.9.9.11/24", "10.10.10.12/24"]),
            interface("eth2", &[]),
            interface("eth3", &["10.9.9.12/24"]),
        ];
        all[3].up = false;
        all
    }

    #[test]
    fn a_vip_is_answered_for_on_the_first_interface_whose_subnet_it_is_in() {
        let none = Vec::new();
        let [first, second] = ["10.10.10.100", "10.9.9.100"].map(|vip| vec![ip(vip)]);
        let expected = [first, second, none.clone(), none];
        assert_eq!(places(&interfaces(), false), expected);
    }

    #[test]
    fn or_on_each_one_that_is_up_and_has_an_address_whatever_its_subnet() {
        let none = Vec::new();
        let all = ["10.10.10.100", "10.9.9.100", "10.100.0.1"];
        let all = all.map(ip).to_vec();
        let expected = [all.clone(), all, none.clone(), none];
        assert_eq!(places(&interfaces(), true), expected);
        let mut tunnel = interface("tun0", &["10.10.10.13/24"]);
        tunnel.mac.clear();
        let nowhere: [Vec<IpAddr>; 1] = [Vec::new()];
        assert_eq!(places(&[tunnel], true), nowhere, "it has no ARP");
    }

    /// Two links of ours without sockets, and a VIP on both.
    fn on_two_links(vip: IpAddr) -> Links {
        let link = |ifindex: u32| Link {
            name: format!("eth{ifindex}"),
            ifindex,
            mac: [2, 0, 0, 0, 0, u8::try_from(ifindex).expect("small")],
            sockets: BTreeMap::new(),
        };
        let mut links = Links::new(mpsc::channel(1).0);
        links.links = vec![link(1), link(2)];
        links.places.insert(vip, vec![0, 1]);
        links
    }

    #[test]
    fn what_is_heard_counts_on_each_link_of_the_vip_unless_we_have_said_it_on_another() {
        let vip = ip("10.100.0.1");
        let links = on_two_links(vip);
        let heard = |vip, ifindex, last| {
            let link = links.of_stranger(vip, (ifindex, [2, 0, 0, 0, 0, last]));
            link.map(|link| link.ifindex)
        };
        let strange = [1, 2, 3].map(|at| heard(vip, at, 9));
        assert_eq!(strange, [Some(1), Some(2), None]);
        assert_eq!([1, 2].map(|ours| heard(vip, 1, ours)), [None, None]);
        assert_eq!(heard(ip("10.100.0.2"), 1, 9), None);
        assert!(!links.speak(vip), "there is no socket");
    }
}

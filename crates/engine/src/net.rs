//! Interfaces and addresses of the host, over netlink.
//!
//! VIPs live on `lo` as host addresses of scope host, so that the kernel never chooses one as the source of our own
//! connections, and carry our own protocol number (IFA_PROTO, Linux 5.18), so that a restarted engine finds its own and
//! touches no one else's. IPv6 knows no scope host: there a VIP is deprecated (RFC 6724, rule 3), with the same effect.
//!
//! Tasks: the netlink driver and the watcher, both started by [`Net::open`]; they end with the runtime or, the watcher,
//! when the last `Arc<Net>` is gone. Neither holds state of its own.

use crate::args::InterfaceFilter;
use crate::link;
use anyhow::Context as _;
use futures_util::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _};
use proto::v1::Interface;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, State};
use rtnetlink::{Handle, MulticastGroup};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Mutex, watch};

/// IFA_PROTO of the VIPs: "E". Numbers above 3 are free for routing daemons (if_addr.h).
const OUR_PROTOCOL: AddressProtocol = AddressProtocol::Other(b'E');
/// `lo` has this index in every network namespace.
const LOOPBACK_INDEX: u32 = 1;
/// Netlink drops notices when its buffer is full, so the host is read again at least this often.
const REFRESH_PERIOD: Duration = Duration::from_secs(30);
/// How soon the host is read again when that failed: a change of an interface must not wait for the period.
const REFRESH_RETRY: Duration = Duration::from_millis(100);

/// The host's network, watched and changed over one netlink connection.
pub(crate) struct Net {
    handle: Handle,
    filter: InterfaceFilter,
    interfaces: watch::Sender<Vec<Interface>>,
    vips: watch::Sender<BTreeSet<IpAddr>>,
    /// Held while the kernel lists something: it answers EBUSY to a second list on the same socket
    /// (`__netlink_dump_start`).
    listing: Mutex<()>,
}

impl Net {
    /// Opens netlink and reads the host.
    pub(crate) async fn open(filter: InterfaceFilter) -> anyhow::Result<Arc<Self>> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, handle, notices) =
            rtnetlink::new_multicast_connection(&groups).context("cannot open netlink")?;
        tokio::spawn(connection);
        let net = Arc::new(Self {
            handle,
            filter,
            interfaces: watch::Sender::new(Vec::new()),
            vips: watch::Sender::new(BTreeSet::new()),
            listing: Mutex::new(()),
        });
        net.refresh().await?;
        tokio::spawn(watch_host(Arc::downgrade(&net), notices));
        Ok(net)
    }

    /// The data interfaces, as of now and whenever they change; never with a VIP.
    pub(crate) fn interfaces(&self) -> watch::Receiver<Vec<Interface>> {
        self.interfaces.subscribe()
    }

    /// Our VIPs that stand on `lo`, as of now and whenever they change, by us or by somebody else.
    pub(crate) fn vips(&self) -> watch::Receiver<BTreeSet<IpAddr>> {
        self.vips.subscribe()
    }

    async fn refresh(&self) -> anyhow::Result<()> {
        let listing = self.listing.lock().await;
        let links: Vec<LinkMessage> = self.handle.link().get().execute().try_collect().await?;
        let addresses: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await?;
        drop(listing);
        let is_data = |link: &&LinkMessage| self.filter.is_data(&interface(link).name);
        let named = links.iter().filter(is_data);
        let mut data: BTreeMap<u32, Interface> = named
            .map(|l| (l.header.index, link::described(l, &links)))
            .collect();
        for address in &addresses {
            let text = usable(address);
            if let (Some(interface), Some(text)) = (data.get_mut(&address.header.index), text) {
                interface.addresses.push(text);
            }
        }
        let ours = addresses.iter().filter(|m| is_vip(m));
        publish(&self.vips, ours.filter_map(address_of).collect());
        publish(&self.interfaces, data.into_values().collect());
        Ok(())
    }

    /// Puts those of the VIPs on `lo` that are not there; says which could not be put.
    pub(crate) async fn put_vips(&self, wanted: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, String> {
        let present = match self.standing().await {
            Ok(present) => present,
            Err(error) => return wanted.iter().map(|v| (*v, format!("{error:#}"))).collect(),
        };
        let mut failed = BTreeMap::new();
        for address in wanted.iter().filter(|a| !present.contains_key(*a)) {
            match self.add(*address).await {
                Ok(()) => tracing::info!(vip = %address, "VIP put on lo"),
                Err(error) => drop(failed.insert(*address, explain(&error))),
            }
        }
        failed
    }

    /// Takes all of our VIPs off `lo` but these, also those of an engine that was killed.
    pub(crate) async fn remove_vips_except(&self, kept: &BTreeSet<IpAddr>) {
        let present = match self.standing().await {
            Ok(present) => present,
            Err(error) => return tracing::error!(%error, "cannot read the addresses of lo"),
        };
        for (address, message) in present.into_iter().filter(|(a, _)| !kept.contains(a)) {
            match self.handle.address().del(message).execute().await {
                Ok(()) => tracing::info!(vip = %address, "VIP taken off lo"),
                Err(error) => {
                    let error = explain(&error);
                    tracing::error!(vip = %address, error, "cannot take the VIP off lo");
                }
            }
        }
    }

    /// Our VIPs on `lo`, as the kernel describes them.
    async fn standing(&self) -> anyhow::Result<BTreeMap<IpAddr, AddressMessage>> {
        let _listing = self.listing.lock().await;
        let request = self.handle.address().get();
        let all: Vec<AddressMessage> = request.execute().try_collect().await?;
        let ours = all.into_iter().filter(is_vip);
        Ok(ours.filter_map(|m| Some((address_of(&m)?, m))).collect())
    }

    async fn add(&self, address: IpAddr) -> Result<(), rtnetlink::Error> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(LOOPBACK_INDEX, address, length);
        let message = request.message_mut();
        message.header.scope = AddressScope::Host;
        message
            .attributes
            .push(AddressAttribute::Protocol(OUR_PROTOCOL));
        if address.is_ipv6() {
            message.attributes.push(deprecated());
        }
        request.execute().await
    }
}

/// Reads the host at every notice, and on a period.
async fn watch_host(net: Weak<Net>, mut notices: impl Stream + Unpin) {
    let mut period = REFRESH_PERIOD;
    // Either wait may be given up at any time: what it would have said is read from the host.
    while !matches!(tokio::time::timeout(period, notices.next()).await, Ok(None)) {
        // A burst of messages is one change.
        while let Some(Some(_)) = notices.next().now_or_never() {}
        let Some(read) = refresh(&net).await else {
            return;
        };
        period = if read { REFRESH_PERIOD } else { REFRESH_RETRY };
    }
    tracing::error!("netlink is closed: changes of interfaces are not seen any more");
}

/// Whether the host could be read; nothing when its network is not wanted any more.
async fn refresh(net: &Weak<Net>) -> Option<bool> {
    let result = net.upgrade()?.refresh().await;
    if let Err(error) = &result {
        tracing::warn!(
            error = format!("{error:#}"),
            "cannot read the interfaces; tried again"
        );
    }
    Some(result.is_ok())
}

fn publish<T: PartialEq>(to: &watch::Sender<T>, new: T) {
    to.send_if_modified(|old| {
        let changed = *old != new;
        *old = new;
        changed
    });
}

fn is_vip(message: &AddressMessage) -> bool {
    let ours = AddressAttribute::Protocol(OUR_PROTOCOL);
    message.header.index == LOOPBACK_INDEX && message.attributes.contains(&ours)
}

/// Valid for ever, preferred never.
fn deprecated() -> AddressAttribute {
    let mut info = CacheInfo::default();
    info.ifa_valid = u32::MAX;
    AddressAttribute::CacheInfo(info)
}

/// What the kernel's answer means for an operator.
fn explain(error: &rtnetlink::Error) -> String {
    const EPERM: i32 = 1;
    const EEXIST: i32 = 17;
    let code = match error {
        rtnetlink::Error::NetlinkError(message) => -message.raw_code(),
        _ => 0,
    };
    match code {
        EPERM => "needs CAP_NET_ADMIN to put VIPs on lo: run the engine as root or give it the capability".into(),
        EEXIST => "the address is on lo already and was not put there by an engine: remove it, then the engine takes over".into(),
        _ => error.to_string(),
    }
}

/// Name, MAC, MTU and state of a link.
pub(crate) fn interface(link: &LinkMessage) -> Interface {
    let mut found = Interface {
        up: link.header.flags.contains(LinkFlags::Up),
        ..Interface::default()
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
            LinkAttribute::Address(mac) => found.mac = self::mac(mac),
            LinkAttribute::OperState(state) => {
                found.up &= !matches!(
                    state,
                    State::Down | State::LowerLayerDown | State::NotPresent
                )
            }
            _ => {}
        }
    }
    found
}

/// `02:00:00:00:00:01`.
pub(crate) fn mac(bytes: &[u8]) -> String {
    let each = bytes.iter().map(|b| format!("{b:02x}"));
    each.collect::<Vec<_>>().join(":")
}

pub(crate) fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Local(ip) if local => Some(*ip),
            AddressAttribute::Address(ip) if !local => Some(*ip),
            _ => None,
        })
    };
    find(true).or_else(|| find(false))
}

/// `10.10.10.11/24`; link-local addresses and those of narrower scope are no next hops.
pub(crate) fn usable(message: &AddressMessage) -> Option<String> {
    let address = address_of(message)?;
    let universe = matches!(
        message.header.scope,
        AddressScope::Universe | AddressScope::Site
    );
    // One that duplicate address detection has not passed cannot be bound to yet (RFC 4862 section 5.4).
    let tentative = AddressFlags::Tentative | AddressFlags::Dadfailed;
    let usable = universe && !flags(message).intersects(tentative);
    usable.then(|| format!("{address}/{}", message.header.prefix_len))
}

fn flags(message: &AddressMessage) -> AddressFlags {
    let find = |a: &AddressAttribute| match a {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    };
    let found = message.attributes.iter().find_map(find);
    found.unwrap_or_else(AddressFlags::empty)
}

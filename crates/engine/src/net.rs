//! Interfaces and addresses of the host, over netlink.
//!
//! VIPs live on `lo` as host addresses of scope host, so that the kernel never chooses one as the source of our own
//! connections, and carry our own protocol number, so that a restarted engine finds its own and no one else's.

use crate::args::InterfaceFilter;
use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _};
use proto::v1::Interface;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressMessage, AddressProtocol, AddressScope,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, State};
use rtnetlink::{Handle, MulticastGroup};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use tokio::sync::watch;

/// IFA_PROTO of the VIPs: "E". Numbers above 3 are free for routing daemons (if_addr.h).
const OUR_PROTOCOL: AddressProtocol = AddressProtocol::Other(b'E');
/// `lo` has this index in every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// The host's network, watched and changed over one netlink connection.
pub(crate) struct Net {
    handle: Handle,
    filter: InterfaceFilter,
    interfaces: watch::Sender<Vec<Interface>>,
}

impl Net {
    /// Opens netlink; the task that drives it ends with the runtime.
    pub(crate) async fn open(filter: InterfaceFilter) -> anyhow::Result<std::sync::Arc<Self>> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, handle, mut messages) =
            rtnetlink::new_multicast_connection(&groups).context("cannot open netlink")?;
        tokio::spawn(connection);
        let net = std::sync::Arc::new(Self {
            handle,
            filter,
            interfaces: watch::Sender::new(Vec::new()),
        });
        net.refresh().await?;
        let watcher = std::sync::Arc::downgrade(&net);
        tokio::spawn(async move {
            while messages.next().await.is_some() {
                // A burst of messages is one change.
                while messages.try_recv().is_ok() {}
                let Some(net) = watcher.upgrade() else { return };
                if let Err(error) = net.refresh().await {
                    tracing::warn!(error = format!("{error:#}"), "cannot read the interfaces");
                }
            }
        });
        Ok(net)
    }

    /// The data interfaces, as of now and whenever they change.
    pub(crate) fn interfaces(&self) -> watch::Receiver<Vec<Interface>> {
        self.interfaces.subscribe()
    }

    async fn refresh(&self) -> anyhow::Result<()> {
        let links: Vec<LinkMessage> = self.handle.link().get().execute().try_collect().await?;
        let addresses: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await?;
        let mut by_index: BTreeMap<u32, Interface> = BTreeMap::new();
        for link in &links {
            let interface = interface(link);
            if self.filter.is_data(&interface.name) {
                by_index.insert(link.header.index, interface);
            }
        }
        for address in &addresses {
            let text = usable(address);
            if let (Some(interface), Some(text)) = (by_index.get_mut(&address.header.index), text) {
                interface.addresses.push(text);
            }
        }
        let found: Vec<Interface> = by_index.into_values().collect();
        self.interfaces.send_if_modified(|old| {
            let changed = *old != found;
            *old = found;
            changed
        });
        Ok(())
    }

    /// Makes exactly these VIPs stand on `lo`; says which could not be put there.
    pub(crate) async fn set_vips(&self, wanted: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, String> {
        let mut failed = BTreeMap::new();
        let present = match self.vips().await {
            Ok(present) => present,
            Err(error) => return wanted.iter().map(|v| (*v, format!("{error:#}"))).collect(),
        };
        for (address, message) in &present {
            if !wanted.contains(address) {
                let removed = self.handle.address().del(message.clone()).execute().await;
                log_failure(removed, *address, "cannot take the VIP off lo");
            }
        }
        for address in wanted.iter().filter(|a| !present.contains_key(*a)) {
            if let Err(error) = self.add(*address).await {
                tracing::error!(vip = %address, %error, "cannot put the VIP on lo; the engine needs CAP_NET_ADMIN");
                failed.insert(*address, error.to_string());
            }
        }
        failed
    }

    /// The VIPs on `lo` that are ours.
    async fn vips(&self) -> anyhow::Result<BTreeMap<IpAddr, AddressMessage>> {
        let request = self
            .handle
            .address()
            .get()
            .set_link_index_filter(LOOPBACK_INDEX);
        let all: Vec<AddressMessage> = request.execute().try_collect().await?;
        let ours = |m: &AddressMessage| {
            m.attributes
                .contains(&AddressAttribute::Protocol(OUR_PROTOCOL))
        };
        Ok(all
            .into_iter()
            .filter(ours)
            .filter_map(|m| Some((address_of(&m)?, m)))
            .collect())
    }

    async fn add(&self, address: IpAddr) -> Result<(), rtnetlink::Error> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(LOOPBACK_INDEX, address, length);
        let message = request.message_mut();
        message.header.scope = AddressScope::Host;
        message
            .attributes
            .push(AddressAttribute::Protocol(OUR_PROTOCOL));
        request.replace().execute().await
    }
}

fn log_failure(result: Result<(), rtnetlink::Error>, vip: IpAddr, what: &str) {
    if let Err(error) = result {
        tracing::error!(%vip, %error, what);
    }
}

fn interface(link: &LinkMessage) -> Interface {
    let mut found = Interface {
        up: link.header.flags.contains(LinkFlags::Up),
        ..Interface::default()
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
            LinkAttribute::Address(mac) => {
                found.mac = mac
                    .iter()
                    .map(|b| format!("{b:02x}"))
                    .collect::<Vec<_>>()
                    .join(":")
            }
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

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
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
fn usable(message: &AddressMessage) -> Option<String> {
    let address = address_of(message)?;
    let universe = matches!(
        message.header.scope,
        AddressScope::Universe | AddressScope::Site
    );
    universe.then(|| format!("{address}/{}", message.header.prefix_len))
}

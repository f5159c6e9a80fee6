//! Routes of ours in the kernel's main table, marked with a protocol number of our own by where they come from.
//!
//! One task per origin; when who spawned it lets go of it, it takes its routes away and ends. It makes the kernel hold
//! exactly the routes it was last told, also those that an engine that was killed has left. It touches nothing that is
//! not marked. A route of ours has a metric, so that a route of the operator's (metric 0) stays in force.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, RouteMessageBuilder, RouteNextHopBuilder};
use tokio::sync::watch;
use tracing::{error, info};

/// Where routes come from: their marks in the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    /// For the log.
    name: &'static str,
    /// RTPROT; not used by any routing daemon (rtnetlink.h).
    protocol: u8,
    metric: u32,
}

impl Origin {
    /// From routers: "E", as for our addresses, and the metric of other BGP daemons on Linux.
    pub(crate) const LEARNED: Self = Self {
        name: "learned",
        protocol: b'E',
        metric: 20,
    };
    /// From the VRF context: before learned ones.
    pub(crate) const STATIC: Self = Self {
        name: "static",
        protocol: b'S',
        metric: 10,
    };

    fn protocol(self) -> RouteProtocol {
        RouteProtocol::Other(self.protocol)
    }
}

/// Next hops by destination; several are used together (ECMP).
pub(crate) type Routes = BTreeMap<IpNet, BTreeSet<IpAddr>>;

/// After a failure; the next hop may have become reachable.
const RETRY: Duration = Duration::from_secs(5);

/// By destination, why it is not in the kernel; those that are, are not named.
pub(crate) type Failures = BTreeMap<IpNet, String>;

/// Runs until `wanted` is closed.
pub(crate) async fn run(
    origin: Origin,
    mut wanted: watch::Receiver<Routes>,
    failures: watch::Sender<Failures>,
) {
    let handle = match rtnetlink::new_connection() {
        Ok((connection, handle, _)) => {
            tokio::spawn(connection);
            handle
        }
        Err(error) => {
            return error!(%error, origin = origin.name, "cannot open netlink: routes are not installed");
        }
    };
    let mut installed = Routes::new();
    let kernel = Kernel { handle, origin };
    kernel.remove_all().await;
    loop {
        let routes = wanted.borrow_and_update().clone();
        let failed = kernel.reconcile(&mut installed, &routes).await;
        let again = !failed.is_empty();
        failures.send_replace(failed);
        // Losing the race loses nothing: the newest value is read again.
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() {
                kernel.reconcile(&mut installed, &Routes::new()).await;
                return;
            },
            () = tokio::time::sleep(RETRY), if again => {}
        }
    }
}

/// The kernel's table, as far as it is of one origin.
struct Kernel {
    handle: Handle,
    origin: Origin,
}

impl Kernel {
    async fn reconcile(&self, installed: &mut Routes, wanted: &Routes) -> Failures {
        let gone: Vec<IpNet> = installed
            .keys()
            .filter(|p| !wanted.contains_key(p))
            .copied()
            .collect();
        for prefix in gone {
            self.remove(prefix).await;
            installed.remove(&prefix);
        }
        let mut failures = Failures::new();
        for (prefix, next_hops) in wanted {
            if installed.get(prefix) == Some(next_hops) {
                continue;
            }
            match self.put(*prefix, next_hops).await {
                Ok(()) => {
                    info!(%prefix, ?next_hops, origin = self.origin.name, "route installed");
                    installed.insert(*prefix, next_hops.clone());
                }
                Err(error) => {
                    failures.insert(*prefix, error);
                }
            }
        }
        failures
    }

    async fn put(&self, prefix: IpNet, next_hops: &BTreeSet<IpAddr>) -> Result<(), String> {
        let family = family(prefix.addr());
        let hops: Result<Vec<_>, String> = next_hops
            .iter()
            .map(|hop| RouteNextHopBuilder::new(family).via(*hop))
            .map(|hop| hop.map(|hop| hop.build()).map_err(|e| e.to_string()))
            .collect();
        let message = self.destination(prefix)?.multipath(hops?).build();
        let result = self.handle.route().add(message).replace().execute().await;
        result.map_err(|error| explain(&error))
    }

    /// Everything of a route but its next hops; that is also what names it for removal.
    fn destination(&self, prefix: IpNet) -> Result<RouteMessageBuilder<IpAddr>, String> {
        let builder = RouteMessageBuilder::<IpAddr>::new()
            .protocol(self.origin.protocol())
            .priority(self.origin.metric);
        let builder = builder.destination_prefix(prefix.network(), prefix.prefix_len());
        builder.map_err(|error| error.to_string())
    }

    async fn remove(&self, prefix: IpNet) {
        let Ok(builder) = self.destination(prefix) else {
            return;
        };
        let origin = self.origin.name;
        match self.handle.route().del(builder.build()).execute().await {
            Ok(()) => info!(%prefix, origin, "route removed"),
            Err(error) => error!(%prefix, origin, %error, "cannot remove a route"),
        }
    }

    /// What an engine that was killed has left.
    async fn remove_all(&self) {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            let found = self.handle.route().get(query).execute();
            let routes: Result<Vec<RouteMessage>, _> = found.try_collect().await;
            let ours = routes.into_iter().flatten();
            for route in ours.filter(|r| r.header.protocol == self.origin.protocol()) {
                let prefix = prefix_of(&route);
                if let Err(error) = self.handle.route().del(route).execute().await {
                    error!(?prefix, %error, "cannot remove a route of an earlier engine");
                }
            }
        }
    }
}

fn prefix_of(route: &RouteMessage) -> Option<IpNet> {
    let address = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
            _ => None,
        });
    IpNet::new(address?, route.header.destination_prefix_length).ok()
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn explain(error: &rtnetlink::Error) -> String {
    const EPERM: i32 = 1;
    const ENETUNREACH: i32 = 101;
    const EHOSTUNREACH: i32 = 113;
    let code = match error {
        rtnetlink::Error::NetlinkError(message) => -message.raw_code(),
        _ => 0,
    };
    match code {
        EPERM => "not_permitted".to_owned(),
        ENETUNREACH | EHOSTUNREACH => "next_hop_unreachable".to_owned(),
        _ => format!("kernel_refused: {error}"),
    }
}

//! Learned routes in the kernel's main table, marked with our own protocol number.
//!
//! One task, spawned by the speaker; when that lets go of it, it takes its routes away and ends. It makes the kernel hold exactly the routes it was last told, also
//! those that an engine that was killed has left. It touches nothing that is not marked. A route of ours has a
//! metric, so that a route of the operator's (metric 0) stays in force.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, RouteMessageBuilder, RouteNextHopBuilder};
use tokio::sync::watch;
use tracing::{error, info};

use super::learn::{BestRoute, BestRoutes};

/// RTPROT of learned routes: "E", as for our addresses; not used by any routing daemon (rtnetlink.h).
const OUR_PROTOCOL: RouteProtocol = RouteProtocol::Other(b'E');

/// Metric of learned routes: that of other BGP daemons on Linux.
const METRIC: u32 = 20;

/// After a failure; the next hop may have become reachable.
const RETRY: Duration = Duration::from_secs(5);

/// By destination, why it is not in the kernel; those that are, are not named.
pub(super) type Failures = BTreeMap<IpNet, String>;

/// Runs until `wanted` is closed.
pub(super) async fn run(
    mut wanted: watch::Receiver<BestRoutes>,
    failures: watch::Sender<Failures>,
) {
    let handle = match rtnetlink::new_connection() {
        Ok((connection, handle, _)) => {
            tokio::spawn(connection);
            handle
        }
        Err(error) => {
            return error!(%error, "cannot open netlink: learned routes are not installed");
        }
    };
    let mut installed = BestRoutes::new();
    remove_all(&handle).await;
    loop {
        let routes = wanted.borrow_and_update().clone();
        let failed = reconcile(&handle, &mut installed, &routes).await;
        let again = !failed.is_empty();
        failures.send_replace(failed);
        // Losing the race loses nothing: the newest value is read again.
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() {
                reconcile(&handle, &mut installed, &BestRoutes::new()).await;
                return;
            },
            () = tokio::time::sleep(RETRY), if again => {}
        }
    }
}

async fn reconcile(handle: &Handle, installed: &mut BestRoutes, wanted: &BestRoutes) -> Failures {
    let gone: Vec<IpNet> = installed
        .keys()
        .filter(|p| !wanted.contains_key(p))
        .copied()
        .collect();
    for prefix in gone {
        remove(handle, prefix).await;
        installed.remove(&prefix);
    }
    let mut failures = Failures::new();
    for (prefix, route) in wanted {
        if installed.get(prefix).map(|r| &r.next_hops) == Some(&route.next_hops) {
            continue;
        }
        match put(handle, *prefix, route).await {
            Ok(()) => {
                info!(%prefix, next_hops = ?route.next_hops, "learned route installed");
                installed.insert(*prefix, route.clone());
            }
            Err(error) => {
                failures.insert(*prefix, error);
            }
        }
    }
    failures
}

async fn put(handle: &Handle, prefix: IpNet, route: &BestRoute) -> Result<(), String> {
    let family = family(prefix.addr());
    let hops = route.next_hops.iter();
    let hops: Result<Vec<_>, String> = hops
        .map(|hop| RouteNextHopBuilder::new(family).via(*hop))
        .map(|hop| hop.map(|hop| hop.build()).map_err(|e| e.to_string()))
        .collect();
    let message = destination(prefix)?.multipath(hops?).build();
    let result = handle.route().add(message).replace().execute().await;
    result.map_err(|error| explain(&error))
}

/// Everything of a route but its next hops; that is also what names it for removal.
fn destination(prefix: IpNet) -> Result<RouteMessageBuilder<IpAddr>, String> {
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .protocol(OUR_PROTOCOL)
        .priority(METRIC);
    let builder = builder.destination_prefix(prefix.network(), prefix.prefix_len());
    builder.map_err(|error| error.to_string())
}

async fn remove(handle: &Handle, prefix: IpNet) {
    let Ok(builder) = destination(prefix) else {
        return;
    };
    match handle.route().del(builder.build()).execute().await {
        Ok(()) => info!(%prefix, "learned route removed"),
        Err(error) => error!(%prefix, %error, "cannot remove a learned route"),
    }
}

/// What an engine that was killed has left.
async fn remove_all(handle: &Handle) {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut query = RouteMessage::default();
        query.header.address_family = family;
        let routes: Result<Vec<RouteMessage>, _> =
            handle.route().get(query).execute().try_collect().await;
        let Ok(routes) = routes else { continue };
        let ours = routes
            .into_iter()
            .filter(|r| r.header.protocol == OUR_PROTOCOL);
        for route in ours {
            let prefix = prefix_of(&route);
            if let Err(error) = handle.route().del(route).execute().await {
                error!(?prefix, %error, "cannot remove a learned route of an earlier engine");
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

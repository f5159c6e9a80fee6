//! Answers to questions about the host's network: data interfaces with their counters, routes, neighbours, the way to the
//! controller, as the kernel has them at that moment. Nothing of it is kept.

use crate::args::InterfaceFilter;
use crate::dial::Ends;
use crate::link::{self, vlan_id};
use crate::{Task, net};
use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use proto::v1::{
    HostAnswer, HostInterface, HostNeighbour, HostQuery, HostRoute, HostTable, Interface,
    LinkCounters, Management,
};
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, Stats64};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Rows of an answer: it is one message.
const ROWS_MAX: usize = 10_000;

/// Names of interfaces by their index.
type Names = BTreeMap<u32, String>;

/// What is asked for, or why not.
pub(crate) async fn answer(query: HostQuery, filter: &InterfaceFilter) -> HostAnswer {
    let read = read(query.table(), filter).await;
    let answer = read.unwrap_or_else(|error| HostAnswer {
        problem: format!("{error:#}"),
        ..HostAnswer::default()
    });
    HostAnswer {
        id: query.id,
        ..answer
    }
}

async fn read(table: HostTable, filter: &InterfaceFilter) -> anyhow::Result<HostAnswer> {
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open netlink")?;
    let _driver = Task(tokio::spawn(connection));
    let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    let mut answer = HostAnswer::default();
    match table {
        HostTable::Interfaces => {
            let addresses: Vec<_> = handle.address().get().execute().try_collect().await?;
            let rows = interfaces(&links, &addresses, filter);
            answer.interfaces = cut(rows, &mut answer.rows);
        }
        HostTable::Routes => {
            let rows = routes(&all_routes(&handle).await?, &names(&links));
            answer.routes = cut(rows, &mut answer.rows);
        }
        HostTable::Neighbours => {
            let found: Vec<_> = handle.neighbours().get().execute().try_collect().await?;
            answer.neighbours = cut(neighbours(&found, &names(&links)), &mut answer.rows);
        }
        HostTable::Unspecified => {
            answer.problem = "this engine does not know what is asked for: upgrade it".into();
        }
    }
    Ok(answer)
}

/// The controller at the other end, and the interface that has ours.
pub(crate) async fn management(ends: Ends) -> Management {
    let found = interface_with(ends.near).await;
    let interface = found.unwrap_or_else(|error| {
        let error = format!("{error:#}");
        tracing::warn!(error, "the way to the controller cannot be told");
        None
    });
    Management {
        controller_address: ends.far.to_string(),
        interface,
    }
}

async fn interface_with(address: IpAddr) -> anyhow::Result<Option<Interface>> {
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open netlink")?;
    let _driver = Task(tokio::spawn(connection));
    let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    let addresses: Vec<_> = handle.address().get().execute().try_collect().await?;
    Ok(having(address, &links, &addresses))
}

/// The interface with this address, and no other address of it.
fn having(
    address: IpAddr,
    links: &[LinkMessage],
    addresses: &[AddressMessage],
) -> Option<Interface> {
    let mut all = addresses.iter();
    let found = all.find(|a| net::address_of(a) == Some(address))?;
    let mut links_there = links.iter();
    let link = links_there.find(|l| l.header.index == found.header.index)?;
    Some(Interface {
        addresses: vec![format!("{address}/{}", found.header.prefix_len)],
        ..link::described(link, links)
    })
}

/// Of both families.
async fn all_routes(handle: &Handle) -> Result<Vec<RouteMessage>, rtnetlink::Error> {
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut query = RouteMessage::default();
        query.header.address_family = family;
        let found: Vec<_> = handle.route().get(query).execute().try_collect().await?;
        all.extend(found);
    }
    Ok(all)
}

/// As many as an answer has room for; how many there are goes to `count`.
fn cut<T>(mut rows: Vec<T>, count: &mut u64) -> Vec<T> {
    *count = rows.len() as u64;
    rows.truncate(ROWS_MAX);
    rows
}

fn names(links: &[LinkMessage]) -> Names {
    let each = links.iter();
    each.map(|l| (l.header.index, net::interface(l).name))
        .collect()
}

fn interfaces(
    links: &[LinkMessage],
    addresses: &[AddressMessage],
    filter: &InterfaceFilter,
) -> Vec<HostInterface> {
    let row = |link: &LinkMessage| {
        let index = link.header.index;
        let mut interface = net::interface(link);
        let here = addresses.iter().filter(|a| a.header.index == index);
        interface.addresses = here.filter_map(net::usable).collect();
        HostInterface {
            interface: Some(interface),
            index,
            vlan_id: vlan_id(link).map_or(0, u32::from),
            counters: counters(link),
        }
    };
    let data = |link: &&LinkMessage| filter.is_data(&net::interface(link).name);
    links.iter().filter(data).map(row).collect()
}

fn counters(link: &LinkMessage) -> Option<LinkCounters> {
    let of = |stats: &Stats64| LinkCounters {
        rx_packets: stats.rx_packets,
        rx_bytes: stats.rx_bytes,
        rx_errors: stats.rx_errors,
        rx_dropped: stats.rx_dropped,
        tx_packets: stats.tx_packets,
        tx_bytes: stats.tx_bytes,
        tx_errors: stats.tx_errors,
        tx_dropped: stats.tx_dropped,
    };
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Stats64(stats) => Some(of(stats)),
        _ => None,
    })
}

/// Of the main table, those that lead somewhere: VIPs and the host's own addresses are in the local table.
fn routes(messages: &[RouteMessage], names: &Names) -> Vec<HostRoute> {
    let main = |r: &&RouteMessage| {
        r.header.table == RouteHeader::RT_TABLE_MAIN && r.header.kind == RouteType::Unicast
    };
    let each = messages.iter().filter(main);
    each.flat_map(|r| next_hops(r, names)).collect()
}

/// A row per next hop.
fn next_hops(route: &RouteMessage, names: &Names) -> Vec<HostRoute> {
    let base = HostRoute {
        destination: destination(route),
        source: find(&route.attributes, |a| match a {
            RouteAttribute::PrefSource(address) => text_of(address),
            _ => None,
        })
        .unwrap_or_default(),
        metric: find(&route.attributes, |a| match a {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        })
        .unwrap_or(0),
        ..HostRoute::default()
    };
    let hop = |index: Option<u32>, attributes: &[RouteAttribute]| HostRoute {
        gateway: gateway(attributes).unwrap_or_default(),
        interface: index
            .and_then(|i| names.get(&i).cloned())
            .unwrap_or_default(),
        ..base.clone()
    };
    let several = find(&route.attributes, |a| match a {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    match several {
        Some(hops) => hops
            .iter()
            .map(|h| hop(Some(h.interface_index), &h.attributes))
            .collect(),
        None => {
            let link = find(&route.attributes, |a| match a {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            vec![hop(link, &route.attributes)]
        }
    }
}

fn find<'a, T>(
    attributes: &'a [RouteAttribute],
    wanted: impl Fn(&'a RouteAttribute) -> Option<T>,
) -> Option<T> {
    attributes.iter().find_map(wanted)
}

/// The default route has no attribute for it.
fn destination(route: &RouteMessage) -> String {
    let named = find(&route.attributes, |a| match a {
        RouteAttribute::Destination(address) => ip_of(address),
        _ => None,
    });
    let any = match route.header.address_family {
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let length = route.header.destination_prefix_length;
    IpNet::new(named.unwrap_or(any), length).map_or_else(|_| String::new(), |net| net.to_string())
}

/// Of the route's own family, or of the other one (RFC 8950).
fn gateway(attributes: &[RouteAttribute]) -> Option<String> {
    find(attributes, |a| match a {
        RouteAttribute::Gateway(address) => text_of(address),
        RouteAttribute::Via(RouteVia::Inet(v4)) => Some(v4.to_string()),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some(v6.to_string()),
        _ => None,
    })
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn text_of(address: &RouteAddress) -> Option<String> {
    ip_of(address).map(|ip| ip.to_string())
}

/// Those that were, or are being, resolved.
fn neighbours(messages: &[NeighbourMessage], names: &Names) -> Vec<HostNeighbour> {
    let row = |message: &NeighbourMessage| {
        let address = message.attributes.iter().find_map(|a| match a {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(v4.to_string()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(v6.to_string()),
            _ => None,
        });
        let mac = message.attributes.iter().find_map(|a| match a {
            NeighbourAttribute::LinkLayerAddress(mac) => Some(net::mac(mac)),
            _ => None,
        });
        Some(HostNeighbour {
            state: state_word(message.header.state)?.into(),
            interface: names.get(&message.header.ifindex)?.clone(),
            address: address?,
            mac: mac.unwrap_or_default(),
        })
    };
    messages.iter().filter_map(row).collect()
}

/// As the kernel's documentation and `ip neighbour` name it; none for what needs no resolution.
fn state_word(state: NeighbourState) -> Option<&'static str> {
    Some(match state {
        NeighbourState::Reachable => "reachable",
        NeighbourState::Stale => "stale",
        NeighbourState::Delay => "delay",
        NeighbourState::Probe => "probe",
        NeighbourState::Incomplete => "incomplete",
        NeighbourState::Failed => "failed",
        NeighbourState::Permanent => "permanent",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::route::RouteNextHop;

    fn names() -> Names {
        [(2, "eth0".to_owned()), (3, "eth1".to_owned())].into()
    }

    fn v4(text: &str) -> RouteAddress {
        RouteAddress::Inet(text.parse().unwrap())
    }

    fn route(prefix: Option<(&str, u8)>, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.attributes = attributes;
        if let Some((address, length)) = prefix {
            message.header.destination_prefix_length = length;
            let address = RouteAttribute::Destination(v4(address));
            message.attributes.push(address);
        }
        message
    }

    #[test]
    fn a_route_on_a_link_and_the_default_route_are_rows() {
        let link = route(
            Some(("10.10.10.0", 24)),
            vec![
                RouteAttribute::Oif(2),
                RouteAttribute::PrefSource(v4("10.10.10.11")),
            ],
        );
        let default = route(
            None,
            vec![
                RouteAttribute::Gateway(v4("10.10.10.1")),
                RouteAttribute::Oif(2),
                RouteAttribute::Priority(20),
            ],
        );
        let rows = routes(&[link, default], &names());
        let row = |destination: &str, gateway: &str, source: &str, metric| HostRoute {
            destination: destination.into(),
            gateway: gateway.into(),
            interface: "eth0".into(),
            source: source.into(),
            metric,
        };
        let expected = [
            row("10.10.10.0/24", "", "10.10.10.11", 0),
            row("0.0.0.0/0", "10.10.10.1", "", 20),
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_route_over_several_next_hops_is_a_row_each_and_other_tables_are_none() {
        let hop = |index, via: &str| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = index;
            hop.attributes = vec![RouteAttribute::Gateway(v4(via))];
            hop
        };
        let hops = vec![hop(2, "10.10.10.1"), hop(3, "10.10.20.1")];
        let both = route(
            Some(("192.0.2.0", 24)),
            vec![RouteAttribute::MultiPath(hops)],
        );
        let mut local = route(Some(("10.10.10.11", 32)), vec![RouteAttribute::Oif(2)]);
        local.header.table = 255;
        let rows = routes(&[both, local], &names());
        let seen: Vec<_> = rows
            .iter()
            .map(|r| (r.gateway.as_str(), r.interface.as_str()))
            .collect();
        assert_eq!(seen, [("10.10.10.1", "eth0"), ("10.10.20.1", "eth1")]);
    }

    #[test]
    fn neighbours_that_need_no_resolution_are_left_out() {
        let neighbour = |state, address: &str| {
            let mut message = NeighbourMessage::default();
            message.header.ifindex = 2;
            message.header.state = state;
            let address = NeighbourAddress::Inet(address.parse().unwrap());
            message.attributes = vec![
                NeighbourAttribute::Destination(address),
                NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 0x1f]),
            ];
            message
        };
        let found = [
            neighbour(NeighbourState::Reachable, "10.10.10.1"),
            neighbour(NeighbourState::Noarp, "224.0.0.1"),
        ];
        let rows = neighbours(&found, &names());
        assert_eq!(rows.len(), 1);
        assert_eq!(
            (rows[0].mac.as_str(), rows[0].state.as_str()),
            ("02:00:00:00:00:1f", "reachable")
        );
    }

    #[tokio::test]
    async fn the_interface_with_our_end_of_a_connection_is_told_with_that_address_alone() {
        let ip = |text: &str| -> IpAddr { text.parse().expect("ip") };
        let ends = Ends {
            near: ip("127.0.0.1"),
            far: ip("192.0.2.1"),
        };
        let seen = management(ends).await;
        assert_eq!(seen.controller_address, "192.0.2.1");
        let interface = seen.interface.expect("the loopback interface");
        assert_eq!(interface.name, "lo");
        assert_eq!(interface.addresses, ["127.0.0.1/8"]);
        let elsewhere = Ends {
            near: ip("192.0.2.99"),
            ..ends
        };
        assert_eq!(management(elsewhere).await.interface, None);
    }

    #[tokio::test]
    async fn the_kernel_of_this_host_answers_every_question() {
        let ask = async |table: HostTable| {
            let query = HostQuery {
                id: 7,
                table: table.into(),
            };
            answer(query, &InterfaceFilter::default()).await
        };
        for table in [
            HostTable::Interfaces,
            HostTable::Routes,
            HostTable::Neighbours,
        ] {
            let answer = ask(table).await;
            assert_eq!((answer.id, answer.problem.as_str()), (7, ""), "{table:?}");
        }
        assert!(
            ask(HostTable::Unspecified)
                .await
                .problem
                .contains("upgrade")
        );
    }
}

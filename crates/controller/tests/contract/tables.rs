//! Rows of the tables that the engine of these tests is asked for: one of each kind.

use proto::v1::{
    FlowRow, FlowTable, HostAnswer, HostInterface, HostNeighbour, HostQuery, HostRoute, Interface,
    LinkCounters,
};

/// A flow that lives here, one that lives elsewhere, or both views of one.
pub fn flows(table: FlowTable) -> Vec<FlowRow> {
    let found_by: &[&str] = match table {
        FlowTable::Local => &["socket"],
        FlowTable::Remote => &["cache"],
        FlowTable::Trace => &["socket", "cache"],
        FlowTable::Events | FlowTable::Unspecified => &[],
    };
    let row = |found_by: &&str| FlowRow {
        protocol: "tcp".into(),
        client: "192.0.2.7".into(),
        client_port: 40000,
        vip: "10.100.0.1".into(),
        vip_port: 80,
        found_by: (*found_by).into(),
        server: "10.1.0.5:80".into(),
        ..FlowRow::default()
    };
    found_by.iter().map(row).collect()
}

/// To whatever question: rows of all tables.
pub fn host(query: &HostQuery) -> HostAnswer {
    let route = |destination: &str| HostRoute {
        destination: destination.into(),
        interface: "eth0".into(),
        ..HostRoute::default()
    };
    HostAnswer {
        id: query.id,
        interfaces: vec![HostInterface {
            interface: Some(Interface {
                name: "eth0".into(),
                addresses: vec!["10.10.10.11/24".into()],
                ..Interface::default()
            }),
            counters: Some(LinkCounters {
                rx_packets: 1000,
                ..LinkCounters::default()
            }),
            ..HostInterface::default()
        }],
        routes: vec![route("10.10.10.0/24"), route("2001:db8::/64")],
        neighbours: vec![HostNeighbour::default()],
        rows: 4,
        ..HostAnswer::default()
    }
}

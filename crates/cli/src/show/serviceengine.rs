//! `show serviceengine`.

use crate::lookup::{items, number, reasons, text};
use crate::output::table::{Column, Row};
use serde::Serialize;
use serde_json::Value;

/// A service engine as the table and JSON show it.
#[derive(Debug, Serialize)]
pub(crate) struct ServiceEngineRow {
    pub(crate) name: String,
    pub(crate) uuid: String,
    state: String,
    reason: String,
    connected: bool,
    se_group: String,
    /// Virtual services placed on it.
    virtual_services: Vec<String>,
    /// All BGP sessions of it are up; nothing where it has none.
    bgp_peers_up: Option<bool>,
    version: String,
    addresses: Vec<String>,
}

impl Row for ServiceEngineRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("NAME", |r| r.name.clone()),
        Column::new("STATE", |r| r.state.clone()),
        Column::new("CONNECTED", |r| yes_no(r.connected)),
        Column::new("VIRTUAL SERVICES", |r| r.virtual_services.join(" ")),
        Column::new("BGP UP", |r| r.bgp_peers_up.map(yes_no).unwrap_or_default()),
        Column::new("ADDRESSES", |r| r.addresses.join(" ")),
        Column::new("REASON", |r| r.reason.clone()),
        Column::wide("GROUP", |r| r.se_group.clone()),
        Column::wide("VERSION", |r| r.version.clone()),
        Column::wide("UUID", |r| r.uuid.clone()),
    ];
}

fn yes_no(value: bool) -> String {
    if value { "yes".into() } else { "no".into() }
}

/// Rows from the inventory.
pub(super) fn rows(inventory: &[Value]) -> Vec<ServiceEngineRow> {
    inventory.iter().map(row).collect()
}

fn row(item: &Value) -> ServiceEngineRow {
    let status = item.pointer("/runtime/oper_status").unwrap_or(&Value::Null);
    let flag = |pointer| item.pointer(pointer).and_then(Value::as_bool);
    let name_of = |reference: &Value| {
        let reference = reference.as_str().unwrap_or_default();
        client::name_of(reference)
            .unwrap_or_else(|| client::uuid_of(reference))
            .to_string()
    };
    let group = text(item, "/config/se_group_ref");
    ServiceEngineRow {
        name: text(item, "/config/name").into(),
        uuid: text(item, "/config/uuid").into(),
        state: text(status, "/state").into(),
        reason: reasons(status),
        connected: flag("/runtime/se_connected").unwrap_or(false),
        se_group: client::name_of(group).unwrap_or(group).into(),
        virtual_services: items(item, "/config/virtualservice_refs")
            .iter()
            .map(name_of)
            .collect(),
        bgp_peers_up: flag("/runtime/bgp_peers_up"),
        version: text(item, "/runtime/version").into(),
        addresses: addresses(item),
    }
}

/// Addresses of the data interfaces, as `eth0 10.10.10.11/24`.
fn addresses(item: &Value) -> Vec<String> {
    let vnics = items(item, "/config/data_vnics").iter();
    vnics
        .flat_map(|vnic| items(vnic, "/vnic_networks"))
        .filter_map(network)
        .collect()
}

fn network(network: &Value) -> Option<String> {
    let address = text(network, "/ip/ip_addr/addr");
    let mask = number(network, "/ip/mask")?;
    (!address.is_empty()).then(|| format!("{address}/{mask}"))
}

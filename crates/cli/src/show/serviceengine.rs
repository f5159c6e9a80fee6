//! `show serviceengine`.

use super::age;
use crate::lookup::{items, name_or_uuid, number, reasons, text};
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
    /// BGP sessions that are ESTABLISHED.
    bgp_sessions_up: usize,
    /// BGP sessions that it has; none where nothing is placed that is announced.
    bgp_sessions: usize,
    version: String,
    /// Generation of the desired state that the controller wants.
    generation_desired: Option<u64>,
    /// Generation that the engine has put in force.
    generation_in_force: Option<u64>,
    rss_bytes: Option<u64>,
    uptime_s: Option<u64>,
    open_connections: Option<u64>,
    addresses: Vec<String>,
}

impl Row for ServiceEngineRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("NAME", |r| r.name.clone()),
        Column::new("STATE", |r| r.state.clone()),
        Column::new("CONNECTED", |r| yes_no(r.connected)),
        Column::new("VIRTUAL SERVICES", |r| r.virtual_services.join(" ")),
        Column::new("BGP UP", |r| r.bgp_up()),
        Column::new("ADDRESSES", |r| r.addresses.join(" ")),
        Column::new("REASON", |r| r.reason.clone()),
        Column::wide("GROUP", |r| r.se_group.clone()),
        Column::wide("VERSION", |r| r.version.clone()),
        Column::wide("GENERATION", |r| r.generation()),
        Column::wide("RSS", |r| r.rss()),
        Column::wide("UPTIME", |r| {
            r.uptime_s.map(|s| age(s * 1000)).unwrap_or_default()
        }),
        Column::wide("CONNECTIONS", |r| {
            r.open_connections
                .map(|n| n.to_string())
                .unwrap_or_default()
        }),
        Column::wide("UUID", |r| r.uuid.clone()),
    ];
}

impl ServiceEngineRow {
    fn bgp_up(&self) -> String {
        match self.bgp_sessions {
            0 => String::new(),
            all => format!("{}/{all}", self.bgp_sessions_up),
        }
    }

    /// `7`, or `6 of 7` while the engine has not put the newest in force.
    fn generation(&self) -> String {
        match (self.generation_in_force, self.generation_desired) {
            (Some(in_force), Some(desired)) if in_force != desired => {
                format!("{in_force} of {desired}")
            }
            (in_force, desired) => in_force
                .or(desired)
                .map(|n| n.to_string())
                .unwrap_or_default(),
        }
    }

    fn rss(&self) -> String {
        let mib = self.rss_bytes.map(|bytes| format!("{} MiB", bytes >> 20));
        mib.unwrap_or_default()
    }
}

fn yes_no(value: bool) -> String {
    if value { "yes".into() } else { "no".into() }
}

/// Rows from the inventory and the BGP sessions of all engines.
pub(super) fn rows(inventory: &[Value], sessions: &[Value]) -> Vec<ServiceEngineRow> {
    inventory.iter().map(|item| row(item, sessions)).collect()
}

fn row(item: &Value, sessions: &[Value]) -> ServiceEngineRow {
    let status = item.pointer("/runtime/oper_status").unwrap_or(&Value::Null);
    let flag = |pointer| item.pointer(pointer).and_then(Value::as_bool);
    let name_of = |reference: &Value| {
        let reference = reference.as_str().unwrap_or_default();
        name_or_uuid(reference).to_string()
    };
    let group = text(item, "/config/se_group_ref");
    let count = |pointer| number(item, pointer);
    let uuid = text(item, "/config/uuid");
    let sessions = sessions
        .iter()
        .filter(|session| text(session, "/se_uuid") == uuid);
    let states: Vec<&str> = sessions.map(|session| text(session, "/state")).collect();
    ServiceEngineRow {
        name: text(item, "/config/name").into(),
        uuid: uuid.into(),
        state: text(status, "/state").into(),
        reason: reasons(status),
        connected: flag("/runtime/se_connected").unwrap_or(false),
        se_group: client::name_of(group).unwrap_or(group).into(),
        virtual_services: items(item, "/config/virtualservice_refs")
            .iter()
            .map(name_of)
            .collect(),
        bgp_sessions_up: states
            .iter()
            .filter(|state| **state == "ESTABLISHED")
            .count(),
        bgp_sessions: states.len(),
        version: text(item, "/runtime/version").into(),
        generation_desired: count("/runtime/generation_desired"),
        generation_in_force: count("/runtime/generation_in_force"),
        rss_bytes: count("/runtime/rss_bytes"),
        uptime_s: count("/runtime/uptime_s"),
        open_connections: count("/runtime/open_connections"),
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

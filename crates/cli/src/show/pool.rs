//! `show pool`.

use super::virtualservice::up_of;
use crate::lookup::{items, name_or_uuid, number, reasons, text};
use crate::output::table::{Column, Row};
use serde::Serialize;
use serde_json::Value;

/// A pool as the table and JSON show it.
#[derive(Debug, Serialize)]
pub(crate) struct PoolRow {
    pub(crate) name: String,
    pub(crate) uuid: String,
    state: String,
    reason: String,
    lb_algorithm: String,
    num_servers: Option<u64>,
    num_servers_enabled: Option<u64>,
    num_servers_up: Option<u64>,
    virtual_services: Vec<String>,
}

impl Row for PoolRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("NAME", |r| r.name.clone()),
        Column::new("STATE", |r| r.state.clone()),
        Column::new("SERVERS UP", |r| up_of(r.num_servers_up, r.num_servers)),
        Column::new("ENABLED", |r| up_of(r.num_servers_enabled, r.num_servers)),
        Column::new("VIRTUAL SERVICES", |r| r.virtual_services.join(" ")),
        Column::new("REASON", |r| r.reason.clone()),
        Column::wide("ALGORITHM", |r| r.lb_algorithm.clone()),
        Column::wide("UUID", |r| r.uuid.clone()),
    ];
}

/// Rows from the inventory.
pub(super) fn rows(inventory: &[Value]) -> Vec<PoolRow> {
    inventory.iter().map(row).collect()
}

fn row(item: &Value) -> PoolRow {
    let status = item.pointer("/runtime/oper_status").unwrap_or(&Value::Null);
    let virtual_services = [
        "/virtualservices",
        "/virtual_services",
        "/config/virtualservice_refs",
    ];
    let virtual_services = virtual_services
        .iter()
        .flat_map(|pointer| items(item, pointer));
    PoolRow {
        name: text(item, "/config/name").into(),
        uuid: text(item, "/config/uuid").into(),
        state: text(status, "/state").into(),
        reason: reasons(status),
        lb_algorithm: text(item, "/config/lb_algorithm").into(),
        num_servers: number(item, "/runtime/num_servers"),
        num_servers_enabled: number(item, "/runtime/num_servers_enabled"),
        num_servers_up: number(item, "/runtime/num_servers_up"),
        virtual_services: virtual_services
            .filter_map(Value::as_str)
            .map(|reference| name_or_uuid(reference).to_string())
            .collect(),
    }
}

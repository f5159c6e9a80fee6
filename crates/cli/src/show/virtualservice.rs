//! `show virtualservice`.

use crate::lookup::{items, name_or_uuid, number, reasons, state_rank, text};
use crate::output::table::{Column, Row};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// A virtual service as the table and JSON show it.
#[derive(Debug, Serialize)]
pub(crate) struct VirtualServiceRow {
    pub(crate) name: String,
    pub(crate) uuid: String,
    /// Addresses of its VIPs.
    vips: Vec<String>,
    /// `80`, `53/udp` or `8000-8010`.
    ports: Vec<String>,
    enabled: bool,
    state: String,
    reason: String,
    /// VIPs that are in another state than the virtual service, in words.
    vip_problems: Vec<String>,
    num_se_assigned: u64,
    num_se_requested: u64,
    service_engines: Vec<EngineOfVs>,
    /// Engines that were scaled in and serve the flows that they have.
    lingering: Vec<LingeringEngine>,
    /// Routers that may not use all of its engines, in words.
    warnings: Vec<String>,
    /// Why it is placed as it is, in the planner's words.
    placement: String,
    /// What its load asks for, with the numbers; nothing before it was measured.
    autoscale: Option<Value>,
    pool: Option<String>,
    num_servers: Option<u64>,
    num_servers_up: Option<u64>,
}

/// The virtual service on one engine.
#[derive(Debug, Serialize)]
struct EngineOfVs {
    name: String,
    state: String,
    reason: String,
    /// Engines that it has no tunnel to, in words.
    member_problems: Vec<String>,
    /// UDP flows and datagrams; nothing where no port is UDP's.
    udp: Option<Value>,
}

/// An engine that was scaled in.
#[derive(Debug, Serialize)]
struct LingeringEngine {
    name: String,
    /// Nothing where it is not known.
    flows: Option<u64>,
    oldest_s: Option<u64>,
    /// The scale-in counts as going on.
    scalein_in_progress: bool,
    /// `312 flows left, oldest 4 min`
    reason: String,
}

impl Row for VirtualServiceRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("NAME", |r| r.name.clone()),
        Column::new("VIP", |r| r.vips.join(" ")),
        Column::new("PORT", |r| r.ports.join(" ")),
        Column::new("STATE", |r| r.state.clone()),
        Column::new("SE ASSIGNED", |r| {
            format!("{}/{}", r.num_se_assigned, r.num_se_requested)
        }),
        Column::new("SERVICE ENGINES", |r| r.engines()),
        Column::new("SERVERS UP", |r| up_of(r.num_servers_up, r.num_servers)),
        Column::new("REASON", |r| r.reasons()),
        Column::wide("PLACEMENT", |r| r.placement.clone()),
        Column::wide("AUTOSCALE", |r| r.autoscale()),
        Column::wide("POOL", |r| r.pool.clone().unwrap_or_default()),
        Column::wide("UUID", |r| r.uuid.clone()),
    ];
}

impl VirtualServiceRow {
    /// Why it is as it is, which VIPs are otherwise, what engines that were scaled in have left, who cannot reach whom, who is
    /// full, and which routers may not use all engines.
    fn reasons(&self) -> String {
        let left = self
            .lingering
            .iter()
            .map(|se| format!("{} leaves: {}", se.name, se.reason));
        let engines = self.service_engines.iter();
        let problems = engines.flat_map(|se| {
            let each = se.member_problems.iter();
            each.map(move |problem| format!("{}: {problem}", se.name))
        });
        let full = self.service_engines.iter().filter_map(|se| {
            let full = number(se.udp.as_ref()?, "/full").filter(|full| *full > 0)?;
            let name = &se.name;
            Some(format!(
                "{name}: {full} datagrams of new UDP clients dropped, for want of room"
            ))
        });
        let all = std::iter::once(self.reason.clone())
            .chain(self.vip_problems.iter().cloned())
            .chain(left)
            .chain(problems)
            .chain(full)
            .chain(self.warnings.iter().cloned());
        let all = all.filter(|text| !text.is_empty());
        all.collect::<Vec<_>>().join("; ")
    }

    /// What its load asks for and why; where nobody does it by itself (`auto_rebalance` is off), that it is a recommendation.
    fn autoscale(&self) -> String {
        let Some(advice) = &self.autoscale else {
            return String::new();
        };
        let (action, reason) = (text(advice, "/action"), text(advice, "/reason"));
        let is_advice = action != "NONE" && advice["auto_rebalance"] == false;
        let recommended = if is_advice { " recommended" } else { "" };
        format!("{action}{recommended}: {reason}")
    }

    /// The engines by name; one that is not up shows its state.
    fn engines(&self) -> String {
        let engine = |se: &EngineOfVs| match se.state.as_str() {
            "OPER_UP" | "" => se.name.clone(),
            state => format!("{}({state})", se.name),
        };
        self.service_engines
            .iter()
            .map(engine)
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// `2/3`, or nothing where it is not known.
pub(super) fn up_of(up: Option<u64>, all: Option<u64>) -> String {
    match (up, all) {
        (Some(up), Some(all)) => format!("{up}/{all}"),
        _ => String::new(),
    }
}

/// Rows from the inventories of virtual services and pools.
pub(super) fn rows(inventory: &[Value], pools: &[Value]) -> Vec<VirtualServiceRow> {
    inventory.iter().map(|item| row(item, pools)).collect()
}

fn row(item: &Value, pools: &[Value]) -> VirtualServiceRow {
    let vips = items(item, "/runtime/vip_summary");
    let status = item.pointer("/runtime/oper_status").unwrap_or(&Value::Null);
    let used = items(item, "/pools").iter().filter_map(Value::as_str);
    let used: Vec<&str> = used.map(client::uuid_of).collect();
    let used = |p: &&Value| used.contains(&text(p, "/config/uuid"));
    let used: Vec<&Value> = pools.iter().filter(used).collect();
    let servers = |pointer: &str| {
        let numbers = used.iter().filter_map(|p| number(p, pointer));
        (!used.is_empty()).then(|| numbers.sum())
    };
    // Its VIPs are placed together: each has the same engines.
    let of_all = |field: &str| {
        vips.iter()
            .filter_map(|vip| number(vip, field))
            .max()
            .unwrap_or_default()
    };
    VirtualServiceRow {
        name: text(item, "/config/name").into(),
        uuid: text(item, "/config/uuid").into(),
        vips: addresses(item),
        ports: ports(item),
        enabled: item
            .pointer("/config/enabled")
            .and_then(Value::as_bool)
            .unwrap_or(true),
        state: text(status, "/state").into(),
        reason: reasons(status),
        vip_problems: vip_problems(text(status, "/state"), vips),
        num_se_assigned: of_all("/num_se_assigned"),
        num_se_requested: of_all("/num_se_requested"),
        service_engines: by_name(vips, "/service_engine").map(engine).collect(),
        lingering: by_name(vips, "/lingering_service_engine")
            .map(lingering)
            .collect(),
        warnings: once(
            vips.iter()
                .flat_map(|vip| items(vip, "/warnings"))
                .map(|warning| text(warning, "/reason").to_string()),
        ),
        placement: placement(vips),
        autoscale: vips
            .iter()
            .filter_map(|vip| vip.get("autoscale"))
            .find(|advice| !advice.is_null())
            .cloned(),
        pool: pool(item),
        num_servers: servers("/runtime/num_servers"),
        num_servers_up: servers("/runtime/num_servers_up"),
    }
}

/// The engines that the VIPs have under this field, each once: as it is for the VIP that it is least well for.
fn by_name<'a>(vips: &'a [Value], field: &'a str) -> impl Iterator<Item = &'a Value> {
    let mut engines: Vec<&Value> = Vec::new();
    let rank = |se: &Value| state_rank(text(se, "/oper_status/state"));
    for se in vips.iter().flat_map(|vip| items(vip, field)) {
        let name = text(se, "/name");
        match engines
            .iter_mut()
            .find(|known| text(known, "/name") == name)
        {
            Some(known) if rank(se) < rank(known) => *known = se,
            Some(_) => {}
            None => engines.push(se),
        }
    }
    engines.into_iter()
}

/// The same words once, in their order.
fn once(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    words.filter(|words| seen.insert(words.clone())).collect()
}

/// Where there are several VIPs, those that are in another state than the virtual service.
fn vip_problems(state: &str, vips: &[Value]) -> Vec<String> {
    let several = vips.iter().filter(|_| vips.len() > 1);
    let others = several.filter(|vip| text(vip, "/oper_status/state") != state);
    let words = others.map(|vip| {
        let (id, status) = (text(vip, "/vip_id"), &vip["oper_status"]);
        format!(
            "VIP {id} is {}: {}",
            text(status, "/state"),
            reasons(status)
        )
    });
    words.collect()
}

/// The name of its pool, or of its pool group.
fn pool(item: &Value) -> Option<String> {
    let references = ["/config/pool_ref", "/config/pool_group_ref"].map(|p| text(item, p));
    let named = references.into_iter().find(|r| !r.is_empty())?;
    Some(name_or_uuid(named).to_string())
}

/// Of its VIPs, from an item of the inventory.
pub(crate) fn addresses(item: &Value) -> Vec<String> {
    let vips = ["/config/vip", "/config/vip_summary", "/runtime/vip_summary"];
    let vips = vips
        .iter()
        .map(|pointer| items(item, pointer))
        .find(|list| !list.is_empty());
    let vips = vips.unwrap_or_default().iter();
    let address = |vip| {
        ["/ip_address/addr", "/ip6_address/addr"].map(|pointer| text(vip, pointer).to_string())
    };
    vips.flat_map(address)
        .filter(|address| !address.is_empty())
        .collect()
}

fn ports(item: &Value) -> Vec<String> {
    let services = items(item, "/config/services").iter();
    let protocols = items(item, "/runtime/service_protocols").iter();
    let protocols = protocols.chain(std::iter::repeat(&Value::Null));
    let port = |(service, protocol): (&Value, &Value)| match protocol.as_str() {
        Some("udp") => format!("{}/udp", range(service)),
        _ => range(service),
    };
    services.zip(protocols).map(port).collect()
}

fn range(service: &Value) -> String {
    let first = number(service, "/port").unwrap_or_default();
    match number(service, "/port_range_end") {
        Some(last) if last > first => format!("{first}-{last}"),
        _ => first.to_string(),
    }
}

fn engine(se: &Value) -> EngineOfVs {
    let status = se.pointer("/oper_status").unwrap_or(&Value::Null);
    EngineOfVs {
        name: text(se, "/name").into(),
        state: text(status, "/state").into(),
        reason: reasons(status),
        member_problems: items(se, "/member_problems")
            .iter()
            .map(|problem| text(problem, "/reason").into())
            .collect(),
        udp: se.get("udp").filter(|udp| !udp.is_null()).cloned(),
    }
}

fn lingering(se: &Value) -> LingeringEngine {
    LingeringEngine {
        name: text(se, "/name").into(),
        flows: number(se, "/flows"),
        oldest_s: number(se, "/oldest_s"),
        scalein_in_progress: se["scalein_in_progress"] == true,
        reason: text(se, "/reason").into(),
    }
}

fn placement(vips: &[Value]) -> String {
    let infos = vips
        .iter()
        .filter_map(|vip| vip.pointer("/vip_placement_resolution_info"));
    let words = infos.map(|info| info.as_str().map_or_else(|| reasons(info), Into::into));
    let words = once(words.filter(|words: &String| !words.is_empty()));
    words.join("; ")
}
